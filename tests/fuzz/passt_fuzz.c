/*
 * The framing of passt. Bit 0 of the first byte clear: the rest are commands of a passt that sends
 * frames with right and wrong lengths, in pieces, reads or not, and goes away. Set: the rest is
 * what comes out of its socket. The second byte picks how much arrives at once. What is received is
 * what was framed, up to the first wrong length; what passt reads is whole frames, in order.
 */
#define _GNU_SOURCE /* accept4 */
#include <arpa/inet.h>
#include <errno.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "tests/fuzz/fuzz.h"

#include "net/netdev.h"
#include "vmm/base/log.h"
#include "vmm/base/loop.h"

#define HDR NET_VNET_HDR
#define MAX 65535u
#define CAP (1u << 20)

static struct loop loop;
static struct netdev nd;
static int listener, peer = -1;
static uint8_t frame[HDR + NET_FRAME_MAX];
static uint8_t wire[CAP], got[CAP];
static size_t wire_len, sent, got_len;
static uint32_t expect[4096]; /* lengths of what was framed and is not received yet */
static unsigned nexpect, nreceived;
static uint8_t numbers; /* of frames to passt */

static void start(void)
{
	struct sockaddr_un sun = {.sun_family = AF_UNIX};

	log_init(LOG_ERROR, "fuzz");
	snprintf(sun.sun_path, sizeof(sun.sun_path), "%s/passt", fuzz_make_folder());
	listener = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
	require(listener >= 0 && !bind(listener, (struct sockaddr *)&sun, sizeof(sun)) &&
		!listen(listener, 8) && !loop_init(&loop, NULL));
	require(!netdev_open_passt(&nd, &loop, "n0", sun.sun_path, NULL));
}

static void plug(void)
{
	int size = 1; /* the smallest that there is */

	require(!netdev_link(&nd, true, NULL));
	peer = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
	require(peer >= 0 && nd.fd >= 0);
	require(!setsockopt(nd.fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size)));
	wire_len = sent = got_len = 0;
	nexpect = nreceived = 0;
}

static void unplug(void)
{
	netdev_link(&nd, false, NULL);
	require(nd.fd == -1);
	close(peer);
	peer = -1;
	fuzz_turn(&loop);
}

/* Everything that is there. With a model: as it was framed. */
static void receive(bool model)
{
	int r;

	while ((r = netdev_recv(&nd, frame, sizeof(frame))) != -EAGAIN) {
		require(r >= HDR + 14 && r <= (int)(HDR + MAX));
		if (!model)
			continue;
		require(nreceived < nexpect && (uint32_t)r == HDR + expect[nreceived]);
		require(frame[HDR] == (uint8_t)nreceived && frame[r - 1] == (uint8_t)nreceived);
		nreceived++;
	}
}

static void deliver(size_t piece, bool model)
{
	if (piece < (wire_len - sent) / 64)
		piece = (wire_len - sent) / 64; /* a system call each */
	while (sent < wire_len && nd.fd >= 0) {
		size_t n = piece < wire_len - sent ? piece : wire_len - sent;
		ssize_t r = send(peer, wire + sent, n, MSG_NOSIGNAL | MSG_DONTWAIT);

		require(r > 0 || errno == EAGAIN);
		sent += r > 0 ? (size_t)r : 0;
		receive(model);
	}
}

/* A frame of passt's, with its length; false: a length that cannot be. */
static bool add_frame(uint32_t len)
{
	uint32_t length = htonl(len);
	bool good = len >= 14 && len <= MAX;

	if (wire_len + 4 + MAX > CAP || nexpect == sizeof(expect) / sizeof(expect[0]))
		return true;
	memcpy(wire + wire_len, &length, 4);
	wire_len += 4;
	if (!good)
		return false;
	memset(wire + wire_len, (uint8_t)nexpect, len);
	wire_len += len;
	expect[nexpect++] = len;
	return true;
}

static void send_frame(uint32_t len)
{
	memset(frame, 0, HDR);
	memset(frame + HDR, numbers, len);
	numbers++;
	netdev_send(&nd, frame, HDR + len);
}

static void read_some(size_t n)
{
	ssize_t r = n > CAP - got_len ? 0 : recv(peer, got + got_len, n, MSG_DONTWAIT);

	got_len += r > 0 ? (size_t)r : 0;
	fuzz_turn(&loop);
}

/* What passt read is whole frames, but for the last. */
static void check_read(void)
{
	for (size_t at = 0; at + 4 <= got_len;) {
		uint32_t length;

		memcpy(&length, got + at, 4);
		length = ntohl(length);
		at += 4;
		require(length >= 14 && length <= MAX);
		if (at + length <= got_len)
			require(!memcmp(got + at, got + at + 1, length - 1));
		at += length;
	}
}

static uint32_t length_of(struct input *in, unsigned c)
{
	static const uint32_t edges[] = {0, 13, 14, 15, 65534, 65535, 65536, 0xffffffff};

	return c & 8 ? edges[take(in, 1) & 7] : (uint32_t)take(in, 2) % 8192;
}

static void talk(struct input *in, size_t piece)
{
	unsigned n = 0;

	while (in->left && n++ < 100 && nd.fd >= 0) {
		unsigned c = (unsigned)take(in, 1);
		uint32_t len;

		switch (c & 7) {
		case 0:
		case 1:
			if (!add_frame(length_of(in, c))) {
				deliver(piece, true);
				receive(true);
				require(nd.fd == -1 && nreceived == nexpect);
			}
			break;
		case 2:
			deliver(piece, true);
			break;
		case 3:
		case 4:
			len = length_of(in, c);
			send_frame(len > MAX + 1 ? MAX + 1 : len);
			break;
		case 5:
			read_some(take(in, 2));
			break;
		case 6:
			deliver(piece, true);
			require(!shutdown(peer, c & 8 ? SHUT_RDWR : SHUT_WR));
			receive(true);
			require(nd.fd == -1 && nreceived == nexpect);
			break;
		default:
			fuzz_turn(&loop);
		}
	}
	if (nd.fd >= 0) {
		deliver(piece, true);
		receive(true);
		require(nreceived == nexpect);
	}
	read_some(CAP / 4);
	check_read();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const size_t pieces[] = {1 << 20, 1, 3, 5, 100, 4096, 65539, 65536};
	struct input in = {data, size};
	unsigned how = (unsigned)take(&in, 1);
	size_t piece = pieces[take(&in, 1) & 7];

	if (!listener)
		start();
	plug();
	numbers = 0;
	if (how & 1) {
		memcpy(wire, in.p, in.left);
		wire_len = in.left;
		deliver(piece, false);
	} else {
		talk(&in, piece);
	}
	unplug();
	return 0;
}

/* The passt back end against a socket of the test's own: framing, damage, loss, full pipes. */
#define _GNU_SOURCE
#include "tests/unit/libvirtio.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/virtio_net.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "devices/virtio_net.h"
#include "net/netdev.h"

#define HDR NET_VNET_HDR

struct fix {
	struct rig rig;
	struct netdev nd;
	char dir[64], path[80];
	int listener, peer;
	unsigned changes;
	uint8_t buf[HDR + NET_FRAME_MAX], frame[HDR + NET_FRAME_MAX];
};

static void count_change(void *arg)
{
	((struct fix *)arg)->changes++;
}

static void listen_there(struct fix *f)
{
	struct sockaddr_un sun = {.sun_family = AF_UNIX};

	strcpy(sun.sun_path, f->path);
	f->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
	assert_true(f->listener >= 0);
	assert_int_equal(bind(f->listener, (struct sockaddr *)&sun, sizeof(sun)), 0);
	assert_int_equal(listen(f->listener, 4), 0);
}

static int accept_now(struct fix *f)
{
	return f->peer = accept4(f->listener, NULL, NULL, SOCK_NONBLOCK);
}

/* It tries again every second. */
static void accept_soon(struct fix *f)
{
	rig_until(&f->rig, f->peer >= 0 || accept_now(f) >= 0);
}

/* The test's end of the connection, gone. */
static void hang_up(struct fix *f)
{
	close(f->peer);
	f->peer = -1;
}

static int setup(void **state)
{
	struct fix *f = calloc(1, sizeof(*f));

	rig_init(&f->rig, 0);
	strcpy(f->dir, "/tmp/ftvmm-passt-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	snprintf(f->path, sizeof(f->path), "%s/s", f->dir);
	f->listener = f->peer = -1;
	listen_there(f);
	assert_int_equal(netdev_open_passt(&f->nd, &f->rig.loop, "n0", f->path, NULL), 0);
	netdev_watch(&f->nd, count_change, f);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fix *f = *state;

	netdev_close(&f->nd);
	netdev_close(&f->nd);
	assert_int_equal(f->nd.fd, -1);
	close(f->listener);
	close(f->peer);
	unlink(f->path);
	rmdir(f->dir);
	rig_done(&f->rig);
	free(f);
	return 0;
}

static void connect_it(struct fix *f)
{
	struct err e = {0};

	if (netdev_link(&f->nd, true, &e))
		fail_msg("%s", e.msg);
	assert_true(accept_now(f) >= 0);
}

/* Write all of it, letting the netdev read nothing meanwhile. */
static void peer_writes(struct fix *f, const void *data, size_t len)
{
	assert_int_equal(write(f->peer, data, len), len);
}

/* A frame with its length before it, numbered. */
static size_t framed(uint8_t *to, uint32_t len, uint8_t n)
{
	uint32_t length = htonl(len);

	memcpy(to, &length, 4);
	for (uint32_t i = 0; i < len; i++)
		to[4 + i] = (uint8_t)(n + i);
	return 4 + len;
}

static void expect_frame(struct fix *f, uint32_t len, uint8_t n)
{
	static const uint8_t zero[HDR];

	memset(f->buf, 0xee, HDR);
	assert_int_equal(netdev_recv(&f->nd, f->buf, sizeof(f->buf)), HDR + len);
	assert_memory_equal(f->buf, zero, HDR);
	for (uint32_t i = 0; i < len; i++)
		assert_int_equal(f->buf[HDR + i], (uint8_t)(n + i));
}

static void send_frame(struct fix *f, uint32_t len, uint8_t n)
{
	memset(f->frame, 0, HDR);
	for (uint32_t i = 0; i < len; i++)
		f->frame[HDR + i] = (uint8_t)(n + i);
	netdev_send(&f->nd, f->frame, HDR + len);
}

static void nothing_before_the_link_is_up(void **state)
{
	struct fix *f = *state;

	assert_int_equal(f->nd.fd, -1);
	send_frame(f, 60, 0);
	assert_int_equal(f->nd.tx_dropped, 1);
	assert_int_equal(netdev_recv(&f->nd, f->buf, sizeof(f->buf)), -EAGAIN);
	assert_int_equal(netdev_set_offloads(&f->nd, ~0ull), 0);
	assert_int_equal(netdev_link(&f->nd, false, NULL), 0);
	rig_settle(&f->rig);
	assert_int_equal(accept_now(f), -1);
	connect_it(f);
	assert_int_equal(netdev_link(&f->nd, true, NULL), 0); /* it is */
	assert_int_equal(f->changes, 1);
}

static void frames_go_both_ways(void **state)
{
	struct fix *f = *state;
	static const uint32_t lens[] = {14, 60, 1514, 65535};
	static uint8_t wire[70000], got[70000];

	connect_it(f);
	for (unsigned i = 0; i < 4; i++) {
		size_t n = framed(wire, lens[i], (uint8_t)i);

		send_frame(f, lens[i], (uint8_t)i);
		assert_int_equal(read(f->peer, got, sizeof(got)), n);
		assert_memory_equal(got, wire, n);
		peer_writes(f, wire, n);
		expect_frame(f, lens[i], (uint8_t)i);
		assert_int_equal(netdev_recv(&f->nd, f->buf, sizeof(f->buf)), -EAGAIN);
	}
	assert_int_equal(f->nd.tx_frames, 4);
	assert_int_equal(f->nd.rx_frames, 4);
	/* What no Ethernet frame is, or passt would not take. */
	send_frame(f, 0, 0);
	send_frame(f, 13, 0);
	send_frame(f, 65536, 0);
	netdev_send(&f->nd, f->frame, HDR - 1);
	assert_int_equal(f->nd.tx_dropped, 4);
	assert_int_equal(read(f->peer, got, sizeof(got)), -1);
}

/* A stream has no edges: frames in any pieces, many at a time. */
static void input_in_pieces(void **state)
{
	struct fix *f = *state;
	static uint8_t wire[200000];
	size_t n = 0;

	connect_it(f);
	n = framed(wire, 60, 1);
	n += framed(wire + n, 14, 2);
	for (size_t i = 0; i < n; i++) {
		if (i && i != 64)
			assert_int_equal(netdev_recv(&f->nd, f->buf, sizeof(f->buf)), -EAGAIN);
		if (i == 64)
			expect_frame(f, 60, 1);
		peer_writes(f, wire + i, 1);
	}
	expect_frame(f, 14, 2);
	/* 100 at once, of all sizes, the last cut. */
	n = 0;
	for (unsigned i = 0; i < 100; i++)
		n += framed(wire + n, 14 + 17 * i, (uint8_t)i);
	peer_writes(f, wire, n - 100);
	for (unsigned i = 0; i < 99; i++)
		expect_frame(f, 14 + 17 * i, (uint8_t)i);
	assert_int_equal(netdev_recv(&f->nd, f->buf, sizeof(f->buf)), -EAGAIN);
	peer_writes(f, wire + n - 100, 100);
	expect_frame(f, 14 + 17 * 99, 99);
	/* Two of the largest behind a small one: the buffer holds what is needed. */
	n = framed(wire, 14, 1);
	n += framed(wire + n, 65535, 2);
	n += framed(wire + n, 65535, 3);
	peer_writes(f, wire, n);
	expect_frame(f, 14, 1);
	expect_frame(f, 65535, 2);
	expect_frame(f, 65535, 3);
	assert_int_equal(f->changes, 1);
}

static void impossible_lengths_end_the_connection(void **state)
{
	struct fix *f = *state;
	static const uint32_t lens[] = {0, 13, 65536, UINT32_MAX};
	uint8_t good[100];
	char byte;

	connect_it(f);
	for (unsigned i = 0; i < sizeof(lens) / sizeof(lens[0]); i++) {
		uint32_t length = htonl(lens[i]);
		unsigned before = f->changes;

		peer_writes(f, good, framed(good, 20, 7));
		peer_writes(f, &length, 4);
		expect_frame(f, 20, 7);
		assert_int_equal(netdev_recv(&f->nd, f->buf, sizeof(f->buf)), -EAGAIN);
		assert_int_equal(f->nd.fd, -1);
		assert_int_equal(f->changes, before + 1);
		assert_int_equal(read(f->peer, &byte, 1), 0); /* it let go */
		hang_up(f);
		accept_soon(f); /* and is back a second later */
		assert_true(f->nd.fd >= 0);
		assert_int_equal(f->changes, before + 2);
	}
}

/* A reader that is slow: frames are lost whole, and what arrives is whole and in order. */
static void full_pipe_loses_whole_frames(void **state)
{
	struct fix *f = *state;
	static uint8_t got[8 << 20];
	size_t have = 0, at = 0;
	unsigned sent = 0, seen = 0;
	int size = 1; /* the smallest that there is: frames are cut */
	uint8_t last = 0;

	connect_it(f);
	assert_int_equal(setsockopt(f->nd.fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size)), 0);
	for (unsigned round = 0; round < 50; round++) {
		ssize_t n;

		for (unsigned i = 0; i < 20; i++)
			send_frame(f, 60 + 997 * ((8 + round - i) % 9), (uint8_t)++sent);
		rig_settle(&f->rig); /* the rest of a frame goes when there is room */
		while ((n = read(f->peer, got + have, 7000 + round)) > 0 && round % 3) {
			have += (size_t)n;
			loop_run_once(&f->rig.loop, 0);
		}
		if (n > 0)
			have += (size_t)n;
	}
	/* The last one, cut, gets there without another that pushes it. */
	for (ssize_t n; (n = read(f->peer, got + have, 65536)) > 0; rig_settle(&f->rig))
		have += (size_t)n;
	send_frame(f, 8000, (uint8_t)++sent);
	for (unsigned quiet = 0; quiet < 3; quiet++) {
		for (ssize_t n; (n = read(f->peer, got + have, 65536)) > 0; quiet = 0)
			have += (size_t)n;
		rig_settle(&f->rig);
	}
	while (at < have) {
		uint32_t length;

		memcpy(&length, got + at, 4);
		length = ntohl(length);
		assert_true(length >= 60 && length <= 60 + 997 * 8 && at + 4 + length <= have);
		for (uint32_t i = 0; i < length; i++)
			assert_int_equal(got[at + 4 + i], (uint8_t)(got[at + 4] + i));
		/* Numbers only grow; modulo 256, gaps are smaller than that. */
		assert_true(!seen || (uint8_t)(got[at + 4] - last) != 0);
		last = got[at + 4];
		at += 4 + length;
		seen++;
	}
	assert_int_equal(seen, f->nd.tx_frames);
	assert_int_equal(f->nd.tx_frames + f->nd.tx_dropped, sent);
	assert_true(f->nd.tx_dropped > 0 && seen > 50);
}

static void not_there_at_first(void **state)
{
	struct fix *f = *state;
	struct err e = {0};

	close(f->listener);
	unlink(f->path);
	assert_int_equal(netdev_link(&f->nd, true, &e), -ENOENT);
	assert_non_null(strstr(e.msg, "net 'n0'"));
	assert_non_null(strstr(e.msg, f->path));
	assert_non_null(strstr(e.msg, "passt --socket"));
	assert_int_equal(f->nd.fd, -1);
	listen_there(f);
	accept_soon(f);
	send_frame(f, 60, 1);
	assert_int_equal(read(f->peer, f->buf, sizeof(f->buf)), 64);
}

/* It dies, by what it sends or by what is sent to it; half a frame does not outlive it. */
static void comes_and_goes(void **state)
{
	struct fix *f = *state;
	uint8_t wire[200];

	connect_it(f);
	framed(wire, 60, 1);
	for (unsigned how = 0; how < 2; how++) {
		peer_writes(f, wire, 30);
		assert_int_equal(netdev_recv(&f->nd, f->buf, sizeof(f->buf)), -EAGAIN);
		hang_up(f);
		if (how)
			send_frame(f, 60, 2);
		else
			assert_int_equal(netdev_recv(&f->nd, f->buf, sizeof(f->buf)), -EAGAIN);
		assert_int_equal(f->nd.fd, -1);
		send_frame(f, 60, 3);
		assert_int_equal(f->nd.tx_dropped, 1 + 2 * how);
		accept_soon(f);
		peer_writes(f, wire, 64);
		expect_frame(f, 60, 1);
		send_frame(f, 60, 4);
		assert_int_equal(read(f->peer, f->buf, sizeof(f->buf)), 64);
		assert_int_equal(f->buf[4], 4);
	}
	/* Down: it lets go and does not come back. */
	assert_int_equal(netdev_link(&f->nd, false, NULL), 0);
	assert_int_equal(read(f->peer, wire, 1), 0);
	for (unsigned i = 0; i < 120; i++)
		loop_run_once(&f->rig.loop, 10000000);
	close(f->peer);
	assert_int_equal(accept_now(f), -1);
	assert_int_equal(f->nd.fd, -1);
}

static void bad_names(void **state)
{
	struct fix *f = *state;
	struct netdev nd;
	struct err e = {0};
	char name[110];

	memset(name, 'a', sizeof(name));
	name[108] = 0;
	assert_int_equal(netdev_open_passt(&nd, &f->rig.loop, "n1", name, &e), -ENAMETOOLONG);
	assert_non_null(strstr(e.msg, "n1"));
	assert_int_equal(netdev_open_passt(&nd, &f->rig.loop, "n1", "", NULL), -ENAMETOOLONG);
	assert_int_equal(nd.fd, -1);
	netdev_close(&nd);
	name[107] = 0;
	assert_int_equal(netdev_open_passt(&nd, &f->rig.loop, "n1", name, NULL), 0);
	assert_int_not_equal(netdev_link(&nd, true, &e), 0);
	netdev_close(&nd); /* with a retry under way */
	rig_settle(&f->rig);
}

/* A guest behind it: frames move, and go on moving when passt was away. */
static void guest_stays_connected(void **state)
{
	struct fix *f = *state;
	struct mdev md = rig_mdev(MDEV_NET, 0);
	struct device *dev;
	struct rig_q q[3];
	uint8_t wire[200];

	md.no_offload = true;
	assert_int_equal(virtio_net_new(&f->rig.env, &md, &f->nd, &dev, NULL), 0);
	connect_it(f);
	rig_start(&f->rig, 0, rig_offered(&f->rig, 0), q, 3, 32);
	for (unsigned i = 0; i < 16; i++) {
		struct rig_seg s = {RIG_DATA + 0x1000 * i, 2048, true};

		rig_add(&q[0], &s, 1);
	}
	rig_kick(&f->rig, 0, 0);
	for (uint16_t i = 0; i < 3; i++) {
		struct rig_seg s = {RIG_DATA + 0x30000, HDR + 60, false};

		peer_writes(f, wire, framed(wire, 60, (uint8_t)i));
		rig_until(&f->rig, rig_used_idx(&q[0]) == i + 1);
		assert_int_equal(((uint8_t *)rig_ptr(&f->rig, RIG_DATA + 0x1000 * i))[HDR], i);
		memset(rig_ptr(&f->rig, RIG_DATA + 0x30000), 0, HDR + 60);
		rig_add(&q[1], &s, 1);
		rig_kick(&f->rig, 0, 1);
		rig_until(&f->rig, rig_used_idx(&q[1]) == i + 1);
		assert_int_equal(read(f->peer, f->buf, sizeof(f->buf)), 64);
		hang_up(f);
		if (i == 1) { /* found by sending, while input is waited for */
			send_frame(f, 60, 1);
			assert_int_equal(f->nd.fd, -1);
		}
		accept_soon(f);
	}
	dev->ops->free(dev);
	assert_null(f->nd.changed);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(nothing_before_the_link_is_up),
		T(frames_go_both_ways),
		T(input_in_pieces),
		T(impossible_lengths_end_the_connection),
		T(full_pipe_loses_whole_frames),
		T(not_there_at_first),
		T(comes_and_goes),
		T(bad_names),
		T(guest_stays_connected),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

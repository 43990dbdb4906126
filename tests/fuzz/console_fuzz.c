/*
 * The console socket: clients that come and go, type, and do or do not read, while the guest prints
 * and takes some of what is typed, or is no guest of this side. A client sees bytes of what was
 * printed, in order; the guest takes what one client typed in order.
 *
 * Input: commands, a byte each with what it needs behind it (see step()).
 */
#include <errno.h>
#include <sys/socket.h>

#include "tests/fuzz/fuzz.h"

#include "vmm/cli/console_sock.h"
#include "vmm/cli/ctl_sock.h"
#include "vmm/base/log.h"

#define CLIENTS 6

static struct loop loop;
static struct console_sock *cs;
static struct sockaddr_un addr;
static struct {
	int fd;
	bool synced;  /* has seen a byte of the guest */
	uint8_t next; /* what the guest prints counts up */
} clients[CLIENTS];
static int room; /* what the guest takes at a time, -1: it runs elsewhere */
static uint8_t printed;
static uint8_t counting[65600 + 256]; /* what the guest prints, from any byte on */

static int typed(void *arg, const void *bytes, unsigned len)
{
	volatile uint8_t sink = 0;

	for (unsigned i = 0; i < len; i++)
		sink = (uint8_t)(sink + ((const uint8_t *)bytes)[i]);
	return room < (int)len ? room : (int)len;
}

static void start(void)
{
	char dir[96];

	log_init(LOG_ERROR, "fuzz");
	require(!setenv("XDG_RUNTIME_DIR", fuzz_make_folder(), 1) && !loop_init(&loop, NULL));
	snprintf(dir, sizeof(dir), "%s/ftvmm", fuzz_folder);
	require(!mkdir(dir, 0700));
	require(!console_sock_open(&cs, &loop, "fz", typed, NULL, NULL) &&
		!ctl_sock_console_addr("fz", &addr, NULL));
	for (unsigned i = 0; i < CLIENTS; i++)
		clients[i].fd = -1;
	for (size_t i = 0; i < sizeof(counting); i++)
		counting[i] = (uint8_t)i;
}

static void rounds(unsigned n)
{
	while (n--)
		fuzz_turn(&loop);
}

static void hang_up(unsigned i)
{
	if (clients[i].fd >= 0)
		close(clients[i].fd);
	clients[i].fd = -1;
}

static void read_some(unsigned i, size_t n)
{
	static uint8_t got[65536];
	ssize_t r = clients[i].fd < 0 ? -1 : recv(clients[i].fd, got, 2, MSG_DONTWAIT | MSG_PEEK);

	/* A word of the server's own, and the end behind it: the guest prints no 't' after 'f'. */
	if (r == 2 && !clients[i].synced && got[0] == 'f' && got[1] == 't')
		r = 0;
	else if (r > 0)
		r = recv(clients[i].fd, got, n, MSG_DONTWAIT);
	if (r > 0) {
		uint8_t first = clients[i].synced ? clients[i].next : got[0];

		require(!memcmp(got, counting + first, (size_t)r));
		clients[i].synced = true;
		clients[i].next = (uint8_t)(first + r);
	}
	if (!r)
		hang_up(i);
}

static void print(size_t n)
{
	console_sock_put(cs, counting + printed, (uint32_t)n);
	printed = (uint8_t)(printed + n);
}

static void type(unsigned i, struct input *in, size_t n)
{
	const uint8_t *p = take_bytes(in, &n);

	if (clients[i].fd < 0) {
		clients[i].fd = ctl_sock_connect(&addr, 0);
		clients[i].synced = false;
	}
	if (clients[i].fd >= 0 && n && send(clients[i].fd, p, n, MSG_NOSIGNAL | MSG_DONTWAIT) < 0 &&
	    errno != EAGAIN)
		hang_up(i);
}

static void step(struct input *in)
{
	static const size_t many[] = {1, 100, 5000, 32768, 65535, 65536, 65537, 65600};
	unsigned c = (unsigned)take(in, 1), i = (c & 8 ? (unsigned)take(in, 1) : 0) % CLIENTS;

	switch (c & 7) {
	case 0:
	case 1:
		type(i, in, c & 1 ? take(in, 1) * 8 : 1);
		break;
	case 2:
		print(many[c >> 4 & 7]);
		break;
	case 3:
		read_some(i, 1u << (c >> 4));
		break;
	case 4:
		if (c & 0x10 && clients[i].fd >= 0)
			shutdown(clients[i].fd, c & 0x20 ? SHUT_RD : SHUT_WR);
		else
			hang_up(i);
		break;
	case 5:
		room = (c >> 4) - 1;
		break;
	default:
		rounds(1 + (c >> 6));
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = {data, size};
	unsigned n = 0;

	if (!cs)
		start();
	printed = 0;
	room = 512;
	while (in.left && n++ < 200)
		step(&in);
	room = -1; /* whoever types now is told that nobody is here */
	for (unsigned i = 0; i < CLIENTS; i++) {
		read_some(i, 65536);
		hang_up(i);
	}
	rounds(12);
	print(1); /* those who have typed too much are seen to be gone */
	print(65536);
	rounds(2);
	return 0;
}

/* Taps, in a network namespace of this process alone (needs root; skipped otherwise). */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <linux/virtio_net.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "net/netdev.h"

#define TAP    "ftt0"
#define BRIDGE "ftbr0"

static int link_ioctl(unsigned long cmd, const char *name, struct ifreq *ifr)
{
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), r;

	snprintf(ifr->ifr_name, sizeof(ifr->ifr_name), "%s", name);
	r = ioctl(fd, cmd, ifr);
	close(fd);
	return r;
}

static bool link_is_up(const char *name)
{
	struct ifreq ifr = {0};

	assert_int_equal(link_ioctl(SIOCGIFFLAGS, name, &ifr), 0);
	return ifr.ifr_flags & IFF_UP;
}

static void run(const char *cmd)
{
	int status = system(cmd);

	assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void makes_and_removes_a_tap(void **state)
{
	struct netdev nd;
	struct err e = {0};

	assert_int_equal(netdev_open_tap(&nd, "n0", TAP, NULL, &e), 0);
	assert_true(nd.ours);
	assert_string_equal(nd.ifname, TAP);
	assert_string_equal(nd.id, "n0");
	assert_false(link_is_up(TAP));
	assert_int_equal(netdev_link(&nd, true, &e), 0);
	assert_true(link_is_up(TAP));
	assert_int_equal(netdev_link(&nd, true, &e), 0);
	assert_int_equal(netdev_link(&nd, false, &e), 0);
	assert_false(link_is_up(TAP));
	netdev_close(&nd);
	netdev_close(&nd);
	assert_int_equal(nd.fd, -1);
	assert_int_equal(if_nametoindex(TAP), 0);
}

static void attaches_to_a_persistent_tap(void **state)
{
	struct netdev nd;
	struct err e = {0};

	run("ip tuntap add " TAP " mode tap vnet_hdr && ip link set " TAP " up");
	assert_int_equal(netdev_open_tap(&nd, "n0", TAP, NULL, &e), 0);
	assert_false(nd.ours);
	assert_false(link_is_up(TAP));
	netdev_close(&nd);
	assert_int_not_equal(if_nametoindex(TAP), 0);
	run("ip tuntap del " TAP " mode tap");
}

static void says_when_a_tap_is_busy(void **state)
{
	struct netdev a, b;
	struct err e = {0};

	assert_int_equal(netdev_open_tap(&a, "n0", TAP, NULL, &e), 0);
	assert_int_equal(netdev_open_tap(&b, "n1", TAP, NULL, &e), -EBUSY);
	assert_string_equal(e.msg,
			    "net 'n1': tap '" TAP "' is in use by another process; stop that "
			    "one, or give this VM a tap of its own");
	assert_int_equal(b.fd, -1);
	netdev_close(&a);
}

static void refuses_what_is_no_tap(void **state)
{
	struct netdev nd;
	struct err e = {0};

	assert_int_equal(netdev_open_tap(&nd, "n0", "lo", NULL, &e), -EINVAL);
	assert_non_null(strstr(e.msg, "'lo' is no tap"));
	e.code = 0;
	assert_int_equal(netdev_open_tap(&nd, "n0", "tap%d", NULL, &e), -EINVAL);
	e.code = 0;
	assert_int_equal(netdev_open_tap(&nd, "n0", "a-name-of-16-chr", NULL, &e), -EINVAL);
	e.code = 0;
	assert_int_equal(netdev_open_tap(&nd, "n0", "", NULL, &e), -EINVAL);
}

static void says_when_rights_are_missing(void **state)
{
	int status;
	pid_t pid = fork();

	if (!pid) {
		struct netdev nd;
		struct err e = {0};
		int r;

		if (setresgid(65534, 65534, 65534) || setresuid(65534, 65534, 65534))
			_exit(1);
		r = netdev_open_tap(&nd, "n0", TAP, NULL, &e);
		/* /dev/net/tun itself may be closed to others */
		_exit((r == -EPERM && strstr(e.msg, "CAP_NET_ADMIN")) ||
				      (r == -EACCES && strstr(e.msg, "/dev/net/tun"))
			      ? 0
			      : 2);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
}

static void joins_a_bridge(void **state)
{
	struct netdev nd;
	struct err e = {0};
	struct ifreq ifr = {0};
	char master[64];

	run("ip link add " BRIDGE " mtu 1400 type bridge");
	assert_int_equal(netdev_open_tap(&nd, "n0", TAP, BRIDGE, &e), 0);
	snprintf(master, sizeof(master), "ip link show master " BRIDGE " | grep -q " TAP);
	run(master);
	assert_int_equal(link_ioctl(SIOCGIFMTU, TAP, &ifr), 0);
	assert_int_equal(ifr.ifr_mtu, 1400);
	assert_int_equal(link_ioctl(SIOCGIFHWADDR, TAP, &ifr), 0);
	assert_int_equal((uint8_t)ifr.ifr_hwaddr.sa_data[0], 0xfe);
	netdev_close(&nd);
	run("ip link del " BRIDGE);
}

static void names_a_missing_or_wrong_bridge(void **state)
{
	struct netdev nd;
	struct err e = {0};

	assert_int_equal(netdev_open_tap(&nd, "n0", TAP, "nobridge", &e), -ENODEV);
	assert_non_null(strstr(e.msg, "'nobridge'"));
	assert_int_equal(if_nametoindex(TAP), 0);
	e.code = 0;
	assert_int_equal(netdev_open_tap(&nd, "n0", TAP, "lo", &e), -EINVAL);
	assert_non_null(strstr(e.msg, "'lo' is no bridge"));
	assert_int_equal(if_nametoindex(TAP), 0);
}

/* What the guest sends comes out of the host's side of the tap, and the other way round. */
static void carries_frames(void **state)
{
	static const uint8_t eth[60] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2,	 0,
					0,    0,    0,	  1,	0x88, 0xb5, 'f', 't'};
	struct sockaddr_ll sll = {.sll_family = AF_PACKET, .sll_protocol = htons(0x88b5)};
	uint8_t frame[NET_VNET_HDR + sizeof(eth)] = {0}, got[2048];
	struct netdev nd;
	struct err e = {0};
	struct pollfd p;
	int sock = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, htons(0x88b5)), n;

	assert_true(sock >= 0);
	memcpy(frame + NET_VNET_HDR, eth, sizeof(eth));
	assert_int_equal(netdev_open_tap(&nd, "n0", TAP, NULL, &e), 0);
	netdev_send(&nd, frame, sizeof(frame)); /* down: lost, not an error */
	assert_int_equal(nd.tx_dropped, 1);
	assert_int_equal(netdev_link(&nd, true, &e), 0);
	sll.sll_ifindex = if_nametoindex(TAP);
	assert_int_equal(bind(sock, (struct sockaddr *)&sll, sizeof(sll)), 0);

	netdev_send(&nd, frame, sizeof(frame));
	assert_int_equal(nd.tx_frames, 1);
	p = (struct pollfd){.fd = sock, .events = POLLIN};
	assert_int_equal(poll(&p, 1, 5000), 1);
	assert_int_equal(recv(sock, got, sizeof(got), 0), sizeof(eth));
	assert_memory_equal(got, eth, sizeof(eth));

	assert_int_equal(send(sock, eth, sizeof(eth), 0), sizeof(eth));
	do { /* the host may send frames of its own first */
		p = (struct pollfd){.fd = nd.fd, .events = POLLIN};
		assert_int_equal(poll(&p, 1, 5000), 1);
		n = netdev_recv(&nd, got, sizeof(got));
		assert_true(n > NET_VNET_HDR);
	} while (memcmp(got + NET_VNET_HDR + 12, eth + 12, 4));
	assert_int_equal(n, sizeof(frame));
	while ((n = netdev_recv(&nd, got, sizeof(got))) >= 0)
		;
	assert_int_equal(n, -EAGAIN);
	netdev_send(&nd, frame, 5); /* shorter than its header */
	assert_int_equal(nd.tx_dropped, 2);
	close(sock);
	netdev_close(&nd);
}

static void maps_offloads(void **state)
{
	uint64_t csum = 1ull << VIRTIO_NET_F_GUEST_CSUM, tso4 = 1ull << VIRTIO_NET_F_GUEST_TSO4,
		 tso6 = 1ull << VIRTIO_NET_F_GUEST_TSO6, ecn = 1ull << VIRTIO_NET_F_GUEST_ECN;
	const uint64_t sets[] = {
		0,    csum, csum | tso4, csum | tso4 | tso6, csum | tso4 | ecn, csum | ecn,
		tso4, ecn,  ~0ull};
	struct netdev nd;
	struct err e = {0};

	assert_int_equal(netdev_open_tap(&nd, "n0", TAP, NULL, &e), 0);
	for (unsigned i = 0; i < sizeof(sets) / sizeof(sets[0]); i++)
		assert_int_equal(netdev_set_offloads(&nd, sets[i]), 0);
	netdev_close(&nd);
}

/* It may take long: a guest that resets its card all day asks for it once. */
static void offloads_are_set_once(void **state)
{
	const uint64_t csum = 1ull << VIRTIO_NET_F_GUEST_CSUM;
	struct netdev nd;
	struct err e = {0};
	int fd;

	assert_int_equal(netdev_open_tap(&nd, "n0", TAP, NULL, &e), 0);
	assert_int_equal(netdev_set_offloads(&nd, csum), 0);
	fd = nd.fd;
	nd.fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	assert_int_equal(netdev_set_offloads(&nd, csum), 0);
	assert_int_equal(netdev_set_offloads(&nd, 0), -ENOTTY);
	assert_int_equal(netdev_set_offloads(&nd, csum), 0); /* as it was */
	close(nd.fd);
	nd.fd = fd;
	assert_int_equal(netdev_set_offloads(&nd, 0), 0);
	netdev_close(&nd);
}

static void unplugged_does_nothing(void **state)
{
	struct netdev nd = {.fd = -1};
	uint8_t frame[64] = {0};
	struct err e = {0};

	assert_int_equal(netdev_recv(&nd, frame, sizeof(frame)), -EAGAIN);
	netdev_send(&nd, frame, sizeof(frame));
	assert_int_equal(nd.tx_dropped, 1);
	assert_int_equal(netdev_link(&nd, true, &e), 0);
	assert_int_equal(netdev_set_offloads(&nd, ~0ull), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(makes_and_removes_a_tap),
		cmocka_unit_test(attaches_to_a_persistent_tap),
		cmocka_unit_test(says_when_a_tap_is_busy),
		cmocka_unit_test(refuses_what_is_no_tap),
		cmocka_unit_test(says_when_rights_are_missing),
		cmocka_unit_test(joins_a_bridge),
		cmocka_unit_test(names_a_missing_or_wrong_bridge),
		cmocka_unit_test(carries_frames),
		cmocka_unit_test(maps_offloads),
		cmocka_unit_test(offloads_are_set_once),
		cmocka_unit_test(unplugged_does_nothing),
	};

	if (access("/dev/net/tun", F_OK) || unshare(CLONE_NEWNET)) {
		printf("1..0 # SKIP needs root and /dev/net/tun\n");
		return 0;
	}
	return cmocka_run_group_tests_name("tap", tests, NULL, NULL);
}

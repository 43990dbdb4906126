#include "net/netdev.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <linux/virtio_net.h>
#include <net/if.h>
#include <netlink/netlink.h>
#include <netlink/route/link.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

/* libnl speaks its own error numbers; the few that matter to a user. */
static int errno_of_nl(int nle)
{
	switch (nle < 0 ? -nle : nle) {
	case NLE_PERM:
	case NLE_NOACCESS:
		return -EPERM;
	case NLE_NODEV:
	case NLE_OBJ_NOTFOUND:
		return -ENODEV;
	case NLE_BUSY:
		return -EBUSY;
	case NLE_NOMEM:
		return -ENOMEM;
	case NLE_INVAL:
	case NLE_RANGE:
		return -EINVAL;
	case NLE_OPNOTSUPP:
		return -EOPNOTSUPP;
	default:
		return -EIO;
	}
}

/* A netlink socket for one change; none is kept while the guest runs. */
static int route_open(struct nl_sock **ret, struct err *e)
{
	struct nl_sock *sk = nl_socket_alloc();
	int r = sk ? nl_connect(sk, NETLINK_ROUTE) : -NLE_NOMEM;

	if (r) {
		nl_socket_free(sk);
		return err_set(e, errno_of_nl(r), "netlink: %s", nl_geterror(r));
	}
	*ret = sk;
	return 0;
}

static int link_get(struct nl_sock *sk, const char *name, struct rtnl_link **ret, struct err *e)
{
	int r = rtnl_link_get_kernel(sk, 0, name, ret);

	if (r)
		return err_set(e, errno_of_nl(r), "interface '%s': %s", name, nl_geterror(r));
	return 0;
}

/* Bridge ports must not lower the bridge's MTU nor, by a low address, change its MAC address. */
static int fit_to_bridge(struct nl_sock *sk, struct rtnl_link *port, struct rtnl_link *bridge)
{
	struct rtnl_link *change = rtnl_link_alloc();
	struct nl_addr *old = rtnl_link_get_addr(port), *addr = old ? nl_addr_clone(old) : NULL;
	int r = -NLE_NOMEM;

	if (change && addr) {
		*(unsigned char *)nl_addr_get_binary_addr(addr) = 0xfe;
		rtnl_link_set_addr(change, addr);
		rtnl_link_set_mtu(change, rtnl_link_get_mtu(bridge));
		r = rtnl_link_change(sk, port, change, 0);
	}
	nl_addr_put(addr);
	rtnl_link_put(change);
	return r;
}

static int join_bridge(struct netdev *nd, const char *bridge, struct err *e)
{
	struct rtnl_link *port = NULL, *master = NULL;
	struct nl_sock *sk;
	const char *type;
	int r = route_open(&sk, e);

	if (r)
		return r;
	r = link_get(sk, nd->ifname, &port, e);
	if (!r)
		r = link_get(sk, bridge, &master, e);
	if (r)
		goto out;
	type = rtnl_link_get_type(master);
	if (!type || strcmp(type, "bridge")) {
		r = err_set(e, -EINVAL, "'%s' is no bridge", bridge);
		goto out;
	}
	if (rtnl_link_get_master(port) == rtnl_link_get_ifindex(master))
		goto out;
	r = nd->ours ? fit_to_bridge(sk, port, master) : 0;
	if (!r)
		r = rtnl_link_enslave_ifindex(sk, rtnl_link_get_ifindex(master),
					      rtnl_link_get_ifindex(port));
	if (r)
		r = err_set(e, errno_of_nl(r), "tap '%s' into bridge '%s': %s", nd->ifname, bridge,
			    nl_geterror(r));
out:
	rtnl_link_put(port);
	rtnl_link_put(master);
	nl_socket_free(sk);
	return r;
}

static int set_link(struct netdev *nd, bool up, struct err *e)
{
	struct rtnl_link *link = NULL, *change = NULL;
	struct nl_sock *sk;
	int r = route_open(&sk, e);

	if (r)
		return r;
	r = link_get(sk, nd->ifname, &link, e);
	/* A tap that an administrator gave us may be right already, and beyond our rights to
	 * change. */
	if (r || !!(rtnl_link_get_flags(link) & IFF_UP) == up)
		goto out;
	change = rtnl_link_alloc();
	if (!change) {
		r = err_set(e, -ENOMEM, "out of memory");
		goto out;
	}
	if (up)
		rtnl_link_set_flags(change, IFF_UP);
	else
		rtnl_link_unset_flags(change, IFF_UP);
	r = rtnl_link_change(sk, link, change, 0);
	if (r)
		r = err_set(e, errno_of_nl(r), "tap '%s' %s: %s", nd->ifname, up ? "up" : "down",
			    nl_geterror(r));
out:
	rtnl_link_put(change);
	rtnl_link_put(link);
	nl_socket_free(sk);
	return r;
}

static int attach_error(const char *ifname, bool existed, struct err *e)
{
	int code = -errno;

	switch (errno) {
	case EBUSY:
		return err_set(e, code,
			       "tap '%s' is in use by another process; stop that one, or give this "
			       "VM a tap of its own",
			       ifname);
	case EPERM:
	case EACCES:
		return err_set(e, code,
			       "tap '%s': %s; run as root or with CAP_NET_ADMIN, or let an "
			       "administrator make "
			       "it: ip tuntap add %s mode tap vnet_hdr user %u",
			       ifname, existed ? "not yours" : "may not be made", ifname,
			       geteuid());
	case EINVAL:
		if (existed)
			return err_set(e, code, "'%s' is no tap, or a multi-queue one", ifname);
		break;
	}
	return err_sys(e, "tap '%s'", ifname);
}

static int attach(struct netdev *nd, const char *ifname, struct err *e)
{
	bool existed = if_nametoindex(ifname);
	struct ifreq ifr = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};
	int header = NET_VNET_HDR;

	nd->fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
	if (nd->fd < 0 && errno == ENOENT)
		return err_sys(e, "/dev/net/tun (modprobe tun)");
	if (nd->fd < 0)
		return attach_error(ifname, existed, e);
	snprintf(ifr.ifr_name, sizeof(ifr.ifr_name), "%s", ifname);
	if (ioctl(nd->fd, TUNSETIFF, &ifr) < 0)
		return attach_error(ifname, existed, e);
	nd->ours = !existed;
	snprintf(nd->ifname, sizeof(nd->ifname), "%s", ifr.ifr_name);
	/* An existing tap keeps what its former user set. */
	if (ioctl(nd->fd, TUNSETVNETHDRSZ, &header) < 0 || ioctl(nd->fd, TUNSETOFFLOAD, 0ul) < 0)
		return err_sys(e, "tap '%s': virtio headers", ifname);
	return 0;
}

int netdev_open_tap(struct netdev *nd, const char *id, const char *ifname, const char *bridge,
		    struct err *e)
{
	struct err link = {0};
	int r;

	memset(nd, 0, sizeof(*nd));
	nd->fd = -1;
	/* The kernel would make up a name from an empty one or from a pattern. */
	if (!*ifname || strlen(ifname) >= IFNAMSIZ || strpbrk(ifname, "%/"))
		return err_set(e, -EINVAL, "net '%s': '%s' is no name for a tap (1..%d characters)",
			       id, ifname, IFNAMSIZ - 1);
	snprintf(nd->id, sizeof(nd->id), "%s", id);
	r = attach(nd, ifname, e);
	if (!r)
		r = set_link(nd, false, &link);
	/* Up, and not ours to change: it carries nothing of the guest before we write to it. */
	if (r == -EPERM && link.code && !nd->ours)
		r = 0;
	else if (link.code)
		err_set(e, r, "%s", link.msg);
	if (!r && bridge && *bridge)
		r = join_bridge(nd, bridge, e);
	if (r) {
		netdev_close(nd);
		err_wrap(e, "net '%s'", id);
	}
	return r;
}

static int tap_set_offloads(struct netdev *nd, uint64_t guest_features)
{
	unsigned long flags = 0;

	if (nd->fd < 0)
		return 0;
	/* Segmentation offload includes checksum offload; the kernel refuses it alone. */
	if (guest_features & 1ull << VIRTIO_NET_F_GUEST_CSUM) {
		flags |= TUN_F_CSUM;
		if (guest_features & 1ull << VIRTIO_NET_F_GUEST_TSO4)
			flags |= TUN_F_TSO4;
		if (guest_features & 1ull << VIRTIO_NET_F_GUEST_TSO6)
			flags |= TUN_F_TSO6;
		if (flags != TUN_F_CSUM && guest_features & 1ull << VIRTIO_NET_F_GUEST_ECN)
			flags |= TUN_F_TSO_ECN;
	}
	return ioctl(nd->fd, TUNSETOFFLOAD, flags) < 0 ? -errno : 0;
}

static int tap_link(struct netdev *nd, bool up, struct err *e)
{
	return nd->fd < 0 ? 0 : set_link(nd, up, e);
}

static void tap_close(struct netdev *nd)
{
	if (nd->fd >= 0)
		close(nd->fd);
	nd->fd = -1;
}

static int tap_recv(struct netdev *nd, void *buf, uint32_t cap)
{
	ssize_t n = nd->fd < 0 ? -1 : read(nd->fd, buf, cap);

	if (nd->fd < 0)
		return -EAGAIN;
	if (n < 0)
		return errno == EINTR ? -EAGAIN : -errno;
	nd->rx_frames++;
	return n;
}

static void tap_send(struct netdev *nd, const void *frame, uint32_t len)
{
	/* A tap takes a frame whole or not at all: down, full or malformed, it is a lost frame. */
	if (nd->fd >= 0 && write(nd->fd, frame, len) == (ssize_t)len)
		nd->tx_frames++;
	else
		nd->tx_dropped++;
}

const struct netdev_ops netdev_tap_ops = {
	.recv = tap_recv,
	.send = tap_send,
	.set_offloads = tap_set_offloads,
	.link = tap_link,
	.close = tap_close,
};

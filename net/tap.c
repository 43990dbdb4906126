#include "net/netdev.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <linux/virtio_net.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "net/iface.h"

/* Bridge ports must not lower the bridge's MTU nor, by a low address, change its MAC address. */
static void fit_to_bridge(struct iface_change *c, struct iface *port, const struct iface *bridge)
{
	port->mac[0] = 0xfe;
	c->mac = port->mac;
	c->mtu = bridge->mtu;
}

static int get_bridge(const char *name, struct iface *ret, struct err *e)
{
	struct err why = {0};
	int r = iface_get(name, ret, &why);

	if (r == -ENODEV)
		return err_set(e, r,
			       "there is no bridge '%s'; make it: ip link add %s type bridge, and "
			       "set it up",
			       name, name);
	if (r)
		return err_set(e, r, "%s", why.msg);
	return strcmp(ret->kind, "bridge") ? err_set(e, -EINVAL, "'%s' is no bridge", name) : 0;
}

static int join_bridge(struct netdev *nd, const char *bridge, struct err *e)
{
	struct iface_change c = {0};
	struct iface port, master;
	struct err why = {0};
	int r = iface_get(nd->ifname, &port, e);

	if (!r)
		r = get_bridge(bridge, &master, e);
	if (r)
		return r;
	if (port.master == master.index)
		return 0;
	c.master = master.index;
	if (nd->ours)
		fit_to_bridge(&c, &port, &master);
	r = iface_set(&port, &c, &why);
	if (r == -EPERM)
		return err_set(e, r,
			       "tap '%s' into bridge '%s': %s; let an administrator do it: ip link "
			       "set %s master %s up",
			       nd->ifname, bridge, why.msg, nd->ifname, bridge);
	return r ? err_set(e, r, "tap '%s' into bridge '%s': %s", nd->ifname, bridge, why.msg) : 0;
}

static int set_link(struct netdev *nd, bool up, struct err *e)
{
	struct iface_change c = {.set_up = true, .up = up};
	struct err why = {0};
	struct iface tap;
	int r = iface_get(nd->ifname, &tap, e);

	/* A tap that an administrator gave us may be right already, and beyond our rights to
	 * change. */
	if (r || !!(tap.flags & IFF_UP) == up)
		return r;
	r = iface_set(&tap, &c, &why);
	if (r == -EPERM && up)
		return err_set(e, r,
			       "tap '%s' up: %s; let an administrator do it: ip link set %s up",
			       nd->ifname, why.msg, nd->ifname);
	return r ? err_set(e, r, "tap '%s' %s: %s", nd->ifname, up ? "up" : "down", why.msg) : 0;
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

	nd->fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
	if (nd->fd < 0 && errno == ENOENT)
		return err_sys(e, "/dev/net/tun (modprobe tun)");
	if (nd->fd < 0 && errno == EACCES)
		return err_set(e, -EACCES,
			       "/dev/net/tun: no permission: run as root, or let an administrator "
			       "chmod it to 0666");
	if (nd->fd < 0)
		return err_sys(e, "/dev/net/tun");
	snprintf(ifr.ifr_name, sizeof(ifr.ifr_name), "%s", ifname);
	if (ioctl(nd->fd, TUNSETIFF, &ifr) < 0)
		return attach_error(ifname, existed, e);
	nd->ours = !existed;
	snprintf(nd->ifname, sizeof(nd->ifname), "%s", ifr.ifr_name);
	return 0;
}

/* An existing tap keeps what its former user set. */
static int set_headers(struct netdev *nd, struct err *e)
{
	int header = NET_VNET_HDR;

	if (ioctl(nd->fd, TUNSETVNETHDRSZ, &header) < 0 || ioctl(nd->fd, TUNSETOFFLOAD, 0ul) < 0)
		return err_sys(e, "tap '%s': virtio headers", nd->ifname);
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
		r = set_headers(nd, e);
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

static int try_bridge(struct netdev *nd, const char *bridge, struct err *e)
{
	struct iface master;

	if (nd->ours) /* it leaves the bridge with us */
		return join_bridge(nd, bridge, e);
	return get_bridge(bridge, &master, e);
}

int netdev_try_tap(const char *ifname, const char *bridge, struct err *e)
{
	struct netdev nd = {.fd = -1};
	int r = attach(&nd, ifname, e);

	if (!r && *bridge)
		r = try_bridge(&nd, bridge, e);
	netdev_close(&nd);
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
	/* The kernel waits for its lock of all interfaces, and a guest may reset its card often. */
	if (flags == nd->offloads)
		return 0;
	if (ioctl(nd->fd, TUNSETOFFLOAD, flags) < 0)
		return -errno;
	nd->offloads = flags;
	return 0;
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

#include "net/iface.h"

#include <errno.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <netlink/attr.h>
#include <netlink/msg.h>
#include <netlink/netlink.h>
#include <netlink/socket.h>
#include <stdio.h>
#include <string.h>

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

static int route_open(struct nl_sock **ret)
{
	struct nl_sock *sk = nl_socket_alloc();
	int r = sk ? nl_connect(sk, NETLINK_ROUTE) : -NLE_NOMEM;

	if (r)
		nl_socket_free(sk);
	else
		*ret = sk;
	return r;
}

static struct nl_msg *link_message(int type, const struct ifinfomsg *info)
{
	struct nl_msg *m = nlmsg_alloc_simple(type, NLM_F_REQUEST);

	if (m && nlmsg_append(m, (void *)info, sizeof(*info), NLMSG_ALIGNTO)) {
		nlmsg_free(m);
		return NULL;
	}
	return m;
}

/* --- what an interface is --------------------------------------------------------------------- */

static void take_kind(struct nlattr *linkinfo, struct iface *i)
{
	struct nlattr *a[IFLA_INFO_MAX + 1];

	if (!nla_parse_nested(a, IFLA_INFO_MAX, linkinfo, NULL) && a[IFLA_INFO_KIND])
		nla_strlcpy(i->kind, a[IFLA_INFO_KIND], sizeof(i->kind));
}

static int take_link(struct nl_msg *m, void *arg)
{
	static const struct nla_policy policy[IFLA_MAX + 1] = {
		[IFLA_MASTER] = {.type = NLA_U32},
		[IFLA_MTU] = {.type = NLA_U32},
		[IFLA_LINKINFO] = {.type = NLA_NESTED},
	};
	struct nlmsghdr *h = nlmsg_hdr(m);
	struct nlattr *a[IFLA_MAX + 1];
	struct iface *i = arg;
	struct ifinfomsg *info;

	if (h->nlmsg_type != RTM_NEWLINK || nlmsg_parse(h, sizeof(*info), a, IFLA_MAX, policy))
		return NL_SKIP;
	info = nlmsg_data(h);
	i->index = info->ifi_index;
	i->flags = info->ifi_flags;
	i->master = a[IFLA_MASTER] ? (int)nla_get_u32(a[IFLA_MASTER]) : 0;
	i->mtu = a[IFLA_MTU] ? nla_get_u32(a[IFLA_MTU]) : 0;
	if (a[IFLA_ADDRESS] && nla_len(a[IFLA_ADDRESS]) == IFACE_MAC_LEN)
		memcpy(i->mac, nla_data(a[IFLA_ADDRESS]), IFACE_MAC_LEN);
	if (a[IFLA_LINKINFO])
		take_kind(a[IFLA_LINKINFO], i);
	return NL_OK;
}

static int ask(struct nl_sock *sk, const char *name, struct iface *ret)
{
	struct ifinfomsg info = {.ifi_family = AF_UNSPEC};
	struct nl_msg *m = link_message(RTM_GETLINK, &info);
	int r = m ? nla_put_string(m, IFLA_IFNAME, name) : -NLE_NOMEM;

	nl_socket_disable_auto_ack(sk); /* the answer is one */
	if (!r)
		r = nl_socket_modify_cb(sk, NL_CB_VALID, NL_CB_CUSTOM, take_link, ret);
	if (!r)
		r = nl_send_auto(sk, m);
	if (r >= 0)
		r = nl_recvmsgs_default(sk);
	nlmsg_free(m);
	if (r >= 0)
		r = ret->index ? 0 : -NLE_OBJ_NOTFOUND;
	return r;
}

int iface_get(const char *name, struct iface *ret, struct err *e)
{
	struct nl_sock *sk;
	int r = route_open(&sk);

	memset(ret, 0, sizeof(*ret));
	if (!r) {
		r = ask(sk, name, ret);
		nl_socket_free(sk);
	}
	return r ? err_set(e, errno_of_nl(r), "interface '%s': %s", name, nl_geterror(r)) : 0;
}

/* --- changes ---------------------------------------------------------------------------------- */

static int put_change(struct nl_msg *m, const struct iface_change *c)
{
	int r = c->mac ? nla_put(m, IFLA_ADDRESS, IFACE_MAC_LEN, c->mac) : 0;

	if (!r && c->mtu)
		r = nla_put_u32(m, IFLA_MTU, c->mtu);
	if (!r && c->master)
		r = nla_put_u32(m, IFLA_MASTER, (uint32_t)c->master);
	return r;
}

static int change(struct nl_sock *sk, const struct iface *i, const struct iface_change *c)
{
	struct ifinfomsg info = {.ifi_family = AF_UNSPEC, .ifi_index = i->index};
	struct nl_msg *m;
	int r;

	if (c->set_up) {
		info.ifi_change = IFF_UP;
		info.ifi_flags = c->up ? IFF_UP : 0;
	}
	m = link_message(RTM_SETLINK, &info);
	r = m ? put_change(m, c) : -NLE_NOMEM;
	if (!r)
		return nl_send_sync(sk, m); /* frees it */
	nlmsg_free(m);
	return r;
}

int iface_set(const struct iface *i, const struct iface_change *c, struct err *e)
{
	struct nl_sock *sk;
	int r = route_open(&sk);

	if (!r) {
		r = change(sk, i, c);
		nl_socket_free(sk);
	}
	return r ? err_set(e, errno_of_nl(r), "%s", nl_geterror(r)) : 0;
}

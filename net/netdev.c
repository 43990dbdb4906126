/* From a netdev to its back end. */
#include "net/netdev.h"

#include <errno.h>

#include "net/obuf.h"
#include "net/seqmap.h"

static const struct netdev_ops *ops_of(const struct netdev *nd)
{
	return nd->ops ? nd->ops : &netdev_tap_ops;
}

void netdev_watch(struct netdev *nd, void (*fn)(void *arg), void *arg)
{
	nd->changed = fn;
	nd->changed_arg = arg;
}

int netdev_set_offloads(struct netdev *nd, uint64_t guest_features)
{
	return ops_of(nd)->set_offloads(nd, guest_features);
}

int netdev_link(struct netdev *nd, bool up, struct err *e)
{
	return ops_of(nd)->link(nd, up, e);
}

void netdev_close(struct netdev *nd)
{
	ops_of(nd)->close(nd);
}

void netdev_go_on(struct netdev *nd)
{
	if (nd->changed)
		nd->changed(nd->changed_arg);
}

void netdev_set_tee(struct netdev *nd, const struct netdev_tee *t)
{
	nd->tee = t ? *t : (struct netdev_tee){0};
	netdev_go_on(nd);
}

void netdev_given(struct netdev *nd, const void *frame, uint32_t len)
{
	if (nd->tee.given)
		nd->tee.given(nd->tee.arg, nd, frame, len);
}

struct seqmap *netdev_translate(struct netdev *nd, struct seqmap *m)
{
	struct seqmap *was = nd->seqs;

	nd->seqs = m;
	return was;
}

int netdev_recv(struct netdev *nd, void *buf, uint32_t cap)
{
	int r;

	if (nd->tee.ready && !nd->tee.ready(nd->tee.arg))
		return -EBUSY;
	r = ops_of(nd)->recv(nd, buf, cap);
	if (r > 0 && nd->seqs)
		seqmap_in(nd->seqs, buf, (uint32_t)r);
	return r;
}

void netdev_send(struct netdev *nd, void *frame, uint32_t len)
{
	if (nd->seqs)
		seqmap_out(nd->seqs, frame, len);
	ops_of(nd)->send(nd, frame, len);
}

/* What is put out is the device's own copy, or the buffer's. */
static bool deliver(void *arg, const void *data, uint32_t len)
{
	netdev_send(arg, (void *)data, len);
	return true;
}

static void room(void *arg)
{
	struct netdev *nd = arg;

	nd->room(nd->room_arg);
}

int netdev_add_sink(struct netdev *nd, struct obuf *ob, void (*fn)(void *arg), void *arg)
{
	nd->room = fn;
	nd->room_arg = arg;
	return obuf_add_sink(ob, OBUF_NET, deliver, room, nd);
}

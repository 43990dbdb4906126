#include "net/inlet.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

struct inlet_frame {
	struct inlet_frame *next;
	uint32_t len;
	uint8_t data[];
};

static void change(struct netdev *nd)
{
	if (nd->changed)
		nd->changed(nd->changed_arg);
}

/* The descriptor is readable while something waits. */
static void show(int fd, bool waits)
{
	uint64_t n = 1;
	ssize_t r = waits ? write(fd, &n, sizeof(n)) : read(fd, &n, sizeof(n));

	(void)r; /* it says so already */
}

static struct inlet_frame *take(struct inlet *in)
{
	struct inlet_frame *f = in->head;

	in->head = f->next;
	if (!in->head)
		in->tail = &in->head;
	in->bytes -= sizeof(*f) + f->len;
	return f;
}

static void offer_room(struct inlet *in)
{
	if (!in->full || in->bytes > INLET_LIMIT / 2)
		return;
	in->full = false;
	if (in->room)
		in->room(in->arg);
}

static int inlet_recv(struct netdev *nd, void *buf, uint32_t cap)
{
	struct inlet *in = nd->back;
	struct inlet_frame *f;
	uint32_t len;

	if (!in->head)
		return -EAGAIN;
	f = take(in);
	len = f->len < cap ? f->len : cap;
	memcpy(buf, f->data, len);
	free(f);
	if (!in->head)
		show(nd->fd, false);
	nd->rx_frames++;
	offer_room(in);
	return (int)len;
}

/* The twin's output goes to the comparison, and never gets here. */
static void inlet_send(struct netdev *nd, const void *frame, uint32_t len)
{
	nd->tx_dropped++;
}

static int inlet_set_offloads(struct netdev *nd, uint64_t guest_features)
{
	struct inlet *in = nd->back;

	in->features = guest_features;
	return 0;
}

static int inlet_link(struct netdev *nd, bool up, struct err *e)
{
	return 0;
}

static void inlet_close(struct netdev *nd)
{
	struct inlet *in = nd->back;

	in->limit = NULL; /* of a device that is gone */
	inlet_end(in);
	netdev_close(nd);
}

static const struct netdev_ops inlet_ops = {
	.recv = inlet_recv,
	.send = inlet_send,
	.set_offloads = inlet_set_offloads,
	.link = inlet_link,
	.close = inlet_close,
};

int inlet_begin(struct inlet *in, struct netdev *nd, struct seqmap *born)
{
	int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

	if (fd < 0)
		return -errno;
	in->nd = nd;
	in->ops = nd->ops;
	in->back = nd->back;
	in->fd = nd->fd;
	in->features = 0;
	in->head = NULL;
	in->tail = &in->head;
	in->bytes = 0;
	in->full = false;
	in->seqs = netdev_translate(nd, born);
	in->limit = netdev_set_limit(nd, NULL);
	nd->ops = &inlet_ops;
	nd->back = in;
	nd->fd = fd;
	change(nd);
	return 0;
}

void inlet_end(struct inlet *in)
{
	struct netdev *nd = in->nd;
	int fd;

	if (!nd)
		return;
	inlet_drop(in);
	netdev_translate(nd, in->seqs);
	netdev_set_limit(nd, in->limit);
	in->nd = NULL;
	fd = nd->fd;
	nd->fd = -1;
	change(nd);
	close(fd);
	nd->ops = in->ops;
	nd->back = in->back;
	nd->fd = in->fd;
	netdev_set_offloads(nd, in->features);
	change(nd);
}

bool inlet_put(struct inlet *in, const void *frame, uint32_t len)
{
	struct inlet_frame *f = malloc(sizeof(*f) + len);

	/* As on a full tap: a lost frame. */
	if (!f)
		return true;
	f->next = NULL;
	f->len = len;
	memcpy(f->data, frame, len);
	if (!in->head)
		show(in->nd->fd, true);
	*in->tail = f;
	in->tail = &f->next;
	in->bytes += sizeof(*f) + len;
	in->full = in->bytes >= INLET_LIMIT;
	return !in->full;
}

void inlet_drop(struct inlet *in)
{
	if (in->head)
		show(in->nd->fd, false);
	while (in->head)
		free(take(in));
	in->full = false;
}

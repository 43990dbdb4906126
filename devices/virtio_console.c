#include "devices/virtio_console.h"

#include <errno.h>
#include <linux/virtio_console.h>
#include <linux/virtio_ids.h>
#include <stdlib.h>
#include <string.h>

#include "devices/virtio.h"

#define RX    0
#define TX    1
#define CHUNK 4096u
/* Typed, but not taken by the guest yet. It is not state: like a cable, it ends with the host. */
#define INPUT_MAX 4096u

struct console_state {
	struct virtio_state common;
	uint32_t tx_pos; /* bytes of the chain at the head of the transmit queue already put out */
};

static const struct field console_fields[] = {
	F_STRUCT(struct console_state, common, 1, virtio_fields, "what all virtio devices have"),
	F_U32(struct console_state, tx_pos, 2, "bytes of the next transmit chain already put out"),
};

struct console {
	struct virtio_dev vd;
	struct console_state live;
	obuf_sink_fn *out;
	void *out_arg;
	int sink;
	uint32_t nin;
	uint8_t in[INPUT_MAX];
	struct virtq_chain chain;
	uint8_t chunk[CHUNK];
};

static int console_check(const void *pod, struct err *e)
{
	const struct console_state *s = pod;

	return virtio_state_check(&s->common, 2, e);
}

const struct state_desc virtio_console_desc = {
	.name = "virtio-console",
	.id = 32,
	.version = 1,
	.size = sizeof(struct console_state),
	.fields = console_fields,
	.nfields = sizeof(console_fields) / sizeof(console_fields[0]),
	.check = console_check,
};

static struct console *to_console(struct virtio_dev *vd)
{
	return (struct console *)vd;
}

static bool deliver(void *arg, const void *data, uint32_t len)
{
	struct console *c = arg;

	return c->out(c->out_arg, data, len);
}

static void room(void *arg)
{
	struct console *c = arg;

	virtio_kick(&c->vd, TX);
}

/* Put out at most one chunk; a chain may need many, and may stop halfway for want of room. */
static int tx_one(struct virtio_dev *vd, unsigned qi)
{
	struct console *c = to_console(vd);
	struct virtq *vq = &vd->vq[qi];
	int r = virtq_pop(vq, &c->chain);
	struct iovec iov = {.iov_base = c->chunk};

	if (r <= 0)
		return r;
	iov.iov_len = virtq_chain_read(vq, &c->chain, c->live.tx_pos, c->chunk, CHUNK);
	if (iov.iov_len) {
		r = obuf_put(vd->env.obuf, c->sink, &iov, 1);
		if (r == -EAGAIN) {
			virtq_unpop(vq, 1);
			return r;
		}
		c->live.tx_pos += iov.iov_len;
	}
	if (c->live.tx_pos < c->chain.read_bytes) {
		virtq_unpop(vq, 1);
		return 1;
	}
	c->live.tx_pos = 0;
	r = virtq_push(vq, c->chain.head, 0);
	return r ? r : 1;
}

static int rx_one(struct virtio_dev *vd, unsigned qi)
{
	struct console *c = to_console(vd);
	struct virtq *vq = &vd->vq[qi];
	uint32_t n;
	int r;

	if (!c->nin)
		return -EAGAIN;
	r = virtq_pop(vq, &c->chain);
	if (r <= 0)
		return r;
	if (!c->chain.write_bytes)
		return -EBADMSG;
	n = virtq_chain_write(vq, &c->chain, 0, c->in, c->nin);
	c->nin -= n;
	memmove(c->in, c->in + n, c->nin);
	r = virtq_push(vq, c->chain.head, n);
	return r ? r : 1;
}

static bool console_notify(struct virtio_dev *vd, unsigned qi)
{
	return virtio_drain(vd, qi, qi == TX ? tx_one : rx_one);
}

static void console_queue_stop(struct virtio_dev *vd, unsigned qi)
{
	if (qi == TX)
		to_console(vd)->live.tx_pos = 0;
}

unsigned virtio_console_input(struct device *d, const void *bytes, unsigned len)
{
	struct console *c = (struct console *)d;
	unsigned n;

	pthread_mutex_lock(&d->lock);
	n = len < INPUT_MAX - c->nin ? len : INPUT_MAX - c->nin;
	memcpy(c->in + c->nin, bytes, n);
	c->nin += n;
	pthread_mutex_unlock(&d->lock);
	if (n)
		virtio_kick(&c->vd, RX);
	return n;
}

static void console_config(struct virtio_dev *vd, void *buf)
{
	struct virtio_console_config cfg = {.max_nr_ports = 1};

	(void)vd;
	memcpy(buf, &cfg, sizeof(cfg));
}

static void console_free(struct device *d)
{
	struct console *c = (struct console *)d;

	virtio_done(&c->vd);
	free(c);
}

static const struct device_ops console_device_ops = {
	.state = &virtio_console_desc,
	.save = virtio_save,
	.load = virtio_load,
	.resume = virtio_resume,
	.quiet = virtio_quiet,
	.arrived = virtio_arrived,
	.free = console_free,
};

static const struct virtio_ops console_ops = {
	.device = &console_device_ops,
	.device_id = VIRTIO_ID_CONSOLE,
	.nqueues = 2,
	.config = console_config,
	.notify = console_notify,
	.queue_stop = console_queue_stop,
};

int virtio_console_new(const struct dev_env *env, const struct mdev *md, obuf_sink_fn *out,
		       void *arg, struct device **ret, struct err *e)
{
	struct console *c = calloc(1, sizeof(*c));
	int r;

	if (!c)
		return err_set(e, -ENOMEM, "device %s: out of memory", md->id);
	c->out = out;
	c->out_arg = arg;
	r = virtio_init(&c->vd, &console_ops, env, md, &c->live, e);
	if (r) {
		free(c);
		return r;
	}
	c->sink = obuf_add_sink(env->obuf, OBUF_CONSOLE, deliver, room, c);
	if (c->sink < 0) {
		r = err_set(e, c->sink, "device %s: too many outputs", md->id);
		console_free(&c->vd.dev);
		return r;
	}
	obuf_limit_sink(env->obuf, c->sink, OBUF_CONSOLE_BYTES);
	*ret = &c->vd.dev;
	return 0;
}

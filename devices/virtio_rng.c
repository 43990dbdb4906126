#include "devices/virtio_rng.h"

#include <errno.h>
#include <linux/virtio_ids.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "devices/inputs.h"
#include "devices/virtio.h"

/*
 * With a twin both guests are given what the primary drew: each answer goes to the twin, where the
 * same request has it. A seed of each checkpoint, from which both sides compute their bytes, would
 * spare the twin a wait, but it needs a generator of our own, and makes all bytes up to the next
 * checkpoint follow from one secret that lies in two processes and goes over the wire. Forwarded
 * bytes are getrandom()'s, as without a twin, and on the wire they are as secret as guest memory.
 * A twin that asks first waits, at most until the next checkpoint. One that takes over draws its
 * own, and drops what the primary's guest was ahead by.
 */
#define FED 16u /* answers that wait for the twin's requests */

struct rng_state {
	struct virtio_state common;
};

static const struct field rng_fields[] = {
	F_STRUCT(struct rng_state, common, 1, virtio_fields, "what all virtio devices have"),
};

struct answer {
	uint32_t len;
	uint8_t bytes[VIRTIO_RNG_MAX];
};

struct rng {
	struct virtio_dev vd;
	struct rng_state live;
	struct virtq_chain chain;
	bool is_fed; /* a twin's: bytes are only what it is given */
	unsigned fed_at, nfed;
	struct answer *fed; /* FED of them, or NULL: nobody was fed yet, or there was no memory */
};

static int rng_check(const void *pod, struct err *e)
{
	const struct rng_state *s = pod;

	return virtio_state_check(&s->common, 1, e);
}

const struct state_desc virtio_rng_desc = {
	.name = "virtio-rng",
	.id = 33,
	.version = 1,
	.size = sizeof(struct rng_state),
	.fields = rng_fields,
	.nfields = sizeof(rng_fields) / sizeof(rng_fields[0]),
	.check = rng_check,
};

/* --- where bytes come from -------------------------------------------------------------------- */

static int take_fed(struct rng *g, uint8_t *buf, uint32_t want)
{
	const struct answer *a;
	bool full = g->nfed == FED;
	uint32_t n;

	if (!g->nfed)
		return -EAGAIN; /* virtio_rng_put() */
	a = &g->fed[g->fed_at];
	n = a->len < want ? a->len : want;
	memcpy(buf, a->bytes, n);
	g->fed_at = (g->fed_at + 1) % FED;
	g->nfed--;
	if (full)
		inputs_room(g->vd.env.inputs);
	return (int)n;
}

/* How many; -EAGAIN: none now, and it is come back to. */
static int draw(struct rng *g, uint8_t *buf, uint32_t want)
{
	ssize_t n;

	if (g->is_fed)
		return take_fed(g, buf, want);
	if (!inputs_ready(g->vd.env.inputs))
		return -EAGAIN; /* virtio_rng_go_on() */
	n = getrandom(buf, want, GRND_NONBLOCK);
	if (n > 0)
		return (int)n;
	virtio_kick(&g->vd, 0); /* early in the host's boot, or interrupted */
	return -EAGAIN;
}

bool virtio_rng_put(struct device *d, const void *bytes, uint32_t len)
{
	struct rng *g = (struct rng *)d;
	bool full;

	pthread_mutex_lock(&d->lock);
	if (g->is_fed && g->fed && g->nfed < FED && len <= VIRTIO_RNG_MAX) {
		struct answer *a = &g->fed[(g->fed_at + g->nfed++) % FED];

		a->len = len;
		memcpy(a->bytes, bytes, len);
	}
	full = g->nfed == FED;
	pthread_mutex_unlock(&d->lock);
	virtio_kick(&g->vd, 0);
	return !full;
}

void virtio_rng_feed(struct device *d, bool on)
{
	struct rng *g = (struct rng *)d;

	pthread_mutex_lock(&d->lock);
	g->is_fed = on;
	g->nfed = 0;
	if (on && !g->fed) /* without it the guest here waits for the next checkpoint */
		g->fed = calloc(FED, sizeof(*g->fed));
	pthread_mutex_unlock(&d->lock);
	virtio_kick(&g->vd, 0);
}

void virtio_rng_go_on(struct device *d)
{
	virtio_kick(&((struct rng *)d)->vd, 0);
}

/* --- the device ------------------------------------------------------------------------------- */

static int one(struct virtio_dev *vd, unsigned qi)
{
	struct rng *g = (struct rng *)vd;
	struct virtq *vq = &vd->vq[qi];
	uint8_t buf[VIRTIO_RNG_MAX];
	uint64_t want;
	int n, r = virtq_pop(vq, &g->chain);

	if (r <= 0)
		return r;
	want = g->chain.write_bytes;
	if (!want)
		return -EBADMSG;
	n = draw(g, buf, want < sizeof(buf) ? (uint32_t)want : sizeof(buf));
	if (n < 0) {
		virtq_unpop(vq, 1);
		return n;
	}
	n = (int)virtq_chain_write(vq, &g->chain, 0, buf, (uint32_t)n);
	r = virtq_push(vq, g->chain.head, (uint32_t)n);
	if (!g->is_fed && n)
		inputs_given(vd->env.inputs, &vd->dev, buf, (uint32_t)n);
	return r ? r : 1;
}

static bool rng_notify(struct virtio_dev *vd, unsigned qi)
{
	return virtio_drain(vd, qi, one);
}

static void rng_config(struct virtio_dev *vd, void *buf)
{
	(void)vd;
	(void)buf; /* there is none: all zeros */
}

static void rng_free(struct device *d)
{
	struct rng *g = (struct rng *)d;

	virtio_done(&g->vd);
	free(g->fed);
	free(g);
}

static const struct device_ops rng_device_ops = {
	.state = &virtio_rng_desc,
	.save = virtio_save,
	.load = virtio_load,
	.resume = virtio_resume,
	.quiet = virtio_quiet,
	.arrived = virtio_arrived,
	.free = rng_free,
};

static const struct virtio_ops rng_ops = {
	.device = &rng_device_ops,
	.device_id = VIRTIO_ID_RNG,
	.nqueues = 1,
	.config = rng_config,
	.notify = rng_notify,
};

int virtio_rng_new(const struct dev_env *env, const struct mdev *md, struct device **ret,
		   struct err *e)
{
	struct rng *g = calloc(1, sizeof(*g));
	int r;

	if (!g)
		return err_set(e, -ENOMEM, "device %s: out of memory", md->id);
	r = virtio_init(&g->vd, &rng_ops, env, md, &g->live, e);
	if (r) {
		free(g);
		return r;
	}
	*ret = &g->vd.dev;
	return 0;
}

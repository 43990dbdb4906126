#include "devices/virtio_rng.h"

#include <errno.h>
#include <linux/virtio_ids.h>
#include <stdlib.h>
#include <sys/random.h>

#include "devices/virtio.h"

#define CHAIN_MAX 4096u /* a longer buffer is filled in part, as section 5.4.6 allows */

struct rng_state {
	struct virtio_state common;
};

static const struct field rng_fields[] = {
	F_STRUCT(struct rng_state, common, 1, virtio_fields, "what all virtio devices have"),
};

struct rng {
	struct virtio_dev vd;
	struct rng_state live;
	struct virtq_chain chain;
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

static int one(struct virtio_dev *vd, unsigned qi)
{
	struct rng *g = (struct rng *)vd;
	struct virtq *vq = &vd->vq[qi];
	uint8_t buf[CHAIN_MAX];
	size_t want;
	ssize_t n;
	int r = virtq_pop(vq, &g->chain);

	if (r <= 0)
		return r;
	if (!g->chain.write_bytes)
		return -EBADMSG;
	want = g->chain.write_bytes < CHAIN_MAX ? g->chain.write_bytes : CHAIN_MAX;
	n = getrandom(buf, want, GRND_NONBLOCK);
	if (n <= 0) { /* early in the host's boot or interrupted: come back to it */
		virtq_unpop(vq, 1);
		virtio_kick(vd, qi);
		return -EAGAIN;
	}
	r = virtq_push(vq, g->chain.head, virtq_chain_write(vq, &g->chain, 0, buf, (uint32_t)n));
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

#include "devices/virtio_balloon.h"

#include <errno.h>
#include <linux/virtio_balloon.h>
#include <linux/virtio_ids.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "devices/inputs.h"
#include "devices/virtio.h"

/*
 * Section 5.5.2 numbers the reporting queue 4, behind those for statistics and hints. Drivers that
 * count only the queues they use, as Linux does, have it at 2. The other two are not offered, so
 * whatever is set up at 2 or above can only be for reports.
 */
enum { Q_INFLATE, Q_DEFLATE, Q_REPORTING, QUEUES = 5 };

/*
 * MUST_TELL_HOST is not offered: a page that leaves the balloon is there again by being touched.
 * PAGE_POISON is, because Linux reports nothing without it when it fills free pages with something.
 */
#define FEATURES                                                                                   \
	(1ull << VIRTIO_BALLOON_F_DEFLATE_ON_OOM | 1ull << VIRTIO_BALLOON_F_PAGE_POISON |          \
	 1ull << VIRTIO_BALLOON_F_REPORTING)

#define PIECE_BYTES (2u << 20) /* of a report in one go */
#define PIECE_PFNS  256u       /* of a balloon request, likewise */
/*
 * Giving memory back takes the loop's time, and the next seal's. A guest that frees more than this
 * waits; nobody uses the pages of a request that is not answered.
 */
#define WINDOW_NS    25000000ull
#define WINDOW_BYTES (64ull << 20)
#define LEAST_COST   65536u /* what a call costs, in bytes, however few pages it is for */

struct balloon_state {
	struct virtio_state common;
	uint32_t num_pages, actual, poison_val;
};

static const struct field balloon_fields[] = {
	F_STRUCT(struct balloon_state, common, 1, virtio_fields, "what all virtio devices have"),
	F_U32(struct balloon_state, num_pages, 2, "pages the guest should give up"),
	F_U32(struct balloon_state, actual, 3, "pages it has given up"),
	F_U32(struct balloon_state, poison_val, 4, "what its free pages are filled with"),
};

struct balloon {
	struct virtio_dev vd;
	struct balloon_state live;
	struct virtq_chain chain;
	/*
	 * How much of the request at the head of each queue is done. Not part of the state: whoever
	 * takes over does it again, which changes nothing, as the guest waits for the answer.
	 */
	uint64_t done[QUEUES];
	/* And of the next piece of a balloon request, in order, what was given back. */
	uint32_t pfn[PIECE_PFNS], npfn, pfn_at;
	uint64_t window_ns, left; /* when the window began; bytes left in it */
	struct loop_op again;
	uint32_t target; /* set while quiet */
	bool has_target;
};

static int balloon_check(const void *pod, struct err *e)
{
	const struct balloon_state *s = pod;

	return virtio_state_check(&s->common, QUEUES, e);
}

const struct state_desc virtio_balloon_desc = {
	.name = "virtio-balloon",
	.id = 34,
	.version = 1,
	.size = sizeof(struct balloon_state),
	.fields = balloon_fields,
	.nfields = sizeof(balloon_fields) / sizeof(balloon_fields[0]),
	.check = balloon_check,
};

/* --- giving back ------------------------------------------------------------------------------ */

static void try_again(struct loop_op *op, int res)
{
	struct balloon *b = op->arg;

	for (unsigned qi = 0; qi < QUEUES; qi++)
		virtio_kick(&b->vd, qi);
}

/* Is there anything left in this window? If not, the queues are looked at again in the next. */
static bool may_go_on(struct balloon *b)
{
	uint64_t now = loop_now_ns();

	if (now - b->window_ns >= WINDOW_NS) {
		b->window_ns = now;
		b->left = WINDOW_BYTES;
	}
	if (!b->left)
		loop_timer_set(b->vd.env.loop, &b->again, WINDOW_NS - (now - b->window_ns));
	return b->left != 0;
}

/* What the host cannot take stays as it is: the guest does not mind. -EBADMSG: that is no RAM. */
static int give_back(struct balloon *b, gpa_t gpa, uint64_t len)
{
	uint64_t cost = len > LEAST_COST ? len : LEAST_COST;

	b->left -= cost < b->left ? cost : b->left;
	return mem_discard(b->vd.env.mem, gpa, len) == -EFAULT ? -EBADMSG : 0;
}

static int compare_pfns(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return x < y ? -1 : x > y;
}

/* As long as this turn lasts. Pages in a row are given back in one call. */
static int give_back_pfns(struct balloon *b)
{
	do {
		uint64_t first = b->pfn[b->pfn_at], end = first + 1;

		while (++b->pfn_at < b->npfn && b->pfn[b->pfn_at] <= end)
			end = b->pfn[b->pfn_at] + 1ull;
		if (give_back(b, first << VIRTIO_BALLOON_PFN_SHIFT,
			      (end - first) << VIRTIO_BALLOON_PFN_SHIFT))
			return -EBADMSG;
	} while (b->pfn_at < b->npfn && b->left && !loop_should_yield(b->vd.env.loop));
	return 0;
}

/* A piece of the chain, an array of page numbers. 1: that was all of it, 0: not yet, -EBADMSG. */
static int inflate(struct balloon *b, struct virtq *vq)
{
	const struct virtq_chain *c = &b->chain;
	uint64_t *done = &b->done[Q_INFLATE];

	if (!c->read_bytes || c->read_bytes % sizeof(b->pfn[0]))
		return -EBADMSG;
	if (b->pfn_at == b->npfn) {
		b->npfn =
			virtq_chain_read(vq, c, *done, b->pfn, sizeof(b->pfn)) / sizeof(b->pfn[0]);
		b->pfn_at = 0;
		qsort(b->pfn, b->npfn, sizeof(b->pfn[0]), compare_pfns);
		*done += b->npfn * sizeof(b->pfn[0]);
	}
	if (b->npfn && give_back_pfns(b))
		return -EBADMSG;
	return b->pfn_at == b->npfn && *done >= c->read_bytes;
}

/* The whole pages in there. */
static int give_back_range(struct balloon *b, gpa_t gpa, uint64_t len)
{
	gpa_t from = (gpa + MEM_PAGE_SIZE - 1) & ~(gpa_t)(MEM_PAGE_SIZE - 1);
	gpa_t to = (gpa + len) & ~(gpa_t)(MEM_PAGE_SIZE - 1);

	return from < to ? give_back(b, from, to - from) : 0;
}

/*
 * A piece of a report, whose buffers are the free pages. They may keep what is in them, or be what
 * the guest fills free pages with (section 5.5.6.7): zeros are that for poison_val 0 only.
 */
static int report(struct balloon *b, unsigned qi)
{
	const struct virtq_chain *c = &b->chain;
	uint64_t skip = b->done[qi], left = PIECE_BYTES;

	if (!c->nwrite)
		return -EBADMSG;
	if (virtio_has(&b->vd, VIRTIO_BALLOON_F_PAGE_POISON) && b->live.poison_val)
		return 1;
	for (unsigned i = c->nread; i < (unsigned)c->nread + c->nwrite && left; i++) {
		const struct virtq_seg *s = &c->seg[i];
		uint64_t n;

		if (skip >= s->len) {
			skip -= s->len;
			continue;
		}
		n = s->len - skip < left ? s->len - skip : left;
		if (give_back_range(b, s->gpa + skip, n))
			return -EBADMSG;
		b->done[qi] += n;
		left = loop_should_yield(b->vd.env.loop) ? 0 : left - n;
		skip = 0;
	}
	return b->done[qi] >= c->write_bytes;
}

/* --- the queues ------------------------------------------------------------------------------- */

static int one(struct virtio_dev *vd, unsigned qi)
{
	struct balloon *b = (struct balloon *)vd;
	struct virtq *vq = &vd->vq[qi];
	int r;

	if (!may_go_on(b))
		return -EAGAIN;
	r = virtq_pop(vq, &b->chain);
	if (r <= 0)
		return r;
	/* Out of the balloon: nothing to do, the page comes back when it is touched. */
	if (qi != Q_DEFLATE)
		r = qi == Q_INFLATE ? inflate(b, vq) : report(b, qi);
	if (r < 0)
		return r;
	if (!r) {
		virtq_unpop(vq, 1);
		return 1;
	}
	b->done[qi] = 0;
	r = virtq_push(vq, b->chain.head, 0);
	return r ? r : 1;
}

static bool balloon_notify(struct virtio_dev *vd, unsigned qi)
{
	/* Nothing to do with a queue that the driver should not have. */
	if (qi >= Q_REPORTING && !virtio_has(vd, VIRTIO_BALLOON_F_REPORTING))
		return false;
	return virtio_drain(vd, qi, one);
}

static void balloon_queue_stop(struct virtio_dev *vd, unsigned qi)
{
	struct balloon *b = (struct balloon *)vd;

	b->done[qi] = 0;
	if (qi == Q_INFLATE)
		b->npfn = b->pfn_at = 0;
}

/* --- configuration ---------------------------------------------------------------------------- */

static void balloon_config(struct virtio_dev *vd, void *buf)
{
	const struct balloon_state *s = &((struct balloon *)vd)->live;
	struct virtio_balloon_config c = {
		.num_pages = s->num_pages, .actual = s->actual, .poison_val = s->poison_val};

	memcpy(buf, &c, sizeof(c));
}

static void balloon_config_write(struct virtio_dev *vd, uint64_t off, unsigned size, uint64_t val)
{
	struct balloon_state *s = &((struct balloon *)vd)->live;

	if (size != sizeof(uint32_t))
		return;
	if (off == offsetof(struct virtio_balloon_config, actual))
		s->actual = (uint32_t)val;
	else if (off == offsetof(struct virtio_balloon_config, poison_val))
		s->poison_val = (uint32_t)val;
}

static void set_target(struct balloon *b, uint32_t pages)
{
	b->live.num_pages = pages;
	virtio_signal_config(&b->vd);
	inputs_given(b->vd.env.inputs, &b->vd.dev, &pages, sizeof(pages));
}

void virtio_balloon_set_target(struct device *d, uint32_t pages)
{
	struct balloon *b = (struct balloon *)d;

	pthread_mutex_lock(&d->lock);
	b->target = pages;
	b->has_target = b->vd.quiet;
	if (!b->has_target)
		set_target(b, pages);
	pthread_mutex_unlock(&d->lock);
}

static void balloon_wake(struct virtio_dev *vd)
{
	struct balloon *b = (struct balloon *)vd;

	if (b->has_target)
		set_target(b, b->target);
	b->has_target = false;
}

uint64_t virtio_balloon_target(struct device *d)
{
	struct balloon *b = (struct balloon *)d;
	uint32_t pages;

	pthread_mutex_lock(&d->lock);
	pages = b->has_target ? b->target : b->live.num_pages;
	pthread_mutex_unlock(&d->lock);
	return pages;
}

uint64_t virtio_balloon_actual(struct device *d)
{
	struct balloon *b = (struct balloon *)d;
	uint64_t pages, all = b->vd.env.mem->npages;

	pthread_mutex_lock(&d->lock);
	pages = b->live.actual;
	pthread_mutex_unlock(&d->lock);
	return pages < all ? pages : all;
}

/* What was asked of the one before is in its state, or of no concern to this one. */
static void balloon_load(struct device *d, const void *pod)
{
	virtio_load(d, pod);
	pthread_mutex_lock(&d->lock);
	((struct balloon *)d)->has_target = false;
	pthread_mutex_unlock(&d->lock);
}

/* --- making ----------------------------------------------------------------------------------- */

static void balloon_free(struct device *d)
{
	struct balloon *b = (struct balloon *)d;

	loop_timer_del(b->vd.env.loop, &b->again);
	virtio_done(&b->vd);
	free(b);
}

static const struct device_ops balloon_device_ops = {
	.state = &virtio_balloon_desc,
	.save = virtio_save,
	.load = balloon_load,
	.resume = virtio_resume,
	.quiet = virtio_quiet,
	.arrived = virtio_arrived,
	.free = balloon_free,
};

static const struct virtio_ops balloon_ops = {
	.device = &balloon_device_ops,
	.device_id = VIRTIO_ID_BALLOON,
	.nqueues = QUEUES,
	.features = FEATURES,
	.config = balloon_config,
	.config_write = balloon_config_write,
	.notify = balloon_notify,
	.queue_stop = balloon_queue_stop,
	.wake = balloon_wake,
};

int virtio_balloon_new(const struct dev_env *env, const struct mdev *md, struct device **ret,
		       struct err *e)
{
	struct balloon *b = calloc(1, sizeof(*b));
	int r;

	if (!b)
		return err_set(e, -ENOMEM, "device %s: out of memory", md->id);
	b->again = (struct loop_op){.fn = try_again, .arg = b};
	r = virtio_init(&b->vd, &balloon_ops, env, md, &b->live, e);
	if (r) {
		free(b);
		return r;
	}
	b->vd.vq[Q_REPORTING].untouched = true;
	*ret = &b->vd.dev;
	return 0;
}

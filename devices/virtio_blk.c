#include "devices/virtio_blk.h"

#include <errno.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_ids.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "devices/virtio.h"
#include "vmm/base/limit.h"
#include "vmm/base/log.h"
#include "vmm/base/nodump.h"

/*
 * Offered so that SEG_MAX * SEG_BYTES stays below REQ_MAX: a driver that keeps to its side never
 * meets the hard limit.
 */
#define SEG_MAX	     126u
#define SEG_BYTES    8192u
#define REQ_MAX	     (1u << 20)
#define REQUESTS_MAX 256u	  /* in flight, of all queues together */
#define INFLIGHT_MAX (16u << 20)  /* bytes of all buffers in use */
#define POOL_BUF_MAX (128u << 10) /* larger buffers are not kept */
#define POOL_MAX     (4u << 20)
#define RANGE_MAX    (1u << 21) /* sectors of one discard or write-zeroes: 1 GiB */

struct inflight {
	uint16_t head, queue;
};

struct blk_state {
	struct virtio_state common;
	uint32_t ninflight;
	struct inflight inflight[REQUESTS_MAX]; /* of all queues, in the order they were popped */
};

static const struct field inflight_fields[] = {
	F_U16(struct inflight, head, 1, "descriptor head", .max = VIRTQ_MAX_SIZE - 1),
	F_U16(struct inflight, queue, 2, "queue it came from", .max = MACHINE_MAX_QUEUES - 1,
	      .since = 2),
};

static const struct field blk_fields[] = {
	F_STRUCT(struct blk_state, common, 1, virtio_fields, "what all virtio devices have"),
	F_ARRAY(struct blk_state, inflight, ninflight, 2, inflight_fields,
		"requests taken and not yet answered: a takeover replays them"),
};

struct request {
	struct disk_req dr;
	struct blk *blk;
	struct request *next_free;
	unsigned qi;
	uint32_t gen;	   /* of the queue when it was popped; if that moved on: drop it */
	uint32_t cap;	   /* bytes of dr.buf */
	uint32_t data_len; /* bytes that the guest gets before the status byte */
	bool answered;	   /* complete, and the guest does not know yet */
	int res;
	struct virtq_chain chain;
};

struct blk {
	struct virtio_dev vd;
	struct blk_state live;
	struct disk *disk;
	struct virtio_blk_config config;
	struct request *active[REQUESTS_MAX]; /* same order as live.inflight */
	unsigned nactive;
	unsigned nanswered; /* of them */
	unsigned at_disk;   /* submitted and not done, those of a queue that stopped included */
	struct request *free;
	unsigned total;	     /* requests that exist */
	uint64_t buf_bytes;  /* of requests in use */
	uint64_t pool_bytes; /* of requests on the free list */
	struct limit limit;  /* what it holds stays in the rings */
	unsigned last;	     /* queue that it let go on */
	bool stalled;	     /* pops nothing until a request is done */
	bool replay_waits;   /* pops nothing: live.inflight is replayed when it can be */
	bool dying;	     /* the owner let go; the last completion frees it */
};

static struct blk *to_blk(struct virtio_dev *vd)
{
	return (struct blk *)vd;
}

static int blk_check(const void *pod, struct err *e)
{
	const struct blk_state *s = pod;
	unsigned nqueues = s->common.nqueues, of[MACHINE_MAX_QUEUES] = {0};

	if (!nqueues || nqueues > MACHINE_MAX_QUEUES)
		return err_set(e, -EBADMSG, "%u queues, must be 1..%d", nqueues,
			       MACHINE_MAX_QUEUES);
	for (uint32_t i = 0; i < s->ninflight; i++) {
		unsigned qi = s->inflight[i].queue;

		if (qi >= nqueues)
			return err_set(e, -EBADMSG, "a request of queue %u, there are %u", qi,
				       nqueues);
		if (++of[qi] > s->common.queues[qi].size)
			return err_set(e, -EBADMSG,
				       "queue %u has %u entries, and more requests in flight", qi,
				       s->common.queues[qi].size);
	}
	return virtio_state_check(&s->common, nqueues, e);
}

const struct state_desc virtio_blk_desc = {
	.name = "virtio-blk",
	.id = 30,
	.version = 2,
	.size = sizeof(struct blk_state),
	.fields = blk_fields,
	.nfields = sizeof(blk_fields) / sizeof(blk_fields[0]),
	.check = blk_check,
};

/* Requests and their buffers: recycled, small buffers with them. */

static struct request *new_request(struct blk *b)
{
	struct request *rq = b->total < 2 * REQUESTS_MAX ? calloc(1, sizeof(*rq)) : NULL;

	if (rq) {
		rq->blk = b;
		b->total++;
	}
	return rq;
}

/* Are so many free? New ones are made. */
static bool have_requests(struct blk *b, uint32_t n)
{
	struct request *rq;

	for (rq = b->free; rq && n; rq = rq->next_free)
		n--;
	for (; n && (rq = new_request(b)); n--) {
		rq->next_free = b->free;
		b->free = rq;
	}
	return !n;
}

static struct request *get_request(struct blk *b)
{
	struct request *rq = b->free;

	if (rq) {
		b->free = rq->next_free;
		b->pool_bytes -= rq->cap;
	} else {
		rq = new_request(b);
		if (!rq)
			return NULL;
	}
	b->buf_bytes += rq->cap;
	rq->data_len = 0;
	rq->answered = false;
	return rq;
}

static void put_request(struct blk *b, struct request *rq)
{
	b->buf_bytes -= rq->cap;
	if (rq->cap > POOL_BUF_MAX || b->pool_bytes + rq->cap > POOL_MAX) {
		free(rq->dr.buf);
		rq->dr.buf = NULL;
		rq->cap = 0;
	}
	b->pool_bytes += rq->cap;
	rq->next_free = b->free;
	b->free = rq;
}

static int need_buffer(struct blk *b, struct request *rq, uint32_t len)
{
	uint32_t cap = (len + 4095) & ~4095u;

	if (cap <= rq->cap)
		return 0;
	b->buf_bytes -= rq->cap;
	rq->cap = 0;
	free(rq->dr.buf);
	rq->dr.buf = aligned_alloc(4096, cap);
	if (!rq->dr.buf)
		return -ENOMEM;
	nodump(rq->dr.buf, cap);
	rq->cap = cap;
	b->buf_bytes += cap;
	return 0;
}

static void free_blk(struct blk *b)
{
	while (b->free) {
		struct request *rq = b->free;

		b->free = rq->next_free;
		free(rq->dr.buf);
		free(rq);
	}
	free(b);
}

static void add_active(struct blk *b, struct request *rq)
{
	rq->gen = b->vd.vq[rq->qi].gen;
	b->active[b->nactive] = rq;
	b->live.inflight[b->nactive] = (struct inflight){rq->chain.head, (uint16_t)rq->qi};
	b->live.ninflight = ++b->nactive;
}

static void del_active(struct blk *b, const struct request *rq)
{
	unsigned i = 0;

	while (i < b->nactive && b->active[i] != rq)
		i++;
	if (i == b->nactive)
		return;
	b->live.ninflight = --b->nactive;
	memmove(&b->active[i], &b->active[i + 1], (b->nactive - i) * sizeof(b->active[0]));
	memmove(&b->live.inflight[i], &b->live.inflight[i + 1],
		(b->nactive - i) * sizeof(b->live.inflight[0]));
}

/* Answers. */

static void answer(struct blk *b, struct request *rq, uint8_t status)
{
	struct virtq *vq = &b->vd.vq[rq->qi];
	const struct virtq_chain *c = &rq->chain;
	uint32_t written = 1;

	if (status == VIRTIO_BLK_S_OK && rq->data_len) {
		virtq_chain_write(vq, c, 0, rq->dr.buf, rq->data_len);
		written += rq->data_len;
	}
	virtq_chain_write(vq, c, c->write_bytes - 1, &status, 1);
	if (virtq_push(vq, c->head, written))
		virtio_fault(&b->vd, "used ring outside memory");
	del_active(b, rq);
	put_request(b, rq);
}

/* There is no room for requests. */
static void begin_stall(struct blk *b, unsigned qi)
{
	/* With nothing under way it is the host's memory that is short: try again. */
	b->stalled = b->at_disk || b->nanswered;
	if (!b->stalled)
		virtio_kick(&b->vd, qi);
}

/* There is room for requests again. Any thread. */
static void end_stall(struct blk *b)
{
	for (unsigned qi = 0; qi < b->vd.nqueues && b->stalled; qi++)
		virtio_kick(&b->vd, qi);
	b->stalled = false;
}

/* A turn at telling the guest of what is complete, as it means copying. True: some is left. */
static bool tell(struct blk *b)
{
	uint32_t told = 0;

	for (unsigned i = 0; i < b->nactive && b->nanswered;) {
		struct request *rq = b->active[i];

		if (!rq->answered) {
			i++;
			continue;
		}
		b->nanswered--;
		told |= 1u << rq->qi;
		answer(b, rq, rq->res ? VIRTIO_BLK_S_IOERR : VIRTIO_BLK_S_OK);
		if (loop_should_yield(b->vd.env.loop))
			break;
	}
	if (told)
		end_stall(b);
	for (; told; told &= told - 1)
		virtio_signal_used(&b->vd, (unsigned)__builtin_ctz(told));
	return b->nanswered;
}

static void take_result(struct blk *b, struct request *rq, int res)
{
	if (rq->gen == b->vd.vq[rq->qi].gen && virtio_running(&b->vd)) {
		rq->answered = true;
		rq->res = res;
		b->nanswered++;
		virtio_later(&b->vd, rq->qi);
		return;
	}
	if (rq->gen == b->vd.vq[rq->qi].gen)
		del_active(b, rq);
	put_request(b, rq);
	end_stall(b);
}

static void on_done(struct disk_req *dr, int res)
{
	struct request *rq = dr->arg;
	struct blk *b = rq->blk;

	if (b->dying) {
		put_request(b, rq);
		if (!--b->at_disk)
			free_blk(b);
		return;
	}
	pthread_mutex_lock(&b->vd.dev.lock);
	b->at_disk--;
	take_result(b, rq, res);
	pthread_mutex_unlock(&b->vd.dev.lock);
}

/* Requests: each returns 0 when rq->dr is ready for the disk, else 1 + the status to answer. */

#define ANSWER(status) (1 + (status))

/* A driver's unit is 512 bytes whatever it was told, but what is below takes whole blocks only. */
static bool whole_blocks(const struct blk *b, uint64_t sector, uint64_t len)
{
	uint32_t sectors = b->config.blk_size >> 9;

	return !(sector % sectors) && !(len % b->config.blk_size);
}

static int prepare_rw(struct blk *b, struct request *rq, uint64_t sector, bool write)
{
	const struct virtq_chain *c = &rq->chain;
	uint64_t len =
		write ? c->read_bytes - sizeof(struct virtio_blk_outhdr) : c->write_bytes - 1;

	if (!len || !whole_blocks(b, sector, len) || len > REQ_MAX || sector > UINT64_MAX >> 9 ||
	    need_buffer(b, rq, (uint32_t)len))
		return ANSWER(VIRTIO_BLK_S_IOERR);
	rq->dr.kind = write ? DISK_WRITE : DISK_READ;
	rq->dr.off = sector << 9;
	rq->dr.len = (uint32_t)len;
	/* The only copy: what goes to the image and to the peer is the same, whatever the guest
	 * does. */
	if (write)
		virtq_chain_read(&b->vd.vq[rq->qi], c, sizeof(struct virtio_blk_outhdr), rq->dr.buf,
				 rq->dr.len);
	else
		rq->data_len = rq->dr.len;
	return 0;
}

static int prepare_range(struct blk *b, struct request *rq, bool discard)
{
	struct virtio_blk_discard_write_zeroes range;
	const struct virtq_chain *c = &rq->chain;
	uint32_t flags = discard ? 0 : VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP;

	if (!virtio_has(&b->vd, discard ? VIRTIO_BLK_F_DISCARD : VIRTIO_BLK_F_WRITE_ZEROES))
		return ANSWER(VIRTIO_BLK_S_UNSUPP);
	if (c->read_bytes != sizeof(struct virtio_blk_outhdr) + sizeof(range))
		return ANSWER(VIRTIO_BLK_S_IOERR);
	virtq_chain_read(&b->vd.vq[rq->qi], c, sizeof(struct virtio_blk_outhdr), &range,
			 sizeof(range));
	if (range.flags & ~flags)
		return ANSWER(VIRTIO_BLK_S_UNSUPP);
	if (range.sector > UINT64_MAX >> 9 || range.num_sectors > RANGE_MAX)
		return ANSWER(VIRTIO_BLK_S_IOERR);
	if (!whole_blocks(b, range.sector, (uint64_t)range.num_sectors << 9))
		return ANSWER(discard ? VIRTIO_BLK_S_OK : VIRTIO_BLK_S_IOERR); /* a hint */
	rq->dr.kind = discard ? DISK_DISCARD : DISK_ZERO;
	rq->dr.off = range.sector << 9;
	rq->dr.len = range.num_sectors << 9;
	return 0;
}

static int prepare_id(struct blk *b, struct request *rq)
{
	uint64_t room = rq->chain.write_bytes - 1;
	size_t n = strlen(b->vd.id);

	if (need_buffer(b, rq, VIRTIO_BLK_ID_BYTES))
		return ANSWER(VIRTIO_BLK_S_IOERR);
	/* Section 5.2.6.1: padded with zeros, not terminated when it fills the field. */
	memset(rq->dr.buf, 0, VIRTIO_BLK_ID_BYTES);
	memcpy(rq->dr.buf, b->vd.id, n < VIRTIO_BLK_ID_BYTES ? n : VIRTIO_BLK_ID_BYTES);
	rq->data_len = room < VIRTIO_BLK_ID_BYTES ? (uint32_t)room : VIRTIO_BLK_ID_BYTES;
	return ANSWER(VIRTIO_BLK_S_OK);
}

static int prepare(struct blk *b, struct request *rq, const struct virtio_blk_outhdr *hdr)
{
	switch (hdr->type) {
	case VIRTIO_BLK_T_IN:
		return prepare_rw(b, rq, hdr->sector, false);
	case VIRTIO_BLK_T_OUT:
		return prepare_rw(b, rq, hdr->sector, true);
	case VIRTIO_BLK_T_FLUSH:
		rq->dr.kind = DISK_FLUSH;
		rq->dr.off = rq->dr.len = 0;
		return 0;
	case VIRTIO_BLK_T_GET_ID:
		return prepare_id(b, rq);
	case VIRTIO_BLK_T_DISCARD:
		return prepare_range(b, rq, true);
	case VIRTIO_BLK_T_WRITE_ZEROES:
		return prepare_range(b, rq, false);
	default:
		return ANSWER(VIRTIO_BLK_S_UNSUPP);
	}
}

/* Zeros may have to be written; that many, as a rule, do not: no more is owed than for a write. */
static uint64_t cost_of(const struct disk_req *dr)
{
	if (dr->kind == DISK_FLUSH || dr->kind == DISK_DISCARD)
		return 0;
	return dr->len < REQ_MAX ? dr->len : REQ_MAX;
}

/* rq->chain was popped, or reloaded: again. On -EBADMSG the caller keeps rq. */
static int begin(struct blk *b, struct request *rq, bool again)
{
	struct virtio_blk_outhdr hdr;
	int r;

	if (rq->chain.read_bytes < sizeof(hdr) || !rq->chain.write_bytes)
		return -EBADMSG;
	virtq_chain_read(&b->vd.vq[rq->qi], &rq->chain, 0, &hdr, sizeof(hdr));
	r = prepare(b, rq, &hdr);
	b->last = rq->qi;
	if (!again) /* else it was counted where the guest asked for it */
		limit_take(&b->limit, r ? 0 : cost_of(&rq->dr));
	if (r) {
		answer(b, rq, (uint8_t)(r - 1));
		return 0;
	}
	rq->dr.done = on_done;
	rq->dr.arg = rq;
	add_active(b, rq);
	b->at_disk++;
	disk_submit(b->disk, &rq->dr);
	return 0;
}

static int one(struct virtio_dev *vd, unsigned qi)
{
	struct blk *b = to_blk(vd);
	bool full = b->buf_bytes >= INFLIGHT_MAX || b->nactive == REQUESTS_MAX;
	struct request *rq = full ? NULL : get_request(b);
	int r;

	if (!rq) {
		begin_stall(b, qi);
		return -EAGAIN;
	}
	rq->qi = qi;
	r = virtq_pop(&vd->vq[qi], &rq->chain);
	if (r > 0 && limit_holds(&b->limit)) {
		virtq_unpop(&vd->vq[qi], 1);
		r = -EAGAIN;
	} else if (r > 0) {
		r = begin(b, rq, false);
		if (!r)
			return 1;
	}
	put_request(b, rq);
	return r;
}

static void blk_replay(struct virtio_dev *vd);

static bool blk_notify(struct virtio_dev *vd, unsigned qi)
{
	struct blk *b = to_blk(vd);
	bool left = tell(b);

	if (b->replay_waits) {
		blk_replay(vd);
		if (b->replay_waits)
			return left;
		/* The other queues were not looked at meanwhile. */
		for (unsigned i = 0; i < vd->nqueues; i++)
			virtio_kick(vd, i);
	}

	return virtio_drain(vd, qi, one) || left;
}

/* Requests that wait to be replayed are only in live.inflight. */
static void forget_waiting(struct blk *b, unsigned qi)
{
	unsigned kept = 0;

	for (unsigned i = 0; i < b->live.ninflight; i++)
		if (b->live.inflight[i].queue != qi)
			b->live.inflight[kept++] = b->live.inflight[i];
	b->live.ninflight = kept;
	b->replay_waits = kept;
}

static void blk_queue_stop(struct virtio_dev *vd, unsigned qi)
{
	struct blk *b = to_blk(vd);
	unsigned kept = 0;

	if (b->replay_waits) {
		forget_waiting(b, qi);
		return;
	}

	/* Requests at the disk come back later, with an old generation. */
	for (unsigned i = 0; i < b->nactive; i++) {
		struct request *rq = b->active[i];

		if (rq->qi != qi) {
			b->active[kept] = rq;
			b->live.inflight[kept++] = b->live.inflight[i];
		} else if (rq->answered) {
			b->nanswered--;
			put_request(b, rq);
		}
	}
	b->live.ninflight = b->nactive = kept;
	end_stall(b);
}

static int replay_one(struct blk *b, const struct inflight *in)
{
	struct virtq *vq = &b->vd.vq[in->queue];
	struct request *rq;
	int r;

	if (!vq->st->ready)
		return -EBADMSG;
	rq = get_request(b);
	VMM_BUG_ON(!rq); /* replay_ready() */
	rq->qi = in->queue;
	vq->inuse++;
	r = virtq_reload(vq, in->head, &rq->chain);
	if (!r)
		r = begin(b, rq, true);
	if (r)
		put_request(b, rq);
	return r;
}

/* Is all here that the requests in flight need? If not it is asked for, or waited for. */
static bool replay_ready(struct blk *b)
{
	struct request *rq;
	bool here = true;

	if (!b->live.ninflight)
		return true;
	/* Those of before a load are at the disk until that gives them back. */
	if (!have_requests(b, b->live.ninflight)) {
		begin_stall(b, b->live.inflight[0].queue);
		return false;
	}
	rq = get_request(b);
	for (uint32_t i = 0; i < b->live.ninflight; i++) {
		const struct inflight *in = &b->live.inflight[i];

		here &= virtq_reload(&b->vd.vq[in->queue], in->head, &rq->chain) != -EAGAIN;
	}
	put_request(b, rq);
	return here;
}

static void blk_replay(struct virtio_dev *vd)
{
	struct blk *b = to_blk(vd);
	struct inflight before[REQUESTS_MAX];
	uint32_t n = b->live.ninflight;

	if (b->nactive) /* the same VM goes on: they are at the disk still */
		return;
	b->replay_waits = !replay_ready(b);
	if (b->replay_waits)
		return;
	memcpy(before, b->live.inflight, sizeof(before));
	b->live.ninflight = 0;
	for (uint32_t i = 0; i < n; i++) {
		if (replay_one(b, &before[i])) {
			virtio_fault(vd, "a request in flight cannot be replayed");
			return;
		}
	}
}

static void limit_over(void *arg)
{
	struct blk *b = arg;

	virtio_go_on(&b->vd, (1u << b->vd.nqueues) - 1, b->last);
}

void virtio_blk_limit(struct device *d, const struct limit_rates *r)
{
	limit_set(&((struct blk *)d)->limit, r);
}

uint64_t virtio_blk_held_ns(const struct device *d)
{
	return limit_held_ns(&((const struct blk *)d)->limit);
}

static void blk_config(struct virtio_dev *vd, void *buf)
{
	memcpy(buf, &to_blk(vd)->config, sizeof(struct virtio_blk_config));
}

static void blk_free(struct device *d)
{
	struct blk *b = (struct blk *)d;

	for (unsigned qi = 0; qi < b->vd.nqueues; qi++)
		blk_queue_stop(&b->vd, qi);
	limit_done(&b->limit);
	virtio_done(&b->vd);
	b->dying = true;
	/* The kernel may still write to buffers of reads: those keep everything alive. */
	if (!b->at_disk)
		free_blk(b);
}

static const struct device_ops blk_device_ops = {
	.state = &virtio_blk_desc,
	.save = virtio_save,
	.load = virtio_load,
	.resume = virtio_resume,
	.quiet = virtio_quiet,
	.arrived = virtio_arrived,
	.free = blk_free,
};

static const struct virtio_ops blk_ops = {
	.device = &blk_device_ops,
	.device_id = VIRTIO_ID_BLOCK,
	.features = 1ull << VIRTIO_BLK_F_SIZE_MAX | 1ull << VIRTIO_BLK_F_SEG_MAX |
		    1ull << VIRTIO_BLK_F_BLK_SIZE | 1ull << VIRTIO_BLK_F_TOPOLOGY |
		    1ull << VIRTIO_BLK_F_FLUSH | 1ull << VIRTIO_BLK_F_DISCARD |
		    1ull << VIRTIO_BLK_F_WRITE_ZEROES,
	.config = blk_config,
	.notify = blk_notify,
	.queue_stop = blk_queue_stop,
	.replay = blk_replay,
};

int virtio_blk_new(const struct dev_env *env, const struct mdev *md, struct disk *disk,
		   struct device **ret, struct err *e)
{
	struct blk *b = calloc(1, sizeof(*b));
	uint32_t block, physical;
	int r;

	_Static_assert(sizeof(struct virtio_blk_config) <= VIRTIO_CONFIG_MAX, "config space");
	_Static_assert(SEG_MAX * SEG_BYTES <= REQ_MAX, "a good driver never meets REQ_MAX");
	if (!b)
		return err_set(e, -ENOMEM, "device %s: out of memory", md->id);
	b->vd.nqueues = md->queues ? md->queues : 1;
	r = virtio_init(&b->vd, &blk_ops, env, md, &b->live, e);
	if (r) {
		free(b);
		return r;
	}
	b->disk = disk;
	limit_init(&b->limit, env->loop, limit_over, b);
	if (b->vd.nqueues > 1)
		b->vd.features |= 1ull << VIRTIO_BLK_F_MQ;
	if (md->readonly || disk->readonly)
		b->vd.features |= 1ull << VIRTIO_BLK_F_RO;
	block = machine_block(md);
	physical = md->physical ? md->physical : block;
	b->config = (struct virtio_blk_config){
		.capacity = (md->bytes ? md->bytes : disk->bytes) >> 9,
		.size_max = SEG_BYTES,
		.seg_max = SEG_MAX,
		.blk_size = block,
		.physical_block_exp = (uint8_t)__builtin_ctz(physical / block),
		.min_io_size = (uint16_t)(physical / block),
		.num_queues = (uint16_t)b->vd.nqueues,
		.max_discard_sectors = RANGE_MAX,
		.max_discard_seg = 1,
		.discard_sector_alignment = physical / 512,
		.max_write_zeroes_sectors = RANGE_MAX,
		.max_write_zeroes_seg = 1,
		.write_zeroes_may_unmap = 1,
	};
	*ret = &b->vd.dev;
	return 0;
}

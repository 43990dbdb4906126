/* Disks (virtio 1.2, section 5.2). */
#include "guests/lib/sys.h"
#include "guests/lib/virtio.h"

#define DISK_MAX  4u
#define QUEUE_MAX 8u

#define F_RO	  (1ull << 5)
#define F_FLUSH	  (1ull << 9)
#define F_MQ	  (1ull << 12)
#define F_DISCARD (1ull << 13)
#define F_ZEROES  (1ull << 14)

#define C_CAPACITY    0
#define C_NUM_QUEUES  34
#define C_DISCARD_MAX 36
#define C_ZEROES_MAX  48

#define STATUS_UNSUPPORTED 2

struct blk {
	struct virtio_dev dev;
	struct virtq queues[QUEUE_MAX];
	unsigned nqueues, next; /* requests go to all in turn */
	uint64_t sectors;
	uint32_t discard_max;
	uint32_t zeroes_max;
	bool open;
};

static struct blk disks[DISK_MAX];

static int open_queues(struct blk *b)
{
	int r = 0;

	b->nqueues = 1;
	if (b->dev.features & F_MQ)
		b->nqueues = virtio_config32(&b->dev, C_NUM_QUEUES & ~3u) >> 16;
	if (b->nqueues > QUEUE_MAX)
		b->nqueues = QUEUE_MAX;
	for (unsigned i = 0; i < b->nqueues && !r; i++)
		r = virtq_init(&b->queues[i], &b->dev, i, VIRTQ_MAX);
	return r;
}

struct blk *blk_open(unsigned n)
{
	struct blk *b;

	if (n >= DISK_MAX)
		return NULL;
	b = &disks[n];
	if (b->open)
		return b;
	if (!virtio_find(&b->dev, VIRTIO_ID_BLK, n) ||
	    virtio_setup(&b->dev, F_RO | F_FLUSH | F_MQ | F_DISCARD | F_ZEROES) || open_queues(b))
		return NULL;
	b->sectors = virtio_config64(&b->dev, C_CAPACITY);
	if (b->dev.features & F_DISCARD)
		b->discard_max = virtio_config32(&b->dev, C_DISCARD_MAX);
	if (b->dev.features & F_ZEROES)
		b->zeroes_max = virtio_config32(&b->dev, C_ZEROES_MAX);
	virtio_start(&b->dev);
	b->open = true;
	return b;
}

uint64_t blk_sectors(const struct blk *b)
{
	return b->sectors;
}

unsigned blk_queues(const struct blk *b)
{
	return b->nqueues;
}

bool blk_readonly(const struct blk *b)
{
	return b->dev.features & F_RO;
}

bool blk_can(const struct blk *b, enum blk_op op)
{
	switch (op) {
	case BLK_READ:
		return true;
	case BLK_WRITE:
		return !blk_readonly(b);
	case BLK_FLUSH:
		return b->dev.features & F_FLUSH;
	case BLK_DISCARD:
		return b->dev.features & F_DISCARD;
	case BLK_ZEROES:
		return b->dev.features & F_ZEROES;
	}
	return false;
}

int blk_submit(struct blk *b, struct blk_req *r)
{
	struct virtq_buf bufs[3] = {{&r->hdr, sizeof(r->hdr)}};
	unsigned out = 1, in = 1;

	r->hdr.type = r->op;
	r->hdr.reserved = 0;
	r->hdr.sector = r->op == BLK_READ || r->op == BLK_WRITE ? r->sector : 0;
	r->done = false;
	r->status = 0xff;
	if (r->op == BLK_DISCARD || r->op == BLK_ZEROES) {
		r->range.sector = r->sector;
		r->range.nsect = r->nsect;
		r->range.flags = 0;
		bufs[out++] = (struct virtq_buf){&r->range, sizeof(r->range)};
	} else if (r->op != BLK_FLUSH) {
		bufs[1] = (struct virtq_buf){r->buf, r->nsect * BLK_SECTOR};
		if (r->op == BLK_WRITE)
			out++;
		else
			in++;
	}
	bufs[out + in - 1] = (struct virtq_buf){(const void *)&r->status, 1};
	for (unsigned tries = 0; tries < b->nqueues; tries++) {
		struct virtq *q = &b->queues[b->next++ % b->nqueues];

		if (virtq_add(q, bufs, out, in, r)) {
			virtq_kick(q);
			return 0;
		}
	}
	return -EAGAIN;
}

static unsigned poll_queue(struct virtq *q)
{
	struct blk_req *r;
	unsigned n = 0;

	for (; (r = virtq_get(q, NULL)); n++) {
		if (r->status == 0)
			r->result = 0;
		else
			r->result = r->status == STATUS_UNSUPPORTED ? -ENOTSUP : -EIO;
		r->done = true;
	}
	return n;
}

unsigned blk_poll(struct blk *b)
{
	unsigned n = 0;

	for (unsigned i = 0; i < b->nqueues; i++)
		n += poll_queue(&b->queues[i]);
	return n;
}

/* Runs one request to its end. Others that finish meanwhile are marked done too. */
static int blk_do(struct blk *b, enum blk_op op, uint64_t sector, void *buf, uint32_t nsect)
{
	struct blk_req r = {.op = op, .sector = sector, .buf = buf, .nsect = nsect};
	bool sent = false;

	for (;;) {
		uint64_t seen = guest_events();

		if (!sent)
			sent = blk_submit(b, &r) == 0;
		if (blk_poll(b) == 0)
			guest_wait(seen);
		if (sent && r.done)
			return r.result;
	}
}

int blk_read(struct blk *b, uint64_t sector, void *buf, uint32_t nsect)
{
	return blk_do(b, BLK_READ, sector, buf, nsect);
}

int blk_write(struct blk *b, uint64_t sector, const void *buf, uint32_t nsect)
{
	return blk_do(b, BLK_WRITE, sector, (void *)buf, nsect);
}

int blk_flush(struct blk *b)
{
	return blk_can(b, BLK_FLUSH) ? blk_do(b, BLK_FLUSH, 0, NULL, 0) : 0;
}

int blk_discard(struct blk *b, uint64_t sector, uint32_t nsect)
{
	if (!blk_can(b, BLK_DISCARD))
		return -ENOTSUP;
	return nsect > b->discard_max ? -EINVAL : blk_do(b, BLK_DISCARD, sector, NULL, nsect);
}

int blk_zeroes(struct blk *b, uint64_t sector, uint32_t nsect)
{
	if (!blk_can(b, BLK_ZEROES))
		return -ENOTSUP;
	return nsect > b->zeroes_max ? -EINVAL : blk_do(b, BLK_ZEROES, sector, NULL, nsect);
}

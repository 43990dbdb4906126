#include "devices/virtq.h"

#include <errno.h>
#include <linux/virtio_ring.h>
#include <string.h>

const struct field virtq_fields[8] = {
	F_U64(struct virtq_state, desc, 1, "descriptor table, guest-physical"),
	F_U64(struct virtq_state, avail, 2, "available ring, guest-physical"),
	F_U64(struct virtq_state, used, 3, "used ring, guest-physical"),
	F_U16(struct virtq_state, size, 4, "entries, a power of two, 0 when unset",
	      .max = VIRTQ_MAX_SIZE),
	F_U16(struct virtq_state, last_avail, 5, "index of the next entry to pop",
	      .max = UINT16_MAX),
	F_U16(struct virtq_state, used_idx, 6, "index of the next used entry", .max = UINT16_MAX),
	F_U16(struct virtq_state, signalled, 7, "used index at the last interrupt",
	      .max = UINT16_MAX),
	F_U8(struct virtq_state, ready, 8, "enabled by the driver", .max = 1),
};

/* Layout of the rings for a queue of n entries: virtio 1.2 sections 2.7.6 and 2.7.8. */
static uint64_t avail_bytes(uint16_t n)
{
	return 6 + 2ull * n;
}

static uint64_t used_bytes(uint16_t n)
{
	return 6 + 8ull * n;
}

static bool apart(uint64_t a, uint64_t alen, uint64_t b, uint64_t blen)
{
	return a >= b ? a - b >= blen : b - a >= alen;
}

int virtq_validate(const struct virtq *vq)
{
	const struct virtq_state *s = vq->st;
	uint64_t db = 16ull * s->size, ab = avail_bytes(s->size), ub = used_bytes(s->size);

	if (!s->size || s->size > VIRTQ_MAX_SIZE || (s->size & (s->size - 1)))
		return -EINVAL;
	if (s->desc % 16 || s->avail % 2 || s->used % 4)
		return -EINVAL;
	if (!mem_valid(vq->mem, s->desc, db) || !mem_valid(vq->mem, s->avail, ab) ||
	    !mem_valid(vq->mem, s->used, ub))
		return -EINVAL;
	if (!apart(s->desc, db, s->avail, ab) || !apart(s->desc, db, s->used, ub) ||
	    !apart(s->avail, ab, s->used, ub))
		return -EINVAL;
	return 0;
}

/* All that is missing is asked for, so that it comes in one go. */
static bool rings_here(struct virtq *vq)
{
	const struct virtq_state *s = vq->st;
	bool here = mem_ready(vq->mem, s->avail, avail_bytes(s->size));

	here &= mem_ready(vq->mem, s->used, used_bytes(s->size));
	here &= mem_ready(vq->mem, s->desc, 16ull * s->size);
	vq->absent |= !here;
	return here;
}

/*
 * One aligned guest word, read or written once. Sequentially consistent, because a queue needs more
 * than release and acquire: each side writes its index or wish and then reads the other's, and the
 * two must not pass each other, or a kick or an interrupt is lost (section 2.7.7.2, 2.7.10).
 */
static int load16(const struct virtq *vq, gpa_t gpa, uint16_t *ret)
{
	const uint16_t *p = mem_ptr(vq->mem, gpa, sizeof(*p));

	if (!p || gpa % 2)
		return -EBADMSG;
	*ret = __atomic_load_n(p, __ATOMIC_SEQ_CST);
	return 0;
}

static int store16(struct virtq *vq, gpa_t gpa, uint16_t val)
{
	return mem_store16(vq->mem, gpa, val) ? -EBADMSG : 0;
}

static gpa_t avail_event_gpa(const struct virtq *vq)
{
	return vq->st->used + 4 + 8ull * vq->st->size;
}

static gpa_t used_event_gpa(const struct virtq *vq)
{
	return vq->st->avail + 4 + 2ull * vq->st->size;
}

/* Append one checked descriptor to the chain. */
static int add_seg(const struct virtq *vq, struct virtq_chain *c, const struct vring_desc *d)
{
	unsigned n = c->nread + c->nwrite;

	if (!d->len || n >= vq->st->size || !mem_valid(vq->mem, d->addr, d->len))
		return -EBADMSG;
	c->seg[n] = (struct virtq_seg){.gpa = d->addr, .len = d->len};
	if (d->flags & VRING_DESC_F_WRITE) {
		c->nwrite++;
		c->write_bytes += d->len;
	} else {
		if (c->nwrite) /* section 2.7.4.2: readable before writable */
			return -EBADMSG;
		c->nread++;
		c->read_bytes += d->len;
	}
	return c->read_bytes + c->write_bytes > UINT32_MAX ? -EBADMSG : 0;
}

/* Follow one table of n descriptors from `at`. Every hop adds a segment, so size bounds the walk.
 */
static int walk_table(const struct virtq *vq, struct virtq_chain *c, gpa_t table, uint32_t n,
		      uint16_t at, struct vring_desc *ret_indirect)
{
	struct vring_desc d;

	for (;;) {
		int r;

		if (at >= n || mem_read(vq->mem, table + 16ull * at, &d, sizeof(d)))
			return -EBADMSG;
		if (d.flags & VRING_DESC_F_INDIRECT) {
			/* Section 2.7.5.3: never inside an indirect table, never with NEXT. */
			if (!ret_indirect || (d.flags & VRING_DESC_F_NEXT))
				return -EBADMSG;
			*ret_indirect = d;
			return 1;
		}
		r = add_seg(vq, c, &d);
		if (r || !(d.flags & VRING_DESC_F_NEXT))
			return r;
		at = d.next;
	}
}

static int walk(struct virtq *vq, uint16_t head, struct virtq_chain *ret)
{
	struct vring_desc ind;
	int r = walk_table(vq, ret, vq->st->desc, vq->st->size, head, &ind);

	if (r <= 0)
		return r;
	if (!vq->indirect || !ind.len || ind.len % 16 || ind.len / 16 > vq->st->size ||
	    !mem_valid(vq->mem, ind.addr, ind.len))
		return -EBADMSG;
	if (!mem_ready(vq->mem, ind.addr, ind.len))
		return -EAGAIN;
	return walk_table(vq, ret, ind.addr, ind.len / 16, 0, NULL);
}

static bool segs_here(const struct virtq *vq, const struct virtq_chain *c)
{
	bool here = true;

	for (unsigned i = 0; i < (unsigned)c->nread + c->nwrite; i++)
		here &= mem_ready(vq->mem, c->seg[i].gpa, c->seg[i].len);
	return here;
}

int virtq_reload(struct virtq *vq, uint16_t head, struct virtq_chain *ret)
{
	int r;

	ret->head = head;
	ret->nread = ret->nwrite = 0;
	ret->read_bytes = ret->write_bytes = 0;
	if (!vq->st->ready)
		return -EBADMSG;
	r = rings_here(vq) ? walk(vq, head, ret) : -EAGAIN;
	if (!r && !vq->untouched && !segs_here(vq, ret))
		r = -EAGAIN;
	vq->absent |= r == -EAGAIN;
	return r;
}

int virtq_waiting(struct virtq *vq)
{
	uint16_t idx, n;

	if (!vq->st->ready || !rings_here(vq))
		return 0;
	if (load16(vq, vq->st->avail + 2, &idx))
		return -EBADMSG;
	n = idx - vq->st->last_avail;
	return n > vq->st->size ? -EBADMSG : n;
}

int virtq_pop(struct virtq *vq, struct virtq_chain *ret)
{
	uint16_t head;
	int n, r;

	vq->absent = false;
	n = virtq_waiting(vq);
	if (n <= 0)
		return n;
	if (vq->inuse >= vq->st->size)
		return -EBADMSG;
	if (load16(vq, vq->st->avail + 4 + 2ull * (vq->st->last_avail % vq->st->size), &head))
		return -EBADMSG;
	r = virtq_reload(vq, head, ret);
	if (r)
		return r == -EAGAIN ? 0 : r;
	vq->st->last_avail++;
	vq->inuse++;
	return 1;
}

void virtq_unpop(struct virtq *vq, unsigned n)
{
	vq->st->last_avail -= n;
	vq->inuse -= n;
}

uint32_t virtq_chain_read(const struct virtq *vq, const struct virtq_chain *c, uint64_t off,
			  void *buf, uint32_t len)
{
	uint32_t done = 0;

	for (unsigned i = 0; i < c->nread && done < len; i++) {
		const struct virtq_seg *s = &c->seg[i];
		uint32_t n;

		if (off >= s->len) {
			off -= s->len;
			continue;
		}
		n = s->len - off < len - done ? s->len - off : len - done;
		if (mem_read(vq->mem, s->gpa + off, (uint8_t *)buf + done, n))
			break;
		done += n;
		off = 0;
	}
	return done;
}

uint32_t virtq_chain_write(struct virtq *vq, const struct virtq_chain *c, uint64_t off,
			   const void *buf, uint32_t len)
{
	uint32_t done = 0;

	for (unsigned i = c->nread; i < (unsigned)c->nread + c->nwrite && done < len; i++) {
		const struct virtq_seg *s = &c->seg[i];
		uint32_t n;

		if (off >= s->len) {
			off -= s->len;
			continue;
		}
		n = s->len - off < len - done ? s->len - off : len - done;
		if (mem_write(vq->mem, s->gpa + off, (const uint8_t *)buf + done, n))
			break;
		done += n;
		off = 0;
	}
	return done;
}

int virtq_fill(struct virtq *vq, unsigned n, uint16_t head, uint32_t len)
{
	struct vring_used_elem e = {.id = head, .len = len};
	uint16_t slot = (uint16_t)(vq->st->used_idx + n);

	if (!vq->st->ready)
		return -EBADMSG;
	slot %= vq->st->size;
	return mem_write(vq->mem, vq->st->used + 4 + 8ull * slot, &e, sizeof(e)) ? -EBADMSG : 0;
}

int virtq_flush(struct virtq *vq, unsigned n)
{
	if (!vq->st->ready)
		return -EBADMSG;
	vq->st->used_idx += n;
	vq->inuse = vq->inuse > n ? vq->inuse - n : 0;
	return store16(vq, vq->st->used + 2, vq->st->used_idx);
}

int virtq_push(struct virtq *vq, uint16_t head, uint32_t len)
{
	int r = virtq_fill(vq, 0, head, len);

	return r ? r : virtq_flush(vq, 1);
}

bool virtq_should_signal(struct virtq *vq)
{
	uint16_t old = vq->st->signalled, now = vq->st->used_idx, word;

	if (old == now || !vq->st->ready)
		return false;
	vq->st->signalled = now;
	if (!rings_here(vq)) /* one too many does no harm */
		return true;
	if (!vq->event_idx)
		return load16(vq, vq->st->avail, &word) || !(word & VRING_AVAIL_F_NO_INTERRUPT);
	return load16(vq, used_event_gpa(vq), &word) || vring_need_event(word, now, old);
}

void virtq_kick_off(struct virtq *vq)
{
	/* With event indices the one asked for is behind already; nothing to write. */
	if (vq->st->ready && !vq->event_idx && rings_here(vq))
		store16(vq, vq->st->used, VRING_USED_F_NO_NOTIFY);
}

bool virtq_kick_on(struct virtq *vq, uint16_t seen)
{
	int r, n;

	if (!vq->st->ready || !rings_here(vq))
		return false;
	r = vq->event_idx ? store16(vq, avail_event_gpa(vq), vq->st->last_avail + seen)
			  : store16(vq, vq->st->used, 0);
	/* Look again: an entry added before our wish was there got no kick. */
	n = virtq_waiting(vq);
	return !r && !vq->absent && (n < 0 || n > seen);
}

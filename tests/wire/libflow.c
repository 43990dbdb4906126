/* One direction of a link: read, hold, damage, and pass on, in order. */
#define _GNU_SOURCE
#include "tests/wire/proxy.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define FLOW_PIECE 16384u
/* Enough to fill a delayed line; small without delay, so that a slow reader slows the writer. */
#define FLOW_CAP_DELAYED (16u << 20)
#define FLOW_CAP	 (128u << 10)

static struct flow_piece *flow_append(struct link *l, enum proxy_side from, enum flow_kind kind,
				      const void *data, size_t len, uint64_t now)
{
	struct proxy *p = l->proxy;
	struct flow_piece *piece = malloc(sizeof(*piece) + len);
	struct flow *f = &l->flow[from];

	if (!piece)
		return NULL;
	*piece = (struct flow_piece){.kind = kind, .len = len};
	if (len)
		memcpy(piece->data, data, len);
	piece->due = now + p->delay + (p->jitter ? proxy_random(p, p->jitter) : 0);
	if (piece->due < f->last)
		piece->due = f->last;
	f->last = piece->due;
	if (f->tail)
		f->tail->next = piece;
	else
		f->head = piece;
	f->tail = piece;
	f->queued += len;
	return piece;
}

static void flow_pop(struct flow *f)
{
	struct flow_piece *piece = f->head;

	f->head = piece->next;
	if (!f->head)
		f->tail = NULL;
	f->queued -= piece->len;
	free(piece);
}

void flow_free(struct flow *f)
{
	while (f->head)
		flow_pop(f);
}

void flow_end(struct link *l, enum proxy_side from, enum flow_kind kind, uint64_t now)
{
	if (l->flow[from].ended)
		return;
	l->flow[from].ended = true;
	if (!flow_append(l, from, kind, NULL, 0, now))
		l->gone = true;
}

bool flow_wants_read(const struct link *l, enum proxy_side from)
{
	const struct proxy *p = l->proxy;
	const struct flow *f = &l->flow[from];
	size_t cap = p->delay + p->jitter ? FLOW_CAP_DELAYED : FLOW_CAP;

	return !l->connecting && !f->ended && !p->dir[from].hole && f->queued < cap;
}

/* Damage that was ordered for this stretch of bytes. */
static size_t flow_damage(struct link *l, enum proxy_side from, uint8_t *buf, size_t n)
{
	struct proxy *p = l->proxy;
	struct proxy_dir *d = &p->dir[from];

	if (d->flip_at >= d->read && d->flip_at < d->read + n) {
		buf[d->flip_at - d->read] ^= (uint8_t)(1u << proxy_random(p, 8));
		d->flip_at = PROXY_NEVER;
		p->flips++;
	}
	d->read += n;
	if (!d->truncate)
		return n;
	d->truncate = false;
	p->truncated++;
	l->flow[from].close_after = true;
	return proxy_random(p, n);
}

void flow_read(struct link *l, enum proxy_side from, uint64_t now)
{
	struct flow *f = &l->flow[from];
	uint8_t buf[FLOW_PIECE];
	ssize_t n;

	if (!flow_wants_read(l, from))
		return;
	n = recv(l->end[from].fd, buf, sizeof(buf), 0);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		flow_end(l, from, n ? FLOW_RST : FLOW_FIN, now);
		return;
	}
	n = (ssize_t)flow_damage(l, from, buf, (size_t)n);
	if (n && !f->dead && !flow_append(l, from, FLOW_DATA, buf, (size_t)n, now))
		l->gone = true; /* no memory: the link cannot stay exact */
	if (f->close_after)
		flow_end(l, from, FLOW_FIN, now);
}

/* How much may go out now, by the rate and by the next command that waits for a count. */
static size_t flow_allowance(struct proxy *p, enum proxy_side from, uint64_t now, uint64_t *again)
{
	struct proxy_dir *d = &p->dir[from];
	size_t n = FLOW_PIECE;

	if (p->rate) {
		uint64_t slice = p->rate / 200;

		n = slice < 512 ? 512 : slice < n ? (size_t)slice : n;
		if (d->free_at > now) {
			*again = d->free_at;
			return 0;
		}
	}
	for (unsigned i = 0; i < PROXY_AFTER; i++)
		if (p->after[i].used && p->after[i].dir == from && p->after[i].at - d->bytes < n)
			n = (size_t)(p->after[i].at - d->bytes);
	return n;
}

static void flow_sent(struct proxy *p, enum proxy_side from, size_t n, uint64_t now)
{
	struct proxy_dir *d = &p->dir[from];

	d->bytes += n;
	if (p->rate)
		d->free_at = (d->free_at > now - 5000000 ? d->free_at : now) +
			     n * 1000000000ull / p->rate;
	for (unsigned i = 0; i < PROXY_AFTER; i++) {
		struct proxy_after *a = &p->after[i];
		char reply[256];

		if (!a->used || a->dir != from || a->at > d->bytes)
			continue;
		a->used = false;
		proxy_command(p, a->command, reply, sizeof(reply));
	}
}

static void flow_pass_end(struct link *l, enum proxy_side from, enum flow_kind kind)
{
	struct flow *f = &l->flow[from];
	int to = l->end[!from].fd;

	f->finished = true;
	if (kind == FLOW_RST) {
		l->proxy->resets++;
		l->gone = true; /* closed with a reset */
	} else if (shutdown(to, SHUT_WR) || f->close_after) {
		l->gone = f->close_after || l->gone;
	}
}

/* One attempt to pass the head on. False if nothing more can go now. */
static bool flow_pump_one(struct link *l, enum proxy_side from, uint64_t now, uint64_t *again)
{
	struct flow *f = &l->flow[from];
	struct flow_piece *piece = f->head;
	size_t want;
	ssize_t n;

	if (piece->due > now) {
		*again = piece->due;
		return false;
	}
	if (piece->kind != FLOW_DATA) {
		flow_pass_end(l, from, piece->kind);
		flow_pop(f);
		return true;
	}
	if (f->dead) {
		flow_pop(f);
		return true;
	}
	want = flow_allowance(l->proxy, from, now, again);
	want = want < piece->len - piece->done ? want : piece->len - piece->done;
	if (!want)
		return false;
	n = send(l->end[!from].fd, piece->data + piece->done, want, MSG_NOSIGNAL);
	if (n < 0 && errno == EAGAIN) {
		f->blocked = true;
		return false;
	}
	if (n < 0) { /* the destination is gone; the source learns it by the other flow */
		f->dead = true;
		l->flow[!from].ended = true;
		if (l->flow[!from].finished || !flow_append(l, !from, FLOW_RST, NULL, 0, now))
			l->gone = true;
		return true;
	}
	piece->done += (size_t)n;
	if (piece->done == piece->len)
		flow_pop(f);
	flow_sent(l->proxy, from, (size_t)n, now);
	return true;
}

uint64_t flow_pump(struct link *l, enum proxy_side from, uint64_t now)
{
	struct flow *f = &l->flow[from];
	uint64_t again = PROXY_NEVER;

	while (f->head && !f->blocked && !l->connecting && !l->gone && !l->proxy->dir[from].hole)
		if (!flow_pump_one(l, from, now, &again))
			break;
	return again;
}

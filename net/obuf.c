#include "net/obuf.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/base/log.h"
#include "vmm/base/loop.h"

struct obuf_entry {
	struct obuf_entry *next, **prev; /* prev: what points at it */
	uint64_t epoch;
	int sink;
	uint32_t len;
	uint32_t mark; /* 0: none */
	uint8_t data[];
};

void obuf_init(struct obuf *ob, uint64_t limit_bytes)
{
	memset(ob, 0, sizeof(*ob));
	ob->limit = limit_bytes;
	ob->tail = &ob->head;
}

/* What an entry takes of the limit: its own size too, or one-byte entries would cost memory free.
 */
static uint64_t cost(uint32_t len)
{
	return sizeof(struct obuf_entry) + len;
}

static void unlink_entry(struct obuf *ob, struct obuf_entry *en)
{
	*en->prev = en->next;
	if (en->next)
		en->next->prev = en->prev;
	else
		ob->tail = en->prev;
	ob->bytes -= cost(en->len);
	ob->sinks[en->sink].bytes -= cost(en->len);
	ob->held--;
}

static struct obuf_entry *take_head(struct obuf *ob)
{
	struct obuf_entry *en = ob->head;

	unlink_entry(ob, en);
	return en;
}

static void throw_all(struct obuf *ob)
{
	while (ob->head) {
		free(take_head(ob));
		ob->dropped++;
	}
}

void obuf_done(struct obuf *ob)
{
	/* The output rule: nothing leaves in teardown. */
	throw_all(ob);
	ob->closed = true;
}

void obuf_set_later(struct obuf *ob, struct loop *l, obuf_later_fn *later, void *arg)
{
	ob->loop = l;
	ob->later = later;
	ob->later_arg = arg;
}

void obuf_on_held(struct obuf *ob, obuf_held_fn *fn, void *arg)
{
	ob->on_held = fn;
	ob->on_held_arg = arg;
}

void obuf_on_kept(struct obuf *ob, obuf_kept_fn *fn, void *arg)
{
	ob->on_kept = fn;
	ob->on_kept_arg = arg;
}

void obuf_divert(struct obuf *ob, obuf_divert_fn *fn, void *arg)
{
	ob->divert = fn;
	ob->divert_arg = arg;
}

int obuf_add_sink(struct obuf *ob, enum obuf_kind kind, obuf_sink_fn *deliver, obuf_room_fn *room,
		  void *arg)
{
	int n = (int)ob->nsinks;

	if (ob->nsinks == OBUF_MAX_SINKS)
		return -ENOSPC;
	memset(&ob->sinks[n], 0, sizeof(ob->sinks[n]));
	ob->sinks[n].kind = kind;
	ob->sinks[n].deliver = deliver;
	ob->sinks[n].room = room;
	ob->sinks[n].arg = arg;
	ob->nsinks++;
	return n;
}

void obuf_limit_sink(struct obuf *ob, int sink, uint64_t bytes)
{
	ob->sinks[sink].limit = bytes;
}

static struct obuf_entry *make_entry(int sink, const struct iovec *iov, int niov, uint32_t len)
{
	struct obuf_entry *en = malloc(sizeof(*en) + len);
	uint8_t *p;

	if (!en)
		return NULL;
	en->next = NULL;
	en->mark = 0;
	en->sink = sink;
	en->len = len;
	p = en->data;
	for (int i = 0; i < niov; i++) {
		if (iov[i].iov_len)
			memcpy(p, iov[i].iov_base, iov[i].iov_len);
		p += iov[i].iov_len;
	}
	return en;
}

static void deliver(struct obuf *ob, int sink, const void *data, uint32_t len)
{
	ob->sinks[sink].full = !ob->sinks[sink].deliver(ob->sinks[sink].arg, data, len);
	ob->released++;
}

static int put_now(struct obuf *ob, int sink, const struct iovec *iov, int niov, uint32_t len)
{
	struct obuf_entry *en;

	if (niov == 1) {
		deliver(ob, sink, iov[0].iov_base, len);
		return 0;
	}
	en = make_entry(sink, iov, niov, len);
	if (!en)
		return -ENOMEM;
	deliver(ob, sink, en->data, len);
	free(en);
	return 0;
}

/* One entry always fits, or a frame above the limit could never leave. */
static bool fits(const struct obuf *ob, int sink, uint32_t len)
{
	uint64_t bytes = ob->sinks[sink].bytes, limit = ob->sinks[sink].limit;

	return ob->sinks[sink].kind == OBUF_EVENT ||
	       ((!ob->head || ob->bytes + cost(len) <= ob->limit) &&
		(!bytes || !limit || bytes + cost(len) <= limit));
}

static int put_held(struct obuf *ob, int sink, const struct iovec *iov, int niov, uint32_t len)
{
	struct obuf_entry *en = make_entry(sink, iov, niov, len);

	if (!en)
		return -ENOMEM;
	en->epoch = ob->epoch;
	en->prev = ob->tail;
	*ob->tail = en;
	ob->tail = &en->next;
	ob->bytes += cost(len);
	ob->sinks[sink].bytes += cost(len);
	ob->held++;
	if (ob->holding && ob->told != ob->epoch) {
		ob->told = ob->epoch;
		ob->first = ob->sinks[sink].kind;
		if (ob->on_held)
			ob->on_held(ob->on_held_arg);
	}
	if (ob->holding && ob->on_kept)
		ob->on_kept(ob->on_kept_arg, en, sink, en->data, len);
	return 0;
}

static int put_elsewhere(struct obuf *ob, int sink, const struct iovec *iov, int niov)
{
	int r = ob->divert(ob->divert_arg, sink, iov, niov);

	ob->sinks[sink].starved |= r == -EAGAIN;
	return r;
}

bool obuf_takes(struct obuf *ob, int sink, uint32_t len)
{
	bool takes =
		ob->closed || ob->divert ||
		(!ob->sinks[sink].full && ((!ob->holding && !ob->head) || fits(ob, sink, len)));

	ob->sinks[sink].starved |= !takes;
	return takes;
}

int obuf_put(struct obuf *ob, int sink, const struct iovec *iov, int niov)
{
	uint64_t len = 0;

	if (sink < 0 || (unsigned)sink >= ob->nsinks)
		return -ENODEV;
	for (int i = 0; i < niov; i++)
		len += iov[i].iov_len;
	if (!len)
		return 0;
	if (len > UINT32_MAX / 2)
		return -EINVAL;
	if (ob->closed) {
		ob->dropped++;
		return 0;
	}
	if (ob->divert)
		return put_elsewhere(ob, sink, iov, niov);
	if (!obuf_takes(ob, sink, (uint32_t)len))
		return -EAGAIN;
	/* Not ahead of what may leave, but did not get its turn yet. */
	if (ob->holding || ob->head)
		return put_held(ob, sink, iov, niov, (uint32_t)len);
	return put_now(ob, sink, iov, niov, (uint32_t)len);
}

bool obuf_waits(const struct obuf *ob)
{
	return ob->holding && ob->told == ob->epoch;
}

void obuf_hold(struct obuf *ob, uint64_t epoch)
{
	VMM_BUG_ON(epoch < ob->epoch);
	if (epoch && ob->may >= epoch)
		ob->may = epoch - 1;
	ob->holding = true;
	ob->epoch = epoch;
}

void obuf_seal(struct obuf *ob, uint64_t epoch)
{
	VMM_BUG_ON(!ob->holding || epoch <= ob->epoch);
	ob->epoch = epoch;
}

/* Starved sinks may try again once half of the limit is free, so that they do not do so per frame.
 */
static void offer_room(struct obuf *ob)
{
	if (ob->bytes > ob->limit / 2)
		return;
	for (unsigned i = 0; i < ob->nsinks; i++) {
		if (!ob->sinks[i].starved || ob->sinks[i].full ||
		    (ob->sinks[i].limit && ob->sinks[i].bytes > ob->sinks[i].limit / 2))
			continue;
		ob->sinks[i].starved = false;
		if (ob->sinks[i].room)
			ob->sinks[i].room(ob->sinks[i].arg);
	}
}

void obuf_set_limit(struct obuf *ob, uint64_t limit_bytes)
{
	ob->limit = limit_bytes;
	offer_room(ob);
}

void obuf_room(struct obuf *ob)
{
	for (unsigned i = 0; i < ob->nsinks; i++)
		ob->sinks[i].full = false;
	offer_room(ob);
}

/* All that may leave, or as much of it as this turn allows. True: that was all. */
static bool let_out(struct obuf *ob, bool all)
{
	while (ob->head && ob->head->epoch <= ob->may) {
		struct obuf_entry *en = take_head(ob);

		deliver(ob, en->sink, en->data, en->len);
		free(en);
		if (!all && loop_should_yield(ob->loop))
			break;
	}
	return !ob->head || ob->head->epoch > ob->may;
}

void obuf_continue(struct obuf *ob)
{
	if (ob->closed)
		return;
	if (!let_out(ob, !ob->later))
		ob->later(ob->later_arg);
	offer_room(ob);
}

void obuf_flush(struct obuf *ob)
{
	if (!ob->closed)
		let_out(ob, true);
}

void obuf_release(struct obuf *ob, uint64_t epoch)
{
	/* Only a sealed epoch can be held by the peer, whatever it says. */
	VMM_BUG_ON(ob->holding && epoch >= ob->epoch);
	if (epoch > ob->may)
		ob->may = epoch;
	obuf_continue(ob);
}

bool obuf_is_turn(const struct obuf *ob)
{
	return ob->may + 1 >= ob->epoch && (!ob->head || ob->head->epoch == ob->epoch);
}

void obuf_let(struct obuf *ob, struct obuf_entry *en)
{
	if (ob->closed)
		return; /* it is gone with all others */
	VMM_BUG_ON(!ob->holding || en->epoch != ob->epoch || !obuf_is_turn(ob));
	unlink_entry(ob, en);
	deliver(ob, en->sink, en->data, en->len);
	free(en);
	offer_room(ob);
}

void obuf_mark(struct obuf *ob, struct obuf_entry *en, uint32_t number)
{
	if (!ob->closed)
		en->mark = number;
}

void obuf_let_marked(struct obuf *ob, uint32_t up_to)
{
	struct obuf_entry *en, *next;

	for (en = ob->head; en; en = next) {
		next = en->next;
		if (en->mark && en->mark <= up_to && en->epoch == ob->epoch)
			obuf_let(ob, en);
	}
}

void obuf_pass(struct obuf *ob)
{
	ob->may = UINT64_MAX;
	ob->holding = false;
	obuf_continue(ob);
}

void obuf_drop(struct obuf *ob)
{
	ob->closed = true;
	throw_all(ob);
	/* The guest side must not wait for ever on a buffer that swallows everything. */
	obuf_room(ob);
}

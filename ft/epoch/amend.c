#include "ft/epoch/amend.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/base/log.h"
#include "vmm/base/nodump.h"

#define CHUNK 65536u

struct amend {
	struct amend *next;
	struct amends *list;	 /* NULL: the log has ended */
	struct disk_req *failed; /* whose range is kept from others meanwhile */
	int res;
	struct disk under; /* the same image, past hook and hold */
	struct disk_req read;
	struct loop_op later;
	uint32_t pos; /* of it, already in the log */
	bool waits;   /* for room */
	uint8_t *buf;
};

static void end(struct amend *a)
{
	struct disk_req *failed = a->failed;
	int res = a->res;

	for (struct amend **at = a->list ? &a->list->first : NULL; at && *at; at = &(*at)->next)
		if (*at == a) {
			*at = a->next;
			break;
		}
	free(a->buf);
	free(a);
	disk_settle(failed, res);
}

static void end_now(struct loop_op *op, int res)
{
	end(op->arg);
}

static void end_later(struct amend *a)
{
	a->later = (struct loop_op){.fn = end_now, .arg = a};
	VMM_BUG_ON(loop_timer_set(a->under.loop, &a->later, 0) < 0);
}

static uint32_t chunk(const struct amend *a)
{
	uint32_t left = a->failed->len - a->pos;

	return left < CHUNK ? left : CHUNK;
}

static void on_read(struct disk_req *r, int res);

static void go_on(struct amend *a)
{
	a->waits = !a->list->has_room(a->list->log);
	if (a->waits)
		return;
	a->read = (struct disk_req){.kind = DISK_READ,
				    .off = a->failed->off + a->pos,
				    .len = chunk(a),
				    .buf = a->buf,
				    .done = on_read,
				    .arg = a};
	disk_submit(&a->under, &a->read);
}

static void on_read(struct disk_req *r, int res)
{
	struct amend *a = r->arg;
	struct wire_disk w = {.kind = DISK_WRITE, .off = r->off, .len = r->len, .data = r->len};
	struct amends *l = a->list;

	if (l && res) {
		l->unknown(l->log, a->failed->disk, a->failed);
	} else if (l) {
		l->put(l->log, a->failed->disk, &w, a->buf);
		a->pos += r->len;
		if (a->pos < a->failed->len) {
			go_on(a);
			return;
		}
	}
	end_later(a); /* not from within its own disk */
}

bool amend_begin(struct amends *l, struct disk *d, struct disk_req *r, int res)
{
	struct amend *a = r->kind == DISK_FLUSH ? NULL : calloc(1, sizeof(*a));

	if (a)
		a->buf = aligned_alloc(4096, CHUNK);
	if (!a || !a->buf) {
		free(a);
		l->unknown(l->log, d, r);
		return false;
	}
	nodump(a->buf, CHUNK);
	a->list = l;
	a->failed = r;
	a->res = res;
	disk_alias(&a->under, d);
	a->next = l->first;
	l->first = a;
	go_on(a);
	return true;
}

void amend_go_on(struct amends *l)
{
	for (struct amend *a = l->first, *next; a; a = next) {
		next = a->next;
		if (a->waits)
			go_on(a);
	}
}

void amend_stop(struct amends *l)
{
	while (l->first) {
		struct amend *a = l->first;

		l->first = a->next;
		a->list = NULL;
		if (a->waits)
			end_later(a);
	}
}

#include "vmm/copy/diskapply.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/base/log.h"
#include "vmm/base/nodump.h"

#define SLOW_NS 5000000000ull

int diskapply_init(struct diskapply *da, const struct machine *m, struct disk *disks,
		   void (*moved)(void *arg), void *arg)
{
	memset(da, 0, sizeof(*da));
	da->machine = m;
	for (unsigned i = 0; i < m->ndevs; i++) {
		disk_alias(&da->disks[i], &disks[i]);
		if (m->devs[i].kind == MDEV_BLK && m->devs[i].ft == DISK_FT_MIRROR)
			da->which |= 1u << i;
	}
	da->moved = moved;
	da->arg = arg;
	da->buf = aligned_alloc(4096, DISKAPPLY_WRITE_MAX);
	nodump(da->buf, DISKAPPLY_WRITE_MAX);
	return da->buf ? 0 : -ENOMEM;
}

void diskapply_done(struct diskapply *da)
{
	diskapply_drain(da);
	free(da->buf);
	memset(da, 0, sizeof(*da));
}

static int check(const struct diskapply *da, const struct wire_disk *w, uint32_t len, struct err *e)
{
	const struct machine *m = da->machine;
	bool flush = w->kind == DISK_FLUSH;
	uint32_t block;

	if (w->disk >= m->ndevs || !(da->which & 1u << w->disk))
		return err_set(e, -EBADMSG, "disk log: no disk %u that it could be of", w->disk);
	block = machine_block(&m->devs[w->disk]);
	if (w->kind != DISK_WRITE && w->kind != DISK_ZERO && w->kind != DISK_DISCARD && !flush)
		return err_set(e, -EBADMSG, "disk log: unknown operation %u", w->kind);
	if (w->data != len || w->data != (w->kind == DISK_WRITE ? w->len : 0))
		return err_set(e, -EBADMSG, "disk log: wrong number of bytes");
	if (w->len > (w->kind == DISK_WRITE ? DISKAPPLY_WRITE_MAX : DISKAPPLY_RANGE_MAX))
		return err_set(e, -EBADMSG, "disk log: %s of %u bytes", disk_op_name(w->kind),
			       w->len);
	if (w->len % block || w->off % block || (flush ? w->len != 0 : w->len == 0) ||
	    w->off > m->devs[w->disk].bytes || w->len > m->devs[w->disk].bytes - w->off)
		return err_set(e, -EBADMSG, "disk log: range outside disk '%s'",
			       m->devs[w->disk].id);
	return 0;
}

int diskapply_parse(const struct diskapply *da, const uint8_t *p, uint32_t len,
		    struct disk_writes *list, struct err *e)
{
	struct wire_disk w;
	int r;

	if (len < sizeof(w))
		return err_set(e, -EBADMSG, "disk log: short entry");
	memcpy(&w, p, sizeof(w));
	r = check(da, &w, len - sizeof(w), e);
	if (r)
		return r;
	r = disk_writes_add(list, &w, p + sizeof(w));
	return r ? err_set(e, r, "disk log: out of memory") : 0;
}

int diskapply_flush(struct diskapply *da)
{
	struct disk_writes list = {0};

	for (uint32_t i = 0; i < da->machine->ndevs; i++) {
		const struct wire_disk w = {.disk = i, .kind = DISK_FLUSH};

		if (!(da->which & 1u << i))
			continue;
		if (disk_writes_add(&list, &w, NULL)) {
			disk_writes_free(&list);
			return -ENOMEM;
		}
	}
	diskapply_push(da, &list);
	return 0;
}

static void start_next(struct diskapply *da);

static void done(struct disk_req *r, int res)
{
	struct diskapply *da = r->arg;
	struct disk_write *en = disk_writes_pop(&da->queue);

	da->busy = false;
	if (res < 0 && !da->error) {
		da->error = res;
		log_error("disk '%s': %s at byte %llu: %s", da->disks[en->wire.disk].id,
			  disk_op_name(en->wire.kind), (unsigned long long)en->wire.off,
			  strerror(-res));
	}
	free(en);
	start_next(da);
	da->moved(da->arg);
}

static void start_next(struct diskapply *da)
{
	const struct disk_write *en = da->queue.head;

	if (!en || da->busy)
		return;
	da->busy = true;
	memcpy(da->buf, en->data, en->wire.data);
	da->req = (struct disk_req){.kind = en->wire.kind,
				    .off = en->wire.off,
				    .len = en->wire.len,
				    .buf = da->buf,
				    .sparse = da->sparse,
				    .done = done,
				    .arg = da};
	disk_submit(&da->disks[en->wire.disk], &da->req);
}

void diskapply_push(struct diskapply *da, struct disk_writes *list)
{
	disk_writes_move(&da->queue, list);
	start_next(da);
}

bool diskapply_idle(const struct diskapply *da)
{
	return !da->queue.head;
}

void diskapply_drop(struct diskapply *da)
{
	struct disk_writes rest = da->queue, *q = &da->queue;

	memset(q, 0, sizeof(*q));
	if (!rest.head)
		return;
	/* The head may be at the kernel: it stays until done() takes it. */
	q->head = q->last = disk_writes_pop(&rest);
	q->head->next = NULL;
	q->count = 1;
	q->bytes = disk_write_bytes(q->head);
	disk_writes_free(&rest);
}

bool diskapply_drain_until(struct diskapply *da, uint64_t until_ns)
{
	uint64_t warn_at = loop_now_ns() + SLOW_NS;

	while (da->busy && loop_now_ns() < until_ns) {
		if (loop_now_ns() > warn_at) {
			log_warn("disk '%s': waiting for the image, %llu bytes are left",
				 da->req.disk->id, (unsigned long long)da->queue.bytes);
			warn_at = loop_now_ns() + SLOW_NS;
		}
		loop_run_once(da->req.disk->loop, 100000000ull);
	}
	return !da->busy;
}

void diskapply_drain(struct diskapply *da)
{
	/* No deadline: the kernel has the buffer until it answers, and it does. */
	diskapply_drain_until(da, UINT64_MAX);
}

void diskapply_abandon(struct diskapply *da)
{
	struct disk *d = da->req.disk;

	if (!da->busy) {
		diskapply_done(da);
		return;
	}
	loop_io_abandon(d->loop, &da->req.io);
	loop_work_del(d->loop, &d->work);
	disk_writes_free(&da->queue);
	memset(da, 0, sizeof(*da));
}

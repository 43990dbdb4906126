#define _GNU_SOURCE /* O_DIRECT */
#include "vmm/copy/disk_compare.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "vmm/base/job.h"
#include "vmm/base/log.h"
#include "vmm/copy/disk_pass.h"
#include "vmm/copy/disk_sums.h"

#define LATE_NS	 10000000000ull
#define HUNG_MAX 4u /* threads of syncs that were given up */

/* Nothing of it is shared with the loop while it is at work: it may be abandoned. */
struct comparison {
	struct job job;
	struct disk_compare *owner;
	struct comparison *next;
	int fd;
	bool started;
	atomic_uint *users; /* the last one frees it */
	uint64_t bytes;	    /* of the image */
	struct disk_sum_key key;
	struct wire_sums asked;
	struct wire_differ said;
	struct wire_blocks pieces[WIRE_DIFFER_MAX];
	uint8_t *buf; /* a block, 4096-aligned */
	uint64_t sums[];
};

static void free_one(struct comparison *c)
{
	if (c->fd >= 0)
		close(c->fd);
	free(c->buf);
	free(c);
}

static void drop(struct job *job)
{
	free_one((struct comparison *)job);
}

/* --- the thread ------------------------------------------------------------------------------- */

/* When there is no room for a piece more, the last one takes in what lies between. */
static void add(struct comparison *c, uint64_t block)
{
	struct wire_blocks *last = c->said.count ? &c->pieces[c->said.count - 1] : NULL;

	if (last && (last->block + last->blocks == block || c->said.count == WIRE_DIFFER_MAX))
		last->blocks = block + 1 - last->block;
	else
		c->pieces[c->said.count++] = (struct wire_blocks){block, 1};
}

static int compare_block(struct comparison *c, uint64_t block)
{
	uint64_t off = block * BLOCK_MAP_BYTES, left = c->bytes - off;
	uint32_t len = left < BLOCK_MAP_BYTES ? (uint32_t)left : BLOCK_MAP_BYTES;
	int r = disk_pass_read(c->fd, c->buf, off, len);
	bool same;

	if (r)
		return r;
	if (c->asked.count)
		same = disk_sum(&c->key, c->buf, len) == c->sums[block - c->asked.where.block];
	else
		same = disk_pass_is_zero(c->buf, len);
	if (!same)
		add(c, block);
	return 0;
}

static uint64_t next_data(const struct comparison *c, uint64_t block, uint64_t end)
{
	uint64_t data = disk_pass_data(c->fd, block * BLOCK_MAP_BYTES, c->bytes);

	return data < c->bytes ? data / BLOCK_MAP_BYTES : end;
}

/* What is not on the medium, though the cache has it, is read as it is there. */
static int forget_cache(const struct comparison *c)
{
	off_t off = (off_t)(c->asked.where.block * BLOCK_MAP_BYTES);
	off_t len = (off_t)(c->asked.where.blocks * BLOCK_MAP_BYTES);

	if (fdatasync(c->fd) < 0)
		return -errno;
	posix_fadvise(c->fd, off, len, POSIX_FADV_DONTNEED);
	return 0;
}

static int compare(struct comparison *c)
{
	uint64_t block = c->asked.where.block, end = block + c->asked.where.blocks;
	int r = forget_cache(c);

	while (block < end && !r && !atomic_load(&c->job.abandoned)) {
		if (!c->asked.count) /* zeros there: holes here are the same */
			block = next_data(c, block, end);
		if (block < end)
			r = compare_block(c, block++);
	}
	return r == -ETIMEDOUT ? -EIO : r; /* which a job may not return */
}

static void let_go(atomic_uint *users)
{
	if (atomic_fetch_sub(users, 1) == 1)
		free(users);
}

static int run(struct job *job)
{
	struct comparison *c = (struct comparison *)job;
	int r;

	job_be_ordinary();
	r = compare(c);
	let_go(c->users);
	return r;
}

/* --- the loop --------------------------------------------------------------------------------- */

static void start_next(struct disk_compare *dc);

/* The oldest is over; whoever is told may be done with all of them. */
static void tell(struct disk_compare *dc, int result)
{
	struct comparison *c = dc->queue;

	dc->queue = c->next;
	if (!dc->queue)
		dc->tail = &dc->queue;
	dc->count--;
	dc->told(dc->arg, &c->said, c->pieces, result);
	free_one(c);
}

static void told(struct job *job, int result)
{
	struct comparison *c = (struct comparison *)job;
	struct disk_compare *dc = c->owner;

	if (result == -ETIMEDOUT) {
		log_warn("disk '%s': reading it to compare it takes long",
			 dc->disks[c->asked.disk].id);
		job_expect(job, LATE_NS);
		return;
	}
	tell(dc, result);
	if (!result)
		start_next(dc);
}

/* After an error nothing is started: there is nobody any more who waits for it. */
static void start_next(struct disk_compare *dc)
{
	struct comparison *c = dc->queue;
	int r;

	if (!c || c->started)
		return;
	c->started = true;
	c->job = (struct job){.run = run, .told = told, .drop = drop};
	atomic_fetch_add(c->users, 1);
	r = job_start_on(&c->job, dc->loop, LATE_NS);
	if (!r)
		return;
	let_go(c->users);
	tell(dc, r);
}

/* A description of its own, where that can be had: the lock of the image is not kept by it. */
static int open_again(const struct disk *d)
{
	char path[40];
	int fd;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", d->fd);
	fd = open(path, O_RDONLY | O_CLOEXEC | (d->direct ? O_DIRECT : 0));
	return fd >= 0 ? fd : fcntl(d->fd, F_DUPFD_CLOEXEC, 0);
}

static int check(const struct disk_compare *dc, const struct wire_sums *w, size_t bytes,
		 struct err *e)
{
	const struct wire_blocks *b = &w->where;
	uint64_t size;

	if (w->disk >= 32 || !(dc->which & 1u << w->disk))
		return err_set(e, -EBADMSG, "disk sums: no disk %u that they could be of", w->disk);
	size = (dc->disks[w->disk].bytes + BLOCK_MAP_BYTES - 1) / BLOCK_MAP_BYTES;
	if (!b->blocks || b->block >= size || b->blocks > size - b->block)
		return err_set(e, -EBADMSG, "disk sums: blocks outside disk '%s'",
			       dc->disks[w->disk].id);
	if (w->count > WIRE_SUMS_MAX || bytes != w->count * sizeof(uint64_t) ||
	    (w->count ? w->count != b->blocks : b->blocks > WIRE_ZEROS_MAX))
		return err_set(e, -EBADMSG, "disk sums: %u of them for %llu blocks, in %zu bytes",
			       w->count, (unsigned long long)b->blocks, bytes);
	return 0;
}

int disk_compare_push(struct disk_compare *dc, const struct frame *f, struct err *e)
{
	struct wire_sums w;
	struct comparison *c;
	size_t bytes;
	int r;

	if (f->length < sizeof(w))
		return err_set(e, -EBADMSG, "disk sums: short message");
	memcpy(&w, f->data, sizeof(w));
	bytes = f->length - sizeof(w);
	r = check(dc, &w, bytes, e);
	if (r)
		return r;
	if (!dc->queue && atomic_load(dc->users) > HUNG_MAX)
		return err_set(e, -EBUSY,
			       "disk '%s': its storage has not answered since the last sync",
			       dc->disks[w.disk].id);
	c = calloc(1, sizeof(*c) + bytes);
	if (!c)
		return err_set(e, -ENOMEM, "disk sums: out of memory");
	c->fd = open_again(&dc->disks[w.disk]);
	c->buf = aligned_alloc(4096, BLOCK_MAP_BYTES);
	if (c->fd < 0 || !c->buf) {
		r = c->fd < 0 ? err_sys(e, "disk sums: opening the image again")
			      : err_set(e, -ENOMEM, "disk sums: out of memory");
		free_one(c);
		return r;
	}
	c->owner = dc;
	c->bytes = dc->disks[w.disk].bytes;
	c->users = dc->users;
	disk_sum_key_make(&c->key, dc->session);
	c->asked = w;
	c->said = (struct wire_differ){.disk = w.disk, .where = w.where};
	memcpy(c->sums, f->data + sizeof(w), bytes);
	*dc->tail = c;
	dc->tail = &c->next;
	if (dc->count++ == 0)
		start_next(dc);
	return 0;
}

int disk_compare_init(struct disk_compare *dc, struct loop *l, const struct disk *disks,
		      uint32_t which, uint64_t session)
{
	if (!dc->users) {
		dc->users = malloc(sizeof(*dc->users));
		if (!dc->users)
			return -ENOMEM;
		atomic_init(dc->users, 1);
	}
	dc->loop = l;
	dc->disks = disks;
	dc->which = which;
	dc->session = session;
	dc->queue = NULL;
	dc->tail = &dc->queue;
	dc->count = 0;
	return 0;
}

void disk_compare_done(struct disk_compare *dc)
{
	struct comparison *at_work = dc->queue, *c = at_work ? at_work->next : NULL;

	while (c) {
		struct comparison *next = c->next;

		free_one(c);
		c = next;
	}
	if (at_work && at_work->started)
		job_abandon(&at_work->job); /* and may be gone */
	else if (at_work)
		free_one(at_work);
	dc->queue = NULL;
	dc->tail = &dc->queue;
	dc->count = dc->which = 0;
}

void disk_compare_free(struct disk_compare *dc)
{
	disk_compare_done(dc);
	if (dc->users)
		let_go(dc->users);
	dc->users = NULL;
}

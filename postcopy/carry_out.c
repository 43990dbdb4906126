#define _GNU_SOURCE
#include "postcopy/carry_out.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "postcopy/wire.h"
#include "vmm/base/job.h"
#include "vmm/base/log.h"
#include "vmm/copy/file_out.h"
#include "vmm/copy/page_out.h"
#include "vmm/copy/ram_pass.h"

#define IDLE_NS 60000000000ull /* storage that takes nothing for so long is away */

struct carry_out {
	struct job job; /* first */
	struct carry_out **slot;
	struct carry_out_plan plan;
	bool answered;
	struct file_out file;
	/* The thread's, while it runs. */
	struct page_out out;
	struct wire_map map[WIRE_MAPS];
	unsigned nmaps;
	uint64_t map_pages;
	struct wire_eos eos;
	struct err err;
};

/* --- the thread ------------------------------------------------------------------------------- */

static int put(struct carry_out *c, enum frame_type type, const void *data, size_t len)
{
	struct iovec iov = {(void *)data, len};

	/* The deadline does not bind a file. */
	return stream_send(&c->file.stream, type, 0, &iov, 1, UINT64_MAX);
}

static int flush_maps(struct carry_out *c)
{
	unsigned n = c->nmaps;

	c->nmaps = 0;
	c->map_pages = 0;
	return n ? put(c, FRAME_MAP, c->map, n * sizeof(c->map[0])) : 0;
}

static int add_run(struct carry_out *c, uint64_t page, uint32_t kind)
{
	struct wire_map *last = c->nmaps ? &c->map[c->nmaps - 1] : NULL;

	c->eos.zero += kind == WIRE_MAP_ZERO;
	if (last && last->page + last->count == page && last->kind == kind)
		last->count++;
	else
		c->map[c->nmaps++] = (struct wire_map){.page = page, .count = 1, .kind = kind};
	return ++c->map_pages == WIRE_MAP_PAGES || c->nmaps == WIRE_MAPS ? flush_maps(c) : 0;
}

static int add_page(struct carry_out *c, uint64_t page)
{
	uint64_t copy[MEM_PAGE_SIZE / 8];

	c->eos.pushed++;
	ram_copy_page(copy, mem_page(c->plan.mem, page));
	return page_out_add(&c->out, page, (const uint8_t *)copy, NULL) ? page_out_flush(&c->out)
									: 0;
}

/* The pages up to `end`. */
static int add_range(struct carry_out *c, uint64_t page, uint64_t end, bool data)
{
	int r = 0;

	for (; page < end && !r; page++) {
		bool has = c->plan.pages[page / 64] & 1ull << (page % 64);

		if (has && data)
			r = add_page(c, page);
		else if (has || c->plan.machine)
			r = add_run(c, page, has ? WIRE_MAP_ZERO : WIRE_MAP_DROP);
	}
	return r;
}

static int add_all(struct carry_out *c)
{
	const struct mem *m = c->plan.mem;
	uint64_t off = 0, end, done = 0;
	int r = 0;

	while (!r && mem_next_data(m, &off, &end)) {
		r = add_range(c, done, off >> MEM_PAGE_SHIFT, false);
		if (!r)
			r = add_range(c, off >> MEM_PAGE_SHIFT, end >> MEM_PAGE_SHIFT, true);
		off = end;
		done = end >> MEM_PAGE_SHIFT;
	}
	return r ? r : add_range(c, done, m->npages, false);
}

static int write_locked(struct carry_out *c)
{
	int r = file_out_given_up(&c->file) ? -ECANCELED : 0;

	if (!r)
		r = stream_send_preface(&c->file.stream, UINT64_MAX);
	if (!r && c->plan.machine)
		r = put(c, FRAME_HELLO, c->plan.machine, c->plan.machine_len);
	if (!r)
		r = add_all(c);
	if (!r)
		r = page_out_flush(&c->out);
	if (!r)
		r = flush_maps(c);
	return r ? r : put(c, FRAME_EOS, &c->eos, sizeof(c->eos));
}

static int run(struct job *job)
{
	struct carry_out *c = (struct carry_out *)job;
	int r = file_out_open(&c->file, c->plan.session, &c->err);

	job_be_ordinary();
	pthread_setname_np(pthread_self(), "carry");
	if (!r)
		r = page_out_init(&c->out, &c->file.stream, 0);
	c->out.until_ns = UINT64_MAX;
	if (!r) {
		pthread_mutex_lock(&c->file.lock);
		r = write_locked(c);
		pthread_mutex_unlock(&c->file.lock);
	}
	if (!r)
		r = file_out_commit(&c->file, &c->err);
	return r ? file_out_fail(&c->file, r, &c->err) : 0;
}

/* --- on the loop ------------------------------------------------------------------------------ */

static void release(struct carry_out *c)
{
	page_out_done(&c->out);
	file_out_done(&c->file);
	free(c->plan.pages);
	free(c->plan.machine);
	free(c);
}

static void drop(struct job *job)
{
	release((struct carry_out *)job);
}

static void answer(struct carry_out *c, const struct err *e)
{
	if (!c->answered)
		c->plan.told(c->plan.arg, e);
	c->answered = true;
}

static void is_late(struct carry_out *c)
{
	bool stuck = file_out_stuck(&c->file);
	struct err e = {0};

	if (!job_expect(&c->job, IDLE_NS) && !stuck)
		return;
	file_out_give_up(&c->file);
	err_set(&e, -ETIMEDOUT, "file '%s': nothing was written for %llu s: is its storage away?",
		c->file.path, (unsigned long long)(IDLE_NS / 1000000000));
	answer(c, &e);
}

static void told(struct job *job, int result)
{
	struct carry_out *c = (struct carry_out *)job;

	if (result == -ETIMEDOUT) {
		is_late(c);
		return;
	}
	*c->slot = NULL;
	if (result)
		err_wrap(&c->err, "file '%s'", c->file.path);
	else
		log_info("postcopy: file '%s': %llu bytes, %llu pages, and %llu of zeros",
			 c->file.path, (unsigned long long)file_out_written(&c->file),
			 (unsigned long long)c->eos.pushed, (unsigned long long)c->eos.zero);
	answer(c, result ? &c->err : NULL);
	release(c);
}

static int make(struct carry_out **ret, const struct carry_out_plan *plan, struct err *e)
{
	struct carry_out *c = calloc(1, sizeof(*c));
	int r = c && plan->pages ? file_out_init(&c->file, plan->path, e)
				 : err_set(e, -ENOMEM, "out of memory");

	if (r) {
		free(c);
		return r;
	}
	c->plan = *plan;
	*ret = c;
	return 0;
}

int carry_out_start(struct carry_out **slot, const struct carry_out_plan *plan, struct err *e)
{
	struct carry_out *c = *slot;
	int r;

	if (c)
		r = err_set(e, -EBUSY, "file '%s' %s", c->file.path,
			    c->answered ? "was given up, but its storage has not let it go yet"
					: "is being written; wait for that");
	else
		r = make(&c, plan, e);
	if (r) {
		free(plan->pages);
		free(plan->machine);
		return r;
	}
	c->slot = slot;
	c->job.run = run;
	c->job.told = told;
	c->job.drop = drop;
	r = job_start_on(&c->job, plan->loop, IDLE_NS);
	if (r) {
		release(c);
		return err_set(e, r, "thread: %s", strerror(-r));
	}
	*slot = c;
	return 0;
}

bool carry_out_is_owed(const struct carry_out *c)
{
	return c && !c->answered;
}

void carry_out_give_up(struct carry_out *c, const char *why)
{
	struct err e = {0};

	if (!c)
		return;
	file_out_give_up(&c->file);
	err_set(&e, -ECANCELED, "file '%s': given up: %s", c->file.path, why);
	answer(c, &e);
}

void carry_out_stop(struct carry_out **slot)
{
	struct carry_out *c = *slot;

	if (!c)
		return;
	*slot = NULL;
	file_out_give_up(&c->file);
	job_abandon(&c->job);
}

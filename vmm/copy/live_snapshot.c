#define _GNU_SOURCE
#include "vmm/copy/live_snapshot.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "vmm/base/job.h"
#include "vmm/base/log.h"
#include "vmm/base/nodump.h"
#include "vmm/copy/file_out.h"
#include "vmm/copy/ram_pass.h"
#include "vmm/machine/fdt.h"
#include "vmm/wire/stream.h"

#define SESSION	    1	/* of every file */
#define PAGES_SMALL 512 /* few enough that another pass does not pay */

struct live_snapshot {
	struct job job; /* first: what it is given is this */
	bool at_work;	/* loop: the job runs */
	struct vm *vm;	/* loop; the thread's under lock, unless given up */
	struct live_snapshot_plan plan;
	struct file_out file;
	struct dirty dirty; /* under file.lock, as guest memory */

	unsigned passes;   /* atomic */
	uint64_t pause_ns; /* loop */
	uint64_t left;	   /* loop: pages, when the VM stood and that was too much */
	uint64_t ncopied;  /* loop; the thread only reads it */

	/* Whoever is at work: the thread while the job runs, else the loop. */
	struct page_out out;
	uint64_t last; /* pages of the last pass */
	uint8_t *hello, *state;
	size_t hello_len, state_len, state_cap;
	uint8_t *copy; /* of copy_max pages */
	uint64_t *page, copy_max;
	struct err err;
};

static int put(struct live_snapshot *s, enum frame_type type, const void *data, size_t len)
{
	struct iovec iov = {(void *)data, len};

	/* The deadline does not bind a file: that one has LIVE_LATE. */
	return stream_send(&s->file.stream, type, 0, &iov, len ? 1 : 0, UINT64_MAX);
}

static int open_file(struct live_snapshot *s)
{
	int r = file_out_open(&s->file, SESSION, &s->err);

	if (!r)
		r = page_out_init(&s->out, &s->file.stream, 0);
	s->out.until_ns = UINT64_MAX;
	return r;
}

/* --- in the thread ---------------------------------------------------------------------------- */

static int between(void *arg)
{
	return file_out_given_up(&((struct live_snapshot *)arg)->file) ? -ECANCELED : 0;
}

static int first_pass(struct live_snapshot *s, const struct ram_pass *p)
{
	int r = stream_send_preface(&s->file.stream, UINT64_MAX);

	if (!r)
		r = put(s, FRAME_HELLO, s->hello, s->hello_len);
	if (r)
		return r;
	/* What was marked until now is read by this pass. */
	dirty_forget_host(&s->dirty);
	s->last = UINT64_MAX;
	return ram_pass_all(p);
}

/* As long as each is clearly smaller than the one before. */
static int changed_passes(struct live_snapshot *s, const struct ram_pass *p)
{
	uint64_t before, n;

	do {
		int r = ram_pass_dirty(p, &s->dirty, &n);

		if (r)
			return r;
		before = s->last;
		s->last = n;
		__atomic_fetch_add(&s->passes, 1, __ATOMIC_RELAXED);
	} while (n > PAGES_SMALL && n < before / 4 * 3 && s->passes < LIVE_SNAPSHOT_PASSES);
	return 0;
}

/* The VM is not to wait for the host to find memory for it. */
static void populate_copy(struct live_snapshot *s)
{
	uint64_t n = s->last * 2 + PAGES_SMALL;

	for (uint64_t i = 0; i < n && i < s->copy_max; i++)
		s->copy[i * MEM_PAGE_SIZE] = 1;
}

/* Once given up, not another look at the VM. */
static int pass_locked(struct live_snapshot *s, bool first)
{
	const struct ram_pass p = {
		.mem = &s->vm->mem, .out = &s->out, .between = between, .arg = s};
	int r = file_out_given_up(&s->file) ? -ECANCELED : 0;

	if (!r && first)
		r = first_pass(s, &p);
	return r ? r : changed_passes(s, &p);
}

static int fail(struct live_snapshot *s, int r)
{
	return file_out_fail(&s->file, r, &s->err);
}

static int run_passes(struct job *job)
{
	struct live_snapshot *s = (struct live_snapshot *)job;
	bool first = !s->file.opened;
	int r = first ? open_file(s) : 0;

	job_be_ordinary();
	pthread_setname_np(pthread_self(), "snapshot");
	if (!r) {
		pthread_mutex_lock(&s->file.lock);
		r = pass_locked(s, first);
		pthread_mutex_unlock(&s->file.lock);
	}
	if (r)
		return fail(s, r);
	populate_copy(s);
	return 0;
}

static int write_copy(struct live_snapshot *s)
{
	int r = 0;

	for (uint64_t i = 0; i < s->ncopied && !r; i++)
		if (page_out_add(&s->out, s->page[i], s->copy + i * MEM_PAGE_SIZE, NULL))
			r = page_out_flush(&s->out);
	if (!r)
		r = page_out_flush(&s->out);
	if (!r)
		r = put(s, FRAME_STATE, s->state, s->state_len);
	return r ? r : put(s, FRAME_BYE, NULL, 0);
}

static int run_write(struct job *job)
{
	struct live_snapshot *s = (struct live_snapshot *)job;
	int r;

	job_be_ordinary();
	pthread_setname_np(pthread_self(), "snapshot");
	/* As if there were guest memory to hold: the file gives the lock back. */
	pthread_mutex_lock(&s->file.lock);
	r = file_out_given_up(&s->file) ? -ECANCELED : write_copy(s);
	pthread_mutex_unlock(&s->file.lock);
	if (!r)
		r = file_out_commit(&s->file, &s->err);
	return r ? fail(s, r) : 0;
}

/* --- on the loop ------------------------------------------------------------------------------ */

void live_snapshot_stats(const struct live_snapshot *s, struct live_snapshot_stats *ret)
{
	*ret = (struct live_snapshot_stats){.written = file_out_written(&s->file),
					    .passes = __atomic_load_n(&s->passes, __ATOMIC_RELAXED),
					    .copied = s->ncopied,
					    .pause_ns = s->pause_ns};
}

static void is_late(struct live_snapshot *s)
{
	bool stuck = file_out_stuck(&s->file);

	/* No room for a timer is as good as none left. */
	if (!job_expect(&s->job, LIVE_SNAPSHOT_IDLE_NS) && !stuck)
		return;
	s->plan.told(s->plan.arg, LIVE_LATE, &(struct err){0});
}

static void told(struct live_snapshot *s, int result, enum live_snapshot_event good)
{
	if (result == -ETIMEDOUT) {
		is_late(s);
		return;
	}
	s->at_work = false;
	s->plan.told(s->plan.arg, result ? LIVE_FAILED : good, &s->err);
}

static void told_passes(struct job *job, int result)
{
	told((struct live_snapshot *)job, result, LIVE_REST);
}

static void told_write(struct job *job, int result)
{
	told((struct live_snapshot *)job, result, LIVE_WRITTEN);
}

static void release(struct live_snapshot *s)
{
	page_out_done(&s->out);
	file_out_done(&s->file);
	if (s->copy)
		munmap(s->copy, s->copy_max * MEM_PAGE_SIZE);
	free(s->page);
	free(s->hello);
	free(s->state);
	free(s);
}

static void drop(struct job *job)
{
	release((struct live_snapshot *)job);
}

static int start(struct live_snapshot *s, int (*run)(struct job *job),
		 void (*then)(struct job *job, int result), struct err *e)
{
	int r;

	s->job = (struct job){.run = run, .told = then, .drop = drop};
	r = job_start_on(&s->job, s->vm->loop, LIVE_SNAPSHOT_IDLE_NS);
	s->at_work = !r;
	return r ? err_set(e, r, "thread: %s", strerror(-r)) : 0;
}

int live_snapshot_pass(struct live_snapshot *s, struct err *e)
{
	return start(s, run_passes, told_passes, e);
}

int live_snapshot_write(struct live_snapshot *s, struct err *e)
{
	return start(s, run_write, told_write, e);
}

static int too_much(struct live_snapshot *s, uint64_t pages, struct err *e)
{
	bool less = pages < s->left / 4 * 3;

	s->left = pages;
	if (s->passes < LIVE_SNAPSHOT_PASSES && less)
		return -EAGAIN;
	return err_set(e, -E2BIG,
		       "the guest changes its memory faster than it is written: %lluM are left "
		       "after %u passes, and it stands for %lluM at most; give more (staging=), "
		       "faster storage, or pause it first",
		       (unsigned long long)(pages * MEM_PAGE_SIZE >> 20), s->passes,
		       (unsigned long long)(s->plan.copy_bytes >> 20));
}

static void copy_pages(struct live_snapshot *s)
{
	struct mem *m = &s->vm->mem;
	struct mem_hole hole = {0};

	for (uint64_t w = 0; w < s->dirty.nwords; w++)
		for (uint64_t bits = s->dirty.bits[w]; bits; bits &= bits - 1) {
			uint64_t page = w * 64 + (uint64_t)__builtin_ctzll(bits);
			uint8_t *to = s->copy + s->ncopied * MEM_PAGE_SIZE;

			/* Nobody writes since they were counted. */
			VMM_BUG_ON(s->ncopied == s->copy_max);
			s->page[s->ncopied++] = page;
			if (mem_absent(m, page, &hole))
				memset(to, 0, MEM_PAGE_SIZE);
			else
				memcpy(to, mem_page(m, page), MEM_PAGE_SIZE);
		}
}

/* The VM stands. */
static int take(struct live_snapshot *s, struct err *e)
{
	uint64_t pages;
	int r = dirty_count(&s->dirty, &pages);
	int64_t len;

	if (!r && pages > s->copy_max)
		return too_much(s, pages, e);
	if (!r)
		r = dirty_get(&s->dirty);
	if (r)
		return err_set(e, r, "dirty log: %s", strerror(-r));
	copy_pages(s);
	len = vm_save(s->vm, s->state, s->state_cap);
	if (len < 0)
		return err_set(e, (int)len, "state: %s", strerror((int)-len));
	s->state_len = (size_t)len;
	return 0;
}

/* What there is of the file is the thread's to remove. */
static void refuse(struct live_snapshot *s, const struct err *e)
{
	s->err = *e;
	live_snapshot_give_up(s);
}

int live_snapshot_take(struct live_snapshot *s, struct err *e)
{
	bool ran = s->vm->running;
	uint64_t from = loop_now_ns();
	int r = vm_pause(s->vm, e);

	if (!r)
		r = take(s, e);
	if (ran && !s->vm->running)
		vm_resume(s->vm);
	s->pause_ns = ran ? loop_now_ns() - from : 0;
	if (!r)
		dirty_stop(&s->dirty);
	else if (r != -EAGAIN)
		refuse(s, e);
	return r;
}

void live_snapshot_give_up(struct live_snapshot *s)
{
	file_out_give_up(&s->file);
	dirty_stop(&s->dirty); /* the thread does not look at it any more */
}

void live_snapshot_free(struct live_snapshot *s)
{
	VMM_BUG_ON(s->at_work);
	live_snapshot_give_up(s);
	release(s);
}

void live_snapshot_abandon(struct live_snapshot *s)
{
	if (!s)
		return;
	live_snapshot_give_up(s);
	if (s->at_work)
		job_abandon(&s->job);
	else
		release(s);
}

static int make_buffers(struct live_snapshot *s, struct err *e)
{
	uint64_t max = s->plan.copy_bytes / MEM_PAGE_SIZE;
	void *copy;
	int64_t len;

	s->copy_max = max < s->vm->mem.npages ? max : s->vm->mem.npages;
	s->state_cap = vm_state_bound(s->vm);
	s->hello = malloc(FDT_MAX_BYTES);
	s->state = malloc(s->state_cap);
	s->page = malloc(s->copy_max * sizeof(*s->page));
	copy = mmap(NULL, s->copy_max * MEM_PAGE_SIZE, PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (copy != MAP_FAILED)
		s->copy = copy;
	nodump(s->copy, s->copy_max * MEM_PAGE_SIZE);
	if (!s->hello || !s->state || !s->page || !s->copy)
		return err_set(e, -ENOMEM, "out of memory");
	len = fdt_build(&s->vm->machine, s->hello, FDT_MAX_BYTES, e);
	s->hello_len = len > 0 ? (size_t)len : 0;
	return len < 0 ? (int)len : 0;
}

int live_snapshot_new(struct live_snapshot **ret, struct vm *vm,
		      const struct live_snapshot_plan *plan, struct err *e)
{
	struct live_snapshot *s;
	int r;

	s = calloc(1, sizeof(*s));
	if (!s)
		return err_set(e, -ENOMEM, "out of memory");
	r = file_out_init(&s->file, plan->path, e);
	if (r) {
		free(s);
		return r;
	}
	s->vm = vm;
	s->left = UINT64_MAX;
	s->plan = *plan;
	s->plan.path = s->file.path;
	r = make_buffers(s, e);
	if (!r)
		r = dirty_start(&s->dirty, &vm->kvm, &vm->mem, e);
	if (r) {
		release(s);
		return r;
	}
	*ret = s;
	return 0;
}

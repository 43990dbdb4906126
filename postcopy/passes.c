#define _GNU_SOURCE
#include "postcopy/passes.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "ft/common/steps.h"
#include "vmm/base/job.h"
#include "vmm/base/loop.h"
#include "vmm/copy/ram_pass.h"

#define SYNC_LOOK_MS 50
#define SYNC_ALIVE   100u /* looks, and then a frame without pages */
#define AUTO_PASSES  3u	  /* before it is judged whether they lead anywhere */
#define FEW_PAGES    128u
#define NS_PER_S     1000000000ull
#define RATE_PAGES   256u     /* fewer say nothing about how fast the link is, */
#define RATE_GUESS   25000ull /* and this, pages a second, is assumed */

static void set(uint64_t *stat, uint64_t value)
{
	__atomic_store_n(stat, value, __ATOMIC_RELAXED);
}

/* --- between two frames ----------------------------------------------------------------------- */

static bool stopped(const struct passes *p)
{
	return __atomic_load_n(&p->stop, __ATOMIC_ACQUIRE);
}

static void sleep_until(struct passes *p, uint64_t ns)
{
	struct timespec ts = {.tv_sec = (time_t)(ns / NS_PER_S), .tv_nsec = (long)(ns % NS_PER_S)};

	pthread_mutex_lock(&p->lock);
	while (!p->stop && pthread_cond_timedwait(&p->cond, &p->lock, &ts) != ETIMEDOUT)
		;
	pthread_mutex_unlock(&p->lock);
}

static uint64_t paced(const struct passes *p)
{
	return p->stats.bytes + p->stats.disk_bytes;
}

/* What was not sent in its time is not made up for later. */
static void keep_pace(struct passes *p)
{
	uint64_t now = loop_now_ns(), all = paced(p), bytes = all - p->paced_bytes;

	p->paced_bytes = all;
	if (p->paced_ns < now)
		p->paced_ns = now;
	p->paced_ns += (unsigned __int128)bytes * NS_PER_S / p->conf->bandwidth;
	sleep_until(p, p->paced_ns);
	p->waited_ns += loop_now_ns() - now;
}

/* More passes lead nowhere in time: what is left comes when the VM runs there. */
static bool is_late(const struct passes *p)
{
	return p->conf->how == MIGRATE_HOW_AUTO && loop_now_ns() > p->lazy_from_ns;
}

int passes_between(void *arg)
{
	struct passes *p = arg;

	if (p->conf->bandwidth && p->part == PASSES_LIVE && paced(p) > p->paced_bytes)
		keep_pace(p);
	return stopped(p) ? -ECANCELED : 0;
}

static int between_pages(void *arg)
{
	struct passes *p = arg;
	int r = passes_between(p);

	step_reached(STEP_MIG_PAGES);
	return r ? r : p->part == PASSES_LIVE && is_late(p) ? -ETIME : 0;
}

/* --- while the guest runs --------------------------------------------------------------------- */

static uint64_t allocated_pages(const struct mem *m)
{
	struct stat st;

	if (fstat(m->fd, &st) < 0 || (uint64_t)st.st_blocks > m->bytes / 512)
		return m->npages;
	return (uint64_t)st.st_blocks * 512 / MEM_PAGE_SIZE;
}

struct pass_start {
	uint64_t ns, pages, bytes;
};

static struct pass_start begin_pass(struct passes *p, uint64_t todo)
{
	struct pass_start at = {loop_now_ns(), p->stats.pages, p->stats.bytes};

	set(&p->stats.begun, p->stats.pages);
	set(&p->stats.todo, todo);
	set(&p->stats.pass, p->stats.pass + 1);
	p->waited_ns = 0;
	return at;
}

static uint64_t per_second(uint64_t n, uint64_t ns)
{
	return ns ? (uint64_t)((unsigned __int128)n * NS_PER_S / ns) : 0;
}

/*
 * What the pass says about the link and the guest, and what the images have changed meanwhile.
 * *ret_left: pages that are dirty now.
 */
static int end_pass(struct passes *p, const struct pass_start *at, uint64_t *ret_left)
{
	uint64_t busy = loop_now_ns() - at->ns - p->waited_ns;
	uint64_t pages = p->stats.pages - at->pages;
	int r;

	if (pages >= RATE_PAGES) {
		set(&p->stats.page_rate, per_second(pages, busy));
		set(&p->stats.byte_rate, per_second(p->stats.bytes - at->bytes, busy));
	}
	r = passes_disks_go_on(p);
	if (!r)
		r = dirty_count(p->dirty, ret_left);
	if (!r)
		set(&p->stats.dirty_rate, per_second(*ret_left, loop_now_ns() - at->ns));
	return r;
}

static bool fits(struct passes *p, uint64_t left)
{
	uint64_t rate = p->stats.page_rate ? p->stats.page_rate : RATE_GUESS;
	uint64_t pages_ns = (uint64_t)((unsigned __int128)left * NS_PER_S / rate);

	set(&p->stats.expected_ns, pages_ns + passes_disks_ns(p));
	return p->stats.expected_ns <= p->conf->downtime_ns;
}

/* With files of its own, as it may outlive the migration, and the VM. */
struct image_sync {
	struct job job;
	int fds[MACHINE_MAX_DEVS];
	unsigned nfds;
};

static int run_sync(struct job *job)
{
	struct image_sync *is = (struct image_sync *)job;

	for (unsigned i = 0; i < is->nfds; i++)
		if (fdatasync(is->fds[i]) < 0)
			continue; /* it is asked again when the VM stands, and counts then */
	return 0;
}

static void drop_sync(struct job *job)
{
	struct image_sync *is = (struct image_sync *)job;

	for (unsigned i = 0; i < is->nfds; i++)
		close(is->fds[i]);
	free(is);
}

/* A medium may take minutes: the destination is not to take that for a death, nor a cancel wait. */
static int wait_sync(struct passes *p, struct image_sync *is)
{
	int r = 0;

	for (unsigned n = 1; !r && job_wait(&is->job, SYNC_LOOK_MS) == -ETIMEDOUT; n++) {
		if (stopped(p)) {
			job_abandon(&is->job);
			return -ECANCELED;
		}
		if (n % SYNC_ALIVE == 0)
			r = stream_send(p->stream, FRAME_PAGES, 0, NULL, 0,
					loop_now_ns() + PASSES_FRAME_NS);
		if (r) {
			job_abandon(&is->job);
			return r;
		}
	}
	drop_sync(&is->job);
	return 0;
}

/* With most of it on the medium, what the VM writes until it stands is there soon. */
static int sync_images(struct passes *p)
{
	struct image_sync *is = calloc(1, sizeof(*is));

	if (!is)
		return -ENOMEM;
	is->job = (struct job){.run = run_sync, .drop = drop_sync};
	for (unsigned i = 0; i < p->nfds; i++) {
		is->fds[is->nfds] = fcntl(p->fds[i], F_DUPFD_CLOEXEC, 0);
		is->nfds += is->fds[is->nfds] >= 0;
	}
	if (job_start(&is->job)) {
		drop_sync(&is->job);
		return 0; /* it only takes longer later */
	}
	return wait_sync(p, is);
}

static int not_converging(struct passes *p)
{
	return err_set(
		&p->err, -EAGAIN,
		"after %u passes the rest would take %llu ms: the guest writes %llu MiB/s, "
		"%llu MiB/s get through; allow more --passes, a longer --downtime (%llu ms), "
		"or let the guest do less",
		p->conf->passes, (unsigned long long)(p->stats.expected_ns / 1000000),
		(unsigned long long)(p->stats.dirty_rate >> 8),
		(unsigned long long)(p->stats.page_rate >> 8),
		(unsigned long long)(p->conf->downtime_ns / 1000000));
}

/* It fits, but another pass, which is short by now, leaves much less. */
static bool is_shrinking(const struct passes *p, uint64_t left, uint64_t before)
{
	return left > FEW_PAGES && left < before / 2 && p->stats.pass < p->conf->passes;
}

/* No more passes: more would not bring it below the downtime, or not soon. */
static bool is_enough(const struct passes *p, uint64_t left, uint64_t before)
{
	if (p->stats.pass >= p->conf->passes)
		return true;
	return p->conf->how == MIGRATE_HOW_AUTO &&
	       (is_late(p) || (p->stats.pass >= AUTO_PASSES && left > before - before / 4));
}

/* What was written until now comes to the medium, so that little is left of that, too. */
static int bring(struct passes *p)
{
	int r = sync_images(p);

	return r ? r : passes_disks_bring(p);
}

/* Memory may come afterwards; of an image only what fits into the downtime is left. */
static int end_lazy(struct passes *p)
{
	int r = p->copies->which ? bring(p) : 0;

	while (!r && passes_disks_ns(p) > p->conf->downtime_ns)
		r = passes_disks_go_on(p);
	p->lazy = true;
	return r;
}

/* After a pass. 1: the VM may be stopped; 0: another one; -ETIME: no more, as of is_late(). */
static int judge(struct passes *p, uint64_t left, uint64_t before, bool *synced)
{
	int r;

	if (!fits(p, left) && is_enough(p, left, before))
		return p->conf->how == MIGRATE_HOW_PRECOPY ? not_converging(p) : -ETIME;
	if (!fits(p, left))
		return 0;
	if (*synced)
		return !is_shrinking(p, left, before);
	*synced = true;
	r = bring(p);
	return r < 0 ? r : 0;
}

static int send_live(struct passes *p, const struct ram_pass *ram)
{
	uint64_t left, n, before = UINT64_MAX;
	bool synced = !p->nfds && !p->copies->which;
	int r = passes_disks_begin(p);
	struct pass_start at = begin_pass(p, allocated_pages(p->dirty->mem));

	/* What was marked until now is read below, or is as zero as the destination's. */
	dirty_forget_host(p->dirty);
	if (!r)
		r = ram_pass_all(ram);
	while (!r) {
		r = end_pass(p, &at, &left);
		if (!r)
			r = judge(p, left, before, &synced);
		if (r)
			break;
		before = left;
		at = begin_pass(p, left);
		r = ram_pass_dirty(ram, p->dirty, &n);
	}
	if (r != -ETIME)
		return r < 0 ? r : 0;
	r = page_out_flush(&p->out);
	return r ? r : end_lazy(p);
}

/* No page goes before the switch. */
static int send_images(struct passes *p)
{
	int r = passes_disks_begin(p);

	return r ? r : p->copies->which ? end_lazy(p) : sync_images(p);
}

/* --- when it stands --------------------------------------------------------------------------- */

static int put(struct passes *p, enum frame_type type, const void *data, size_t len)
{
	struct iovec iov = {(void *)data, len};

	return stream_send(p->stream, type, 0, &iov, 1, loop_now_ns() + PASSES_FRAME_NS);
}

/* What was sent and is not what the guest has. */
static int put_maps(struct passes *p)
{
	int r = 0;

	for (uint32_t at = 0; at < p->nmaps && !r;) {
		uint64_t pages = 0;
		uint32_t n = 0;

		while (at + n < p->nmaps && n < WIRE_MAPS &&
		       pages + p->maps[at + n].count <= WIRE_MAP_PAGES)
			pages += p->maps[at + n++].count;
		r = put(p, FRAME_MAP, &p->maps[at], n * sizeof(p->maps[0]));
		at += n;
	}
	return r;
}

static int send_last(struct passes *p, const struct ram_pass *ram)
{
	uint64_t begun = loop_now_ns(), n = 0;
	int r = passes_disks_go_on(p);

	set(&p->stats.last_disk_ns, loop_now_ns() - begun);
	if (!r)
		r = p->lazy ? put_maps(p) : ram_pass_dirty(ram, p->dirty, &n);
	set(&p->stats.last_pages, n);
	set(&p->stats.todo, 0);
	set(&p->stats.last_ns, loop_now_ns() - begun);
	step_reached(STEP_MIG_LAST);
	begun = loop_now_ns();
	if (!r)
		r = put(p, FRAME_STATE, p->state, p->state_len);
	p->last.stopped_ns = loop_now_ns() - p->stopped_at_ns;
	if (!r)
		r = put(p, FRAME_SWITCH, &p->last, sizeof(p->last));
	set(&p->stats.state_ns, loop_now_ns() - begun);
	return r;
}

/* --- the thread ------------------------------------------------------------------------------- */

static void *thread(void *arg)
{
	struct passes *p = arg;
	const struct ram_pass ram = {.mem = p->dirty->mem,
				     .out = &p->out,
				     .pages = &p->stats.pages,
				     .still = p->part == PASSES_LAST,
				     .sent = p->sent,
				     .between = between_pages,
				     .arg = p};
	uint64_t one = 1;
	int r;

	pthread_setname_np(pthread_self(), "migrate");
	if (p->part == PASSES_LAST)
		r = send_last(p, &ram);
	else if (p->conf->passes)
		r = send_live(p, &ram);
	else
		r = send_images(p);
	if (r)
		err_set(&p->err, r, "sending: %s", strerror(-r));
	if (write(p->notify_fd, &one, sizeof(one)) < 0)
		return NULL; /* the counter is at its maximum: the loop will look anyway */
	return NULL;
}

int passes_init(struct passes *p, struct err *e)
{
	pthread_condattr_t ca;

	p->block = aligned_alloc(4096, BLOCK_MAP_BYTES);
	if (!p->block || page_out_init(&p->out, p->stream, PASSES_FRAME_NS))
		return err_set(e, -ENOMEM, "migration: out of memory");
	p->out.sent = &p->stats.bytes;
	pthread_mutex_init(&p->lock, NULL);
	pthread_condattr_init(&ca);
	pthread_condattr_setclock(&ca, CLOCK_MONOTONIC);
	pthread_cond_init(&p->cond, &ca);
	pthread_condattr_destroy(&ca);
	return 0;
}

void passes_done(struct passes *p)
{
	free(p->sent);
	free(p->block);
	p->sent = NULL;
	p->block = NULL;
	if (!p->out.enc)
		return;
	page_out_done(&p->out);
	pthread_mutex_destroy(&p->lock);
	pthread_cond_destroy(&p->cond);
}

int passes_start(struct passes *p, enum passes_part part, struct err *e)
{
	int r;

	p->part = part;
	p->err = (struct err){0};
	r = pthread_create(&p->thread, NULL, thread, p);
	p->started = !r;
	return r ? err_set(e, -r, "migration: thread: %s", strerror(r)) : 0;
}

void passes_stop(struct passes *p)
{
	pthread_mutex_lock(&p->lock);
	__atomic_store_n(&p->stop, true, __ATOMIC_RELEASE);
	pthread_cond_broadcast(&p->cond);
	pthread_mutex_unlock(&p->lock);
}

int passes_join(struct passes *p)
{
	if (!p->started)
		return 0;
	pthread_join(p->thread, NULL);
	p->started = false;
	return p->err.code;
}

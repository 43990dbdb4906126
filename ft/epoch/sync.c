#define _GNU_SOURCE /* pthread_cond_clockwait */
#include "ft/epoch/sync.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "ft/common/steps.h"
#include "vmm/base/lock.h"
#include "vmm/copy/disk_sums.h"
#include "vmm/copy/ram_pass.h"

#define MAX_PASSES  8
#define PAGES_SMALL 512 /* few enough to be left to the first epoch */
#define DISK_SMALL  16	/* blocks, likewise to the pass with requests logged */
#define ANSWER_S    60	/* for the next answer to sums, of at most 1 GiB */
#define SUMS_AHEAD  4	/* not answered: fewer than make a secondary stop reading */

static bool cancelled(const struct sync *s)
{
	return __atomic_load_n(&s->stop, __ATOMIC_ACQUIRE);
}

/* --- disks ----------------------------------------------------------------------------------- */

struct blocks {
	struct sync *s;
	struct page_out *out;
	uint8_t *buf;
	uint64_t count; /* of the last pass */
};

static struct block_map *maps_of(const struct sync *s)
{
	return s->other ? s->other->blocks : s->disklog->maps;
}

/* What the peer has is compared first; where there is nothing but zeros all that is none goes out.
 */
static int send_whole(const struct disk_pass *p, uint64_t *ret_count)
{
	struct sync *s = p->arg;

	if (s->kept & 1u << p->index)
		return disk_sums_send(p, &s->asked);
	return disk_pass_all(p);
}

int sync_answered(struct sync *s, const struct frame *f, struct err *e)
{
	int r = disk_sums_answer(f, maps_of(s), MACHINE_MAX_DEVS, e);

	if (!r && s->answered == __atomic_load_n(&s->asked, __ATOMIC_ACQUIRE))
		r = err_set(e, -EBADMSG, "disk sums: an answer that was not asked for");
	if (r)
		return r;
	pthread_mutex_lock(&s->lock);
	__atomic_fetch_add(&s->answered, 1, __ATOMIC_RELEASE);
	pthread_cond_signal(&s->cond);
	pthread_mutex_unlock(&s->lock);
	return 0;
}

/* At most so many are left without one. A peer that compares answers every some seconds. */
static int await_answers(struct sync *s, uint64_t left)
{
	uint64_t had = UINT64_MAX;
	struct timespec until;
	int r = 0;

	pthread_mutex_lock(&s->lock);
	while (s->asked - s->answered > left && !s->stop && !r) {
		if (s->answered != had) {
			had = s->answered;
			clock_gettime(CLOCK_MONOTONIC, &until);
			until.tv_sec += ANSWER_S;
		}
		r = -pthread_cond_clockwait(&s->cond, &s->lock, CLOCK_MONOTONIC, &until);
		if (s->answered != had) /* at the last moment */
			r = 0;
	}
	pthread_mutex_unlock(&s->lock);
	return cancelled(s) ? -ECANCELED : r;
}

static int between_blocks(void *arg)
{
	struct sync *s = arg;

	step_reached(STEP_SYNC_DISK);
	if (s->asked - __atomic_load_n(&s->answered, __ATOMIC_ACQUIRE) >= SUMS_AHEAD)
		return await_answers(s, SUMS_AHEAD - 1);
	return cancelled(s) ? -ECANCELED : 0;
}

static int each_disk(struct blocks *b, int (*pass)(const struct disk_pass *p, uint64_t *ret_count))
{
	struct disklog *dl = b->s->disklog;
	struct block_map *maps = maps_of(b->s);
	int r = 0;

	b->count = 0;
	for (unsigned i = 0; i < MACHINE_MAX_DEVS && !r; i++) {
		const struct disk_pass p = {.disk = dl->disks[i],
					    .index = i,
					    .map = &maps[i],
					    .stream = b->out->stream,
					    .frame_ns = b->out->frame_ns,
					    .buf = b->buf,
					    .between = between_blocks,
					    .arg = b->s,
					    .bytes = &b->s->bytes,
					    .fresh = true};
		uint64_t count = 0;

		if (p.disk)
			r = pass(&p, &count);
		b->count += count;
	}
	return r;
}

/* --- the switch of the disk log ----------------------------------------------------------------
 */

void sync_go_on(struct sync *s)
{
	pthread_mutex_lock(&s->lock);
	s->may_go = true;
	pthread_cond_signal(&s->cond);
	pthread_mutex_unlock(&s->lock);
}

static void log_is_on(void *arg)
{
	sync_go_on(arg);
}

/* On the loop. */
static void asked(struct loop_op *op, int res)
{
	struct sync *s = op->arg;

	loop_poll_del(s->loop, &s->switch_op);
	if (s->other)
		s->other->near(s->other->arg);
	else
		disklog_switch(s->disklog, log_is_on, s);
}

/* From now on every change is in the log of the first epoch, or there is none. */
static int switch_log(struct sync *s)
{
	uint64_t one = 1;

	if (!s->other && !disklog_has_disks(s->disklog))
		return 0;
	if (write(s->switch_fd, &one, sizeof(one)) < 0)
		return -errno;
	pthread_mutex_lock(&s->lock);
	while (!s->may_go && !s->stop)
		pthread_cond_wait(&s->cond, &s->lock);
	pthread_mutex_unlock(&s->lock);
	return cancelled(s) ? -ECANCELED : 0;
}

/* --- all of it -------------------------------------------------------------------------------- */

static int between(void *arg)
{
	step_reached(STEP_SYNC_RAM);
	return cancelled(arg) ? -ECANCELED : 0;
}

static int marked(struct blocks *b, const struct ram_pass *ram, uint64_t *ret_pages)
{
	struct sync *s = b->s;
	int r = each_disk(b, disk_pass_marked);

	if (r)
		return r;
	return s->other ? ram_pass_marked(ram, s->other->lacks, ret_pages)
			: ram_pass_dirty(ram, s->dirty, ret_pages);
}

/*
 * Disks and memory in turns, as each changes while the other is on its way. The log of the disks
 * grows until the first ack: it is on only for what is left then.
 */
static int run(struct blocks *b, const struct ram_pass *ram)
{
	struct sync *s = b->s;
	uint64_t pages = UINT64_MAX;
	int r = each_disk(b, send_whole);

	/* What was marked until now is read below, or is as zero as the peer's. */
	if (!s->other)
		dirty_forget_host(s->dirty);
	if (!r)
		r = ram_pass_all(ram);
	if (!r)
		r = await_answers(s, 0); /* all that differs is marked then */
	for (int i = 0; i < MAX_PASSES && !r; i++) {
		r = marked(b, ram, &pages);
		if (b->count <= DISK_SMALL && pages <= PAGES_SMALL)
			break;
	}
	if (!r)
		r = switch_log(s);
	if (r)
		return r;
	return s->other ? marked(b, ram, &pages) : each_disk(b, disk_pass_marked);
}

int sync_run(struct sync *s, struct page_out *out)
{
	const struct ram_pass ram = {
		.mem = s->dirty->mem, .out = out, .pages = &s->pages, .between = between, .arg = s};
	struct blocks b = {s, out, aligned_alloc(4096, BLOCK_MAP_BYTES), 0};
	int r;

	step_reached(STEP_SYNC_BEGIN);
	out->sent = &s->bytes;
	r = b.buf ? run(&b, &ram) : -ENOMEM;
	free(b.buf);
	step_reached(STEP_SYNC_END);
	return r;
}

int sync_init(struct sync *s, struct loop *l, struct dirty *d, struct disklog *dl, struct err *e)
{
	int r;

	s->dirty = d;
	s->disklog = dl;
	s->other = NULL;
	s->stop = s->may_go = false;
	s->kept = 0;
	s->asked = s->answered = 0;
	s->begun_ns = loop_now_ns();
	s->begun_bytes = __atomic_load_n(&s->bytes, __ATOMIC_RELAXED);
	s->begun_pages = __atomic_load_n(&s->pages, __ATOMIC_RELAXED);
	s->switch_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (s->switch_fd < 0)
		return err_sys(e, "eventfd");
	s->loop = l;
	lock_init(&s->lock);
	pthread_cond_init(&s->cond, NULL);
	s->switch_op = (struct loop_op){.fn = asked, .arg = s};
	r = loop_poll_add(l, &s->switch_op, s->switch_fd, POLLIN);
	return r ? err_set(e, r, "event loop is full") : 0;
}

void sync_done(struct sync *s)
{
	if (!s->loop)
		return;
	loop_poll_del(s->loop, &s->switch_op);
	close(s->switch_fd);
	pthread_mutex_destroy(&s->lock);
	pthread_cond_destroy(&s->cond);
	s->loop = NULL;
}

void sync_cancel(struct sync *s)
{
	if (!s->loop)
		return;
	pthread_mutex_lock(&s->lock);
	__atomic_store_n(&s->stop, true, __ATOMIC_RELEASE);
	pthread_cond_signal(&s->cond);
	pthread_mutex_unlock(&s->lock);
}

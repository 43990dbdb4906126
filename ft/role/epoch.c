/*
 * The checkpoint transaction, primary side: seal -> send -> ack -> release.
 *
 * The output rule rests on two calls here: obuf_seal()/obuf_hold() while the vCPUs are stopped, and
 * obuf_release() in epoch_acked(), which nothing but the peer's ack of that epoch leads to.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <xxhash.h>

#include "ft/role/primary.h"
#include "ft/common/steps.h"
#include "vmm/base/log.h"

/* A capture that ran out of staging memory sends what it has; the rest goes into the next job. */
struct capture_run {
	struct primary *p;
	struct send_job *job;
};

static struct capture_batch *push_part(void *arg, struct capture_batch *full)
{
	struct capture_run *run = arg;
	struct send_job *next;
	uint64_t epoch = run->job->epoch;

	run->p->ft->stats.throttled++;
	send_push(&run->p->send, run->job);
	next = send_get_job(&run->p->send);
	run->job = next;
	if (!next)
		return NULL;
	next->epoch = epoch;
	return &next->batch;
}

/* With --verify: what the peer must have after it applied this epoch. */
static void add_hashes(struct primary *p, struct send_job *j)
{
	if (!p->ft->cfg->verify)
		return;
	j->end.ram_hash = mem_hash(&p->vm->mem);
	j->end.state_hash = XXH3_64bits(j->state, j->state_len);
}

/* VM stopped: everything of epoch j->epoch goes into jobs. Negative errno: the link is lost. */
static int64_t capture_all(struct primary *p, struct send_job **job)
{
	struct capture_run run = {p, *job};
	struct capture_batch *batch = &run.job->batch;
	int64_t state_len, pages = capture_pages(&p->capture, &batch, push_part, &run);
	struct send_job *j = *job = run.job;

	if (pages < 0)
		return pages;
	if (p->disklog.failed)
		return -ENOMEM;
	state_len = vm_save(p->vm, j->state, p->send.state_cap);
	if (state_len < 0)
		return state_len;
	j->state_len = state_len;
	j->disklog = p->sent_log = disklog_cut(&p->disklog);
	j->last = true;
	j->end = (struct wire_end){.pages = pages, .disk_ops = j->disklog.count};
	add_hashes(p, j);
	return pages;
}

static void next_epoch(struct primary *p)
{
	p->epoch++;
	if (p->peer_may_run)
		obuf_seal(&p->vm->obuf, p->epoch);
	else
		obuf_hold(&p->vm->obuf, p->epoch);
	p->peer_may_run = true;
}

void epoch_seal(struct primary *p)
{
	struct send_job *job = send_get_job(&p->send);
	bool was_running = p->vm->running;
	uint64_t start, sealed = p->epoch;
	struct err e = {0};
	int64_t pages;

	if (!job) {
		primary_lost(p, "link broken");
		return;
	}
	step_reached(STEP_SEAL_BEGIN);
	job->first = true;
	job->epoch = sealed;
	start = loop_now_ns();
	if (vm_pause(p->vm, &e)) {
		log_error("%s", e.msg);
		primary_lost(p, e.msg);
		return;
	}
	step_reached(STEP_SEAL_PAUSED);
	p->in_flight = true;
	p->due = false;
	p->sealed_ns = start;
	next_epoch(p);
	pages = capture_all(p, &job);
	step_reached(STEP_SEAL_CAPTURED);
	if (pages < 0) {
		char why[120];

		/* The VM stays stopped: who may go on is decided by the arbiter now. */
		snprintf(why, sizeof(why), "epoch %llu: %s", (unsigned long long)sealed,
			 strerror(-pages));
		primary_lost(p, why);
		return;
	}
	if (was_running)
		vm_resume(p->vm);
	ft_note_epoch(p->ft, loop_now_ns() - start, pages);
	step_reached(STEP_SEAL_RESUMED);
	send_push(&p->send, job);
#ifdef BUG_RELEASE_EARLY /* planted: the tests must notice */
	obuf_release(&p->vm->obuf, sealed);
#endif
}

static void note_ack(struct primary *p)
{
	struct ft_stats *s = &p->ft->stats;

	s->ack_us[(s->nsamples - 1) % FT_SAMPLES] = (loop_now_ns() - p->sealed_ns) / 1000;
	s->page_bytes = __atomic_load_n(&p->send.page_bytes, __ATOMIC_RELAXED);
	s->hot_pages = p->capture.sent_hot;
}

static void schedule_seal(struct primary *p)
{
	uint64_t since = loop_now_ns() - p->sealed_ns;
	bool now = p->ending || since >= p->epoch_ns; /* at the end the VM stands and waits */

	loop_timer_set(p->ft->loop, &p->epoch_op, now ? 0 : p->epoch_ns - since);
}

void epoch_acked(struct primary *p, uint64_t epoch)
{
	step_reached(STEP_ACK_RECEIVED);
	obuf_release(&p->vm->obuf, epoch);
	step_reached(STEP_RELEASED);
	p->in_flight = false;
	disklog_free(&p->disklog, &p->sent_log);
	note_ack(p);
	if (p->ft->state == FT_SYNCING)
		ft_set_state(p->ft, FT_PROTECTED, NULL);
	if (p->ending && !p->due)
		primary_finish(p);
	else
		schedule_seal(p);
}

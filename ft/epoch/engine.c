#include "ft/epoch/engine.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>
#include <xxhash.h>

#include "ft/common/steps.h"

/* --- what the sender says --------------------------------------------------------------------- */

static bool is_broken(struct engine *g)
{
	bool broken;

	pthread_mutex_lock(&g->send.lock);
	broken = g->send.error != 0;
	pthread_mutex_unlock(&g->send.lock);
	return broken;
}

static void notified(struct loop_op *op, int res)
{
	struct engine *g = op->arg;
	uint64_t n;

	if (read(g->notify_fd, &n, sizeof(n)) < 0 || !g->up)
		return;
	if (is_broken(g)) {
		g->news(g->arg, ENGINE_BROKEN);
	} else if (!g->told_synced && __atomic_load_n(&g->send.synced, __ATOMIC_ACQUIRE)) {
		g->told_synced = true;
		g->news(g->arg, ENGINE_SYNCED);
	}
}

static void output_held(void *arg)
{
	struct engine *g = arg;

	g->news(g->arg, ENGINE_HOLDS);
}

/* --- seal ------------------------------------------------------------------------------------- */

/* A capture that ran out of staging memory sends what it has; the rest goes into the next job. */
struct capture_run {
	struct engine *g;
	struct send_job *job;
};

static struct capture_batch *push_part(void *arg, struct capture_batch *full)
{
	struct capture_run *run = arg;
	struct send_job *next;
	uint64_t epoch = run->job->epoch;

	run->g->ft->stats.throttled++;
	send_push(&run->g->send, run->job);
	next = send_get_job(&run->g->send);
	run->job = next;
	if (!next)
		return NULL;
	next->epoch = epoch;
	return &next->batch;
}

/* With --verify: what the peer must have after it applied this epoch. */
static void add_hashes(struct engine *g, struct send_job *j)
{
	if (!g->ft->cfg->verify)
		return;
	j->end.ram_hash = mem_hash(&g->vm->mem);
	j->end.state_hash = XXH3_64bits(j->state, j->state_len);
}

/* VM stopped: everything of epoch j->epoch goes into jobs. */
static int64_t capture_all(struct engine *g, struct send_job **job)
{
	struct capture_run run = {g, *job};
	struct capture_batch *batch = &run.job->batch;
	int64_t state_len, r, pages = capture_pages(&g->capture, &batch, push_part, &run);
	struct send_job *j = *job = run.job;

	if (pages < 0)
		return pages;
	r = disklog_cut(&g->disklog, &g->sent_log);
	if (r)
		return r;
	state_len = vm_save(g->vm, j->state, g->send.state_cap);
	if (state_len < 0)
		return state_len;
	j->state_len = state_len;
	j->disklog = g->sent_log;
	j->last = true;
	j->end = (struct wire_end){.pages = pages,
				   .disk_ops = j->disklog.count,
				   .paused = (g->ft->stands & FT_STAND_USER) != 0};
	add_hashes(g, j);
	return pages;
}

/* What the guest puts out from here on belongs to the next one. */
static void open_next(struct engine *g)
{
	g->in_flight = g->epoch++;
	if (g->vm->obuf.holding)
		obuf_seal(&g->vm->obuf, g->epoch);
	else
		obuf_hold(&g->vm->obuf, g->epoch);
}

int engine_seal(struct engine *g, struct err *e)
{
	struct send_job *job = send_get_job(&g->send);
	bool was_running = g->vm->running;
	uint64_t start = loop_now_ns();
	int64_t pages;
	int r;

	if (!job)
		return err_set(e, -EPIPE, "link broken");
	step_reached(STEP_SEAL_BEGIN);
	job->first = true;
	job->epoch = g->epoch;
	r = vm_pause(g->vm, e);
	if (r)
		return r;
	step_reached(STEP_SEAL_PAUSED);
	g->sealed_ns = start;
	open_next(g);
	pages = capture_all(g, &job);
	step_reached(STEP_SEAL_CAPTURED);
	if (pages < 0)
		return err_set(e, pages, "epoch %llu: %s", (unsigned long long)g->in_flight,
			       strerror(-pages));
	if (was_running)
		vm_resume(g->vm);
	ft_note_epoch(g->ft, loop_now_ns() - start, pages);
	step_reached(STEP_SEAL_RESUMED);
	send_push(&g->send, job);
#ifdef BUG_RELEASE_EARLY /* planted: the tests must notice */
	obuf_release(&g->vm->obuf, g->in_flight);
#endif
	return 0;
}

/* --- ack -------------------------------------------------------------------------------------- */

bool engine_awaits(const struct engine *g, uint64_t epoch)
{
	return g->in_flight && epoch == g->in_flight &&
	       epoch == __atomic_load_n(&g->send.ending, __ATOMIC_ACQUIRE);
}

static void note_ack(struct engine *g)
{
	struct ft_stats *s = &g->ft->stats;

	s->ack_us[(s->nsamples - 1) % FT_SAMPLES] = (loop_now_ns() - g->sealed_ns) / 1000;
	s->page_bytes = __atomic_load_n(&g->send.page_bytes, __ATOMIC_RELAXED);
	s->hot_pages = g->capture.sent_hot;
}

void engine_acked(struct engine *g)
{
	step_reached(STEP_ACK_RECEIVED);
	obuf_release(&g->vm->obuf, g->in_flight);
	step_reached(STEP_RELEASED);
	g->in_flight = 0;
	disklog_free(&g->disklog, &g->sent_log);
	note_ack(g);
}

/* --- begin and end ---------------------------------------------------------------------------- */

int engine_start(struct engine *g, struct stream *main, struct err *e)
{
	struct vm *vm = g->vm;
	const struct config *cfg = g->ft->cfg;
	int r;

	g->up = true;
	g->told_synced = false;
	g->epoch = vm->obuf.epoch + 1; /* numbers never repeat in the life of a VM */
	r = capture_init(&g->capture, &vm->kvm, &vm->mem, cfg->staging_bytes, e);
	if (!r)
		r = disklog_start(&g->disklog, g->ft->loop, &vm->machine, vm->devices.disks,
				  cfg->disklog_bytes, e);
	if (!r)
		r = sync_init(&g->sync, g->ft->loop, &g->capture.dirty, &g->disklog, e);
	if (r)
		return r;
	g->send = (struct send){.stream = main,
				.capture = &g->capture,
				.sync = &g->sync,
				.state_cap = vm_state_bound(vm),
				.notify_fd = g->notify_fd};
	return send_start(&g->send, e);
}

void engine_stop(struct engine *g)
{
	if (!g->up)
		return;
	/* Order: nothing may keep the sender waiting when it is joined. */
	if (g->send.stream)
		shutdown(g->send.stream->fd, SHUT_RDWR);
	sync_cancel(&g->sync);
	capture_close(&g->capture);
	send_stop(&g->send);
	sync_done(&g->sync);
	capture_done(&g->capture);
	disklog_free(&g->disklog, &g->sent_log);
	disklog_stop(&g->disklog);
	g->up = false;
	g->in_flight = 0;
}

int engine_init(struct engine *g, struct ft *ft, struct vm *vm,
		void (*news)(void *arg, enum engine_news what), void *arg, struct err *e)
{
	*g = (struct engine){.ft = ft, .vm = vm, .news = news, .arg = arg};
	g->notify_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (g->notify_fd < 0)
		return err_sys(e, "eventfd");
	g->notify_op = (struct loop_op){.fn = notified, .arg = g};
	if (loop_poll_add(ft->loop, &g->notify_op, g->notify_fd, POLLIN) < 0)
		return err_set(e, -ENOSPC, "event loop is full");
	obuf_on_held(&vm->obuf, output_held, g);
	return 0;
}

void engine_done(struct engine *g)
{
	if (!g->ft)
		return;
	engine_stop(g);
	obuf_on_held(&g->vm->obuf, NULL, NULL);
	loop_poll_del(g->ft->loop, &g->notify_op);
	if (g->notify_fd >= 0)
		close(g->notify_fd);
	g->ft = NULL;
}

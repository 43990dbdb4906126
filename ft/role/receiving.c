/* Epochs in, and what waits for the images. */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>

#include "ft/common/steps.h"
#include "ft/role/secondary_do.h"
#include "vmm/base/log.h"

#define LAST_FRAMES	32
#define DISK_QUEUE_HIGH (32u << 20)
#define DISK_QUEUE_LOW	(8u << 20)
#define COMPARE_HIGH	8u /* messages */
#define COMPARE_LOW	4u

/* --- frames ----------------------------------------------------------------------------------- */

/* An orderly end comes right after an ack: the image is to be, or the VM to run, as acknowledged.
 */
static enum secondary_event event_of(const struct secondary *s, const struct frame *f)
{
	switch (f->type) {
	case FRAME_BYE:
		return s->stage.open ? SEC_EV_MAX : SEC_EV_BYE;
	case FRAME_HAND_OVER:
		return s->stage.open ? SEC_EV_MAX : SEC_EV_HAND_OVER;
	case FRAME_GONE:
		return SEC_EV_GONE;
	case FRAME_GENERATION:
		return s->stage.open ? SEC_EV_MAX : SEC_EV_GENERATION;
	case FRAME_LEAVE:
		return s->stage.open ? SEC_EV_MAX : SEC_EV_LEAVE;
	case FRAME_DISMISS:
		return s->stage.open ? SEC_EV_MAX : SEC_EV_DISMISS;
	default:
		return SEC_EV_PART;
	}
}

static void take_frame(struct secondary *s, const struct frame *f)
{
	enum secondary_event ev = event_of(s, f);

	s->frame = f;
	if (ev == SEC_EV_MAX)
		secondary_reject(s, "message out of order");
	else if (ev == SEC_EV_HAND_OVER && !takeover_token(f))
		secondary_reject(s, "hand-over without a token");
	else
		secondary_post(s, ev);
}

static bool is_before_takeover(const struct secondary *s)
{
	switch (s->fsm.state) {
	case SEC_SYNCING:
	case SEC_STANDBY:
	case SEC_TWIN:
	case SEC_TWIN_STAGES:
		return true;
	default:
		return false;
	}
}

/*
 * Not between two epochs: what comes there instead of the next one, a goodbye or a hand-over, must
 * be seen however slow the images are.
 */
static bool too_much(const struct secondary *s)
{
	if (s->compare.count >= COMPARE_HIGH)
		return true;
	return s->disks.queue.bytes > DISK_QUEUE_HIGH && !stage_is_committing(&s->stage) &&
	       ((s->fsm.state == SEC_STANDBY && s->stage.open) || s->fsm.state == SEC_SYNCING ||
		s->fsm.state == SEC_TWIN_STAGES);
}

static void stop_reading(struct secondary *s)
{
	s->reading_stopped = true;
	loop_poll_del(s->ft->loop, &s->main_op);
}

/* All of the first epoch is in memory. Later ones need not be tried: the same parts are copied. */
static void try_first(struct secondary *s)
{
	struct err e = {0};

	if (vm_try_load(s->vm, &e))
		secondary_reject(s, e.msg);
	else
		secondary_post(s, SEC_EV_READY);
}

/* The last checkpoint is in memory, and a twin has done nothing since. */
static void at_checkpoint(struct secondary *s)
{
	if (s->stage.runs && twin_is_connected(&s->twin) && secondary_has_link(s) &&
	    s->fsm.state == SEC_STANDBY)
		secondary_post(s, SEC_EV_TWIN_DUE);
	else
		twin_end(&s->twin, s->stage.committed + 1);
}

/* It is what the primary said of it. */
static bool verified(struct secondary *s, int (*verify)(struct stage *s, struct err *e))
{
	struct err e = {0};

	if (!s->verify || !verify(&s->stage, &e))
		return true;
	snprintf(s->why, sizeof(s->why), "%s", e.msg);
	secondary_post(s, SEC_EV_UNEQUAL);
	return false;
}

/* Committed; behind that a turn at rolling the twin back, or the rest of it. */
static void roll_back_on(struct secondary *s, bool all)
{
	if (twin_roll_back(&s->twin, all) && verified(s, stage_verify_view))
		at_checkpoint(s);
}

static void trace(struct secondary *s, enum trace_what what, uint64_t from, uint64_t to)
{
	trace_span(&s->ft->trace, &(struct trace_span){from, to, s->stage.epoch, .what = what});
}

/* A turn of the commit, or the rest of it. */
static void commit_on(struct secondary *s, bool all)
{
	bool done = true;

	if (all)
		stage_commit(&s->stage);
	else
		done = stage_commit_turn(&s->stage);
	if (done)
		trace(s, TRACE_COMMIT, s->whole_ns, loop_now_ns());
	if (done && s->fsm.state == SEC_SYNCING)
		try_first(s);
	else if (done)
		roll_back_on(s, all);
}

/* One frame, or a turn of the commit that comes before it. 1: there may be more. */
static int read_one(struct secondary *s)
{
	struct frame f;
	int r;

	/* What comes next builds on it. */
	if (stage_is_committing(&s->stage)) {
		commit_on(s, false);
		return 1;
	}
	if (twin_rolls_back(&s->twin)) {
		roll_back_on(s, false);
		return 1;
	}
	r = stream_recv(&s->main, &f);
	if (r <= 0)
		return r;
	heart_heard(&s->heart);
	take_frame(s, &f);
	if (secondary_has_link(s) && too_much(s))
		stop_reading(s);
	return 1;
}

bool secondary_read(struct secondary *s)
{
	int r = 1;

	while (r == 1 && secondary_has_link(s) && !s->reading_stopped) {
		r = read_one(s);
		if (loop_should_yield(s->ft->loop))
			break;
	}
	if (r < 0 && secondary_has_link(s))
		secondary_lose(s, stream_trouble(&s->main, r));
	return r == 1 && secondary_has_link(s) && !s->reading_stopped;
}

void secondary_read_last(struct secondary *s)
{
	for (int n = 0; n < LAST_FRAMES; n++) {
		if (stage_is_committing(&s->stage))
			commit_on(s, true);
		else if (twin_rolls_back(&s->twin))
			roll_back_on(s, true);
		if (!secondary_read(s))
			return;
	}
}

/* --- epochs ----------------------------------------------------------------------------------- */

void secondary_take_part(void *arg)
{
	struct secondary *s = arg;
	struct err e = {0};
	int r;

	if (s->frame->type == FRAME_EPOCH_BEGIN)
		s->begun_ns = loop_now_ns();
	if (s->frame->type == FRAME_SUMS && s->fsm.state == SEC_SYNCING && !s->stage.open)
		r = disk_compare_push(&s->compare, s->frame, &e);
	else
		r = stage_frame(&s->stage, s->frame, &e);
	if (r < 0)
		secondary_reject(s, e.msg);
	if (r != 1)
		return;
	s->whole_ns = loop_now_ns();
	secondary_post(s, SEC_EV_WHOLE);
}

/*
 * The ack is the promise that nothing can fail any more. That this host accepts the vCPU state is
 * tried with the first epoch, before its ack.
 */
void secondary_try_first(void *arg)
{
	commit_on(arg, false); /* secondary_read() goes on with it */
}

static int acknowledge(struct secondary *s, uint64_t epoch)
{
	int r;

	step_reached(STEP_ACK_BEFORE);
	r = secondary_reply(s, FRAME_ACK, epoch, NULL);
	step_reached(STEP_ACK_SENT);
	return r;
}

/* Committed, or about to be, and acknowledged with this result. */
static bool committed(struct secondary *s, int r)
{
	s->committed_ns = s->begun_ns;
	s->ft->stats.epochs++;
	trace(s, TRACE_RECEIVE, s->begun_ns, s->whole_ns);
	if (!verified(s, stage_verify))
		return false;
	if (r < 0)
		secondary_lose(s, "ack not sent");
	return true;
}

/*
 * What came with the sync was flushed at the primary, and will not be flushed again. After a
 * takeover these images are the only ones that have it, once the old primary's are made anew: until
 * it is on the medium they count as behind.
 */
static void flush_images(struct secondary *s)
{
	if (diskapply_flush(&s->disks))
		s->disks.error = -ENOMEM;
}

void secondary_take_first(void *arg)
{
	struct secondary *s = arg;
	int r = acknowledge(s, s->stage.committed);

	flush_images(s);
	marks_ask(&s->ft->marks, s->vm, MARK_BEHIND, s->ft->generation);
	ft_set(s->ft, FT_ELSEWHERE, FT_PROTECTED, NULL);
	committed(s, r);
}

void secondary_take_epoch(void *arg)
{
	struct secondary *s = arg;
	int r = acknowledge(s, s->stage.epoch);
	bool done = true;

	if (s->stage.end.apart)
		twin_look(&s->twin);
	if (s->verify)
		stage_commit(&s->stage);
	else
		done = stage_commit_turn(&s->stage); /* secondary_read() goes on with it */
	if (done)
		trace(s, TRACE_COMMIT, s->whole_ns, loop_now_ns());
	if (committed(s, r) && done)
		roll_back_on(s, s->verify);
}

void secondary_unequal(void *arg)
{
	struct secondary *s = arg;

	log_error("%s", s->why);
	s->ft->stats.unequal++;
	if (secondary_has_link(s))
		secondary_reply(s, FRAME_REFUSE, 0, s->why);
	secondary_listen_again(s, s->why);
	if (s->ft->cfg->verify)
		s->ft->on_exit(s->ft->arg, 2);
}

void secondary_new_generation(void *arg)
{
	struct secondary *s = arg;
	struct wire_generation w = {0};

	if (s->frame->length == sizeof(w))
		memcpy(&w, s->frame->data, sizeof(w));
	if (w.generation <= s->ft->generation || w.generation >= INT64_MAX - 1) {
		secondary_reject(s, "generation out of order");
		return;
	}
	s->ft->generation = w.generation;
	s->hello.token = 0;
	step_reached(STEP_MOVE_KNOWN);
}

void secondary_let_go(void *arg)
{
	log_info("primary: has another secondary now");
	step_reached(STEP_MOVE_LET_GO);
	secondary_listen_again(arg, "primary: has another secondary now");
}

void secondary_early(void *arg)
{
	struct secondary *s = arg;
	char note[160];

	snprintf(note, sizeof(note), "primary: %.120s", s->why);
	log_warn("%s", note);
	secondary_listen_again(s, note);
}

/* --- the images ------------------------------------------------------------------------------- */

static void read_on(struct secondary *s)
{
	if (!s->reading_stopped || s->disks.queue.bytes >= DISK_QUEUE_LOW ||
	    s->compare.count >= COMPARE_LOW)
		return;
	s->reading_stopped = false;
	loop_poll_add(s->ft->loop, &s->main_op, s->main.fd, POLLIN);
	loop_work_add(s->ft->loop, &s->read_work);
}

void secondary_compared(void *arg, const struct wire_differ *w, const struct wire_blocks *pieces,
			int error)
{
	struct secondary *s = arg;
	const struct iovec iov[2] = {{(void *)w, sizeof(*w)},
				     {(void *)pieces, w->count * sizeof(*pieces)}};

	if (error) {
		log_error("disk '%s': reading it to compare it: %s",
			  s->vm->machine.devs[w->disk].id, strerror(-error));
		if (!s->disks.error) /* that its log has all does not make it whole again */
			s->disks.error = error;
		secondary_post(s, SEC_EV_IMAGE_FAILED);
	} else if (secondary_has_link(s) &&
		   stream_send(&s->main, FRAME_DIFFER, 0, iov, w->count ? 2 : 1,
			       loop_now_ns() + REPLY_NS) < 0) {
		secondary_lose(s, "answer to sums not sent");
	}
	if (is_before_takeover(s))
		read_on(s);
}

/* An entry is in its image, or failed. */
void secondary_disks_moved(void *arg)
{
	struct secondary *s = arg;

	if (s->disks.error)
		secondary_post(s, SEC_EV_IMAGE_FAILED);
	else if (diskapply_idle(&s->disks))
		secondary_post(s, SEC_EV_IMAGES);
	if (is_before_takeover(s))
		read_on(s);
}

void secondary_image_failed(void *arg)
{
	struct secondary *s = arg;

	if (secondary_has_link(s))
		secondary_reply(s, FRAME_REFUSE, 0, "the secondary's disk image failed");
	secondary_listen_again(s, "this side's disk image failed");
}

void secondary_drain(void *arg)
{
	struct secondary *s = arg;

	loop_timer_del(s->ft->loop, &s->timer_op);
	locking_forget(&s->locking, s->vm);
	stage_abort(&s->stage);
	/* The primary lets its output out, and then waits: it is the one who judges the time. */
	if (s->heart.timeout_ns < DRAIN_NS)
		s->heart.timeout_ns = DRAIN_NS;
	flush_images(s);
	if (!diskapply_idle(&s->disks))
		snprintf(s->ft->note, sizeof(s->ft->note),
			 "primary: stopped in order; %lluK of its disk writes wait for the image",
			 (unsigned long long)(s->disks.queue.bytes >> 10));
	secondary_disks_moved(s);
}

#define ALONE "primary: goes on unprotected (ft=off); this side does not take over"

/*
 * From here on this side never runs what it has: only then DONE is said. The images get the rest of
 * it all the same: they are marked as behind, and the best that is left if the primary is lost.
 */
void secondary_dismissed(void *arg)
{
	struct secondary *s = arg;

	step_reached(STEP_DISMISS_HEARD);
	secondary_reply(s, FRAME_DONE, 0, NULL);
	secondary_close_link(s);
	loop_timer_del(s->ft->loop, &s->timer_op);
	ft_set(s->ft, FT_ELSEWHERE, FT_NONE, ALONE);
	flush_images(s);
	secondary_disks_moved(s);
}

void secondary_rests(void *arg)
{
	secondary_listen_again(arg, ALONE);
}

void secondary_drained(void *arg)
{
	struct secondary *s = arg;

	step_reached(STEP_DRAINED);
	marks_ask(&s->ft->marks, s->vm, MARK_WHOLE, s->ft->generation);
	if (secondary_has_link(s))
		secondary_reply(s, FRAME_DONE, 0, NULL);
	step_reached(STEP_DONE_SAID);
	secondary_listen_again(s, "primary: stopped in order");
}

void secondary_not_drained(void *arg)
{
	struct secondary *s = arg;

	s->drain_error = s->disks.error;
	if (secondary_has_link(s))
		secondary_reply(s, FRAME_REFUSE, 0, "the secondary's disk image failed");
	secondary_listen_again(s, "primary: stopped in order, but this side's disk image failed");
}

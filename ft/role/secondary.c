#define _GNU_SOURCE
#include "ft/role/secondary.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ft/common/side.h"
#include "ft/common/steps.h"
#include "vmm/wire/chan.h"
#include "vmm/machine/fdt.h"
#include "vmm/base/log.h"

#define IDENTIFY_NS	2000000000ull /* a connection says what it is within this time */
#define HEART_NS	5000000000ull /* the heartbeat link follows the hello within this time */
#define REPLY_NS	1000000000ull
#define FRAMES_PER_TURN 32 /* then other events have their turn */
#define DISK_QUEUE_HIGH (32u << 20)
#define DISK_QUEUE_LOW	(8u << 20)
#define DRAIN_NS	30000000000ull /* the images take what waits for them within this time */

static int reply(struct stream *st, enum frame_type type, uint64_t epoch, const char *text)
{
	struct iovec iov = {(void *)text, text ? strlen(text) : 0};

	return stream_send(st, type, epoch, &iov, text ? 1 : 0, loop_now_ns() + REPLY_NS);
}

int secondary_reply(struct secondary *s, enum frame_type type, const char *text)
{
	return reply(&s->main, type, 0, text);
}

/* --- end of a session ------------------------------------------------------------------------- */

void secondary_close_links(struct secondary *s)
{
	struct loop *l = s->ft->loop;

	loop_poll_del(l, &s->main_op);
	loop_timer_del(l, &s->again_op);
	loop_timer_del(l, &s->heart_op);
	heart_stop(&s->heart);
	stream_done(&s->main);
	s->has_main = s->reading_stopped = false;
}

void secondary_listen_again(struct secondary *s, const char *why)
{
	secondary_close_links(s);
	loop_timer_del(s->ft->loop, &s->claim_op);
	arbiter_set_token(s->ft->arbiter, 0);
	if (s->has_vm) {
		s->phase = SEC_CLAIM; /* nobody new while events are served below */
		diskapply_drop(&s->disks);
		diskapply_done(&s->disks);
		vm_destroy(s->vm);
		stage_done(&s->stage);
		s->has_vm = s->ft->images_behind = false;
	}
	s->phase = SEC_LISTEN;
	s->ft->peer[0] = 0;
	ft_set_state(s->ft, FT_STARTING, why);
}

static void standby_lost(struct secondary *s, const char *why)
{
	char note[160];

	snprintf(note, sizeof(note), "primary: %.120s", why);
	log_warn("%s", note);
	s->lost_ns = loop_now_ns();
	stage_abort(&s->stage);
	secondary_close_links(s);
	if (!s->stage.committed || s->disks.error) {
		secondary_listen_again(s, note);
		return;
	}
	s->phase = SEC_CLAIM;
	ft_set_state(s->ft, FT_TAKING_OVER, note);
	takeover_claim(s);
}

void secondary_lost(struct secondary *s, const char *why)
{
	switch (s->phase) {
	case SEC_STANDBY:
		standby_lost(s, why);
		break;
	case SEC_DRAIN: /* it goes on, though nobody waits for it any more */
	case SEC_ACCEPT:
		if (s->has_main)
			log_warn("primary: %s", why);
		secondary_close_links(s);
		break;
	case SEC_HELD:
		log_warn("primary: %s; it did not say that it is gone", why);
		takeover_alone(s);
		break;
	default:
		break;
	}
}

/* --- the primary has stopped in order --------------------------------------------------------- */

static void drain_moved(struct secondary *s)
{
	if (s->disks.error) {
		if (s->has_main)
			secondary_reply(s, FRAME_REFUSE, "the secondary's disk image failed");
		secondary_listen_again(
			s, "primary: stopped in order, but this side's disk image failed");
		return;
	}
	if (!diskapply_idle(&s->disks))
		return;
	step_reached(STEP_DRAINED);
	if (s->has_main)
		secondary_reply(s, FRAME_DONE, NULL);
	step_reached(STEP_DONE_SAID);
	secondary_listen_again(s, "primary: stopped in order");
}

void secondary_drain(struct secondary *s)
{
	s->phase = SEC_DRAIN;
	/* The primary lets its output out, and then waits: it is the one who judges the time. */
	if (s->heart.timeout_ns < DRAIN_NS)
		s->heart.timeout_ns = DRAIN_NS;
	if (diskapply_flush(&s->disks))
		s->disks.error = -ENOMEM;
	if (!diskapply_idle(&s->disks))
		snprintf(s->ft->note, sizeof(s->ft->note),
			 "primary: stopped in order; %lluK of its disk writes wait for the image",
			 (unsigned long long)(s->disks.pending_bytes >> 10));
	drain_moved(s);
}

/* --- epochs ----------------------------------------------------------------------------------- */

/* A rule was broken, or this side cannot go on: tell the primary why, and drop the link. */
static void reject(struct secondary *s, const char *why)
{
	reply(&s->main, FRAME_REFUSE, 0, why);
	secondary_lost(s, why);
}

/*
 * The ack is the promise that nothing can fail any more. That this host accepts the vCPU state is
 * tried with the first epoch, before its ack; after that the same state parts are only copied.
 */
static bool take_epoch(struct secondary *s)
{
	bool first = !s->stage.committed;
	uint64_t epoch = s->stage.epoch;
	struct err e = {0};
	int r = 0;

	if (first) {
		stage_commit(&s->stage);
		r = vm_try_load(s->vm, &e);
		if (r) {
			s->stage.committed = 0;
			reject(s, e.msg);
			return false;
		}
	}
	step_reached(STEP_ACK_BEFORE);
	r = reply(&s->main, FRAME_ACK, epoch, NULL);
	step_reached(STEP_ACK_SENT);
	if (!first)
		stage_commit(&s->stage);
	s->committed_ns = s->begun_ns;
	s->ft->stats.epochs++;
	if (s->verify && stage_verify(&s->stage, &e)) {
		log_error("%s", e.msg);
		s->stage.committed = 0; /* nothing to take over with */
		if (s->ft->cfg->verify)
			s->ft->on_exit(s->ft->arg, 2);
		else
			reject(s, e.msg);
		return false;
	}
	if (first)
		ft_set_state(s->ft, FT_PROTECTED, NULL);
	if (r < 0)
		secondary_lost(s, "ack not sent");
	return r >= 0;
}

/* An orderly end comes right after an ack: the image is to be, or the VM to run, as acknowledged.
 */
static bool take_end(struct secondary *s, const struct frame *f)
{
	struct wire_hand_over w = {0};

	if (f->type == FRAME_BYE) {
		secondary_drain(s);
		return s->has_main;
	}
	if (f->length == sizeof(w))
		memcpy(&w, f->data, sizeof(w));
	if (!w.token) {
		reject(s, "hand-over without a token");
		return false;
	}
	takeover_accept(s, w.token);
	return s->has_main;
}

/* False: the session is over. */
static bool take_frame(struct secondary *s, const struct frame *f)
{
	bool at_rest = s->phase == SEC_STANDBY && s->stage.committed && !s->stage.open;
	struct err e = {0};
	int r;

	if (at_rest && (f->type == FRAME_BYE || f->type == FRAME_HAND_OVER))
		return take_end(s, f);
	if (s->phase == SEC_HELD && f->type == FRAME_GONE) {
		takeover_gone(s);
		return false;
	}
	if (s->phase != SEC_STANDBY) {
		reject(s, "message out of order");
		return false;
	}
	if (f->type == FRAME_EPOCH_BEGIN)
		s->begun_ns = loop_now_ns();
	r = stage_frame(&s->stage, f, &e);
	if (r < 0) {
		reject(s, e.msg);
		return false;
	}
	return r == 1 ? take_epoch(s) : true;
}

/*
 * Not between two epochs: what comes there instead of the next one, a goodbye or a hand-over, must
 * be seen however slow the images are.
 */
static bool too_much(const struct secondary *s)
{
	return s->phase == SEC_STANDBY && s->disks.pending_bytes > DISK_QUEUE_HIGH &&
	       (s->stage.open || !s->stage.committed);
}

static void read_main(struct secondary *s)
{
	struct frame f;
	int r = 0;

	for (int n = 0; n < FRAMES_PER_TURN && s->has_main && !s->reading_stopped; n++) {
		r = stream_recv(&s->main, &f);
		if (r <= 0)
			break;
		heart_heard(&s->heart);
		if (!take_frame(s, &f))
			return;
		if (too_much(s)) {
			s->reading_stopped = true;
			loop_poll_del(s->ft->loop, &s->main_op);
		}
	}
	if (!s->has_main || s->reading_stopped)
		return;
	if (r < 0)
		secondary_lost(s, r == -EBADMSG ? s->main.why
				  : r == -EPIPE ? "connection closed"
						: strerror(-r));
	else if (r > 0) /* the rest may be in the stream's buffer, where poll does not see it */
		loop_timer_set(s->ft->loop, &s->again_op, 0);
}

static void main_ready(struct loop_op *op, int res)
{
	read_main(op->arg);
}

/* The VM runs here; its requests waited until the log is in the images. */
static void let_disks_go(struct secondary *s)
{
	if (!diskapply_idle(&s->disks))
		return;
	s->ft->images_behind = false;
	for (unsigned i = 0; i < s->vm->machine.ndevs; i++)
		if (s->vm->disks[i].fd >= 0)
			disk_hold(&s->vm->disks[i], false);
}

static void standby_disks_moved(struct secondary *s)
{
	if (s->disks.error) {
		reject(s, "the secondary's disk image failed");
	} else if (s->reading_stopped && s->disks.pending_bytes < DISK_QUEUE_LOW) {
		s->reading_stopped = false;
		loop_poll_add(s->ft->loop, &s->main_op, s->main.fd, POLLIN);
		loop_timer_set(s->ft->loop, &s->again_op, 0);
	}
}

/* The images caught up, or one failed. */
static void disks_moved(void *arg)
{
	struct secondary *s = arg;
	struct err e = {0};

	if (s->phase == SEC_STANDBY) {
		standby_disks_moved(s);
	} else if (s->phase == SEC_DRAIN) {
		drain_moved(s);
	} else if (s->phase < SEC_HELD) {
		return; /* whoever claims looks at the error */
	} else if (!s->disks.error) {
		let_disks_go(s);
	} else if (s->phase == SEC_TAKEN) {
		/* The guest must not read what is older than what it was told is written. */
		log_error("takeover: the images here lack acknowledged writes; stopping. Start the "
			  "other side with --primary --claim: its images have them");
		vm_pause(s->vm, &e);
		s->ft->on_exit(s->ft->arg, 2);
	} else {
		secondary_listen_again(s, "this side's disk image failed");
	}
}

/* --- handshake -------------------------------------------------------------------------------- */

/* Mirrored images start as zeros: holes are not sent. */
static int clear_images(struct secondary *s, struct err *e)
{
	struct vm *vm = s->vm;

	for (unsigned i = 0; i < vm->machine.ndevs; i++) {
		const struct mdev *md = &vm->machine.devs[i];

		if (md->kind != MDEV_BLK || md->ft != DISK_FT_MIRROR)
			continue;
		if (ftruncate(vm->disks[i].fd, 0) < 0 || ftruncate(vm->disks[i].fd, md->bytes) < 0)
			return err_sys(e, "disk '%s': emptying the image for the first sync",
				       md->id);
		/* What is acknowledged must not fail for want of space. */
		if (fallocate(vm->disks[i].fd, 0, 0, md->bytes) < 0 && errno != EOPNOTSUPP)
			return err_sys(e, "disk '%s': reserving %lluM for the image", md->id,
				       (unsigned long long)(md->bytes >> 20));
	}
	return 0;
}

static int check_hello(const struct config *cfg, const struct wire_hello *h, uint32_t length,
		       struct err *e)
{
	if (h->fdt_bytes != length - sizeof(*h) || h->heartbeat_ns < 1000000 ||
	    h->heartbeat_ns > 10000000000ull || h->peer_timeout_ns < h->heartbeat_ns ||
	    h->peer_timeout_ns > 60000000000ull || h->verify > 1 || h->shared_arbiter > 1 ||
	    !h->generation || h->generation >= INT64_MAX - 1)
		return err_set(e, -EBADMSG, "hello with values out of range");
	if (h->disklog_bytes > cfg->disklog_bytes)
		return err_set(e, -EBADMSG,
			       "the primary's disk log of up to %lluM is above the limit here, "
			       "%lluM; give both sides the same --disklog-limit",
			       (unsigned long long)(h->disklog_bytes >> 20),
			       (unsigned long long)(cfg->disklog_bytes >> 20));
	return 0;
}

/*
 * What -d says here about an image binds the primary, too: it may not have one that is read-only
 * written, nor one that others use emptied for a mirror.
 */
static int check_disks(const struct config *cfg, const struct machine *m, struct err *e)
{
	for (unsigned i = 0; i < m->ndevs; i++)
		for (unsigned n = 0; n < cfg->ndisks; n++) {
			const struct mdev *md = &m->devs[i];
			const struct config_disk *cd = &cfg->disks[n];

			if (md->kind != MDEV_BLK || strcmp(md->id, cd->id))
				continue;
			if (cd->readonly && !md->readonly)
				return err_set(e, -EPERM,
					       "disk '%s' is read-only here, not at the primary",
					       md->id);
			if (cd->ft != DISK_FT_MIRROR && md->ft == DISK_FT_MIRROR)
				return err_set(e, -EPERM,
					       "disk '%s' is a mirror at the primary, not here",
					       md->id);
		}
	return 0;
}

/*
 * A takeover needs the primary's arbiter: better to learn now than then that this side has another
 * folder, or none.
 */
static int check_arbiter(struct ft *ft, const struct wire_hello *h, struct err *e)
{
	uint64_t generation = h->generation;
	struct arbiter_record rec;
	int r;

	if (arbiter_is_shared(ft->arbiter) != (h->shared_arbiter == 1))
		return err_set(
			e, -EPERM,
			"the primary runs %s an arbiter, this side %s one: both could run the "
			"VM; give both sides the same --arbiter",
			h->shared_arbiter ? "with" : "without",
			h->shared_arbiter ? "without" : "with");
	if (!arbiter_is_shared(ft->arbiter))
		return 0;
	r = arbiter_read(ft->arbiter, &rec, e);
	/* A higher one is for the claim to judge. */
	if (r || rec.generation >= generation)
		return r;
	return err_set(
		e, -EPERM,
		"the arbiter has generation %llu here, %llu at the primary; give both sides the "
		"same --arbiter",
		(unsigned long long)rec.generation, (unsigned long long)generation);
}

static int build_vm(struct secondary *s, const struct frame *f, struct wire_hello *h, struct err *e)
{
	struct machine m;
	uint64_t side;
	int r;

	if (f->length < sizeof(*h))
		return err_set(e, -EBADMSG, "short hello");
	memcpy(h, f->data, sizeof(*h));
	r = check_hello(s->ft->cfg, h, f->length, e);
	if (!r)
		r = check_arbiter(s->ft, h, e);
	if (!r)
		r = fdt_parse(f->data + sizeof(*h), h->fdt_bytes, &m, e);
	if (!r && strcmp(m.name, s->ft->cfg->name))
		r = err_set(e, -EPERM,
			    "the primary's VM is '%s', this side waits for '%s' (--name)", m.name,
			    s->ft->cfg->name);
	if (!r)
		r = check_disks(s->ft->cfg, &m, e);
	if (!r)
		r = vm_create(s->vm, s->ft->loop, &m, s->ft->cfg, e);
	if (r)
		return r;
	s->has_vm = true;
	r = side_identity(s->ft->cfg, &side, e);
	if (r)
		return r;
	arbiter_set_side(s->ft->arbiter, side);
	r = clear_images(s, e);
	if (!r && (diskapply_init(&s->disks, &s->vm->machine, s->vm->disks, disks_moved, s) ||
		   stage_init(&s->stage, s->vm, &s->disks, h->disklog_bytes)))
		r = err_set(e, -ENOMEM, "staging: out of memory");
	return r;
}

static void heart_late(struct loop_op *op, int res)
{
	reject(op->arg, "no heartbeat link");
}

static void take_hello(struct secondary *s, struct pending_conn *pc, const struct frame *f)
{
	struct wire_hello h;
	struct err e = {0};
	int r = build_vm(s, f, &h, &e);

	s->main = pc->stream;
	memset(&pc->stream, 0, sizeof(pc->stream));
	pc->stream.fd = -1;
	s->has_main = true;
	chan_set_options(s->main.fd, 5000);
	step_reached(STEP_HELLO_RECEIVED);
	if (!r && reply(&s->main, FRAME_WELCOME, 0, NULL) < 0)
		r = err_set(&e, -EPIPE, "primary went away in the handshake");
	if (r) {
		/* Once, not at every try. */
		if (strcmp(e.msg, s->last_refused))
			log_warn("primary refused: %s", e.msg);
		snprintf(s->last_refused, sizeof(s->last_refused), "%s", e.msg);
		reply(&s->main, FRAME_REFUSE, 0, e.msg);
		secondary_listen_again(s, e.msg);
		return;
	}
	s->ft->generation = h.generation;
	s->verify = h.verify;
	s->phase = SEC_STANDBY;
	s->heart.interval_ns = h.heartbeat_ns;
	s->heart.timeout_ns = h.peer_timeout_ns;
	snprintf(s->ft->peer, sizeof(s->ft->peer), "%s", s->vm->machine.name);
	ft_set_state(s->ft, FT_SYNCING, NULL);
	s->main_op = (struct loop_op){.fn = main_ready, .arg = s};
	s->again_op = (struct loop_op){.fn = main_ready, .arg = s};
	s->heart_op = (struct loop_op){.fn = heart_late, .arg = s};
	loop_timer_set(s->ft->loop, &s->heart_op, HEART_NS);
	loop_poll_add(s->ft->loop, &s->main_op, s->main.fd, POLLIN);
	loop_timer_set(s->ft->loop, &s->again_op, 0);
}

/* What the primary's last word was may be seen after the end of its other link. */
static void primary_silent(void *arg, const char *why)
{
	struct secondary *s = arg;

	if (s->phase == SEC_STANDBY)
		read_main(s);
	if (s->phase != SEC_DRAIN)
		secondary_lost(s, why);
}

static void take_heart(struct secondary *s, struct pending_conn *pc)
{
	struct heart *h = &s->heart;

	loop_timer_del(s->ft->loop, &s->heart_op);
	h->lost = primary_silent;
	h->trusted = NULL;
	h->arg = s;
	chan_set_options(pc->stream.fd, 5000);
	if (heart_start(h, s->ft->loop, &pc->stream, h->interval_ns, h->timeout_ns))
		secondary_lost(s, "heartbeat link failed");
}

/* --- connections that have not said yet what they are ----------------------------------------- */

static void drop_pending(struct pending_conn *pc)
{
	struct loop *l = pc->owner->ft->loop;

	loop_poll_del(l, &pc->read_op);
	loop_timer_del(l, &pc->timer_op);
	stream_done(&pc->stream);
	pc->used = false;
}

static void identify(struct loop_op *op, int res)
{
	struct pending_conn *pc = op->arg;
	struct secondary *s = pc->owner;
	struct frame f;
	int r = stream_recv(&pc->stream, &f);

	if (r == 0)
		return;
	pc->since_ns = UINT64_MAX; /* events may be served below: not the one to make room */
	loop_poll_del(s->ft->loop, &pc->read_op);
	loop_timer_del(s->ft->loop, &pc->timer_op);
	if (r == 1 && pc->stream.link == STREAM_MAIN && f.type == FRAME_HELLO &&
	    s->phase == SEC_LISTEN)
		take_hello(s, pc, &f);
	else if (r == 1 && pc->stream.link == STREAM_HEART && f.type == FRAME_HEART &&
		 s->phase == SEC_STANDBY && !s->heart.loop && pc->stream.session == s->main.session)
		take_heart(s, pc);
	else
		log_warn("connection dropped: %s",
			 r == -EBADMSG ? pc->stream.why
				       : "not a primary, or this side is busy with another one");
	drop_pending(pc);
}

static void identify_late(struct loop_op *op, int res)
{
	log_warn("connection dropped: it did not say what it is");
	drop_pending(op->arg);
}

/*
 * Whoever is a primary says so at once: when all places are taken, the connection that has been
 * silent for longest makes room, so that silent ones cannot keep the primary out.
 */
static struct pending_conn *free_pending(struct secondary *s)
{
	struct pending_conn *oldest = &s->pending[0];

	for (unsigned i = 0; i < SECONDARY_MAX_PENDING; i++) {
		if (!s->pending[i].used)
			return &s->pending[i];
		if (s->pending[i].since_ns < oldest->since_ns)
			oldest = &s->pending[i];
	}
	drop_pending(oldest);
	return oldest;
}

static void accept_one(struct loop_op *op, int res)
{
	struct secondary *s = op->arg;
	struct err e = {0};
	int fd = chan_accept(s->listen_fd, &e);
	struct pending_conn *pc;

	if (fd < 0)
		return;
	if (s->phase == SEC_TAKEN) {
		close(fd);
		return;
	}
	pc = free_pending(s);
	*pc = (struct pending_conn){.owner = s, .used = true, .since_ns = loop_now_ns()};
	pc->read_op = (struct loop_op){.fn = identify, .arg = pc};
	pc->timer_op = (struct loop_op){.fn = identify_late, .arg = pc};
	stream_init(&pc->stream, fd, STREAM_ANY, 0);
	loop_poll_add(s->ft->loop, &pc->read_op, fd, POLLIN);
	loop_timer_set(s->ft->loop, &pc->timer_op, IDENTIFY_NS);
}

/* --- interface -------------------------------------------------------------------------------- */

int secondary_start(struct secondary *s, struct ft *ft, struct vm *vm, struct err *e)
{
	struct chan_uri uri;
	int r = chan_parse(ft->cfg->listen, &uri, e);

	memset(s, 0, sizeof(*s));
	s->ft = ft;
	s->vm = vm;
	s->main.fd = s->listen_fd = -1;
	if (r)
		return r;
	s->listen_fd = chan_listen(&uri, e);
	if (s->listen_fd < 0)
		return s->listen_fd;
	s->listen_op = (struct loop_op){.fn = accept_one, .arg = s};
	return loop_poll_add(ft->loop, &s->listen_op, s->listen_fd, POLLIN);
}

/*
 * What was acknowledged is not thrown away with the process: it may be all that is left of it. The
 * links stay only for a primary that waits to hear that its stop is done.
 */
static int drain_at_end(struct secondary *s)
{
	uint64_t until = loop_now_ns() + DRAIN_NS;

	if (s->phase != SEC_DRAIN) {
		secondary_close_links(s);
		s->phase = SEC_CLAIM; /* what happens below is nobody's business any more */
	}
	if (!diskapply_idle(&s->disks))
		log_info("%llu bytes of acknowledged disk writes go to the image first",
			 (unsigned long long)s->disks.pending_bytes);
	while (s->has_vm && !diskapply_idle(&s->disks) && loop_now_ns() < until)
		loop_run_once(s->ft->loop, 100000000ull);
	if (!s->has_vm || (diskapply_idle(&s->disks) && !s->disks.error))
		return 0;
	log_error("the image does not take them: it lacks acknowledged disk writes (%llu bytes "
		  "still wait); start the other side",
		  (unsigned long long)s->disks.pending_bytes);
	return -EIO;
}

/* What this side runs, or just ran, has its acknowledged writes in the image, or said that not. */
static void drop_disks(struct secondary *s)
{
	if (s->phase != SEC_TAKEN || s->ft->images_behind) {
		s->phase = SEC_CLAIM; /* the requests of the guest that wait do not go out */
		diskapply_drop(&s->disks);
	}
	diskapply_done(&s->disks);
	stage_done(&s->stage);
}

int secondary_stop(struct secondary *s)
{
	bool runs = s->phase == SEC_HELD || s->phase == SEC_CONFIRM;
	struct err e = {0};
	int r = 0;

	if (!s->ft)
		return 0;
	loop_timer_del(s->ft->loop, &s->claim_op);
	if (runs && vm_pause(s->vm, &e))
		log_error("%s", e.msg);
	if (s->has_vm && (runs || (s->stage.committed && s->phase <= SEC_ACCEPT)))
		r = drain_at_end(s);
	secondary_close_links(s);
	for (unsigned i = 0; i < SECONDARY_MAX_PENDING; i++)
		if (s->pending[i].used)
			drop_pending(&s->pending[i]);
	loop_timer_del(s->ft->loop, &s->announce_op);
	loop_poll_del(s->ft->loop, &s->listen_op);
	if (s->listen_fd >= 0)
		close(s->listen_fd);
	if (s->has_vm)
		drop_disks(s);
	s->ft = NULL;
	return r;
}

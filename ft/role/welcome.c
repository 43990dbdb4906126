/* Become the primary's machine: check its HELLO, build the VM, answer. */
#define _GNU_SOURCE /* fallocate, SEEK_DATA */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "ft/common/side.h"
#include "ft/common/steps.h"
#include "ft/role/secondary_do.h"
#include "vmm/base/log.h"
#include "vmm/vm/twin.h"
#include "vmm/wire/chan.h"

#define HEART_NS 5000000000ull /* the heartbeat link follows the hello within this time */

/* An image with data may be an older one of this VM: then little of it differs. */
static int look_at_images(struct secondary *s, struct err *e)
{
	struct vm *vm = s->vm;
	uint32_t mirrored = 0;

	s->kept = 0;
	for (unsigned i = 0; i < vm->machine.ndevs; i++) {
		const struct mdev *md = &vm->machine.devs[i];
		int fd = vm->devices.disks[i].fd;

		if (md->kind != MDEV_BLK || md->ft != DISK_FT_MIRROR)
			continue;
		mirrored |= 1u << i;
		/* A primary of before leaves zeros out. */
		if (!s->hello.sums && (ftruncate(fd, 0) < 0 || ftruncate(fd, md->bytes) < 0))
			return err_sys(e, "disk '%s': emptying the image for the first sync",
				       md->id);
		if (lseek(fd, 0, SEEK_DATA) >= 0 || errno != ENXIO)
			s->kept |= 1u << i;
		/* What is acknowledged must not fail for want of space. */
		if (fallocate(fd, 0, 0, md->bytes) < 0 && errno != EOPNOTSUPP)
			return err_sys(e, "disk '%s': reserving %lluM for the image", md->id,
				       (unsigned long long)(md->bytes >> 20));
	}
	s->compare.told = secondary_compared;
	s->compare.arg = s;
	if (disk_compare_init(&s->compare, s->ft->loop, vm->devices.disks, mirrored,
			      s->main.session))
		return err_set(e, -ENOMEM, "disk sums: out of memory");
	return 0;
}

/* The primary has the locks: nobody's image is another one. */
static int check_shared(const struct secondary *s, struct err *e)
{
	const struct vm *vm = s->vm;

	for (unsigned i = 0; i < vm->machine.ndevs; i++) {
		const struct mdev *md = &vm->machine.devs[i];

		if (machine_is_shared(md) && !disk_is_elsewhere(&vm->devices.disks[i]))
			return err_set(e, -EPERM,
				       "disk '%s': nobody has the image here locked, so it is not "
				       "the one that the primary has; ft=shared is for one image "
				       "that both hosts see",
				       md->id);
	}
	return 0;
}

static int check_hello(const struct config *cfg, const struct wire_hello *h, uint32_t length,
		       struct err *e)
{
	if (h->fdt_bytes != length - sizeof(*h) || h->heartbeat_ns < 1000000 ||
	    h->heartbeat_ns > 10000000000ull || h->peer_timeout_ns < h->heartbeat_ns ||
	    h->peer_timeout_ns > 60000000000ull || h->verify > 1 || h->shared_arbiter > 1 ||
	    h->sums > 1 || !h->generation || h->generation >= INT64_MAX - 1)
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
 * A mirror becomes the primary's: not an image that others use. One that is shared is not sent: it
 * must be the primary's.
 */
static int check_disks(const struct config *cfg, const struct machine *m, struct err *e)
{
	for (unsigned i = 0; i < m->ndevs; i++)
		for (unsigned n = 0; n < cfg->ndisks; n++) {
			const struct mdev *md = &m->devs[i];
			const struct config_disk *cd = &cfg->disks[n];

			if (md->kind != MDEV_BLK || strcmp(md->id, cd->id))
				continue;
			if (cd->ft != md->ft && !md->readonly)
				return err_set(e, -EPERM,
					       "disk '%s' is ft=%s at the primary, not here",
					       md->id, disk_ft_name(md->ft));
		}
	return 0;
}

static int check_machine(struct secondary *s, const uint8_t *fdt, struct err *e)
{
	const struct config *cfg = s->ft->cfg;
	int r = twin_parse(&s->asked_for, cfg, fdt, s->hello.fdt_bytes, e);

	if (r)
		return r;
	if (strcmp(s->asked_for.name, cfg->name))
		return err_set(e, -EPERM,
			       "the primary's VM is '%s', this side waits for '%s' (--name)",
			       s->asked_for.name, cfg->name);
	return check_disks(cfg, &s->asked_for, e);
}

static int check_arbiter(const struct secondary *s, struct err *e)
{
	bool theirs = s->hello.shared_arbiter, ours = arbiter_is_shared(s->ft->arbiter);

	if (theirs == ours)
		return 0;
	return err_set(e, -EPERM,
		       "the primary runs %s an arbiter, this side %s one: both could run the VM; "
		       "give both sides the same --arbiter",
		       theirs ? "with" : "without", ours ? "with" : "without");
}

static int check(struct secondary *s, const struct frame *f, struct err *e)
{
	int r;

	if (f->length < sizeof(s->hello))
		return err_set(e, -EBADMSG, "short hello");
	memcpy(&s->hello, f->data, sizeof(s->hello));
	r = check_hello(s->ft->cfg, &s->hello, f->length, e);
	if (!r)
		r = check_arbiter(s, e);
	return r ? r : check_machine(s, f->data + sizeof(s->hello), e);
}

static void does_not_fit(struct secondary *s, const char *why)
{
	snprintf(s->why, sizeof(s->why), "%s", why);
	secondary_post(s, SEC_EV_UNFIT);
}

void secondary_refuse(void *arg)
{
	struct secondary *s = arg;
	char why[sizeof(s->why)];

	memcpy(why, s->why, sizeof(why));
	/* Once, not at every try. */
	if (strcmp(why, s->last_refused))
		log_warn("primary refused: %s", why);
	memcpy(s->last_refused, why, sizeof(why));
	secondary_reply(s, FRAME_REFUSE, 0, why);
	secondary_listen_again(s, why);
}

/* --- is it the same arbiter? ------------------------------------------------------------------ */

static void answered(void *arg, const struct arbiter_answer *a)
{
	struct secondary *s = arg;
	uint64_t here = a->last.generation, there = s->hello.generation;
	struct err e = {0};

	s->theirs = a->last;
	/* A higher one is for the claim to judge. */
	if (!a->code && here >= there) {
		secondary_post(s, SEC_EV_FITS);
		return;
	}
	err_set(&e, -EPERM,
		"the arbiter has generation %llu here, %llu at the primary; give both sides the "
		"same --arbiter",
		(unsigned long long)here, (unsigned long long)there);
	does_not_fit(s, a->code ? a->err.msg : e.msg);
}

/*
 * A takeover needs the primary's arbiter: better to learn now than then that this side has another
 * folder, or none.
 */
static void ask_arbiter(struct secondary *s)
{
	struct arbiter *a = s->ft->arbiter;

	if (!arbiter_is_shared(a))
		secondary_post(s, SEC_EV_FITS);
	else if (arbiter_ask_read(a, answered, s))
		does_not_fit(s, "arbiter: cannot be asked now");
}

/*
 * What it says next is for whoever has the VM; that it has gone is for now. One that only says no
 * more still gets its answer.
 */
static void gone(struct loop_op *op, int res)
{
	secondary_lose(op->arg, "went away in the handshake");
}

void secondary_hello(void *arg)
{
	struct secondary *s = arg;
	struct err e = {0};
	int r = check(s, s->frame, &e);

	door_take(s->caller, &s->main);
	chan_set_options(s->main.fd, FT_MAIN_TIMEOUT_MS);
	step_reached(STEP_HELLO_RECEIVED);
	s->main_op = (struct loop_op){.fn = gone, .arg = s};
	if (!r && loop_poll_add(s->ft->loop, &s->main_op, s->main.fd, POLLHUP))
		r = err_set(&e, -ENOSPC, "event loop is full");
	if (r)
		does_not_fit(s, e.msg);
	else
		ask_arbiter(s);
}

/* --- the VM ----------------------------------------------------------------------------------- */

static int build_vm(struct secondary *s, struct err *e)
{
	struct backends b;
	uint64_t side;
	int r;

	config_to_backends(s->ft->cfg, &b);
	r = vm_create(s->vm, s->ft->loop, &s->asked_for, &b, e);
	if (r)
		return r;
	s->has_vm = true;
	r = check_shared(s, e);
	if (!r)
		r = side_identity(s->ft->cfg, &side, e);
	if (r)
		return r;
	arbiter_set_side(s->ft->arbiter, side);
	r = look_at_images(s, e);
	if (!r && (diskapply_init(&s->disks, &s->vm->machine, s->vm->devices.disks,
				  secondary_disks_moved, s) ||
		   stage_init(&s->stage, s->vm, &s->disks, s->hello.disklog_bytes)))
		r = err_set(e, -ENOMEM, "staging: out of memory");
	return r;
}

static void marked(void *arg, const struct err *e)
{
	struct secondary *s = arg;

	if (e->code)
		does_not_fit(s, e->msg);
	else
		secondary_post(s, SEC_EV_BUILT);
}

/* Before the first byte of another one is in an image: neither may be started for the other. */
void secondary_build(void *arg)
{
	struct secondary *s = arg;
	struct err e = {0};
	int r = build_vm(s, &e);

	if (!r)
		r = marks_ask_first(&s->ft->marks, s->vm, MARK_HALF, s->hello.generation, marked,
				    s);
	if (r)
		does_not_fit(s, e.code ? e.msg : "the images cannot be marked now");
}

static bool read_turn(struct loop_work *w)
{
	return secondary_read(w->arg);
}

static void main_ready(struct loop_op *op, int res)
{
	struct secondary *s = op->arg;

	loop_work_add(s->ft->loop, &s->read_work);
}

void secondary_welcome(void *arg)
{
	struct secondary *s = arg;

	loop_poll_del(s->ft->loop, &s->main_op);
	if (secondary_say_welcome(s) < 0) {
		secondary_lose(s, "went away in the handshake");
		return;
	}
	s->ft->generation = s->hello.generation;
	s->verify = s->hello.verify;
	s->heart.interval_ns = s->hello.heartbeat_ns;
	s->heart.timeout_ns = s->hello.peer_timeout_ns;
	snprintf(s->ft->peer, sizeof(s->ft->peer), "%s", s->vm->machine.name);
	ft_set(s->ft, FT_ELSEWHERE, FT_SYNCING, NULL);
	s->main_op = (struct loop_op){.fn = main_ready, .arg = s};
	s->read_work = (struct loop_work){.fn = read_turn, .arg = s};
	secondary_timer(s, HEART_NS);
	loop_poll_add(s->ft->loop, &s->main_op, s->main.fd, POLLIN);
	loop_work_add(s->ft->loop, &s->read_work); /* it may be in the stream's buffer already */
}

void secondary_no_heart(void *arg)
{
	secondary_reject(arg, "no heartbeat link");
}

/* What the primary's last word was may be seen after the end of its other link. */
static void primary_silent(void *arg, const char *why)
{
	struct secondary *s = arg;

	secondary_read_last(s);
	if (s->fsm.state != SEC_DRAIN)
		secondary_lose(s, why);
}

void secondary_begin_heart(void *arg)
{
	struct secondary *s = arg;
	struct heart *h = &s->heart;

	loop_timer_del(s->ft->loop, &s->timer_op);
	h->lost = primary_silent;
	h->trusted = NULL;
	h->arg = s;
	chan_set_options(s->caller->stream.fd, FT_HEART_TIMEOUT_MS);
	if (heart_start(h, s->ft->loop, &s->caller->stream, h->interval_ns, h->timeout_ns))
		secondary_lose(s, "heartbeat link failed");
}

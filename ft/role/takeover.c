/*
 * Takeover: the primary is lost and this side holds a committed epoch. Claim, load registers and
 * devices, plug the network in, let the vCPUs go, announce. Disk requests wait until the log of the
 * committed epochs is in the images.
 *
 * A hand-over is the same, but the primary lives, and takes the VM back when it hears nothing: all
 * output, announcements too, is held until it has said that it is gone, or a second claim is won.
 */
#include <errno.h>
#include <string.h>

#include "devices/device.h"
#include "devices/virtio_net.h"
#include "ft/role/secondary.h"
#include "ft/common/steps.h"
#include "vmm/base/log.h"

#define RETRY_NS       500000000ull
#define GONE_NS	       5000000000ull /* the old side has answered by then, or never will */
#define ANNOUNCE_COUNT 5	     /* switches lose frames: say it again, ever later */
#define ANNOUNCE_NS    50000000ull

void takeover_announce(struct secondary *s)
{
	struct vm *vm = s->vm;

	for (unsigned i = 0; i < vm->machine.ndevs; i++)
		if (vm->machine.devs[i].kind == MDEV_NET)
			virtio_net_announce(vm->mdevs[i]);
	if (++s->announces < ANNOUNCE_COUNT)
		loop_timer_set(s->ft->loop, &s->announce_op, ANNOUNCE_NS << s->announces);
}

static void ask_guest_to_announce(struct vm *vm)
{
	for (unsigned i = 0; i < vm->machine.ndevs; i++)
		if (vm->machine.devs[i].kind == MDEV_NET)
			virtio_net_ask_announce(vm->mdevs[i]);
}

static void announce_again(struct loop_op *op, int res)
{
	takeover_announce(op->arg);
}

static void plug_network(struct vm *vm)
{
	struct err e = {0};

	for (unsigned i = 0; i < vm->machine.ndevs; i++)
		if (vm->machine.devs[i].kind == MDEV_NET && netdev_link(&vm->nets[i], true, &e))
			log_error("%s", e.msg);
	e = (struct err){0};
	if (vsock_host_listen(&vm->vsock, &e))
		log_error("%s", e.msg);
}

static void hold_disks(struct secondary *s)
{
	s->ft->images_behind = !diskapply_idle(&s->disks);
	for (unsigned i = 0; i < s->vm->machine.ndevs && !diskapply_idle(&s->disks); i++)
		if (s->vm->machine.devs[i].kind == MDEV_BLK &&
		    s->vm->machine.devs[i].ft == DISK_FT_MIRROR)
			disk_hold(&s->vm->disks[i], true);
}

/* The VM is this side's: it speaks for the guest from here on. */
static void own(struct secondary *s)
{
	struct ft *ft = s->ft;

	s->phase = SEC_TAKEN;
	secondary_close_links(s);
	loop_timer_del(ft->loop, &s->claim_op);
	ft->peer[0] = 0;
	ft_set_state(ft, FT_DEGRADED, "took over");
	stage_done(&s->stage);
	s->taken_over(s->arg);
	obuf_pass(&s->vm->obuf);
	s->announce_op = (struct loop_op){.fn = announce_again, .arg = s};
	takeover_announce(s);
	ask_guest_to_announce(s->vm);
	device_signal(s->vm->end_fd); /* an end of the guest that nobody was told of */
}

/* Time does not stand still for the guest: it goes on by this side's clock. */
static int load_here(struct secondary *s, struct err *e)
{
	int r;

	step_reached(STEP_TAKEOVER_LOAD);
	hold_disks(s);
	r = vm_load(s->vm, loop_now_ns() - s->committed_ns, e);
	if (r)
		return r;
	vm_new_generation(s->vm);
	step_reached(STEP_TAKEOVER_LINK);
	plug_network(s->vm);
	return 0;
}

static void start_here(struct secondary *s)
{
	vm_start(s->vm);
	s->ft->stats.first_run_mono_ns = loop_now_ns();
	s->ft->stats.takeover_ns = s->ft->stats.first_run_mono_ns - s->lost_ns;
	step_reached(STEP_TAKEOVER_RUN);
}

static void claim_again(struct loop_op *op, int res)
{
	struct secondary *s = op->arg;

	if (s->phase == SEC_HELD)
		secondary_lost(s, "no answer in time");
	else
		takeover_claim(s);
}

static void claim_in(struct secondary *s, uint64_t delay_ns)
{
	s->claim_op = (struct loop_op){.fn = claim_again, .arg = s};
	loop_timer_set(s->ft->loop, &s->claim_op, delay_ns);
}

/* Claimed after a loss. */
static void take(struct secondary *s)
{
	struct err e = {0};

	if (load_here(s, &e)) {
		/* Tried with the first epoch; a host that changes its mind leaves nothing to run.
		 */
		log_error("takeover: %s", e.msg);
		s->ft->on_exit(s->ft->arg, 2);
		return;
	}
	start_here(s);
	own(s);
}

/* Claimed for a hand-over. */
static void take_held(struct secondary *s)
{
	struct err e = {0};

	if (!s->has_main) { /* the primary may take the VM back by now: ask before anything runs */
		s->phase = SEC_CLAIM;
		takeover_claim(s);
		return;
	}
	obuf_hold(&s->vm->obuf, s->vm->obuf.epoch + 1);
	if (load_here(s, &e)) {
		log_error("takeover: %s", e.msg);
		secondary_reply(s, FRAME_REFUSE, e.msg);
		secondary_listen_again(s, e.msg);
		return;
	}
	s->phase = SEC_HELD;
	start_here(s);
	claim_in(s, GONE_NS);
	if (secondary_reply(s, FRAME_RUNS, NULL) < 0)
		secondary_lost(s, "connection broken");
	else
		step_reached(STEP_RUNS_SAID);
}

/* Claimed again, as the old side did not say that it is gone. */
static void go_on(struct secondary *s)
{
	if (!s->vm->running)
		vm_resume(s->vm);
	own(s);
}

void takeover_gone(struct secondary *s)
{
	step_reached(STEP_GONE_HEARD);
	own(s);
}

void takeover_alone(struct secondary *s)
{
	struct err e = {0};

	s->phase = SEC_CONFIRM;
	secondary_close_links(s);
	if (vm_pause(s->vm, &e))
		log_error("%s", e.msg);
	takeover_claim(s);
}

void takeover_accept(struct secondary *s, uint64_t token)
{
	log_info("primary: hands over");
	s->lost_ns = loop_now_ns();
	s->phase = SEC_ACCEPT;
	arbiter_set_token(s->ft->arbiter, token);
	ft_set_state(s->ft, FT_TAKING_OVER, "primary: hands over");
	takeover_claim(s);
}

void takeover_claim(struct secondary *s)
{
	struct ft *ft = s->ft;
	struct err e = {0};
	uint64_t gen = 0;
	int r;

	step_reached(STEP_TAKEOVER_CLAIM);
	if (s->disks.error) {
		secondary_listen_again(s, "this side's disk image failed");
		return;
	}
	r = arbiter_claim(ft->arbiter, ft->generation, ARBITER_GO_ON, &gen, &e);
	if (r == -ESTALE) {
		secondary_listen_again(s, "the other side goes on");
	} else if (r == -ECANCELED) {
		/* The goodbye was lost with the link: what was stopped is not to run again. */
		secondary_drain(s);
	} else if (r) {
		ft_set_state(ft, FT_TAKING_OVER, e.msg);
		claim_in(s, RETRY_NS);
	} else {
		ft->generation = gen;
		arbiter_set_token(ft->arbiter, 0); /* the next claim is for good */
		if (s->phase == SEC_CLAIM)
			take(s);
		else if (s->phase == SEC_ACCEPT)
			take_held(s);
		else
			go_on(s);
	}
}

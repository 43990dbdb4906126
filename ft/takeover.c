/*
 * Takeover: the primary is lost and this side holds a committed epoch. Claim, load registers and
 * devices, plug the network in, let the vCPUs go, announce. Disk requests wait until the log of the
 * committed epochs is in the images.
 */
#include <errno.h>
#include <string.h>

#include "devices/virtio_net.h"
#include "ft/secondary.h"
#include "ft/steps.h"
#include "vmm/log.h"

#define RETRY_NS       500000000ull
#define ANNOUNCE_COUNT 5 /* switches lose frames: say it again, ever later */
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

static void run_here(struct secondary *s)
{
	struct ft *ft = s->ft;
	struct err e = {0};

	step_reached(STEP_TAKEOVER_LOAD);
	/* Time does not stand still for the guest: it goes on by this side's clock. */
	if (vm_load(s->vm, loop_now_ns() - s->committed_ns, &e)) {
		/* Tried with the first epoch; a host that changes its mind leaves nothing to run.
		 */
		log_error("takeover: %s", e.msg);
		ft->on_exit(ft->arg, 2);
		return;
	}
	vm_new_generation(s->vm);
	step_reached(STEP_TAKEOVER_LINK);
	plug_network(s->vm);
	s->phase = SEC_TAKEN;
	ft->peer[0] = 0;
	vm_start(s->vm);
	ft->stats.first_run_mono_ns = loop_now_ns();
	ft->stats.takeover_ns = ft->stats.first_run_mono_ns - s->lost_ns;
	step_reached(STEP_TAKEOVER_RUN);
	s->announce_op = (struct loop_op){.fn = announce_again, .arg = s};
	takeover_announce(s);
	ask_guest_to_announce(s->vm);
	ft_set_state(ft, FT_DEGRADED, "took over");
	stage_done(&s->stage);
	s->taken_over(s->arg);
}

static void claim_again(struct loop_op *op, int res)
{
	takeover_claim(op->arg);
}

/* The goodbye may have been lost with the link: what was stopped is not to run again. */
static bool stopped_in_order(struct ft *ft)
{
	struct arbiter_record rec;

	return !arbiter_read(ft->arbiter, &rec, NULL) && rec.generation == ft->generation &&
	       rec.released;
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
	if (stopped_in_order(ft)) {
		secondary_listen_again(s, "the primary stopped in order");
		return;
	}
	r = arbiter_claim(ft->arbiter, ft->generation, &gen, &e);
	if (r == -ESTALE) {
		secondary_listen_again(s, "the other side goes on");
		return;
	}
	if (r) {
		ft_set_state(ft, FT_TAKING_OVER, e.msg);
		s->claim_op = (struct loop_op){.fn = claim_again, .arg = s};
		loop_timer_set(ft->loop, &s->claim_op, RETRY_NS);
		return;
	}
	ft->generation = gen;
	hold_disks(s);
	run_here(s);
}

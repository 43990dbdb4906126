/*
 * --on-disk-error failover: what an image fails on the side that runs the guest, the other side may
 * do. The guest does not hear of it: the request stays in flight, the VM is handed over, and there
 * it is done again. When nobody takes the VM, the guest is told after all.
 */
#include <errno.h>
#include <string.h>

#include "vmm/base/log.h"
#include "vmm/cli/run.h"

/* The first that was kept is the last here: their order says nothing. */
static void give_back(struct run *r, bool canceled)
{
	while (r->kept) {
		struct disk_req *one = r->kept;

		r->kept = one->kept;
		disk_fail(one, canceled ? -ECANCELED : one->res);
	}
}

static void give_back_now(struct loop_op *op, int res)
{
	give_back(op->arg, false);
}

/* Not from inside what tells this side so. */
static void give_back_soon(struct run *r)
{
	r->kept_op = (struct loop_op){.fn = give_back_now, .arg = r};
	loop_timer_set(&r->loop, &r->kept_op, 0);
}

static void handing(void *arg, int code, const struct err *e)
{
	if (!code)
		return;
	log_error("%s: the guest is told that its disk failed", e->msg);
	give_back_soon(arg);
}

static bool failed(void *arg, struct disk_req *one, int res)
{
	struct run *r = arg;
	struct err e = {0};

	/* One that somebody else has asked for does as well. */
	if (!r->kept && !primary_is_asked(&r->primary)) {
		log_error("disk %s: %s at %llu: %s; handing the VM over", one->disk->id,
			  disk_op_name(one->kind), (unsigned long long)one->off, strerror(-res));
		if (primary_hand_over(&r->primary, handing, r, &e)) {
			log_error("%s", e.msg);
			return false;
		}
	}
	one->res = res;
	one->kept = r->kept;
	r->kept = one;
	return true;
}

void run_disk_watch(struct run *r)
{
	for (unsigned i = 0; i < r->vm.machine.ndevs; i++) {
		struct disk *d = &r->vm.devices.disks[i];

		if (r->cfg.on_disk_error != DISK_ERROR_FAILOVER ||
		    r->vm.machine.devs[i].kind != MDEV_BLK)
			continue;
		d->failed = failed;
		d->failed_arg = r;
	}
}

void run_disk_state_changed(struct run *r)
{
	if (r->kept && r->ft.life == FT_HERE && r->ft.cover != FT_PROTECTED && !r->over)
		give_back_soon(r);
}

void run_disk_stop(struct run *r)
{
	if (!r->kept)
		return;
	loop_timer_del(&r->loop, &r->kept_op);
	give_back(r, true);
}

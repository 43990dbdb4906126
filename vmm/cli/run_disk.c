/*
 * What an image does not do is told: an event, its state. --on-disk-error failover: what an image
 * fails on the side that runs the guest, the other side may do. The guest does not hear of it: the
 * request stays in flight, the VM is handed over, and there it is done again. When nobody takes the
 * VM, the guest is told after all.
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

/* It is this host that speaks, not the guest: said at once, and no more often than the log says it.
 */
static void told(void *arg, const struct disk *d, const struct disk_req *one, int res)
{
	struct run *r = arg;

	ctl_event(r->ctl, json_pack("{s:s, s:s, s:s, s:s, s:I}", "event", "disk-error", "disk",
				    d->id, "op", disk_op_name(one->kind), "error", strerror(-res),
				    "errors", (json_int_t)d->errors));
}

void run_disk_watch(struct run *r)
{
	for (unsigned i = 0; i < r->vm.machine.ndevs; i++) {
		struct disk *d = &r->vm.devices.disks[i];

		if (r->vm.machine.devs[i].kind != MDEV_BLK)
			continue;
		d->told = told;
		d->told_arg = r;
		if (r->cfg.on_disk_error != DISK_ERROR_FAILOVER)
			continue;
		d->failed = failed;
		d->failed_arg = r;
	}
}

/* A mirror of which this side cannot say what is in it stays so until the next sync. */
static const char *state_of(const struct run *r, unsigned i)
{
	if (r->primary.engine.disklog.differs & 1u << i)
		return "differs";
	return r->vm.devices.disks[i].failing ? "failing" : "ok";
}

json_t *run_disk_status(const struct run *r)
{
	json_t *all = json_object();

	for (unsigned i = 0; i < r->vm.machine.ndevs; i++) {
		const struct disk *d = &r->vm.devices.disks[i];

		if (r->vm.machine.devs[i].kind != MDEV_BLK)
			continue;
		json_object_set_new(all, r->vm.machine.devs[i].id,
				    json_pack("{s:s, s:I, s:s}", "image", state_of(r, i), "errors",
					      (json_int_t)d->errors, "last_error",
					      d->error ? strerror(-d->error) : ""));
	}
	return all;
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

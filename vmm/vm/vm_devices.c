#include "vmm/vm/vm_devices.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "devices/debugexit.h"
#include "devices/ged.h"
#include "devices/i8042.h"
#include "devices/pvpanic.h"
#include "devices/rtc.h"
#include "devices/serial.h"
#include "devices/virtio_balloon.h"
#include "devices/virtio_blk.h"
#include "devices/virtio_console.h"
#include "devices/virtio_net.h"
#include "devices/virtio_rng.h"
#include "devices/virtio_vsock.h"
#include "devices/watchdog.h"
#include "vmm/base/log.h"
#include "vmm/vm/vm_internal.h"

#define ROWS(a)	 (sizeof(a) / sizeof((a)[0]))
#define DRAIN_NS 5000000000ull

/* What a constructor may need. */
struct making {
	struct vm *vm;
	struct vm_devices *ds;
	const struct backends *b;
	unsigned i;	       /* of machine.devs, */
	const struct mdev *md; /* and what is there */
	struct err *e;
};

typedef int make_fn(const struct making *m, struct device **ret);

/* --- what every machine has ------------------------------------------------------------------- */

static void exit_port(void *arg, int code)
{
	vm_guest_exited(arg, (uint8_t)code);
}

static void reset_port(void *arg)
{
	vm_guest_stopped(arg, VM_END_RESET, "keyboard controller reset");
}

static void acpi_off(void *arg, bool is_reset)
{
	vm_guest_stopped(arg, is_reset ? VM_END_RESET : VM_END_OFF,
			 is_reset ? "reset" : "switched off");
}

static void watchdog_expired(void *arg, unsigned seconds)
{
	char why[80];

	snprintf(why, sizeof(why), "watchdog: no sign of life from the guest for %u s", seconds);
	vm_guest_stopped(arg, VM_END_WATCHDOG, why);
}

static void guest_panicked(void *arg, uint8_t event)
{
	vm_guest_panicked(arg, event);
}

static int make_serial(const struct making *m, struct device **ret)
{
	int r = serial_new(&m->ds->env, console_deliver, &m->ds->console, ret, m->e);

	m->ds->serial = *ret;
	return r;
}

static int make_rtc(const struct making *m, struct device **ret)
{
	return rtc_new(&m->ds->env, ret, m->e);
}

static int make_i8042(const struct making *m, struct device **ret)
{
	return i8042_new(&m->ds->env, reset_port, m->vm, ret, m->e);
}

static int make_debugexit(const struct making *m, struct device **ret)
{
	return debugexit_new(&m->ds->env, exit_port, m->vm, ret, m->e);
}

static int make_ged(const struct making *m, struct device **ret)
{
	int r = ged_new(&m->ds->env, acpi_off, m->vm, ret, m->e);

	m->ds->ged = *ret;
	return r;
}

static int make_pvpanic(const struct making *m, struct device **ret)
{
	return pvpanic_new(&m->ds->env, guest_panicked, m->vm, ret, m->e);
}

static int make_watchdog(const struct making *m, struct device **ret)
{
	return watchdog_new(&m->ds->env, watchdog_expired, m->vm, ret, m->e);
}

/* The place of a device is its number in the state. */
static const struct fixed {
	make_fn *make;
	const struct state_desc *state;
} fixed[VM_FIXED_DEVICES] = {
	{make_serial, &serial_desc},	   {make_rtc, &rtc_desc}, {make_i8042, &i8042_desc},
	{make_debugexit, &debugexit_desc}, {make_ged, &ged_desc}, {make_pvpanic, &pvpanic_desc},
	{make_watchdog, &watchdog_desc},
};

/* --- by kind ---------------------------------------------------------------------------------- */

static int make_console(const struct making *m, struct device **ret)
{
	return virtio_console_new(&m->ds->env, m->md, console_deliver, &m->ds->console, ret, m->e);
}

static int make_rng(const struct making *m, struct device **ret)
{
	return virtio_rng_new(&m->ds->env, m->md, ret, m->e);
}

static int make_balloon(const struct making *m, struct device **ret)
{
	return virtio_balloon_new(&m->ds->env, m->md, ret, m->e);
}

static int make_blk(const struct making *m, struct device **ret)
{
	struct disk *d = &m->ds->disks[m->i];
	int r = backends_open_disk(m->b, m->md, m->vm->loop, d, m->e);

	if (!r && machine_is_shared(m->md) &&
	    disk_output_begin(&m->ds->disk_outputs[m->i], d, &m->vm->obuf))
		r = err_set(m->e, -ENOSPC, "device %s: too many outputs", m->md->id);
	return r ? r : virtio_blk_new(&m->ds->env, m->md, d, ret, m->e);
}

static void close_disk(struct vm_devices *ds, unsigned i)
{
	if (ds->disks[i].fd >= 0)
		disk_close(&ds->disks[i]);
}

static int make_net(const struct making *m, struct device **ret)
{
	struct netdev *nd = &m->ds->nets[m->i];
	int r = backends_open_net(m->b, m->md, m->vm->loop, nd, m->e);

	return r ? r : virtio_net_new(&m->ds->env, m->md, nd, ret, m->e);
}

static void close_net(struct vm_devices *ds, unsigned i)
{
	netdev_close(&ds->nets[i]);
}

static int make_vsock(const struct making *m, struct device **ret)
{
	int r = backends_open_vsock(m->b, m->vm->loop, &m->ds->vsock, m->e);

	return r ? r : virtio_vsock_new(&m->ds->env, m->md, &m->ds->vsock, ret, m->e);
}

static void close_vsock(struct vm_devices *ds, unsigned i)
{
	vsock_host_done(&ds->vsock);
}

static const struct kind {
	make_fn *make; /* on its back end */
	const struct state_desc *state;
	/* The back end, once the device is gone, opened or not; NULL: it has none. */
	void (*close)(struct vm_devices *ds, unsigned i);
	/* How fast it may be, and how long that held it; NULL: there are no limits of this kind. */
	void (*limit)(struct device *d, const struct limit_rates *r);
	uint64_t (*held_ns)(const struct device *d);
} kinds[] = {
	[MDEV_BLK] = {make_blk, &virtio_blk_desc, close_disk, virtio_blk_limit, virtio_blk_held_ns},
	[MDEV_NET] = {make_net, &virtio_net_desc, close_net, virtio_net_limit, virtio_net_held_ns},
	[MDEV_CONSOLE] = {make_console, &virtio_console_desc},
	[MDEV_RNG] = {make_rng, &virtio_rng_desc},
	[MDEV_BALLOON] = {make_balloon, &virtio_balloon_desc},
	[MDEV_VSOCK] = {make_vsock, &virtio_vsock_desc, close_vsock},
};

/* --- all of them ------------------------------------------------------------------------------ */

void vm_devices_init(struct vm *vm)
{
	struct vm_devices *ds = &vm->devices;

	seqmap_init(&ds->seqs, SEQMAP_MAX);
	ds->env = (struct dev_env){&vm->mem, vm->loop, &vm->bus, &vm->obuf, &ds->seqs, &ds->inputs};
	ds->console.out_fd = -1;
	for (unsigned i = 0; i < MACHINE_MAX_DEVS; i++)
		ds->disks[i].fd = ds->nets[i].fd = -1;
}

const struct state_desc *vm_device_state(const struct machine *m, unsigned i)
{
	if (i < VM_FIXED_DEVICES)
		return fixed[i].state;
	return i - VM_FIXED_DEVICES < m->ndevs ? kinds[m->devs[i - VM_FIXED_DEVICES].kind].state
					       : NULL;
}

static int add_device(const struct making *m, make_fn *make, struct device **ret)
{
	struct kvm *kvm = &m->vm->kvm;
	struct device *d;
	int r = make(m, ret);

	if (r)
		return r;
	VMM_BUG_ON((*ret)->ops->state != vm_device_state(&m->vm->machine, m->ds->ndevs));
	d = m->ds->devs[m->ds->ndevs++] = *ret;
	if (d->irq_fd >= 0)
		r = kvm_irqfd(kvm, d->gsi, d->irq_fd);
	for (unsigned i = 0; i < d->ndoorbells && !r; i++)
		r = kvm_ioeventfd(kvm, d->doorbell_gpa, i, d->doorbell[i]);
	return r ? err_set(m->e, r, "%s: binding interrupt or doorbell: %s", d->id, strerror(-r))
		 : 0;
}

/* Its place in machine.devs, or ndevs. */
static unsigned find_limited(const struct vm *vm, const char *id)
{
	const struct machine *m = &vm->machine;
	unsigned i = 0;

	while (i < m->ndevs && (!kinds[m->devs[i].kind].limit || strcmp(m->devs[i].id, id)))
		i++;
	return i;
}

void vm_limit(struct vm *vm, const char *id, const struct limit_rates *r)
{
	unsigned i = find_limited(vm, id);

	if (i < vm->machine.ndevs)
		kinds[vm->machine.devs[i].kind].limit(vm->devices.mdevs[i], r);
}

uint64_t vm_held_ns(const struct vm *vm, const char *id)
{
	unsigned i = find_limited(vm, id);

	return i < vm->machine.ndevs ? kinds[vm->machine.devs[i].kind].held_ns(vm->devices.mdevs[i])
				     : 0;
}

int vm_devices_make(struct vm *vm, const struct backends *b, struct err *e)
{
	struct vm_devices *ds = &vm->devices;
	struct making m = {.vm = vm, .ds = ds, .b = b, .e = e};
	int r = console_open(&ds->console, vm->loop, &vm->obuf, b->console, e);

	for (unsigned i = 0; i < ROWS(fixed) && !r; i++) {
		struct device *d = NULL;

		r = add_device(&m, fixed[i].make, &d);
	}
	for (m.i = 0; m.i < vm->machine.ndevs && !r; m.i++) {
		m.md = &vm->machine.devs[m.i];
		r = add_device(&m, kinds[m.md->kind].make, &ds->mdevs[m.i]);
		if (!r && kinds[m.md->kind].limit) {
			struct limit_rates rates = backends_limit(b, m.md->id);

			kinds[m.md->kind].limit(ds->mdevs[m.i], &rates);
		}
	}
	return r;
}

/* Requests at the kernel write into buffers that are about to be freed: wait for them. */
static void drain_disks(struct vm *vm)
{
	uint64_t until = loop_now_ns() + DRAIN_NS;

	for (unsigned i = 0; i < vm->machine.ndevs; i++) {
		struct disk *d = &vm->devices.disks[i];

		while (d->fd >= 0 && d->inflight && loop_now_ns() < until)
			loop_run_once(vm->loop, 100000000ull);
	}
}

void vm_devices_done(struct vm *vm)
{
	struct vm_devices *ds = &vm->devices;

	for (unsigned i = 0; i < vm->machine.ndevs; i++)
		disk_output_end(&ds->disk_outputs[i]);
	drain_disks(vm);
	for (unsigned i = 0; i < ds->ndevs; i++)
		ds->devs[i]->ops->free(ds->devs[i]);
	for (unsigned i = 0; i < vm->machine.ndevs; i++) {
		const struct kind *k = &kinds[vm->machine.devs[i].kind];

		if (k->close)
			k->close(ds, i);
	}
	seqmap_done(&ds->seqs);
	console_close(&ds->console);
}

void vm_devices_save(struct vm *vm)
{
	for (unsigned i = 0; i < vm->devices.ndevs; i++)
		vm->devices.devs[i]->ops->save(vm->devices.devs[i]);
}

void vm_devices_load(struct vm *vm)
{
	for (unsigned i = 0; i < vm->devices.ndevs; i++)
		vm->devices.devs[i]->ops->load(vm->devices.devs[i], vm->devices.devs[i]->pod);
}

void vm_devices_resume(struct vm *vm)
{
	for (unsigned i = 0; i < vm->devices.ndevs; i++)
		if (vm->devices.devs[i]->ops->resume)
			vm->devices.devs[i]->ops->resume(vm->devices.devs[i]);
}

void vm_devices_quiet(struct vm *vm, bool on)
{
	for (unsigned i = 0; i < vm->devices.ndevs; i++)
		if (vm->devices.devs[i]->ops->quiet)
			vm->devices.devs[i]->ops->quiet(vm->devices.devs[i], on);
}

void vm_arrived(struct vm *vm)
{
	for (unsigned i = 0; i < vm->devices.ndevs; i++)
		if (vm->devices.devs[i]->ops->arrived)
			vm->devices.devs[i]->ops->arrived(vm->devices.devs[i]);
}

struct device *vm_find_device(struct vm *vm, enum mdev_kind kind)
{
	for (unsigned i = 0; i < vm->machine.ndevs; i++)
		if (vm->machine.devs[i].kind == kind)
			return vm->devices.mdevs[i];
	return NULL;
}

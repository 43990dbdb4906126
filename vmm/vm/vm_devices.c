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
#include "vmm/vm/vm_internal.h"

#define ROWS(a)	 (sizeof(a) / sizeof((a)[0]))
#define DRAIN_NS 5000000000ull

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

static int make_serial(struct vm *vm, struct device **ret, struct err *e)
{
	struct vm_devices *ds = &vm->devices;
	int r = serial_new(&ds->env, console_deliver, &ds->console, &ds->serial, e);

	*ret = ds->serial;
	return r;
}

static int make_rtc(struct vm *vm, struct device **ret, struct err *e)
{
	return rtc_new(&vm->devices.env, ret, e);
}

static int make_i8042(struct vm *vm, struct device **ret, struct err *e)
{
	return i8042_new(&vm->devices.env, reset_port, vm, ret, e);
}

static int make_debugexit(struct vm *vm, struct device **ret, struct err *e)
{
	return debugexit_new(&vm->devices.env, exit_port, vm, ret, e);
}

static int make_ged(struct vm *vm, struct device **ret, struct err *e)
{
	int r = ged_new(&vm->devices.env, acpi_off, vm, &vm->devices.ged, e);

	*ret = vm->devices.ged;
	return r;
}

static int make_pvpanic(struct vm *vm, struct device **ret, struct err *e)
{
	return pvpanic_new(&vm->devices.env, guest_panicked, vm, ret, e);
}

static int make_watchdog(struct vm *vm, struct device **ret, struct err *e)
{
	return watchdog_new(&vm->devices.env, watchdog_expired, vm, ret, e);
}

/* The place of a device is its number in the state. */
static int (*const fixed[VM_FIXED_DEVICES])(struct vm *vm, struct device **ret, struct err *e) = {
	make_serial, make_rtc, make_i8042, make_debugexit, make_ged, make_pvpanic, make_watchdog,
};

/* --- by kind ---------------------------------------------------------------------------------- */

static int make_console(struct vm *vm, unsigned i, const struct backends *b, struct device **ret,
			struct err *e)
{
	struct vm_devices *ds = &vm->devices;

	return virtio_console_new(&ds->env, &vm->machine.devs[i], console_deliver, &ds->console,
				  ret, e);
}

static int make_rng(struct vm *vm, unsigned i, const struct backends *b, struct device **ret,
		    struct err *e)
{
	return virtio_rng_new(&vm->devices.env, &vm->machine.devs[i], ret, e);
}

static int make_balloon(struct vm *vm, unsigned i, const struct backends *b, struct device **ret,
			struct err *e)
{
	return virtio_balloon_new(&vm->devices.env, &vm->machine.devs[i], ret, e);
}

static int make_blk(struct vm *vm, unsigned i, const struct backends *b, struct device **ret,
		    struct err *e)
{
	const struct mdev *md = &vm->machine.devs[i];
	struct disk *d = &vm->devices.disks[i];
	int r = backends_open_disk(b, md, vm->loop, d, e);

	return r ? r : virtio_blk_new(&vm->devices.env, md, d, ret, e);
}

static void close_disk(struct vm_devices *ds, unsigned i)
{
	if (ds->disks[i].fd >= 0)
		disk_close(&ds->disks[i]);
}

static int make_net(struct vm *vm, unsigned i, const struct backends *b, struct device **ret,
		    struct err *e)
{
	const struct mdev *md = &vm->machine.devs[i];
	struct netdev *nd = &vm->devices.nets[i];
	int r = backends_open_net(b, md, vm->loop, nd, e);

	return r ? r : virtio_net_new(&vm->devices.env, md, nd, ret, e);
}

static void close_net(struct vm_devices *ds, unsigned i)
{
	netdev_close(&ds->nets[i]);
}

static int make_vsock(struct vm *vm, unsigned i, const struct backends *b, struct device **ret,
		      struct err *e)
{
	struct vsock_host *host = &vm->devices.vsock;
	int r = backends_open_vsock(b, vm->loop, host, e);

	return r ? r : virtio_vsock_new(&vm->devices.env, &vm->machine.devs[i], host, ret, e);
}

static void close_vsock(struct vm_devices *ds, unsigned i)
{
	vsock_host_done(&ds->vsock);
}

static const struct kind {
	/* The device of machine.devs[i], on its back end. */
	int (*make)(struct vm *vm, unsigned i, const struct backends *b, struct device **ret,
		    struct err *e);
	/* The back end, once the device is gone, opened or not; NULL: it has none. */
	void (*close)(struct vm_devices *ds, unsigned i);
} kinds[] = {
	[MDEV_BLK] = {make_blk, close_disk},   [MDEV_NET] = {make_net, close_net},
	[MDEV_CONSOLE] = {make_console, NULL}, [MDEV_RNG] = {make_rng, NULL},
	[MDEV_BALLOON] = {make_balloon, NULL}, [MDEV_VSOCK] = {make_vsock, close_vsock},
};

/* --- all of them ------------------------------------------------------------------------------ */

void vm_devices_init(struct vm *vm)
{
	struct vm_devices *ds = &vm->devices;

	ds->env = (struct dev_env){&vm->mem, vm->loop, &vm->bus, &vm->obuf};
	ds->console.out_fd = -1;
	for (unsigned i = 0; i < MACHINE_MAX_DEVS; i++)
		ds->disks[i].fd = ds->nets[i].fd = -1;
}

static int add_device(struct vm *vm, struct device *d, struct err *e)
{
	int r = 0;

	vm->devices.devs[vm->devices.ndevs++] = d;
	if (d->irq_fd >= 0)
		r = kvm_irqfd(&vm->kvm, d->gsi, d->irq_fd);
	for (unsigned i = 0; i < d->ndoorbells && !r; i++)
		r = kvm_ioeventfd(&vm->kvm, d->doorbell_gpa, i, d->doorbell[i]);
	return r ? err_set(e, r, "%s: binding interrupt or doorbell: %s", d->id, strerror(-r)) : 0;
}

int vm_devices_make(struct vm *vm, const struct backends *b, struct err *e)
{
	struct vm_devices *ds = &vm->devices;
	int r = console_open(&ds->console, b->console, e);

	for (unsigned i = 0; i < ROWS(fixed) && !r; i++) {
		struct device *d = NULL;

		r = fixed[i](vm, &d, e);
		if (!r)
			r = add_device(vm, d, e);
	}
	for (unsigned i = 0; i < vm->machine.ndevs && !r; i++) {
		r = kinds[vm->machine.devs[i].kind].make(vm, i, b, &ds->mdevs[i], e);
		if (!r)
			r = add_device(vm, ds->mdevs[i], e);
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

	drain_disks(vm);
	for (unsigned i = 0; i < ds->ndevs; i++)
		ds->devs[i]->ops->free(ds->devs[i]);
	for (unsigned i = 0; i < vm->machine.ndevs; i++) {
		const struct kind *k = &kinds[vm->machine.devs[i].kind];

		if (k->close)
			k->close(ds, i);
	}
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

struct device *vm_find_device(struct vm *vm, enum mdev_kind kind)
{
	for (unsigned i = 0; i < vm->machine.ndevs; i++)
		if (vm->machine.devs[i].kind == kind)
			return vm->devices.mdevs[i];
	return NULL;
}

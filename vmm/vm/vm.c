/* Building and taking down a VM, and its state as a whole. Run control is in vm_run.c. */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <unistd.h>

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
#include "vmm/boot/boot.h"
#include "vmm/boot/boot_layout.h"
#include "vmm/machine/cpuid.h"
#include "vmm/base/log.h"
#include "vmm/vm/vm_internal.h"

#define DOUBT_NS 1000000ull /* until it is asked again */

/* --- the end of the guest ------------------------------------------------------------------- */

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
	struct vm *vm = arg;

	__atomic_fetch_or(&vm->panics, event, __ATOMIC_RELEASE);
	device_signal(vm->end_fd);
}

static void report_panic(struct vm *vm)
{
	uint8_t events = __atomic_exchange_n(&vm->panics, 0, __ATOMIC_ACQUIRE);

	if (!events || !log_may(&vm->panic_told))
		return;
	log_error("guest: its kernel panicked%s; see its console",
		  events & PVPANIC_PANICKED ? "" : " and runs a crash kernel");
	if (vm->on_panic)
		vm->on_panic(vm->on_end_arg);
}

static void end_event(struct loop_op *op, int res)
{
	struct vm *vm = op->arg;
	uint64_t n;

	if (read(vm->end_fd, &n, sizeof(n)) < 0)
		return;
	report_panic(vm);
	if (vm->ending.end != VM_END_NONE && vm->on_end)
		vm->on_end(vm->on_end_arg);
}

/* --- devices -------------------------------------------------------------------------------- */

static int add_device(struct vm *vm, struct device *d, struct err *e)
{
	int r = 0;

	vm->devs[vm->ndevs++] = d;
	if (d->irq_fd >= 0)
		r = kvm_irqfd(&vm->kvm, d->gsi, d->irq_fd);
	for (unsigned i = 0; i < d->ndoorbells && !r; i++)
		r = kvm_ioeventfd(&vm->kvm, d->doorbell_gpa, i, d->doorbell[i]);
	return r ? err_set(e, r, "%s: binding interrupt or doorbell: %s", d->id, strerror(-r)) : 0;
}

static int add_legacy(struct vm *vm, struct err *e)
{
	struct device *d;
	int r = serial_new(&vm->env, console_deliver, &vm->console, &vm->serial, e);

	if (!r)
		r = add_device(vm, vm->serial, e);
	if (!r)
		r = rtc_new(&vm->env, &d, e);
	if (!r)
		r = add_device(vm, d, e);
	if (!r)
		r = i8042_new(&vm->env, reset_port, vm, &d, e);
	if (!r)
		r = add_device(vm, d, e);
	if (!r)
		r = debugexit_new(&vm->env, exit_port, vm, &d, e);
	return r ? r : add_device(vm, d, e);
}

static int add_acpi(struct vm *vm, struct err *e)
{
	struct device *d;
	int r = ged_new(&vm->env, acpi_off, vm, &vm->ged, e);

	if (!r)
		r = add_device(vm, vm->ged, e);
	if (!r)
		r = pvpanic_new(&vm->env, guest_panicked, vm, &d, e);
	if (!r)
		r = add_device(vm, d, e);
	if (!r)
		r = watchdog_new(&vm->env, watchdog_expired, vm, &d, e);
	return r ? r : add_device(vm, d, e);
}

static const struct disk_backend *find_disk(const struct backends *b, const char *id)
{
	for (unsigned i = 0; i < b->ndisks; i++)
		if (!strcmp(b->disks[i].id, id))
			return &b->disks[i];
	return NULL;
}

static int open_disk(struct vm *vm, unsigned i, const struct backends *b, struct err *e)
{
	const struct mdev *md = &vm->machine.devs[i];
	const struct disk_backend *given = find_disk(b, md->id);
	bool fit = b->standby && md->ft == DISK_FT_MIRROR;
	struct disk *d = &vm->disks[i];
	int flags, r;

	if (!given)
		return err_set(e, -ENOENT, "disk '%s': no image given here; add -d id=%s,path=FILE",
			       md->id, md->id);
	flags = (md->readonly ? DISK_OPEN_RO : 0) | (given->direct ? DISK_OPEN_DIRECT : 0) |
		(fit ? DISK_OPEN_CREATE : 0);
	r = disk_open(d, vm->loop, md->id, given->path, flags, e);
	if (r)
		return r;
	if (fit)
		return disk_resize(d, md->bytes, e);
	if (d->bytes != md->bytes)
		return err_set(e, -EINVAL,
			       "disk '%s': '%s' has %llu bytes, the machine has %llu; the images "
			       "must be the same size",
			       md->id, given->path, (unsigned long long)d->bytes,
			       (unsigned long long)md->bytes);
	return 0;
}

static int open_net(struct vm *vm, unsigned i, const struct backends *b, struct err *e)
{
	const struct mdev *md = &vm->machine.devs[i];

	for (unsigned n = 0; n < b->nnets; n++) {
		const struct net_backend *given = &b->nets[n];

		if (strcmp(given->id, md->id))
			continue;
		if (!given->socket)
			return netdev_open_tap(&vm->nets[i], md->id, given->tap, given->bridge, e);
		if (!md->no_offload)
			return err_set(e, -EINVAL,
				       "network '%s': the guest has checksum and segmentation "
				       "offload, which passt cannot do; give this side a tap, or "
				       "start the guest with socket= as well",
				       md->id);
		return netdev_open_passt(&vm->nets[i], vm->loop, md->id, given->socket, e);
	}
	return err_set(e, -ENOENT,
		       "network '%s': not given here; add -n id=%s,tap=NAME or "
		       "-n id=%s,socket=PATH",
		       md->id, md->id, md->id);
}

static int open_vsock(struct vm *vm, const struct backends *b, struct err *e)
{
	if (!b->vsock)
		return err_set(e, -ENOENT,
			       "the machine has a vsock, and none is given here; add --vsock "
			       "path=SOCK");
	return vsock_host_init(&vm->vsock, vm->loop, b->vsock, e);
}

static int add_mdev(struct vm *vm, unsigned i, const struct backends *b, struct err *e)
{
	const struct mdev *md = &vm->machine.devs[i];
	struct device *d = NULL;
	int r = -EINVAL;

	switch (md->kind) {
	case MDEV_CONSOLE:
		r = virtio_console_new(&vm->env, md, console_deliver, &vm->console, &d, e);
		break;
	case MDEV_RNG:
		r = virtio_rng_new(&vm->env, md, &d, e);
		break;
	case MDEV_BALLOON:
		r = virtio_balloon_new(&vm->env, md, &d, e);
		break;
	case MDEV_BLK:
		r = open_disk(vm, i, b, e);
		if (!r)
			r = virtio_blk_new(&vm->env, md, &vm->disks[i], &d, e);
		break;
	case MDEV_NET:
		r = open_net(vm, i, b, e);
		if (!r)
			r = virtio_net_new(&vm->env, md, &vm->nets[i], &d, e);
		break;
	case MDEV_VSOCK:
		r = open_vsock(vm, b, e);
		if (!r)
			r = virtio_vsock_new(&vm->env, md, &vm->vsock, &d, e);
		break;
	}
	if (r)
		return r;
	vm->mdevs[i] = d;
	return add_device(vm, d, e);
}

/* --- building -------------------------------------------------------------------------------- */

static int add_memory(struct vm *vm, struct err *e)
{
	struct mem *m = &vm->mem;
	int r = mem_init(m, MEM_SHARED_FILE, vm->machine.mem_bytes, e);

	if (!r)
		r = kvm_add_slot(&vm->kvm, 0, m->low_bytes, m->base, e);
	if (!r && m->bytes > m->low_bytes)
		r = kvm_add_slot(&vm->kvm, MEM_HIGH_BASE, m->bytes - m->low_bytes,
				 m->base + m->low_bytes, e);
	return r;
}

static int add_item(struct vm *vm, const struct state_desc *desc, unsigned instance, void *pod)
{
	void *copy = calloc(1, desc->size);

	if (!copy)
		return -ENOMEM;
	vm->items[vm->nitems] = (struct state_item){desc, instance, pod};
	vm->scratch[vm->nitems++] = (struct state_item){desc, instance, copy};
	/* cppcheck-suppress memleak ; vm_destroy() frees the scratch pods */
	return 0;
}

static int list_items(struct vm *vm, struct err *e)
{
	int r = add_item(vm, &vm_chips_desc, 0, &vm->chips);

	if (!r)
		r = add_item(vm, &vm_ending_desc, 0, &vm->ending);
	for (unsigned i = 0; i < vm->machine.vcpus && !r; i++)
		r = add_item(vm, &vcpu_state_desc, i, &vm->vcpus[i].state);
	for (unsigned i = 0; i < vm->ndevs && !r; i++)
		r = add_item(vm, vm->devs[i]->ops->state, i, vm->devs[i]->pod);
	return r ? err_set(e, r, "state tables: out of memory") : 0;
}

static int start_threads(struct vm *vm, struct err *e)
{
	for (unsigned i = 0; i < vm->machine.vcpus; i++) {
		int r = pthread_create(&vm->vcpus[i].thread, NULL, vcpu_thread, &vm->vcpus[i]);

		if (r)
			return err_set(e, -r, "vCPU %u: thread: %s", i, strerror(r));
		vm->vcpus[i].has_thread = true;
	}
	return 0;
}

static void init_sync(struct vm *vm)
{
	pthread_condattr_t ca;

	pthread_mutex_init(&vm->lock, NULL);
	pthread_condattr_init(&ca);
	pthread_condattr_setclock(&ca, CLOCK_MONOTONIC);
	pthread_cond_init(&vm->parked_cond, &ca);
	pthread_cond_init(&vm->go_cond, &ca);
	pthread_condattr_destroy(&ca);
	vm->want_park = true;
}

/* A machine from elsewhere has its CPUID table, which must fit; a new one gets it here. */
static int settle_cpuid(struct vm *vm, struct err *e)
{
	if (vm->machine.ncpuid)
		return cpuid_check(vm->kvm.cpuid, &vm->machine, e);
	return cpuid_build(vm->kvm.cpuid, vm->machine.cpu, &vm->machine, e);
}

static int create(struct vm *vm, const struct backends *b, struct err *e)
{
	int r = kvm_open(&vm->kvm, e);

	if (!r)
		r = settle_cpuid(vm, e);
	if (!r)
		r = add_memory(vm, e);
	if (!r)
		r = kvm_create_chips(&vm->kvm, e);
	for (unsigned i = 0; i < vm->machine.vcpus && !r; i++)
		r = vcpu_init(&vm->vcpus[i], vm, i, e);
	if (!r)
		r = console_open(&vm->console, b->console, e);
	if (r)
		return r;
	vm->end_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	vm->end_op = (struct loop_op){.fn = end_event, .arg = vm};
	if (vm->end_fd < 0 || loop_poll_add(vm->loop, &vm->end_op, vm->end_fd, POLLIN) < 0)
		return err_sys(e, "eventfd");
	r = add_legacy(vm, e);
	if (!r)
		r = add_acpi(vm, e);
	for (unsigned i = 0; i < vm->machine.ndevs && !r; i++)
		r = add_mdev(vm, i, b, e);
	if (!r)
		r = list_items(vm, e);
	if (!r)
		r = vm_chips_mask_pic(vm, e);
	if (!r)
		r = start_threads(vm, e);
	return r ? r : vm_reset_init(vm, e);
}

static void output_again(struct loop_op *op, int res)
{
	struct vm *vm = op->arg;

	if (!vm->doubts || !vm->doubts(vm->doubts_arg) ||
	    loop_timer_set(vm->loop, &vm->output_op, DOUBT_NS) < 0)
		obuf_continue(&vm->obuf);
}

static void output_later(void *arg)
{
	struct vm *vm = arg;

	/* No room for a timer: now, then. */
	if (loop_timer_set(vm->loop, &vm->output_op, 0) < 0)
		obuf_flush(&vm->obuf);
}

int vm_create(struct vm *vm, struct loop *l, const struct machine *m, const struct backends *b,
	      struct err *e)
{
	int r;

	/* A vCPU is cleared by vcpu_init(); zeros before that come from the owner and vcpu_done().
	 */
	memset(vm, 0, offsetof(struct vm, vcpus));
	vm->machine = *m;
	vm->loop = l;
	vm->mem.fd = vm->end_fd = vm->console.out_fd = -1;
	vm->kvm.sys_fd = vm->kvm.vm_fd = -1;
	for (unsigned i = 0; i < MACHINE_MAX_DEVS; i++)
		vm->disks[i].fd = vm->nets[i].fd = -1;
	vm->env = (struct dev_env){&vm->mem, l, &vm->bus, &vm->obuf};
	init_sync(vm);
	obuf_init(&vm->obuf, b->output_bytes);
	obuf_set_later(&vm->obuf, output_later, vm);
	vm->output_op = (struct loop_op){.fn = output_again, .arg = vm};
	vcpu_setup_signal();
	r = create(vm, b, e);
	if (r)
		vm_destroy(vm);
	return r;
}

/* Requests at the kernel write into buffers that are about to be freed: wait for them. */
static void drain_disks(struct vm *vm)
{
	uint64_t until = loop_now_ns() + 5000000000ull;

	for (unsigned i = 0; i < vm->machine.ndevs; i++)
		while (vm->disks[i].fd >= 0 && vm->disks[i].inflight && loop_now_ns() < until)
			loop_run_once(vm->loop, 100000000ull);
}

void vm_destroy(struct vm *vm)
{
	if (!vm->loop)
		return;
	vm_quit_vcpus(vm);
	obuf_drop(&vm->obuf);
	loop_timer_del(vm->loop, &vm->output_op);
	drain_disks(vm);
	for (unsigned i = 0; i < vm->ndevs; i++)
		vm->devs[i]->ops->free(vm->devs[i]);
	for (unsigned i = 0; i < vm->machine.ndevs; i++) {
		if (vm->disks[i].fd >= 0)
			disk_close(&vm->disks[i]);
		netdev_close(&vm->nets[i]);
	}
	vsock_host_done(&vm->vsock);
	for (unsigned i = 0; i < vm->nitems; i++)
		free(vm->scratch[i].pod);
	free(vm->power_on);
	for (unsigned i = 0; i < vm->machine.vcpus; i++)
		if (vm->vcpus[i].vm)
			vcpu_done(&vm->vcpus[i]);
	loop_poll_del(vm->loop, &vm->end_op);
	if (vm->end_fd >= 0)
		close(vm->end_fd);
	console_close(&vm->console);
	obuf_done(&vm->obuf);
	kvm_close(&vm->kvm);
	mem_done(&vm->mem);
	pthread_cond_destroy(&vm->parked_cond);
	pthread_cond_destroy(&vm->go_cond);
	pthread_mutex_destroy(&vm->lock);
	vm->loop = NULL;
}

static void new_generation_id(struct vm *vm)
{
	uint8_t id[16];

	if (getrandom(id, sizeof(id), 0) == sizeof(id))
		mem_write(&vm->mem, GENID_GPA, id, sizeof(id));
}

void vm_new_generation(struct vm *vm)
{
	new_generation_id(vm);
	ged_raise(vm->ged, GED_GENERATION);
}

bool vm_power_button(struct vm *vm)
{
	if (!vm_chips_irq_open(vm, GED_GSI))
		return false;
	ged_raise(vm->ged, GED_POWER_BUTTON);
	return true;
}

struct device *vm_find_device(struct vm *vm, enum mdev_kind kind)
{
	for (unsigned i = 0; i < vm->machine.ndevs; i++)
		if (vm->machine.devs[i].kind == kind)
			return vm->mdevs[i];
	return NULL;
}

int vm_boot(struct vm *vm, const struct boot_files *files, struct err *e)
{
	struct boot_entry entry;
	int r = boot_load(&vm->mem, &vm->machine, files, &entry, e);

	if (!r)
		r = vcpu_set_boot(&vm->vcpus[0], &entry, e);
	if (!r)
		new_generation_id(vm);
	return r;
}

/* --- state ----------------------------------------------------------------------------------- */

size_t vm_state_bound(const struct vm *vm)
{
	return state_bound_all(vm->items, vm->nitems);
}

int64_t vm_save(struct vm *vm, void *buf, size_t cap)
{
	VMM_BUG_ON(vm->running);
	for (unsigned i = 0; i < vm->ndevs; i++)
		vm->devs[i]->ops->save(vm->devs[i]);
	return state_encode_all(vm->items, vm->nitems, buf, cap);
}

int vm_decode(struct vm *vm, const void *buf, size_t len, struct err *e)
{
	int r = state_decode_all(vm->scratch, vm->nitems, buf, len, e);

	for (unsigned i = 0; i < vm->nitems && !r; i++)
		if (vm->scratch[i].desc == &vcpu_state_desc)
			r = vcpu_state_fits(vm->scratch[i].pod, &vm->machine, e);
	return r;
}

void vm_commit(struct vm *vm)
{
	for (unsigned i = 0; i < vm->nitems; i++)
		memcpy(vm->items[i].pod, vm->scratch[i].pod, vm->items[i].desc->size);
}

int vm_try_load(struct vm *vm, struct err *e)
{
	int r = vm_ask_vcpus(vm, VCPU_TRY_LOAD, e);

	if (!r)
		r = vm_chips_load(vm, e);
	if (r)
		return r;
	for (unsigned i = 0; i < vm->ndevs; i++)
		vm->devs[i]->ops->load(vm->devs[i], vm->devs[i]->pod);
	return 0;
}

int vm_load(struct vm *vm, uint64_t advance_ns, struct err *e)
{
	int r = vm_try_load(vm, e);

	if (!r)
		r = vm_clock_load(vm, advance_ns, e);
	/* Only now what makes KVM write into guest memory. */
	return r ? r : vm_ask_vcpus(vm, VCPU_LOAD, e);
}

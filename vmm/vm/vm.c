/* Building and taking down a VM. */
#define _GNU_SOURCE
#include "vmm/vm/vm.h"

#include <stddef.h>
#include <string.h>
#include <sys/random.h>

#include "devices/ged.h"
#include "vmm/boot/boot.h"
#include "vmm/boot/boot_layout.h"
#include "vmm/machine/cpuid.h"
#include "vmm/vm/vm_internal.h"

#define DOUBT_NS 1000000ull /* until it is asked again */

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

/* A machine from elsewhere has its CPUID table, which must fit; a new one gets it here. */
static int settle_cpuid(struct vm *vm, struct err *e)
{
	if (vm->machine.ncpuid)
		return cpuid_check(vm->kvm.cpuid, &vm->machine, e);
	return cpuid_build(vm->kvm.cpuid, vm->machine.cpu, &vm->machine, e);
}

static void vcpu_ended(void *arg, enum vm_end end, const char *why)
{
	vm_guest_stopped(arg, end, why);
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
		r = vcpu_init(&vm->vcpus[i], &vm->vcpu_env, i, e);
	if (!r)
		r = vm_watch_init(vm, e);
	if (!r)
		r = vm_devices_make(vm, b, e);
	if (!r)
		r = vm_state_init(vm, e);
	if (!r)
		r = vm_chips_mask_pic(vm, e);
	if (!r)
		r = vm_run_threads(vm, b->sandbox, e);
	return r ? r : vm_reset_init(vm, e);
}

static void output_later(void *arg)
{
	struct vm *vm = arg;

	loop_work_add(vm->loop, &vm->output_work);
}

static void output_again(struct loop_op *op, int res)
{
	output_later(op->arg);
}

static bool output_turn(struct loop_work *w)
{
	struct vm *vm = w->arg;

	/* No room for a timer: ask again in the next round. */
	if (vm->doubts && vm->doubts(vm->doubts_arg))
		return loop_timer_set(vm->loop, &vm->output_op, DOUBT_NS) < 0;
	obuf_continue(&vm->obuf);
	return false;
}

int vm_create(struct vm *vm, struct loop *l, const struct machine *m, const struct backends *b,
	      struct err *e)
{
	int r;

	/*
	 * Connections are cleared by vsock_host_init(), a vCPU by vcpu_init(); zeros before that
	 * come from the owner and vcpu_done().
	 */
	memset(vm, 0, offsetof(struct vm, devices.vsock.socks));
	vm->machine = *m;
	vm->loop = l;
	vm->mem.fd = vm->watch.fd = -1;
	vm->kvm.sys_fd = vm->kvm.vm_fd = -1;
	vm->vcpu_env = (struct vcpu_env){.kvm = &vm->kvm,
					 .machine = &vm->machine,
					 .bus = &vm->bus,
					 .ended = vcpu_ended,
					 .arg = vm};
	vm_devices_init(vm);
	vm_run_init(vm);
	obuf_init(&vm->obuf, b->output_bytes);
	obuf_set_later(&vm->obuf, l, output_later, vm);
	vm->output_op = (struct loop_op){.fn = output_again, .arg = vm};
	vm->output_work = (struct loop_work){.fn = output_turn, .arg = vm};
	vcpu_setup_signal();
	r = create(vm, b, e);
	if (r)
		vm_destroy(vm);
	return r;
}

void vm_destroy(struct vm *vm)
{
	if (!vm->loop)
		return;
	vm_quit_vcpus(vm);
	obuf_drop(&vm->obuf);
	loop_timer_del(vm->loop, &vm->output_op);
	loop_work_del(vm->loop, &vm->output_work);
	vm_devices_done(vm);
	vm_state_done(vm);
	for (unsigned i = 0; i < vm->machine.vcpus; i++)
		if (vm->vcpus[i].env)
			vcpu_done(&vm->vcpus[i]);
	vm_watch_done(vm);
	obuf_done(&vm->obuf);
	kvm_close(&vm->kvm);
	mem_done(&vm->mem);
	vm_run_done(vm);
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
	ged_raise(vm->devices.ged, GED_GENERATION);
}

bool vm_power_button(struct vm *vm)
{
	if (!vm_chips_irq_open(vm, GED_GSI))
		return false;
	ged_press(vm->devices.ged);
	return true;
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

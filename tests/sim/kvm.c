#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include "tests/sim/file.h"
#include "tests/sim/guest.h"
#include "tests/sim/real.h"
#include "tests/sim/swarm.h"

#define PAGE 4096ull

static const uint32_t msr_list[SIM_MSRS] = {0x10, 0x174, 0xc0000080};

static void free_of(struct fd *f)
{
	free(f->of);
}

static const struct fd_ops sys_ops = {.name = "kvm"};
static const struct fd_ops vm_ops = {.name = "vm", .close = free_of};
static const struct fd_ops vcpu_ops = {.name = "vcpu", .close = free_of};

int proc_kvm_open(void)
{
	return fd_new(&sys_ops, NULL);
}

/* --- what the host offers --------------------------------------------------------------------- */

static int offer_cpuid(struct kvm_cpuid2 *c)
{
	static const struct kvm_cpuid_entry2 leaves[] = {
		{.function = 0, .eax = 1, .ebx = 0x756e6547, .ecx = 0x6c65746e, .edx = 0x49656e69},
		{.function = 1, .eax = 0x306a9, .ecx = 0x80a82201, .edx = 0x078bfbff},
		{.function = 0x40000000,
		 .eax = 0x40000001,
		 .ebx = 0x4b4d564b,
		 .ecx = 0x564b4d56,
		 .edx = 0x4d},
		{.function = 0x40000001, .eax = 8},
		{.function = 0x80000000, .eax = 0x80000008},
		{.function = 0x80000001, .ecx = 1, .edx = 0x20100800},
		{.function = 0x80000008, .eax = 0x3028},
	};

	c->nent = sizeof(leaves) / sizeof(leaves[0]);
	memcpy(c->entries, leaves, sizeof(leaves));
	return 0;
}

static int list_msrs(struct kvm_msr_list *l)
{
	l->nmsrs = SIM_MSRS;
	memcpy(l->indices, msr_list, sizeof(msr_list));
	return 0;
}

static long sys_ioctl(unsigned long request, void *arg)
{
	switch (request) {
	case KVM_GET_API_VERSION:
		return KVM_API_VERSION;
	case KVM_CHECK_EXTENSION:
		return 1;
	case KVM_GET_VCPU_MMAP_SIZE:
		return SIM_RUN_SIZE;
	case KVM_GET_SUPPORTED_CPUID:
		return offer_cpuid(arg);
	case KVM_GET_MSR_INDEX_LIST:
		return list_msrs(arg);
	case KVM_CREATE_VM:
		return fd_new(&vm_ops, calloc(1, sizeof(struct sim_vm)));
	default:
		return -EINVAL;
	}
}

/* --- the VM ----------------------------------------------------------------------------------- */

static struct sim_slot *slot_at(struct sim_vm *vm, uint64_t gpa)
{
	for (unsigned i = 0; i < 2; i++)
		if (gpa - vm->slot[i].r.guest_phys_addr < vm->slot[i].r.memory_size)
			return &vm->slot[i];
	abort();
}

static void *at(const struct sim_slot *s, uint64_t gpa)
{
	return (uint8_t *)(uintptr_t)s->r.userspace_addr + (gpa - s->r.guest_phys_addr);
}

const void *guest_read(struct sim_vm *vm, uint64_t gpa, size_t len)
{
	const void *p = at(slot_at(vm, gpa), gpa);

	uffd_touch(p, len);
	return p;
}

void *guest_write(struct sim_vm *vm, uint64_t gpa, size_t len)
{
	struct sim_slot *s = slot_at(vm, gpa);
	uint64_t first = (gpa - s->r.guest_phys_addr) / PAGE;
	uint64_t last = (gpa + len - 1 - s->r.guest_phys_addr) / PAGE;

	uffd_touch(at(s, gpa), len);
	for (uint64_t p = first; s->dirty && p <= last; p++)
		s->dirty[p / 64] |= 1ull << p % 64;
	return at(s, gpa);
}

uint64_t guest_clock(const struct sim_vm *vm)
{
	return proc_clock(proc_now()) + (uint64_t)vm->clock_ahead;
}

bool guest_rings(struct sim_vm *vm, uint64_t gpa, uint32_t value)
{
	for (unsigned i = 0; i < vm->ndoors; i++)
		if (vm->door[i].addr == gpa && vm->door[i].datamatch == value)
			return eventfd_add(vm->door[i].fd, 1);
	return false;
}

static int set_slot(struct sim_vm *vm, const struct kvm_userspace_memory_region *r)
{
	struct sim_slot *s = &vm->slot[r->slot];
	bool logs = r->flags & KVM_MEM_LOG_DIRTY_PAGES;

	if (logs && !s->dirty)
		s->dirty = calloc(r->memory_size / PAGE / 64 + 1, 8);
	if (!logs) {
		free(s->dirty);
		s->dirty = NULL;
	}
	s->r = *r;
	return 0;
}

static int get_log(struct sim_vm *vm, const struct kvm_dirty_log *log)
{
	const struct sim_slot *s = &vm->slot[log->slot];

	if (!s->dirty)
		return -ENOENT;
	memcpy(log->dirty_bitmap, s->dirty, s->r.memory_size / PAGE / 8);
	return 0;
}

static int clear_log(struct sim_vm *vm, const struct kvm_clear_dirty_log *log)
{
	const struct sim_slot *s = &vm->slot[log->slot];
	const uint64_t *bits = log->dirty_bitmap;

	if (!s->dirty)
		return -ENOENT;
	for (uint32_t i = 0; i < log->num_pages / 64; i++)
		s->dirty[log->first_page / 64 + i] &= ~bits[i];
	return 0;
}

static int clock_ioctl(struct sim_vm *vm, bool set, struct kvm_clock_data *c)
{
	uint64_t host = proc_clock(proc_now());

	if (set) {
		vm->clock_ahead = (int64_t)(c->clock - host);
		return 0;
	}
	*c = (struct kvm_clock_data){.clock = guest_clock(vm),
				     .flags = KVM_CLOCK_HOST_TSC,
				     .host_tsc = host * (SIM_TSC_KHZ / 1000) / 1000};
	return 0;
}

static int create_vcpu(struct sim_vm *vm, unsigned index)
{
	struct sim_vcpu *v = calloc(1, sizeof(*v));

	v->vm = vm;
	v->index = index;
	v->xcr0 = 1;
	for (unsigned i = 0; i < SIM_MSRS; i++)
		v->msrs[i].index = msr_list[i];
	return fd_new(&vcpu_ops, v);
}

static int chip_ioctl(struct sim_vm *vm, bool set, struct kvm_irqchip *c)
{
	struct kvm_irqchip *mine = &vm->chip[c->chip_id % 3];

	*(set ? mine : c) = *(set ? c : mine);
	(set ? mine : c)->chip_id = (uint32_t)(mine - vm->chip);
	return 0;
}

static long vm_ioctl(struct sim_vm *vm, unsigned long request, void *arg)
{
	switch (request) {
	case KVM_SET_USER_MEMORY_REGION:
		return set_slot(vm, arg);
	case KVM_GET_DIRTY_LOG:
		return get_log(vm, arg);
	case KVM_CLEAR_DIRTY_LOG:
		return clear_log(vm, arg);
	case KVM_GET_CLOCK:
	case KVM_SET_CLOCK:
		return clock_ioctl(vm, request == KVM_SET_CLOCK, arg);
	case KVM_GET_IRQCHIP:
	case KVM_SET_IRQCHIP:
		return chip_ioctl(vm, request == KVM_SET_IRQCHIP, arg);
	case KVM_GET_PIT2:
		memcpy(arg, &vm->pit, sizeof(vm->pit));
		return 0;
	case KVM_SET_PIT2:
		memcpy(&vm->pit, arg, sizeof(vm->pit));
		return 0;
	case KVM_IOEVENTFD:
		if (vm->ndoors == SIM_DOORS)
			return -ENOSPC;
		vm->door[vm->ndoors++] = *(struct kvm_ioeventfd *)arg;
		return 0;
	case KVM_CREATE_VCPU:
		return create_vcpu(vm, (unsigned)(uintptr_t)arg);
	case KVM_CREATE_IRQCHIP:
		for (unsigned i = 0; i < KVM_IOAPIC_NUM_PINS; i++)
			vm->chip[KVM_IRQCHIP_IOAPIC].chip.ioapic.redirtbl[i].fields.mask = 1;
		return 0;
	default: /* chips, addresses, capabilities, interrupts: nothing is to be seen of them */
		return 0;
	}
}

/* --- the vCPU --------------------------------------------------------------------------------- */

static long msrs_ioctl(struct sim_vcpu *v, bool set, struct kvm_msrs *m)
{
	for (uint32_t n = 0; n < m->nmsrs; n++) {
		unsigned i = 0;

		while (i < SIM_MSRS && v->msrs[i].index != m->entries[n].index)
			i++;
		if (i == SIM_MSRS)
			return n;
		if (set)
			v->msrs[i].data = m->entries[n].data;
		else
			m->entries[n].data = v->msrs[i].data;
	}
	return m->nmsrs;
}

static long offset_ioctl(struct sim_vcpu *v, bool set, const struct kvm_device_attr *attr)
{
	uint64_t *to = (uint64_t *)(uintptr_t)attr->addr;

	if (set)
		v->tsc_offset = *to;
	else
		*to = v->tsc_offset;
	return 0;
}

static bool is_kicked(void *arg)
{
	const struct sim_vcpu *v = arg;

	return v->run->immediate_exit;
}

static void show_registers(struct sim_vcpu *v)
{
	v->run->s.regs.regs = v->regs;
	v->run->s.regs.sregs = v->sregs;
	v->run->s.regs.events = v->events;
}

static long run(struct sim_vcpu *v)
{
	struct fiber *me = fiber_now;
	volatile long r = 0;
	jmp_buf out;

	if (v->unanswered)
		guest_answered(v);
	v->unanswered = false;
	me->out = &out;
	if (setjmp(out)) {
		show_registers(v);
		return -EINTR;
	}
	for (;;) {
		if (v->run->immediate_exit || me->signalled) {
			me->signalled = false;
			guest_stopped(v);
			r = -EINTR;
			break;
		}
		if (guest_step(v) == GUEST_EXITS) {
			v->unanswered = true;
			break;
		}
		fiber_wait(is_kicked, v, world_now() + rnd_in(50 * US, swarm.pace_ns));
	}
	show_registers(v);
	return r;
}

#define MOVE(request_get, request_set, field)                                                      \
	case request_get:                                                                          \
		memcpy(arg, &v->field, sizeof(v->field));                                          \
		return 0;                                                                          \
	case request_set:                                                                          \
		memcpy(&v->field, arg, sizeof(v->field));                                          \
		return 0

static long vcpu_ioctl(struct sim_vcpu *v, unsigned long request, void *arg)
{
	switch (request) {
		MOVE(KVM_GET_REGS, KVM_SET_REGS, regs);
		MOVE(KVM_GET_SREGS, KVM_SET_SREGS, sregs);
		MOVE(KVM_GET_LAPIC, KVM_SET_LAPIC, lapic);
		MOVE(KVM_GET_XSAVE, KVM_SET_XSAVE, xsave);
		MOVE(KVM_GET_DEBUGREGS, KVM_SET_DEBUGREGS, debug);
		MOVE(KVM_GET_VCPU_EVENTS, KVM_SET_VCPU_EVENTS, events);
		MOVE(KVM_GET_MP_STATE, KVM_SET_MP_STATE, mp);
	case KVM_RUN:
		return run(v);
	case KVM_GET_MSRS:
	case KVM_SET_MSRS:
		return msrs_ioctl(v, request == KVM_SET_MSRS, arg);
	case KVM_GET_DEVICE_ATTR:
	case KVM_SET_DEVICE_ATTR:
		return offset_ioctl(v, request == KVM_SET_DEVICE_ATTR, arg);
	case KVM_GET_TSC_KHZ:
		return SIM_TSC_KHZ;
	case KVM_GET_XCRS:
		memset(arg, 0, sizeof(struct kvm_xcrs));
		return 0;
	default:
		return 0;
	}
}

int __wrap_ioctl(int number, unsigned long request, ...)
{
	struct fd *f = fd_find(number);
	va_list ap;
	void *arg;
	long r;

	va_start(ap, request);
	arg = va_arg(ap, void *);
	va_end(ap);
	if (!f)
		return fail(EBADF);
	if (uffd_ioctl(f, request, arg, &r))
		return (int)result(r);
	if (f->ops == &sys_ops)
		return (int)result(sys_ioctl(request, arg));
	if (f->ops == &vm_ops)
		return (int)result(vm_ioctl(f->of, request, arg));
	if (f->ops == &vcpu_ops)
		return (int)result(vcpu_ioctl(f->of, request, arg));
	return fail(ENOTTY);
}

bool vcpu_is(int number)
{
	return fd_of(number, &vcpu_ops);
}

void vcpu_mapped(int number, void *run)
{
	((struct sim_vcpu *)fd_of(number, &vcpu_ops)->of)->run = run;
}

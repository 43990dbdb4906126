#define _GNU_SOURCE
#include "vmm/vm/vcpu.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "vmm/boot/boot_layout.h"
#include "vmm/machine/cpuid.h"

#define SYNC_ALL (KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS | KVM_SYNC_X86_EVENTS)

static int set_cpuid(struct vcpu *v, struct err *e)
{
	struct {
		struct kvm_cpuid2 head;
		struct kvm_cpuid_entry2 entries[MACHINE_MAX_CPUID];
	} c;
	int r;

	cpuid_for_vcpu(v->env->machine, v->index, &c.head);
	r = kvm_ioctl(v->fd, KVM_SET_CPUID2, &c);
	return r < 0 ? err_set(e, r, "vCPU %u: KVM_SET_CPUID2: %s", v->index, strerror(-r)) : 0;
}

/*
 * What firmware would have set: memory is cached (else Linux does without PAT), and string
 * instructions are fast (else it avoids them). KVM takes neither for more than it says.
 */
static void set_msrs(struct vcpu *v)
{
	static const struct kvm_msr_entry init[] = {{.index = 0x2ff, .data = 0xc06},
						    {.index = 0x1a0, .data = 1}};
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry;
	} m;

	for (unsigned i = 0; i < sizeof(init) / sizeof(init[0]); i++) {
		m.head.nmsrs = 1;
		m.entry.index = init[i].index;
		m.entry.data = 0;
		kvm_ioctl(v->fd, KVM_GET_MSRS, &m);
		m.entry.data |= init[i].data;
		kvm_ioctl(v->fd, KVM_SET_MSRS, &m);
	}
}

/* MSRs that the host lists but this vCPU cannot read are not part of its state. */
static void probe_msrs(struct vcpu *v)
{
	struct kvm *k = v->env->kvm;
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entries[KVM_MAX_MSRS];
	} m;

	memset(&m, 0, sizeof(m));
	for (;;) {
		int r;

		m.head.nmsrs = k->nmsrs;
		for (uint32_t i = 0; i < k->nmsrs; i++)
			m.entries[i].index = k->msrs[i];
		r = kvm_ioctl(v->fd, KVM_GET_MSRS, &m);
		if (r < 0 || (uint32_t)r >= k->nmsrs)
			return;
		memmove(&k->msrs[r], &k->msrs[r + 1], (k->nmsrs - r - 1) * sizeof(k->msrs[0]));
		k->nmsrs--;
	}
}

/* Threads made here are scheduled like any other, and not by a policy that the user chose. */
static bool ordinary_thread(void)
{
	int policy = sched_getscheduler(0);

	return policy == SCHED_OTHER || (policy > 0 && policy & SCHED_RESET_ON_FORK);
}

int vcpu_init(struct vcpu *v, struct vcpu_env *env, unsigned index, struct err *e)
{
	int r;

	memset(v, 0, sizeof(*v));
	v->env = env;
	v->index = index;
	v->fd = kvm_ioctl(env->kvm->vm_fd, KVM_CREATE_VCPU, (void *)(uintptr_t)index);
	if (v->fd < 0)
		return err_set(e, v->fd, "vCPU %u: KVM_CREATE_VCPU: %s", index, strerror(-v->fd));
	v->run = mmap(NULL, env->kvm->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, v->fd, 0);
	if (v->run == MAP_FAILED) {
		v->run = NULL;
		return err_sys(e, "vCPU %u: mmap", index);
	}
	r = set_cpuid(v, e);
	if (!r)
		r = vcpu_set_tsc_khz(v, e);
	if (r)
		return r;
	set_msrs(v);
	/* Touching the LAPIC makes KVM enter this vCPU in its APIC map; before, INIT may get lost.
	 */
	r = kvm_ioctl(v->fd, KVM_GET_LAPIC, &v->state.lapic);
	if (!r)
		r = kvm_ioctl(v->fd, KVM_SET_LAPIC, &v->state.lapic);
	if (r < 0)
		return err_set(e, r, "vCPU %u: LAPIC: %s", index, strerror(-r));
	if (index == 0)
		probe_msrs(v);
	v->run->kvm_valid_regs = SYNC_ALL;
	v->fresh = v->unfinished = true;
	v->may_boost = ordinary_thread();
	return 0;
}

void vcpu_done(struct vcpu *v)
{
	if (v->run)
		munmap(v->run, v->env->kvm->run_size);
	if (v->fd > 0)
		close(v->fd);
	memset(v, 0, sizeof(*v));
	v->fd = -1;
}

/* Xen PVH entry ABI: flat 32-bit segments, CR0 = PE (and ET), EFLAGS clear. */
static void set_pvh(struct kvm_sregs *s)
{
	struct kvm_segment flat = {.limit = 0xffffffff, .present = 1, .s = 1, .g = 1, .db = 1};

	s->cs = flat;
	s->cs.type = 0xb;
	s->cs.selector = 0x8;
	s->ds = s->es = s->fs = s->gs = s->ss = flat;
	s->ds.type = s->es.type = s->fs.type = s->gs.type = s->ss.type = 3;
	s->ds.selector = s->es.selector = s->ss.selector = 0x10;
	s->fs.selector = s->gs.selector = 0x10;
	s->tr = (struct kvm_segment){.limit = 0x67, .type = 0xb, .present = 1};
	s->cr0 = 0x11;
}

/* Linux 64-bit boot protocol: long mode, memory below 4 GiB mapped as it is, flat segments. */
static void set_long_mode(struct kvm_sregs *s)
{
	struct kvm_segment flat = {.limit = 0xffffffff, .present = 1, .s = 1, .g = 1, .type = 3};

	s->ds = s->es = s->fs = s->gs = s->ss = flat;
	s->ds.selector = s->es.selector = s->fs.selector = s->gs.selector = s->ss.selector = 0x18;
	s->ds.db = s->es.db = s->fs.db = s->gs.db = s->ss.db = 1;
	s->cs = flat;
	s->cs.type = 0xb;
	s->cs.selector = 0x10;
	s->cs.l = 1;
	s->tr = (struct kvm_segment){.limit = 0x67, .type = 0xb, .present = 1};
	s->gdt = (struct kvm_dtable){.base = GDT_GPA, .limit = 4 * 8 - 1};
	s->cr3 = PML4_GPA;
	s->cr4 = 0x20;		/* PAE */
	s->efer = 0x500;	/* LME, LMA */
	s->cr0 = 0x80000011ull; /* PG, ET, PE */
}

int vcpu_set_boot(struct vcpu *v, const struct boot_entry *b, struct err *e)
{
	struct kvm_regs regs = {.rip = b->rip, .rbx = b->info, .rsi = b->info, .rflags = 2};
	struct kvm_sregs s;
	int r = kvm_ioctl(v->fd, KVM_GET_SREGS, &s);

	if (!r) {
		if (b->long_mode)
			set_long_mode(&s);
		else
			set_pvh(&s);
		r = kvm_ioctl(v->fd, KVM_SET_SREGS, &s);
	}
	if (!r)
		r = kvm_ioctl(v->fd, KVM_SET_REGS, &regs);
	/* What was saved or loaded before, and what kvm_run has, is older. */
	v->fresh = v->unfinished = true;
	return r ? err_set(e, r, "vCPU %u: start values: %s", v->index, strerror(-r)) : 0;
}

/* --- state ---------------------------------------------------------------------------------- */

struct msr_block {
	struct kvm_msrs head;
	struct kvm_msr_entry entries[KVM_MAX_MSRS];
};

static int save_msrs(struct vcpu *v)
{
	const struct kvm *k = v->env->kvm;
	struct msr_block m;
	int r;

	memset(&m.head, 0, sizeof(m.head));
	m.head.nmsrs = k->nmsrs;
	memset(m.entries, 0, k->nmsrs * sizeof(m.entries[0]));
	for (uint32_t i = 0; i < k->nmsrs; i++)
		m.entries[i].index = k->msrs[i];
	r = kvm_ioctl(v->fd, KVM_GET_MSRS, &m);
	if (r < 0)
		return r;
	if ((uint32_t)r != k->nmsrs)
		return -EIO;
	v->state.nmsrs = k->nmsrs;
	memcpy(v->state.msrs, m.entries, k->nmsrs * sizeof(m.entries[0]));
	return 0;
}

/*
 * Not for a trial: MSRs that make KVM write into guest memory when they are set (kvmclock, steal
 * time, async PF), and the TSC, whose next value KVM would bend to this one.
 */
static bool leaves_a_trace(uint32_t msr)
{
	return msr == MSR_TSC || msr == 0x11 || msr == 0x12 ||
	       (msr >= 0x4b564d00 && msr <= 0x4b564d0f);
}

static int load_msrs(struct vcpu *v, bool trial)
{
	struct msr_block m;
	uint32_t n = 0;
	int r;

	memset(&m.head, 0, sizeof(m.head));
	for (uint32_t i = 0; i < v->state.nmsrs; i++)
		if (trial ? !leaves_a_trace(v->state.msrs[i].index)
			  : !(v->has_tsc_offset && v->state.msrs[i].index == MSR_TSC))
			m.entries[n++] = v->state.msrs[i];
	m.head.nmsrs = n;
	r = kvm_ioctl(v->fd, KVM_SET_MSRS, &m);
	if (r < 0)
		return r;
	return (uint32_t)r == n ? 0 : -EINVAL;
}

static int save_xcr0(struct vcpu *v)
{
	struct kvm_xcrs x;
	int r = kvm_ioctl(v->fd, KVM_GET_XCRS, &x);

	v->state.xcr0 = !r && x.nr_xcrs ? x.xcrs[0].value : 1;
	return r;
}

static int load_xcr0(struct vcpu *v)
{
	struct kvm_xcrs x;

	/* A processor without XSAVE has no XCR0, and KVM refuses to set one. */
	if (v->state.xcr0 == 1 && !kvm_ioctl(v->fd, KVM_GET_XCRS, &x) && !x.nr_xcrs)
		return 0;
	x = (struct kvm_xcrs){.nr_xcrs = 1, .xcrs[0].value = v->state.xcr0};
	return kvm_ioctl(v->fd, KVM_SET_XCRS, &x);
}

static void handle_exit(struct vcpu *v);

static void ended(struct vcpu *v, enum vm_end end, const char *why)
{
	v->env->ended(v->env->arg, end, why);
}

/* That is no fault of the guest's: its instruction has not run. */
static int run_failed(struct vcpu *v, int error)
{
	char why[80];

	snprintf(why, sizeof(why), "KVM_RUN: %s", strerror(error));
	ended(v, VM_END_HOST, why);
	return -error;
}

/*
 * The state of a vCPU is complete only when the instruction that exited is finished: a KVM_RUN with
 * immediate_exit does that and nothing else (KVM api.rst, KVM_EXIT_MMIO). An access that KVM cuts
 * in pieces (across two pages, a string) exits once more for each, and a piece that is not answered
 * is lost to the guest; KVM ends this after at most 1024 of them.
 */
static int finish_instruction(struct vcpu *v)
{
	while (v->unfinished) {
		__atomic_store_n(&v->run->immediate_exit, 1, __ATOMIC_RELAXED);
		if (ioctl(v->fd, KVM_RUN, 0) == 0)
			handle_exit(v); /* if it was the guest's end, the VM knows now */
		else if (errno == EINTR)
			v->unfinished = false;
		else
			return run_failed(v, errno);
	}
	return 0;
}

/* Registers, segments and events come with the exit (KVM_CAP_SYNC_REGS), the rest by one ioctl
 * each. */
int vcpu_save(struct vcpu *v, const char **ret_what)
{
	struct vcpu_state *s = &v->state;
	int r;

#define STEP(name, call)                                                                           \
	do {                                                                                       \
		*ret_what = name;                                                                  \
		r = (call);                                                                        \
		if (r < 0)                                                                         \
			return r;                                                                  \
	} while (0)
	STEP("KVM_RUN", finish_instruction(v));
	/* It takes an INIT or SIPI that waits, and so changes registers. */
	STEP("mp_state", kvm_ioctl(v->fd, KVM_GET_MP_STATE, &s->mp));
	/* What other vCPUs sent after this one's exit (those, NMIs) is not in its kvm_run yet. */
	v->unfinished = v->env->machine->vcpus > 1;
	STEP("KVM_RUN", finish_instruction(v));
	s->regs = v->run->s.regs.regs;
	s->sregs = v->run->s.regs.sregs;
	s->events = v->run->s.regs.events;
	STEP("xsave", kvm_ioctl(v->fd, KVM_GET_XSAVE, &s->xsave));
	STEP("lapic", kvm_ioctl(v->fd, KVM_GET_LAPIC, &s->lapic));
	STEP("msrs", save_msrs(v));
	STEP("tsc", vcpu_tsc_save(v));
	STEP("debugregs", kvm_ioctl(v->fd, KVM_GET_DEBUGREGS, &s->debugregs));
	STEP("xcrs", save_xcr0(v));
	return 0;
}

int vcpu_load(struct vcpu *v, bool trial, const char **ret_what)
{
	struct vcpu_state *s = &v->state;
	int r;

	STEP("sregs", kvm_ioctl(v->fd, KVM_SET_SREGS, &s->sregs));
	STEP("regs", kvm_ioctl(v->fd, KVM_SET_REGS, &s->regs));
	STEP("xcrs", load_xcr0(v));
	STEP("xsave", kvm_ioctl(v->fd, KVM_SET_XSAVE, &s->xsave));
	/* The deadline MSR counts by the TSC, and only if the LAPIC's timer is in that mode. */
	STEP("lapic", kvm_ioctl(v->fd, KVM_SET_LAPIC, &s->lapic));
	if (!trial)
		STEP("tsc", vcpu_tsc_load(v));
	STEP("msrs", load_msrs(v, trial));
	STEP("debugregs", kvm_ioctl(v->fd, KVM_SET_DEBUGREGS, &s->debugregs));
	STEP("events", kvm_ioctl(v->fd, KVM_SET_VCPU_EVENTS, &s->events));
	STEP("mp_state", kvm_ioctl(v->fd, KVM_SET_MP_STATE, &s->mp));
	v->run->kvm_dirty_regs = 0;
	v->unfinished = true;
	/* Tell a Linux guest that it was stopped, so that its watchdogs do not bark; others refuse.
	 */
	if (!trial)
		kvm_ioctl(v->fd, KVM_KVMCLOCK_CTRL, NULL);
	return 0;
#undef STEP
}

/* --- running -------------------------------------------------------------------------------- */

static void exit_io(struct vcpu *v)
{
	struct kvm_run *run = v->run;
	uint8_t *p = (uint8_t *)run + run->io.data_offset;

	for (uint32_t i = 0; i < run->io.count; i++, p += run->io.size) {
		uint64_t val = 0;

		if (run->io.direction == KVM_EXIT_IO_OUT) {
			memcpy(&val, p, run->io.size);
			bus_write(v->env->bus, BUS_PIO, run->io.port, run->io.size, val);
		} else {
			val = bus_read(v->env->bus, BUS_PIO, run->io.port, run->io.size);
			memcpy(p, &val, run->io.size);
		}
	}
}

static void exit_mmio(struct vcpu *v)
{
	struct kvm_run *run = v->run;
	uint64_t val = 0;

	if (run->mmio.is_write) {
		memcpy(&val, run->mmio.data, run->mmio.len);
		bus_write(v->env->bus, BUS_MMIO, run->mmio.phys_addr, run->mmio.len, val);
	} else {
		val = bus_read(v->env->bus, BUS_MMIO, run->mmio.phys_addr, run->mmio.len);
		memcpy(run->mmio.data, &val, run->mmio.len);
	}
}

/* When this vCPU cannot go on the VM is told why, and it is going to be parked. */
static void handle_exit(struct vcpu *v)
{
	struct kvm_run *run = v->run;
	char why[160];

	v->unfinished = false;
	switch (run->exit_reason) {
	case KVM_EXIT_IO:
		exit_io(v);
		v->unfinished = true;
		break;
	case KVM_EXIT_MMIO:
		exit_mmio(v);
		v->unfinished = true;
		break;
	case KVM_EXIT_INTR:
	case KVM_EXIT_HLT:
	case KVM_EXIT_IRQ_WINDOW_OPEN:
		break;
	case KVM_EXIT_SHUTDOWN:
		ended(v, VM_END_CRASH, "triple fault");
		break;
	case KVM_EXIT_SYSTEM_EVENT:
		ended(v,
		      run->system_event.type == KVM_SYSTEM_EVENT_RESET ? VM_END_RESET : VM_END_OFF,
		      "system event");
		break;
	case KVM_EXIT_FAIL_ENTRY:
		snprintf(why, sizeof(why), "KVM cannot enter the guest, reason %#llx, at rip %#llx",
			 (unsigned long long)run->fail_entry.hardware_entry_failure_reason,
			 (unsigned long long)run->s.regs.regs.rip);
		ended(v, VM_END_HOST, why);
		break;
	case KVM_EXIT_INTERNAL_ERROR:
		snprintf(why, sizeof(why), "KVM internal error %u at rip %#llx",
			 run->internal.suberror, (unsigned long long)run->s.regs.regs.rip);
		ended(v, VM_END_HOST, why);
		break;
	default:
		snprintf(why, sizeof(why), "unexpected KVM exit %u at rip %#llx", run->exit_reason,
			 (unsigned long long)run->s.regs.regs.rip);
		ended(v, VM_END_CRASH, why);
		break;
	}
}

static void no_op_signal(int sig)
{
}

void vcpu_setup_signal(void)
{
	/* The signal only interrupts KVM_RUN; immediate_exit covers the time before it. */
	struct sigaction sa = {.sa_handler = no_op_signal};

	sigaction(VCPU_SIGNAL, &sa, NULL);
}

void vcpu_run(struct vcpu *v)
{
	v->fresh = false;
	if (ioctl(v->fd, KVM_RUN, 0) == 0) {
		handle_exit(v);
		return;
	}
	v->unfinished = false;
	if (errno != EINTR && errno != EAGAIN)
		run_failed(v, errno);
}

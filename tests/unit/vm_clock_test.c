/* The guest's time, over a model of KVM's clock: saved as of one moment, put forward, never back.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <linux/kvm.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/libtime.h"
#include "vmm/vm/vm_internal.h"

#define VM_FD	 1000 /* a vCPU's is so many and its number */
#define VCPUS	 3
#define KHZ	 2000000u /* 2 ticks a ns */
#define HOST_TSC 5000000ull
#define CLOCK	 70000ull
#define OTHER	 0x11ull /* an MSR that is not the TSC */

int __wrap_kvm_ioctl(int fd, unsigned long request, void *arg);

/* KVM's side. */
static struct {
	struct kvm_clock_data clock;
	uint64_t later_ns; /* it goes on by so much once it is set */
	int fail_get, fail_set;
	unsigned ctrl[VCPUS]; /* KVM_KVMCLOCK_CTRL */
} kvm;

int __wrap_kvm_ioctl(int fd, unsigned long request, void *arg)
{
	struct kvm_clock_data *data = arg;

	if (request == KVM_KVMCLOCK_CTRL) {
		assert_in_range(fd, VM_FD + 1, VM_FD + VCPUS);
		kvm.ctrl[fd - VM_FD - 1]++;
		return 0;
	}
	assert_int_equal(fd, VM_FD);
	if (request == KVM_GET_CLOCK) {
		*data = kvm.clock;
		return kvm.fail_get;
	}
	assert_true(request == KVM_SET_CLOCK);
	assert_int_equal(data->flags, 0);
	kvm.clock.clock = data->clock + kvm.later_ns;
	return kvm.fail_set;
}

static struct vm *vm;

static uint64_t *msr(unsigned cpu, unsigned i)
{
	return (uint64_t *)&vm->vcpus[cpu].state.msrs[i].data;
}

/* vCPU i has its TSC in MSR i, others around it. */
static int setup(void **state)
{
	vm = calloc(1, sizeof(*vm));
	memset(&kvm, 0, sizeof(kvm));
	kvm.clock.clock = CLOCK;
	kvm.clock.host_tsc = HOST_TSC;
	kvm.clock.flags = KVM_CLOCK_HOST_TSC;
	vm->kvm.vm_fd = VM_FD;
	vm->vcpu_env.tsc_offsets = true;
	vm->machine.vcpus = VCPUS;
	vm->machine.tsc_khz = KHZ;
	for (unsigned i = 0; i <= VCPUS; i++) { /* one more, which is not there */
		vm->vcpus[i].fd = VM_FD + 1 + (int)i;
		vm->vcpus[i].tsc_offset = 100 * (i + 1);
		vm->vcpus[i].state.nmsrs = VCPUS;
		for (unsigned k = 0; k <= VCPUS; k++) {
			vm->vcpus[i].state.msrs[k].index = k == i ? MSR_TSC : OTHER;
			*msr(i, k) = 7;
		}
	}
	time_reset();
	return 0;
}

static int teardown(void **state)
{
	for (unsigned i = 0; i < VCPUS; i++)
		for (unsigned k = 0; k <= VCPUS; k++)
			if (k != i)
				assert_int_equal(*msr(i, k), 7);
	assert_int_equal(*msr(VCPUS, VCPUS), 7);
	assert_false(vm->vcpus[VCPUS].has_tsc_offset);
	free(vm);
	return 0;
}

/* --- saved ------------------------------------------------------------------------------------ */

static void saved_as_of_one_moment(void **state)
{
	assert_int_equal(vm_clock_save(vm), 0);
	assert_int_equal(vm->chips.clock_ns, CLOCK);
	assert_int_equal(vm->chips.tsc_exact, 1);
	for (unsigned i = 0; i < VCPUS; i++)
		assert_int_equal(*msr(i, i), HOST_TSC + 100 * (i + 1));
}

/* A host that does not say its TSC, or does not take offsets: what each vCPU said stays. */
static void saved_without_the_hosts_tsc(void **state)
{
	for (unsigned round = 0; round < 2; round++) {
		vm->chips.tsc_exact = 1;
		kvm.clock.flags = round ? KVM_CLOCK_HOST_TSC : KVM_CLOCK_TSC_STABLE;
		vm->vcpu_env.tsc_offsets = !round;
		assert_int_equal(vm_clock_save(vm), 0);
		assert_int_equal(vm->chips.clock_ns, CLOCK);
		assert_int_equal(vm->chips.tsc_exact, 0);
		for (unsigned i = 0; i < VCPUS; i++)
			assert_int_equal(*msr(i, i), 7);
	}
}

static void saved_where_a_vcpu_has_no_tsc(void **state)
{
	vm->vcpus[1].state.nmsrs = 1;
	assert_int_equal(vm_clock_save(vm), 0);
	assert_int_equal(*msr(0, 0), HOST_TSC + 100);
	assert_int_equal(*msr(1, 1), 7);
	assert_int_equal(*msr(2, 2), HOST_TSC + 300);
}

static void a_clock_that_cannot_be_read(void **state)
{
	kvm.fail_get = -EIO;
	assert_int_equal(vm_clock_save(vm), -EIO);
	assert_int_equal(vm->chips.clock_ns, 0);
	assert_int_equal(*msr(0, 0), 7);
}

/* --- loaded ----------------------------------------------------------------------------------- */

static void tscs_are(uint64_t a, uint64_t b, uint64_t c)
{
	uint64_t want[VCPUS] = {a, b, c};

	for (unsigned i = 0; i < VCPUS; i++) {
		uint64_t *tsc = msr(i, i);

		assert_int_equal(*tsc, want[i]);
		*tsc = 7; /* for the next */
	}
}

static void load(uint64_t advance_ns, bool exact)
{
	vm->chips.clock_ns = 1000;
	vm->chips.tsc_exact = exact;
	assert_int_equal(vm_clock_load(vm, advance_ns, NULL), 0);
}

static void set_tscs(uint64_t a, uint64_t b, uint64_t c)
{
	*msr(0, 0) = a;
	*msr(1, 1) = b;
	*msr(2, 2) = c;
}

/* The clock went on by 40 ns until KVM said what the host's TSC was: the TSCs meet it there. */
static void clock_and_tscs_meet_again(void **state)
{
	kvm.later_ns = 40;
	set_tscs(10000, 20000, 30000);
	load(500, true);
	assert_int_equal(kvm.clock.clock, 1000 + 500 + 40);
	for (unsigned i = 0; i < VCPUS; i++) {
		assert_true(vm->vcpus[i].has_tsc_offset);
		assert_true(vm->vcpus[i].tsc_offset == 10000 * (i + 1) + 2 * 540 - HOST_TSC);
	}
	tscs_are(11080, 21080, 31080);
}

/* Days at some GHz are more than 64 bits of ns times kHz. */
static void a_long_time(void **state)
{
	uint64_t days = 100ull * 24 * 3600 * 1000000000;

	set_tscs(1, 2, 3);
	load(days, true);
	tscs_are(1 + 2 * days, 2 + 2 * days, 3 + 2 * days);
}

/* Here no offset can be set, or the host's TSC is not known: TSCs are set by value. */
static void loaded_without_the_hosts_tsc(void **state)
{
	for (unsigned round = 0; round < 3; round++) {
		vm->vcpu_env.tsc_offsets = round != 0;
		kvm.fail_get = round == 1 ? -EIO : 0;
		kvm.clock.flags = round == 2 ? KVM_CLOCK_TSC_STABLE : KVM_CLOCK_HOST_TSC;
		kvm.later_ns = 40;
		set_tscs(10000, 20000, 30000);
		for (unsigned i = 0; i < VCPUS; i++)
			vm->vcpus[i].has_tsc_offset = true; /* of another time */
		load(500, true);
		for (unsigned i = 0; i < VCPUS; i++)
			assert_false(vm->vcpus[i].has_tsc_offset);
		tscs_are(11000, 21000, 31000);
	}
}

/* Read one after the other: the same within a second, which is 2e9 ticks; none goes back. */
static void tscs_are_levelled(void **state)
{
	uint64_t second = KHZ * 1000ull, top = 5 * second;

	set_tscs(top - 100, top, top - 50);
	load(0, false);
	tscs_are(top, top, top);
	set_tscs(top, top - second + 1, top - second);
	load(0, false);
	tscs_are(top, top, top - second);
	set_tscs(top - second - 1, top - 3, top);
	load(10, false);
	tscs_are(top - second - 1 + 20, top + 20, top + 20);
	set_tscs(top - 100, top, top - 50);
	load(0, true); /* exact already: they differ as the guest set them */
	tscs_are(top - 100, top, top - 50);
}

/* A peer that left some out. */
static void loaded_where_vcpus_have_no_tsc(void **state)
{
	vm->vcpus[1].state.nmsrs = 1;
	vm->vcpus[1].has_tsc_offset = true;
	set_tscs(100, 7, 200);
	load(10, false);
	assert_false(vm->vcpus[1].has_tsc_offset);
	assert_true(vm->vcpus[0].has_tsc_offset && vm->vcpus[2].has_tsc_offset);
	assert_int_equal(vm->vcpus[1].tsc_offset, 200);
	tscs_are(220, 7, 220);
	vm->vcpus[2].state.nmsrs = 2;
	vm->vcpus[0].state.nmsrs = 0;
	load(10, false);
	tscs_are(7, 7, 7);
}

static void a_clock_that_is_refused(void **state)
{
	struct err e = {0};

	kvm.fail_set = -EINVAL;
	assert_int_equal(vm_clock_load(vm, 0, &e), -EINVAL);
	assert_int_equal(e.code, -EINVAL);
	assert_non_null(strstr(e.msg, "kvmclock"));
	tscs_are(7, 7, 7);
}

/* --- goes on ---------------------------------------------------------------------------------- */

static void watchdogs_are_told(unsigned n)
{
	vm_clock_resume(vm);
	for (unsigned i = 0; i < VCPUS; i++)
		assert_int_equal(kvm.ctrl[i], n);
}

static void watchdogs_do_not_bark(void **state)
{
	watchdogs_are_told(0); /* never paused */
	vm->run.paused_ns = loop_now_ns();
	watchdogs_are_told(0);
	time_jump(S - 1);
	watchdogs_are_told(0);
	time_jump(1);
	watchdogs_are_told(1);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(saved_as_of_one_moment),	   T(saved_without_the_hosts_tsc),
		T(saved_where_a_vcpu_has_no_tsc),  T(a_clock_that_cannot_be_read),
		T(clock_and_tscs_meet_again),	   T(a_long_time),
		T(loaded_without_the_hosts_tsc),   T(tscs_are_levelled),
		T(loaded_where_vcpus_have_no_tsc), T(a_clock_that_is_refused),
		T(watchdogs_do_not_bark),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* A VM on /dev/kvm, without a loop that runs. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "vmm/base/log.h"
#include "vmm/vm/vm.h"

#define KERNEL "build/guests/hello.elf"

#define DEV(n, name, what)                                                                         \
	{                                                                                          \
		.kind = (what), .id = (name), .gsi = MACHINE_GSI_BASE + (n),                       \
		.gpa = MACHINE_MMIO_BASE + (n)*MACHINE_MMIO_STEP                                   \
	}

static const struct backends backends = {.console = "none", .output_bytes = 1 << 20};
static const struct machine machine = {.name = "vm",
				       .mem_bytes = 64 << 20,
				       .vcpus = 1,
				       .ndevs = 3,
				       .devs = {DEV(0, "console", MDEV_CONSOLE),
						DEV(1, "rng", MDEV_RNG),
						DEV(2, "balloon", MDEV_BALLOON)}};

struct fix {
	struct loop loop;
	struct vm vm;
};

static int boot(struct fix *f, struct err *e)
{
	struct boot_files files;
	int r = boot_files_read(&files, KERNEL, "", e);

	if (!r)
		r = vm_boot(&f->vm, &files, e);
	boot_files_free(&files);
	return r;
}

static int setup(void **state)
{
	struct fix *f = calloc(1, sizeof(*f));
	struct err e = {0};

	*state = f;
	log_init(LOG_ERROR, "test");
	assert_int_equal(loop_init(&f->loop, &e), 0);
	if (vm_create(&f->vm, &f->loop, &machine, &backends, &e) || boot(f, &e))
		fail_msg("%s", e.msg);
	return 0;
}

static int teardown(void **state)
{
	struct fix *f = *state;

	vm_destroy(&f->vm);
	loop_done(&f->loop);
	free(f);
	return 0;
}

/* A vCPU that was let go and did not get its turn is where the kernel begins. */
static void paused_before_the_first_instruction(void **state)
{
	struct fix *f = *state;
	struct vcpu *v = &f->vm.vcpus[0];
	struct kvm_regs regs;

	f->vm.running = true; /* as vm_resume() does, but nobody wakes the vCPU */
	assert_int_equal(vm_pause(&f->vm, NULL), 0);
	assert_int_equal(kvm_ioctl(v->fd, KVM_GET_REGS, &regs), 0);
	assert_int_not_equal(regs.rip, 0xfff0);
	assert_int_equal(v->state.regs.rip, regs.rip);
	assert_int_equal(v->state.sregs.cs.base, 0);
}

/* The same after a reset: what it was loaded with is not what it begins with. */
static void paused_after_a_reset(void **state)
{
	struct fix *f = *state;
	struct vcpu *v = &f->vm.vcpus[0];
	struct kvm_regs regs;

	v->fresh = false; /* it has run before */
	assert_int_equal(vm_decode(&f->vm, f->vm.state.power_on, f->vm.state.power_on_len, NULL),
			 0);
	vm_commit(&f->vm);
	assert_int_equal(vm_load(&f->vm, 0, NULL), 0);
	assert_int_equal(boot(f, NULL), 0);
	f->vm.running = true;
	assert_int_equal(vm_pause(&f->vm, NULL), 0);
	assert_int_equal(kvm_ioctl(v->fd, KVM_GET_REGS, &regs), 0);
	assert_int_equal(v->state.regs.rip, regs.rip);
}

/* XCR0 with a bit that no guest is offered: refused before KVM is asked. */
static void registers_beyond_the_cpuid(void **state)
{
	struct fix *f = *state;
	struct vm *vm = &f->vm;
	size_t cap = vm_state_bound(vm);
	uint8_t *buf = malloc(cap);
	int64_t len = vm_save(vm, buf, cap);
	struct err e = {0};

	assert_non_null(buf);
	assert_int_equal(vm_decode(vm, buf, len, &e), 0);
	vm->vcpus[0].state.xcr0 |= 1u << 18;
	len = vm_save(vm, buf, cap);
	assert_int_equal(vm_decode(vm, buf, len, &e), -EBADMSG);
	assert_non_null(strstr(e.msg, "CPUID"));
	free(buf);
}

static bool count(void *arg, const void *data, uint32_t len)
{
	++*(unsigned *)arg;
	return true;
}

static bool doubts(void *arg)
{
	return *(bool *)arg;
}

static void run_a_while(struct fix *f)
{
	for (uint64_t until = loop_now_ns() + 20000000; loop_now_ns() < until;)
		assert_int_equal(loop_run_once(&f->loop, 1000000), 0);
}

/* What is left of released output stays when another side may run the VM, until that is denied. */
static void output_waits_in_doubt(void **state)
{
	struct fix *f = *state;
	struct obuf *ob = &f->vm.obuf;
	struct iovec iov = {"x", 1};
	unsigned n = 0, first;
	bool doubt = true;
	int sink = obuf_add_sink(ob, OBUF_NET, count, NULL, &n);

	f->vm.doubts = doubts;
	f->vm.doubts_arg = &doubt;
	obuf_hold(ob, 1);
	for (unsigned i = 0; i < 1000; i++)
		assert_int_equal(obuf_put(ob, sink, &iov, 1), 0);
	obuf_seal(ob, 2);
	obuf_release(ob, 1);
	first = n;
	assert_in_range(first, 1, 999);
	run_a_while(f);
	assert_int_equal(n, first);
	doubt = false;
	for (unsigned i = 0; i < 100 && n < 1000; i++)
		run_a_while(f);
	assert_int_equal(n, 1000);
}

static void ended(void *arg)
{
	++*(unsigned *)arg;
}

/* Until the loop is told of the end; then the VM is paused, and stays so. */
static void run_to_the_end(struct fix *f)
{
	unsigned n = 0;

	f->vm.watch.on_end = ended;
	f->vm.watch.arg = &n;
	vm_start(&f->vm);
	for (unsigned i = 0; i < 1000 && !n; i++)
		assert_int_equal(loop_run_once(&f->loop, 10000000), 0);
	assert_int_equal(n, 1);
}

static struct vm_ending saved_ending(struct vm *vm)
{
	size_t cap = vm_state_bound(vm);
	uint8_t *buf = malloc(cap);
	int64_t len = vm_save(vm, buf, cap);

	assert_int_equal(vm_decode(vm, buf, len, NULL), 0);
	free(buf);
	for (unsigned i = 0; i < vm->state.nitems; i++)
		if (vm->state.scratch[i].desc == &vm_ending_desc)
			return *(struct vm_ending *)vm->state.scratch[i].pod;
	fail();
	return (struct vm_ending){0};
}

/* A file that is no vCPU in the place of one, and back. */
struct swap {
	int fd, kvm;
};

static struct swap swap_out(struct vm *vm)
{
	struct swap s = {.fd = vm->vcpus[0].fd, .kvm = dup(vm->vcpus[0].fd)};
	int other = open("/dev/null", O_RDWR);

	assert_true(s.kvm >= 0 && dup2(other, s.fd) == s.fd);
	close(other);
	return s;
}

static void swap_in(const struct swap *s)
{
	assert_int_equal(dup2(s->kvm, s->fd), s->fd);
	close(s->kvm);
}

/* KVM_RUN fails: this host's business, and nothing of it goes to another one. */
static void failing_kvm_is_not_the_guests_end(void **state)
{
	struct fix *f = *state;
	struct swap s = swap_out(&f->vm);
	struct err e = {0};

	run_to_the_end(f);
	swap_in(&s);
	assert_int_equal(f->vm.ending.end, VM_END_HOST);
	assert_non_null(strstr(vm_end_why(&f->vm), "KVM_RUN: "));
	assert_int_equal(vm_pause(&f->vm, &e), -ENOTTY); /* its registers could not be read */
}

/* The same when an exit is to be finished in a pause: who pauses learns what it was. */
static void failing_kvm_in_a_pause(void **state)
{
	struct fix *f = *state;
	struct swap s = swap_out(&f->vm);

	f->vm.running = true; /* as vm_resume() does, but nobody wakes the vCPU */
	assert_true(vm_pause(&f->vm, NULL) < 0);
	assert_int_equal(f->vm.ending.end, VM_END_HOST);
	swap_in(&s);
}

/* Code where no memory is: KVM gives up. */
static void internal_error_is_not_the_guests_end(void **state)
{
	struct fix *f = *state;
	struct kvm_regs regs;

	assert_int_equal(kvm_ioctl(f->vm.vcpus[0].fd, KVM_GET_REGS, &regs), 0);
	regs.rip = 0xe0000000;
	assert_int_equal(kvm_ioctl(f->vm.vcpus[0].fd, KVM_SET_REGS, &regs), 0);
	run_to_the_end(f);
	assert_int_equal(f->vm.ending.end, VM_END_HOST);
	assert_non_null(strstr(vm_end_why(&f->vm), "KVM internal error"));
	assert_int_equal(vm_pause(&f->vm, NULL), -EIO);
	assert_true(f->vm.running);
}

/* A triple fault is the guest's own, and goes with its state. */
static void triple_fault_is_the_guests_end(void **state)
{
	struct fix *f = *state;
	struct kvm_sregs sregs;

	assert_int_equal(kvm_ioctl(f->vm.vcpus[0].fd, KVM_GET_SREGS, &sregs), 0);
	sregs.idt.limit = 0;
	sregs.cs.limit = 0; /* nothing can be fetched, and no fault be delivered */
	sregs.cs.g = 0;
	assert_int_equal(kvm_ioctl(f->vm.vcpus[0].fd, KVM_SET_SREGS, &sregs), 0);
	run_to_the_end(f);
	assert_int_equal(f->vm.ending.end, VM_END_CRASH);
	assert_int_equal(vm_pause(&f->vm, NULL), 0);
	assert_int_equal(saved_ending(&f->vm).end, VM_END_CRASH);
}

/* A device without its back end: named, with what to do, and nothing is left of the VM. */
static void what_is_not_given_is_named(void **state)
{
	static const struct {
		enum mdev_kind kind;
		const char *words;
	} rows[] = {
		{MDEV_BLK, "disk 'd3': no image given here; add -d id=d3,path=FILE"},
		{MDEV_NET, "network 'd3': not given here; add -n id=d3,tap=NAME"},
		{MDEV_VSOCK, "none is given here; add --vsock"},
	};
	static struct vm vm;
	struct loop loop;

	assert_int_equal(loop_init(&loop, NULL), 0);
	for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct machine m = machine;
		struct err e = {0};

		m.devs[m.ndevs++] = (struct mdev)DEV(3, "d3", rows[i].kind);
		assert_int_equal(vm_create(&vm, &loop, &m, &backends, &e), -ENOENT);
		assert_non_null(strstr(e.msg, rows[i].words));
		assert_null(vm.loop);
	}
	loop_done(&loop);
}

struct order {
	unsigned n, work, end;
};

static bool kicked(struct loop_work *w)
{
	struct order *o = w->arg;

	o->work = ++o->n;
	return false;
}

static void ended_in_order(void *arg)
{
	struct order *o = arg;

	o->end = ++o->n;
}

/* A queue that was kicked before the guest ended is looked at before that is told. */
static void the_end_comes_last(void **state)
{
	struct fix *f = *state;
	struct order o = {0};
	struct loop_work w = {.fn = kicked, .arg = &o};

	run_a_while(f);
	f->vm.watch.on_end = ended_in_order;
	f->vm.watch.arg = &o;
	f->vm.ending.end = VM_END_OFF;
	loop_work_add(&f->loop, &w);
	vm_tell_end(&f->vm);
	for (unsigned i = 0; i < 20000 && !o.end; i++)
		loop_run_once(&f->loop, 1000000);
	assert_int_equal(o.work, 1);
	assert_int_equal(o.end, 2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(paused_before_the_first_instruction, setup,
						teardown),
		cmocka_unit_test_setup_teardown(paused_after_a_reset, setup, teardown),
		cmocka_unit_test_setup_teardown(output_waits_in_doubt, setup, teardown),
		cmocka_unit_test_setup_teardown(registers_beyond_the_cpuid, setup, teardown),
		cmocka_unit_test_setup_teardown(failing_kvm_is_not_the_guests_end, setup, teardown),
		cmocka_unit_test_setup_teardown(failing_kvm_in_a_pause, setup, teardown),
		cmocka_unit_test_setup_teardown(internal_error_is_not_the_guests_end, setup,
						teardown),
		cmocka_unit_test_setup_teardown(triple_fault_is_the_guests_end, setup, teardown),
		cmocka_unit_test(what_is_not_given_is_named),
		cmocka_unit_test_setup_teardown(the_end_comes_last, setup, teardown),
	};

	if (access("/dev/kvm", R_OK | W_OK) || access(KERNEL, R_OK)) {
		print_message("SKIP vm_test: no /dev/kvm, or no guests\n");
		return 0;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}

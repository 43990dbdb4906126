/*
 * A side that runs the guest as well, under KVM: what its vCPU reads and writes on split memory,
 * whatever KVM had mapped of it before.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/time.h>
#include <unistd.h>

#include "tests/unit/libflat.h"
#include "tests/unit/libviews.h"
#include "vmm/base/loop.h"
#include "vmm/machine/mem_split.h"
#include "vmm/vm/replica.h"

#define BYTES	(16ull << 20)
#define SOURCE	16u   /* the first page that is read; the code is in page 0 */
#define TARGET	1536u /* the first that is written */
#define COUNT	1000u
#define ROUNDS	300u
#define LONG_NS 10000000000ull /* so many as a slow host has time for */

/*
 * ebx: the first page, ecx: how many, edi: from a page that is read to the one that is written.
 * There goes the first word of it, plus that of the one that is written: so both are read.
 */
static const uint8_t code[] = {
	0x8b, 0x03,			    /* 1: mov (%ebx), %eax */
	0x01, 0x04, 0x3b,		    /* add %eax, (%ebx,%edi) */
	0x81, 0xc3, 0x00, 0x10, 0x00, 0x00, /* add $4096, %ebx */
	0x49,				    /* dec %ecx */
	0x75, 0xf2,			    /* jnz 1b */
	0xf4,				    /* hlt */
};

static struct kvm kvm;
static struct mem mem;
static struct flat cpu;
static struct replica replica;

static int setup(void **state)
{
	struct err e = {0};

	if (kvm_open(&kvm, &e)) {
		print_message("[  SKIPPED ] all: %s\n", e.msg);
		exit(0);
	}
	assert_int_equal(mem_init(&mem, MEM_SHARED_FILE, BYTES, &e), 0);
	memcpy(mem_page(&mem, 0), code, sizeof(code));
	assert_int_equal(kvm_add_slot(&kvm, 0, BYTES, mem.base, &e), 0);
	flat_open(&cpu, &kvm, 0);
	return 0;
}

static int teardown(void **state)
{
	flat_close(&cpu);
	kvm_close(&kvm);
	mem_done(&mem);
	return 0;
}

static uint32_t *word(uint8_t *page)
{
	return (uint32_t *)page;
}

static uint32_t source_of(unsigned i, uint32_t round)
{
	return 7 * i + 1000 * round + 1;
}

/* One time over all pages. */
static void guest_runs(void)
{
	const struct kvm_regs regs = {.rflags = 2,
				      .rbx = SOURCE * MEM_PAGE_SIZE,
				      .rcx = COUNT,
				      .rdi = (TARGET - SOURCE) * MEM_PAGE_SIZE};

	flat_set(&cpu, &regs);
	assert_int_equal(flat_run(&cpu), 0);
	assert_int_equal(cpu.run->exit_reason, KVM_EXIT_HLT);
}

/* A checkpoint: every source, and every third target. */
static void commit(uint32_t round)
{
	for (unsigned i = 0; i < COUNT; i++) {
		*word(mem_kept_page(&mem, SOURCE + i)) = source_of(i, round);
		mem_kept_changed(&mem, SOURCE + i);
		if (i % 3)
			continue;
		*word(mem_kept_page(&mem, TARGET + i)) = round;
		mem_kept_changed(&mem, TARGET + i);
	}
}

static void roll_back(void)
{
	while (!replica_roll_back(&replica))
		;
}

/* What the targets are when the guest has run so many times since the checkpoint of `round`. */
static void check(uint32_t round, uint32_t times)
{
	uint8_t buf[MEM_PAGE_SIZE];

	for (unsigned i = 0; i < COUNT; i++) {
		uint32_t target = i % 3 ? 0 : round;

		assert_int_equal(*word(mem_page(&mem, TARGET + i)),
				 target + times * source_of(i, round));
		if (!mem_is_split(&mem))
			target += times * source_of(i, round);
		views_read_kept(&mem, TARGET + i, buf);
		assert_int_equal(*word(buf), target);
	}
}

static void runs_between_checkpoints(void **state)
{
	struct err e = {0};

	commit(0);
	assert_int_equal(replica_begin(&replica, &kvm, &mem, &e), 0);
	assert_int_equal(views_private(&mem), 0);
	for (uint32_t round = 0; round < 20; round++) {
		/* Once in a while it runs twice, or not at all. */
		for (uint32_t i = 0; i < (round + 1) % 3; i++)
			guest_runs();
		check(round, (round + 1) % 3);
		assert_int_equal(views_private(&mem), (round + 1) % 3 ? COUNT : 0);
		commit(round + 1);
		roll_back();
		/* What was written here or by the commit, all of it, and nothing else. */
		assert_int_equal(replica.own_pages,
				 COUNT + ((round + 1) % 3 ? COUNT : (COUNT + 2) / 3));
		assert_int_equal(views_private(&mem), 0);
		check(round + 1, 0);
	}
	guest_runs();
	check(20, 1);
	while (!replica_end(&replica))
		;
	assert_int_equal(replica.own_pages, COUNT);
	check(20, 1);
	/* And on, on plain memory. */
	guest_runs();
	check(20, 2);
	assert_int_equal(replica_begin(&replica, &kvm, &mem, &e), 0);
	guest_runs();
	assert_int_equal(views_private(&mem), COUNT);
	roll_back();
	assert_int_equal(replica.own_pages, COUNT);
	assert_int_equal(views_private(&mem), 0);
	guest_runs();
	while (!replica_end(&replica))
		;
	check(20, 3);
}

/* Before the first collection, when pages were mapped for the guest and written already. */
static void from_the_first_write_on(void **state)
{
	struct err e = {0};

	commit(0);
	guest_runs();
	check(0, 1);
	assert_int_equal(replica_begin(&replica, &kvm, &mem, &e), 0);
	guest_runs();
	assert_int_equal(views_private(&mem), COUNT);
	while (!replica_end(&replica))
		;
	assert_int_equal(replica.own_pages, COUNT);
	check(0, 2);
}

static void on_alarm(int number)
{
}

/* Anywhere in what it does. True: it had not come to its end. */
static bool guest_is_stopped(uint64_t run_ns)
{
	struct itimerval at = {.it_value.tv_usec = 1 + (long)((uint64_t)rand() % run_ns / 1000)};
	struct itimerval never = {0};
	const struct kvm_regs regs = {.rflags = 2,
				      .rbx = SOURCE * MEM_PAGE_SIZE,
				      .rcx = COUNT,
				      .rdi = (TARGET - SOURCE) * MEM_PAGE_SIZE};
	int r;

	flat_set(&cpu, &regs);
	setitimer(ITIMER_REAL, &at, NULL);
	r = ioctl(cpu.fd, KVM_RUN, 0);
	assert_true(!r || errno == EINTR);
	setitimer(ITIMER_REAL, &never, NULL);
	return r;
}

/*
 * The kernel makes a private page for a write, and then the vCPU stops before it writes: the log
 * has nothing of it. What is committed to that page is to be seen all the same.
 */
static void a_write_that_does_not_come(void **state)
{
	struct sigaction act = {.sa_handler = on_alarm}, was;
	uint64_t began_ns, run_ns;
	unsigned stopped = 0;
	struct err e = {0};

	sigaction(SIGALRM, &act, &was);
	srand(1);
	commit(0);
	assert_int_equal(replica_begin(&replica, &kvm, &mem, &e), 0);
	began_ns = loop_now_ns();
	guest_runs();
	run_ns = loop_now_ns() - began_ns;
	for (uint32_t round = 1; round < ROUNDS && loop_now_ns() - began_ns < LONG_NS; round++) {
		stopped += guest_is_stopped(run_ns);
		commit(round);
		roll_back();
		check(round, 0);
	}
	assert_true(stopped);
	while (!replica_end(&replica))
		;
	sigaction(SIGALRM, &was, NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(runs_between_checkpoints, setup, teardown),
		cmocka_unit_test_setup_teardown(from_the_first_write_on, setup, teardown),
		cmocka_unit_test_setup_teardown(a_write_that_does_not_come, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

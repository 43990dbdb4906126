#define _GNU_SOURCE
/* The pager under KVM's vCPUs: all at the same absent page, and copies of what came go round. */
#include "tests/unit/libpager.h"

#include "tests/unit/libflat.h"
#include "vmm/vm/kvm.h"

#define VCPUS 2u
#define FIRST 16u /* page; the code is in page 0 */
#define COUNT 1000u

/*
 * 32 bits, flat, no paging. ebx: the first page, ecx: how many, edi: the vCPU's place in a page,
 * edx: what tells the vCPUs apart. Reads a page's first word, and writes what comes of it.
 */
static const uint8_t code[] = {
	0x8b, 0x03,			    /* 1: mov (%ebx), %eax */
	0x01, 0xd0,			    /* add %edx, %eax */
	0x89, 0x04, 0x3b,		    /* mov %eax, (%ebx,%edi) */
	0x81, 0xc3, 0x00, 0x10, 0x00, 0x00, /* add $4096, %ebx */
	0x49,				    /* dec %ecx */
	0x75, 0xf0,			    /* jnz 1b */
	0xf4,				    /* hlt */
};

static struct rig r;
static struct kvm kvm;

struct vcpu_thread {
	pthread_t thread;
	struct flat cpu;
	int error;
	bool done; /* atomic */
};

static unsigned place_of(unsigned vcpu)
{
	return 64 * (vcpu + 1);
}

static void set_up_vcpu(struct vcpu_thread *v, unsigned index)
{
	const struct kvm_regs regs = {.rflags = 2,
				      .rbx = FIRST * MEM_PAGE_SIZE,
				      .rcx = COUNT,
				      .rdi = place_of(index),
				      .rdx = index + 1};

	flat_open(&v->cpu, &kvm, index);
	flat_set(&v->cpu, &regs);
}

static void *vcpu_thread(void *arg)
{
	struct vcpu_thread *v = arg;

	v->error = flat_run(&v->cpu);
	__atomic_store_n(&v->done, true, __ATOMIC_RELEASE);
	return NULL;
}

static void end_vcpu(struct vcpu_thread *v)
{
	RIG_UNTIL(__atomic_load_n(&v->done, __ATOMIC_ACQUIRE));
	pthread_join(v->thread, NULL);
	assert_int_equal(v->error, 0);
	assert_int_equal(v->cpu.run->exit_reason, KVM_EXIT_HLT);
	flat_close(&v->cpu);
}

static int setup(void **state)
{
	struct err e = {0};
	uint64_t page[MEM_PAGE_SIZE / 8] = {0};
	uint8_t entry[PAGE_ENTRY_MAX];

	if (kvm_open(&kvm, &e)) {
		print_message("[  SKIPPED ] all: %s\n", e.msg);
		exit(0);
	}
	rig_open(&r);
	memcpy(page, code, sizeof(code));
	assert_int_equal(rig_take(&r, FRAME_PAGES, entry,
				  pages_encode(0, (uint8_t *)page, NULL, false, entry)),
			 0);
	rig_start(&r);
	assert_int_equal(kvm_add_slot(&kvm, 0, RIG_BYTES, r.mem.base, &e), 0);
	return 0;
}

static int teardown(void **state)
{
	kvm_close(&kvm);
	rig_done(&r);
	return 0;
}

/* What all vCPUs have been through comes again by both links, and is not the same. */
static void send_again(uint64_t page)
{
	rig_send_pages(&r, page, 1, RIG_SEED + 1);
	assert_int_equal(rig_take_pages(&r, page, 1, RIG_SEED + 2), 0);
}

/* All of them wait for the same page: it is asked for once. */
static void serve(uint64_t page)
{
	RIG_WANT(&r, page);
	RIG_UNTIL(__atomic_load_n(&r.p.faults.waiting, __ATOMIC_ACQUIRE) == VCPUS);
	if (page > FIRST)
		send_again(page - 1);
	rig_send_pages(&r, page, 1, RIG_SEED);
}

static void vcpus_at_one_page_again_and_again(void **state)
{
	struct vcpu_thread v[VCPUS] = {0};

	for (unsigned i = 0; i < VCPUS; i++)
		set_up_vcpu(&v[i], i);
	for (unsigned i = 0; i < VCPUS; i++)
		assert_int_equal(pthread_create(&v[i].thread, NULL, vcpu_thread, &v[i]), 0);
	for (uint64_t page = FIRST; page < FIRST + COUNT; page++)
		serve(page);
	for (unsigned i = 0; i < VCPUS; i++)
		end_vcpu(&v[i]);
	send_again(FIRST + COUNT - 1);
	RIG_UNTIL(__atomic_load_n(&r.p.counts.twice, __ATOMIC_ACQUIRE) == 2 * COUNT);
	assert_int_equal(rig_counts(&r).wants, COUNT);
	for (uint64_t page = FIRST; page < FIRST + COUNT; page++) {
		const uint8_t *at = mem_page(&r.mem, page);

		assert_int_equal(*(const uint64_t *)at, rig_word(page, RIG_SEED));
		for (unsigned i = 0; i < VCPUS; i++)
			assert_int_equal(*(const uint32_t *)(at + place_of(i)),
					 (uint32_t)rig_word(page, RIG_SEED) + i + 1);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(vcpus_at_one_page_again_and_again, setup, teardown),
	};

	return cmocka_run_group_tests(tests, rig_skip, NULL);
}

#include "tests/unit/libkvm_model.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

int __wrap_kvm_ioctl(int fd, unsigned long request, void *arg);
int __wrap_kvm_log_dirty(struct kvm *k, bool on);

struct kvm_model kvm_model;
/* A write and its bit, as protecting a page stops all CPUs. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

void kvm_model_start(const struct mem *m)
{
	kvm_model.kvm = (struct kvm){.manual_protect = true, .nslots = 1};
	kvm_model.kvm.slots[0].memory_size = m->low_bytes;
	if (m->bytes > m->low_bytes) {
		kvm_model.kvm.slots[1].memory_size = m->bytes - m->low_bytes;
		kvm_model.kvm.nslots = 2;
	}
	kvm_model.npages = m->npages;
	kvm_model.bits = calloc((m->npages + 63) / 64, sizeof(uint64_t));
	kvm_model.gets = kvm_model.clears = 0;
	kvm_model.busy = 0;
	kvm_model.fail = 0;
}

void kvm_model_end(void)
{
	free(kvm_model.bits);
	kvm_model.bits = NULL;
}

/* Slots follow each other in page numbers. */
static uint64_t *slot_bits(unsigned slot)
{
	return kvm_model.bits +
	       (slot ? kvm_model.kvm.slots[0].memory_size / MEM_PAGE_SIZE / 64 : 0);
}

static void get_log(const struct kvm_dirty_log *g)
{
	kvm_model.gets += !g->slot;
	memcpy(g->dirty_bitmap, slot_bits(g->slot),
	       kvm_model.kvm.slots[g->slot].memory_size / MEM_PAGE_SIZE / 8);
}

static void clear_log(const struct kvm_clear_dirty_log *c)
{
	const uint64_t *clear = c->dirty_bitmap;
	uint64_t *bits = slot_bits(c->slot) + c->first_page / 64;

	kvm_model.clears++;
	for (uint64_t i = 0; i < c->num_pages / 64; i++)
		bits[i] &= ~clear[i];
	memset(kvm_model.bits, 0xff, kvm_model.busy / 8);
}

int __wrap_kvm_ioctl(int fd, unsigned long request, void *arg)
{
	int r = kvm_model.fail;

	pthread_mutex_lock(&lock);
	if (r) {
		;
	} else if (request == KVM_GET_DIRTY_LOG) {
		get_log(arg);
	} else if (request == KVM_CLEAR_DIRTY_LOG) {
		clear_log(arg);
	} else {
		r = -ENOTTY;
	}
	pthread_mutex_unlock(&lock);
	return r;
}

int __wrap_kvm_log_dirty(struct kvm *k, bool on)
{
	return 0;
}

__attribute__((no_sanitize_thread)) void guest_writes(struct mem *m, uint64_t page, unsigned word,
						      uint64_t value)
{
	pthread_mutex_lock(&lock);
	kvm_model.bits[page / 64] |= 1ull << (page % 64);
	__atomic_store_n((uint64_t *)mem_page(m, page) + word, value, __ATOMIC_RELAXED);
	pthread_mutex_unlock(&lock);
}

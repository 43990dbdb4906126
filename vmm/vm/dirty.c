#include "vmm/vm/dirty.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define PIECE_PAGES 1024u /* a tenth of a millisecond, more without page tables in hardware */

int dirty_start(struct dirty *d, struct kvm *kvm, struct mem *mem, struct err *e)
{
	int r;

	memset(d, 0, sizeof(*d));
	if (kvm->tracked)
		return err_set(e, -EBUSY,
			       "what the guest writes is followed by somebody else already: a live "
			       "snapshot or a migration is under way; try again when it has ended");
	d->kvm = kvm;
	d->mem = mem;
	d->nwords = (mem->npages + 63) / 64;
	d->bits = calloc(d->nwords, sizeof(uint64_t));
	d->clear = calloc(d->nwords, sizeof(uint64_t));
	if (!d->bits || !d->clear) {
		dirty_stop(d);
		return err_set(e, -ENOMEM, "dirty tracking: out of memory");
	}
	if (!kvm->manual_protect) {
		dirty_stop(d);
		return err_set(e, -ENOSYS,
			       "dirty tracking: this host lacks KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 "
			       "(Linux 5.0)");
	}
	r = kvm_log_dirty(kvm, true);
	if (r) {
		dirty_stop(d);
		return err_set(e, r, "dirty tracking: %s", strerror(-r));
	}
	kvm->tracked = true;
	return 0;
}

void dirty_stop(struct dirty *d)
{
	if (d->kvm) {
		kvm_log_dirty(d->kvm, false);
		d->kvm->tracked = false;
	}
	free(d->bits);
	free(d->clear);
	memset(d, 0, sizeof(*d));
}

/* First word of a slot in d->bits: slots follow each other in page numbers, 2 MiB aligned. */
static uint64_t slot_word(const struct dirty *d, unsigned slot)
{
	return slot ? d->mem->low_bytes >> (MEM_PAGE_SHIFT + 6) : 0;
}

static int get_log(struct dirty *d)
{
	for (unsigned i = 0; i < d->kvm->nslots; i++) {
		struct kvm_dirty_log log = {.slot = i, .dirty_bitmap = d->bits + slot_word(d, i)};
		int r = kvm_ioctl(d->kvm->vm_fd, KVM_GET_DIRTY_LOG, &log);

		if (r < 0)
			return r;
	}
	return 0;
}

int dirty_get(struct dirty *d)
{
	int r = get_log(d);

	if (r)
		return r;
	for (uint64_t w = 0; w < d->nwords; w++)
		d->bits[w] |= mem_take_discarded(d->mem, w) | mem_take_host_dirty(d->mem, w);
	return 0;
}

int dirty_count(struct dirty *d, uint64_t *ret_pages)
{
	int r = get_log(d);

	*ret_pages = 0;
	for (uint64_t w = 0; w < d->nwords && !r; w++)
		*ret_pages += (uint64_t)__builtin_popcountll(d->bits[w] | mem_marks(d->mem, w));
	return r;
}

void dirty_forget_host(struct dirty *d)
{
	for (uint64_t w = 0; w < d->nwords; w++) {
		mem_take_discarded(d->mem, w);
		mem_take_host_dirty(d->mem, w);
	}
}

/* The slot of a word, and where that ends. */
static unsigned slot_of(const struct dirty *d, uint64_t word, uint64_t *ret_end)
{
	unsigned slot = d->kvm->nslots - 1;

	*ret_end = d->nwords;
	for (; slot && slot_word(d, slot) > word; slot--)
		*ret_end = slot_word(d, slot);
	return slot;
}

/* The next word that is not empty; false: there is none. */
static bool find(const struct dirty *d, uint64_t *word)
{
	while (*word < d->nwords && !d->clear[*word])
		(*word)++;
	return *word < d->nwords;
}

int dirty_clear_piece(struct dirty *d, uint64_t *word)
{
	struct kvm_clear_dirty_log log = {0};
	uint64_t from, to, end, pages = 0;
	int r;

	if (!d->kvm->nslots || !find(d, word)) /* without a slot there is no log */
		return 1;
	from = to = *word;
	log.slot = slot_of(d, from, &end);
	for (uint64_t w = from; w < end && pages < PIECE_PAGES; w++) {
		pages += (unsigned)__builtin_popcountll(d->clear[w]);
		if (d->clear[w])
			to = w + 1;
	}
	log.first_page = (from - slot_word(d, log.slot)) * 64;
	log.num_pages = (to - from) * 64;
	log.dirty_bitmap = d->clear + from;
	r = kvm_ioctl(d->kvm->vm_fd, KVM_CLEAR_DIRTY_LOG, &log);
	if (r < 0)
		return r;
	memset(d->clear + from, 0, (to - from) * sizeof(uint64_t));
	*word = to;
	return !find(d, word);
}

int dirty_clear(struct dirty *d)
{
	uint64_t word = 0;
	int r;

	do
		r = dirty_clear_piece(d, &word);
	while (!r);
	return r < 0 ? r : 0;
}

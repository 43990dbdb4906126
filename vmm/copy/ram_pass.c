#include "vmm/copy/ram_pass.h"

#include <errno.h>
#include <string.h>

#define LOOK_PAGES 1024u /* of zeros, and then `between` has its turn */

/* Word by word, because a racing memcpy() is nothing that C gives a meaning to. */
__attribute__((no_sanitize_thread)) void ram_copy_page(uint64_t *to, const uint8_t *page)
{
	const uint64_t *from = (const uint64_t *)page;

	for (unsigned i = 0; i < MEM_PAGE_SIZE / 8; i++)
		to[i] = __atomic_load_n(&from[i], __ATOMIC_RELAXED);
}

static int between(const struct ram_pass *p)
{
	return p->between ? p->between(p->arg) : 0;
}

static int flush(const struct ram_pass *p)
{
	int r = page_out_flush(p->out);

	return r ? r : between(p);
}

static int send_page(const struct ram_pass *p, uint64_t page, const uint64_t *copy)
{
	if (p->sent)
		dirty_set(p->sent, page);
	if (p->pages)
		__atomic_fetch_add(p->pages, 1, __ATOMIC_RELAXED);
	return page_out_add(p->out, page, (const uint8_t *)copy, NULL) ? flush(p) : 0;
}

/* The encoding is chosen from what is sent, not from what changes meanwhile: from a copy. */
static int send_if_used(const struct ram_pass *p, uint64_t page, struct mem_hole *hole)
{
	uint64_t copy[MEM_PAGE_SIZE / 8];

	if (page % LOOK_PAGES == 0) {
		int r = between(p);

		if (r)
			return r;
	}
	if (mem_absent(p->mem, page, hole))
		return 0;
	ram_copy_page(copy, mem_page(p->mem, page));
	return mem_is_zero_page((const uint8_t *)copy) ? 0 : send_page(p, page, copy);
}

int ram_pass_all(const struct ram_pass *p)
{
	struct mem_hole hole = {0};
	uint64_t off = 0, end;
	int r = 0;

	for (; mem_next_data(p->mem, &off, &end) && !r; off = end)
		for (uint64_t at = off; at < end && !r; at += MEM_PAGE_SIZE)
			r = send_if_used(p, at >> MEM_PAGE_SHIFT, &hole);
	return r ? r : flush(p);
}

static int send_dirty(const struct ram_pass *p, uint64_t page, struct mem_hole *hole)
{
	uint64_t copy[MEM_PAGE_SIZE / 8];

	if (mem_absent(p->mem, page, hole))
		memset(copy, 0, sizeof(copy));
	else
		ram_copy_page(copy, mem_page(p->mem, page));
	return send_page(p, page, copy);
}

int ram_pass_dirty(const struct ram_pass *p, struct dirty *d, uint64_t *ret_count)
{
	struct mem_hole hole = {0};
	int r = dirty_get(d);

	*ret_count = 0;
	/* Protect first, read after: what the guest writes in between is seen by the next pass. */
	if (!r && !p->still) {
		memcpy(d->clear, d->bits, d->nwords * sizeof(uint64_t));
		r = dirty_clear(d);
	}
	for (uint64_t w = 0; w < d->nwords; w++) {
		uint64_t bits = d->bits[w];

		for (; bits && !r; bits &= bits - 1) {
			(*ret_count)++;
			r = send_dirty(p, w * 64 + (uint64_t)__builtin_ctzll(bits), &hole);
		}
		/* After another error d may be another's, or gone. */
		if (r && r != -ETIME)
			return r;
		if (bits)
			mem_put_host_dirty(d->mem, w, bits);
	}
	return r ? r : flush(p);
}

int ram_pass_marked(const struct ram_pass *p, uint64_t *bits, uint64_t *ret_count)
{
	int r = 0;

	*ret_count = 0;
	for (uint64_t w = 0; w < (p->mem->npages + 63) / 64; w++) {
		uint64_t b = __atomic_exchange_n(&bits[w], 0, __ATOMIC_ACQ_REL);
		/* Of what was absent before the marks were taken nothing is known any more. */
		struct mem_hole hole = {0};

		for (; b && !r; b &= b - 1) {
			(*ret_count)++;
			r = send_dirty(p, w * 64 + (uint64_t)__builtin_ctzll(b), &hole);
		}
	}
	return r ? r : flush(p);
}

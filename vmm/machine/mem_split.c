#define _GNU_SOURCE
#include "vmm/machine/mem_split.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "vmm/base/log.h"

#define PIECE_PAGES 512u /* half a millisecond, when they are copied */

/*
 * The view takes the place of what the guest sees. Moved there, because a mapping that is made
 * there could be refused when the old one is gone already. If that is refused, memory is not split.
 */
static int move_to_base(struct mem *m, uint8_t *view)
{
	int flags = MREMAP_MAYMOVE | MREMAP_FIXED, r;

	if (mremap(view, m->bytes, m->bytes, flags, m->base) != MAP_FAILED)
		return 0;
	r = -errno;
	munmap(view, m->bytes);
	VMM_BUG_ON(!mem_map(m, m->base, MEM_SHARED_FILE));
	return r;
}

int mem_split(struct mem *m, struct err *e)
{
	uint8_t *kept, *own;
	int r;

	VMM_BUG_ON(mem_is_split(m) || m->late);
	kept = mem_map(m, NULL, MEM_SHARED_FILE);
	own = kept ? mem_map(m, NULL, MEM_PRIVATE_FILE) : NULL;
	r = own ? move_to_base(m, own) : -errno;
	if (!r) {
		m->kept = kept;
		return 0;
	}
	if (kept)
		munmap(kept, m->bytes);
	return err_set(e, r,
		       "guest memory of %lluM, to run on beside the checkpoint: %s; where "
		       "vm.overcommit_memory is 2, the host must have as much once more",
		       (unsigned long long)(m->bytes >> 20), strerror(-r));
}

/* The first page in [from, to) whose bit is `set`, or `to`. */
static uint64_t find(const uint64_t *pages, uint64_t from, uint64_t to, bool set)
{
	while (from < to) {
		uint64_t w = (set ? pages[from / 64] : ~pages[from / 64]) >> (from % 64);

		if (w) {
			from += (unsigned)__builtin_ctzll(w);
			break;
		}
		from = (from | 63) + 1;
	}
	return from < to ? from : to;
}

/* The next of these pages in a row, from *page on, which then is behind them. 0: there are none. */
static uint64_t next_run(const struct mem *m, const uint64_t *pages, uint64_t *page,
			 uint64_t *ret_from)
{
	uint64_t from = find(pages, *page, m->npages, true);
	uint64_t most = m->npages - from < PIECE_PAGES ? m->npages : from + PIECE_PAGES;

	*ret_from = from;
	*page = find(pages, from, most, false);
	return *page - from;
}

void mem_kept_changed(struct mem *m, uint64_t page)
{
	if (mem_is_split(m))
		mem_put_host_dirty(m, page / 64, 1ull << (page % 64));
}

bool mem_roll_back(struct mem *m, const uint64_t *pages, uint64_t *page)
{
	uint64_t from, n = next_run(m, pages, page, &from);

	VMM_BUG_ON(!mem_is_split(m));
#ifdef BUG_ROLL_BACK /* planted: the tests must notice */
	if (n > 1)
		n--;
#endif
	VMM_BUG_ON(n && madvise(mem_page(m, from), n << MEM_PAGE_SHIFT, MADV_DONTNEED));
	return *page == m->npages;
}

/* Looking at them may have given them memory. */
static void empty(struct mem *m, uint64_t page, uint64_t n)
{
	if (n && mem_empty_pages(m, page, n))
		mem_zero_pages(m, page, n);
}

/*
 * Where the guest's and the checkpoint's are one page, it is copied to itself. Each is looked at:
 * that the memfd has no page there says nothing of a private one.
 */
static void join_run(struct mem *m, uint64_t from, uint64_t n)
{
	uint64_t zeros = from, page = from; /* those in between are zero */

	for (; page < from + n; page++) {
		if (mem_is_zero_page(mem_page(m, page)))
			continue;
		empty(m, zeros, page - zeros);
		memcpy(mem_kept_page(m, page), mem_page(m, page), MEM_PAGE_SIZE);
		zeros = page + 1;
	}
	empty(m, zeros, page - zeros);
}

bool mem_join(struct mem *m, const uint64_t *pages, uint64_t *page)
{
	uint64_t from, n = next_run(m, pages, page, &from);

	VMM_BUG_ON(!mem_is_split(m));
	join_run(m, from, n);
	if (*page < m->npages)
		return false;
	move_to_base(m, m->kept); /* or a new one is there, which is as good */
	m->kept = m->base;
	return true;
}

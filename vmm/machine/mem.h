/*
 * Guest memory: one sealed memfd, mapped once; or twice, when the guest runs beside what is in it
 * (vmm/machine/mem_split.h). The only door from guest-physical addresses to host memory. RAM lies
 * at 0..3 GiB and from 4 GiB on (the 3-4 GiB hole holds devices and the APICs).
 *
 * A RAM page number counts 4 KiB pages in memfd order, without the hole; dirty sets, streams and
 * snapshots use page numbers only. KVM's dirty log does not see writes by the host, so every one
 * goes through mem_write() and its like, which mark the pages dirty.
 */
#ifndef VMM_MEM_H
#define VMM_MEM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "vmm/base/err.h"

typedef uint64_t gpa_t;

#define MEM_FILL_MAX   256u
#define MEM_PAGE_SHIFT 12
#define MEM_PAGE_SIZE  4096u
#define MEM_LOW_MAX    (3ull << 30) /* RAM below the hole ends here at the latest */
#define MEM_HIGH_BASE  (4ull << 30)
#define MEM_MIN_BYTES  (2ull << 20)

/* Who knows of pages that come while the guest runs already (postcopy). Loop thread. */
struct mem_late {
	/* Has each of the n pages come? If not they are asked for, and `arg` tells when they have.
	 */
	bool (*ready)(void *arg, uint64_t page, uint64_t n);
	/* Memory is given back: before it is, and when it was. */
	void (*discard)(void *arg, uint64_t page, uint64_t n);
	void (*discarded)(void *arg, uint64_t page, uint64_t n);
	void *arg;
};

struct mem {
	int fd;
	uint8_t *base;	    /* what the guest sees: low RAM, then high RAM */
	uint8_t *kept;	    /* the memfd: the same mapping, unless memory is split */
	uint64_t bytes;	    /* multiple of 2 MiB */
	uint64_t low_bytes; /* RAM below the hole */
	uint64_t npages;
	uint64_t *host_dirty; /* atomic bit per page: written by the host since last collected */
	uint64_t *discarded;  /* atomic, likewise: given back to the host */
	uint64_t *holes;      /* atomic: given back once, may still have no memory (mem_absent()) */
	const struct mem_late *late; /* NULL: all pages are here */
};

/* Where mem_absent() has looked last; {0} to begin with. Good for one pass over the pages. */
struct mem_hole {
	uint64_t from, end; /* bytes in the memfd without memory */
};

/* How guest memory is mapped. */
enum mem_kind {
	MEM_SHARED_FILE,  /* what is written through the mapping is in the memfd */
	MEM_PRIVATE_FILE, /* it is not: the guest's view of split memory */
};

/*
 * Map `bytes` of RAM (multiple of 2 MiB, at most the host's memory); only mem_split() makes of a
 * MEM_SHARED_FILE the other. Any thread, once.
 */
int mem_init(struct mem *m, enum mem_kind kind, uint64_t bytes, struct err *e);
void mem_done(struct mem *m);
/* Another mapping of it, anywhere or in place of what is at `at`. NULL: errno says why. */
uint8_t *mem_map(const struct mem *m, uint8_t *at, enum mem_kind kind);

/* Host address of [gpa, gpa+len) for reading, or NULL when not wholly inside one RAM region. */
const void *mem_ptr(const struct mem *m, gpa_t gpa, uint64_t len);
/* Copy out of guest RAM. -EFAULT (nothing copied) when the range is not wholly RAM. */
int mem_read(const struct mem *m, gpa_t gpa, void *buf, uint64_t len);
/*
 * Copy into it, fill it with zeros, or store one aligned word at once, sequentially consistent.
 * Marked dirty when it is written: whoever takes the mark, at any time, and reads the page then has
 * all of it; one who read too early finds a mark again. -EFAULT as above.
 */
int mem_write(struct mem *m, gpa_t gpa, const void *buf, uint64_t len);
int mem_zero(struct mem *m, gpa_t gpa, uint64_t len);
int mem_store16(struct mem *m, gpa_t gpa, uint16_t value);
bool mem_valid(const struct mem *m, gpa_t gpa, uint64_t len);
/*
 * May the loop touch this range? False while pages of it are still to come: it would sleep until
 * they have, and with it heartbeats and commands. They are asked for; whoever asked looks again
 * when some have come. What is not RAM is ready: the access itself says so. Loop thread.
 */
bool mem_ready(const struct mem *m, gpa_t gpa, uint64_t len);

/*
 * The page as this side's guest sees it, to be read:
 *   vmm/copy/ram_pass.c        passes of a first sync, a migration or a snapshot, while the guest
 *                              writes
 *   vmm/copy/live_snapshot.c   the rest of a snapshot, VM paused
 *   ft/epoch/capture.c         pages of an epoch, VM paused
 *   postcopy/urgent.c, push.c, carry_out.c   pages of a VM that runs elsewhere now
 * None of these runs here while pages are still to come (m->late), and no boot: whoever owns the VM
 * refuses. Nor while memory is split, though they would be right: each needs the dirty log, which
 * has one user at a time (vmm/vm/dirty.h).
 */
static inline uint8_t *mem_page(const struct mem *m, uint64_t page)
{
	return m->base + (page << MEM_PAGE_SHIFT);
}
/*
 * The page as it was sent here: of split memory that is the last checkpoint, else what the guest
 * sees. Writing through it marks nothing, and is for memory that a peer or a file fills:
 *   vmm/copy/page_in.c   the base of a delta, before commit; restore, VM not run yet; first sync
 *                        and commit, VM stands
 * So do mem_populate(), mem_zero_pages() and mem_fill_pages(). What is not said to be of the
 * checkpoint is of what the guest sees.
 */
static inline uint8_t *mem_kept_page(const struct mem *m, uint64_t page)
{
	return m->kept + (page << MEM_PAGE_SHIFT);
}
static inline bool mem_is_split(const struct mem *m)
{
	return m->kept != m->base;
}
/*
 * Hash of the content, by page number; pages of zeros count for nothing, allocated or not. Of what
 * the guest sees, and of the last checkpoint. In mem_places.c.
 */
uint64_t mem_hash(const struct mem *m);
uint64_t mem_hash_kept(const struct mem *m);
bool mem_is_zero_page(const uint8_t *page);
/*
 * The next run of allocated memory at or after *off: true and [*off, *end), bytes in the memfd.
 * Looking at memory through it does not allocate what was never touched, split or not.
 */
bool mem_next_data(const struct mem *m, uint64_t *off, uint64_t *end);
/* Take and clear one 64-page word of the host-dirty set (owner of dirty collection only, any
 * thread). */
uint64_t mem_take_host_dirty(struct mem *m, uint64_t word);
/* And marks of it that were taken in vain. */
void mem_put_host_dirty(struct mem *m, uint64_t word, uint64_t bits);

/*
 * Give guest memory back to the host: it reads as zeros and takes no memory until the next write.
 * Whole pages, wholly RAM, or -EINVAL and -EFAULT; else what the host said, after which some pages
 * may be as they were. Takes 0.1 us a page: the caller bounds len. Loop thread.
 */
int mem_discard(struct mem *m, gpa_t gpa, uint64_t len);
/* One word of both sets, which stay as they are. Any thread. */
uint64_t mem_marks(const struct mem *m, uint64_t word);
/* Take and clear one word of the discarded set. What is in there was discarded before. */
uint64_t mem_take_discarded(struct mem *m, uint64_t word);
/*
 * Was the page discarded, and has it no memory now? It is zero then, and reading it through the
 * mapping would allocate it. *h saves system calls. Any thread; a guest that runs may change it.
 */
bool mem_absent(const struct mem *m, uint64_t page, struct mem_hole *h);
/* The second half of that, of any page: a system call for each that has memory. Any thread. */
bool mem_is_hole(const struct mem *m, uint64_t page, struct mem_hole *h);
/* The page has memory (again): mem_absent() need not ask for it until it is discarded. Loop. */
void mem_found(struct mem *m, uint64_t page);
/*
 * The page has memory from here on, so that the next write to it neither waits for any nor fails
 * for want of it: the next write to the checkpoint, of split memory. Nothing is changed or marked.
 * Loop thread.
 */
void mem_populate(struct mem *m, uint64_t page);
/*
 * Make n pages zero without allocating any; long runs give theirs back. Cannot fail. Marks nothing:
 * for memory that a peer fills. Loop thread.
 */
void mem_zero_pages(struct mem *m, uint64_t page, uint64_t n);
/*
 * The n pages have no memory when this returns 0: whoever waits for them to be filled sees them
 * missing. -EBUSY: the host keeps some, as parts of larger ones. Marks nothing. Not of split
 * memory, where nobody waits. Loop thread.
 */
int mem_empty_pages(struct mem *m, uint64_t page, uint64_t n);
/*
 * Fill the pages from `page` on, one with each iovec (4096 bytes), n at most MEM_FILL_MAX. For
 * memory that was never touched this is nearly twice as fast as a copy through the mapping, which
 * would be a fault and a page of zeros first. Negative errno: the host has no memory; some pages
 * may be filled. Marks nothing: for memory that a peer fills. Loop thread.
 */
int mem_fill_pages(struct mem *m, uint64_t page, const struct iovec *data, unsigned n);

#endif

#define _GNU_SOURCE
#include "vmm/machine/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "vmm/base/log.h"
#include "vmm/base/nodump.h"

#define PUNCH_PAGES 16 /* fewer are cheaper to fill with zeros than to give back */

static int check_size(uint64_t bytes, struct err *e)
{
	uint64_t host = (uint64_t)sysconf(_SC_PHYS_PAGES) * sysconf(_SC_PAGESIZE);

	if (bytes < MEM_MIN_BYTES || bytes % (2u << 20))
		return err_set(e, -EINVAL,
			       "memory of %llu bytes: must be a multiple of 2M, at least 2M (-m)",
			       (unsigned long long)bytes);
	if (bytes > host)
		return err_set(e, -EINVAL, "memory of %lluM: the host has %lluM; give less with -m",
			       (unsigned long long)(bytes >> 20), (unsigned long long)(host >> 20));
	return 0;
}

static int map_flags(enum mem_kind kind)
{
	switch (kind) {
	case MEM_SHARED_FILE:
		return MAP_SHARED | MAP_NORESERVE;
	case MEM_PRIVATE_FILE:
		return MAP_PRIVATE | MAP_NORESERVE;
	}
	return -1;
}

uint8_t *mem_map(const struct mem *m, uint8_t *at, enum mem_kind kind)
{
	int flags = map_flags(kind) | (at ? MAP_FIXED : 0);
	uint8_t *p = mmap(at, m->bytes, PROT_READ | PROT_WRITE, flags, m->fd, 0);

	if (p == MAP_FAILED)
		return NULL;
	/* Advice only: a host without shmem THP or core-dump control still works. */
	madvise(p, m->bytes, MADV_HUGEPAGE);
	nodump(p, m->bytes);
	return p;
}

int mem_init(struct mem *m, enum mem_kind kind, uint64_t bytes, struct err *e)
{
	int r = check_size(bytes, e);

	memset(m, 0, sizeof(*m));
	m->fd = -1;
	if (r)
		return r;
	m->bytes = bytes;
	m->low_bytes = bytes < MEM_LOW_MAX ? bytes : MEM_LOW_MAX;
	m->npages = bytes >> MEM_PAGE_SHIFT;
	m->fd = memfd_create("ftvmm-ram", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (m->fd < 0 || ftruncate(m->fd, bytes) < 0)
		goto fail;
	/* Nobody may shrink the file below a mapping: that would be a SIGBUS in a vCPU. */
	if (fcntl(m->fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
		goto fail;
	m->base = m->kept = mem_map(m, NULL, kind);
	if (!m->base)
		goto fail;
	m->host_dirty = calloc((m->npages + 63) / 64, sizeof(uint64_t));
	m->discarded = calloc((m->npages + 63) / 64, sizeof(uint64_t));
	m->holes = calloc((m->npages + 63) / 64, sizeof(uint64_t));
	if (!m->host_dirty || !m->discarded || !m->holes)
		goto fail;
	return 0;
fail:
	r = err_sys(e, "guest memory of %lluM", (unsigned long long)(bytes >> 20));
	mem_done(m);
	return r;
}

void mem_done(struct mem *m)
{
	if (mem_is_split(m))
		munmap(m->kept, m->bytes);
	if (m->base)
		munmap(m->base, m->bytes);
	if (m->fd >= 0)
		close(m->fd);
	free(m->host_dirty);
	free(m->discarded);
	free(m->holes);
	memset(m, 0, sizeof(*m));
	m->fd = -1;
}

/* Offset of a range in the memfd; false when it is not wholly inside one region. */
static bool range_offset(const struct mem *m, gpa_t gpa, uint64_t len, uint64_t *ret_off)
{
	uint64_t high = m->bytes - m->low_bytes;

	if (gpa < m->low_bytes) {
		if (len > m->low_bytes - gpa)
			return false;
		*ret_off = gpa;
		return true;
	}
	if (gpa < MEM_HIGH_BASE || gpa - MEM_HIGH_BASE >= high ||
	    len > high - (gpa - MEM_HIGH_BASE))
		return false;
	*ret_off = m->low_bytes + (gpa - MEM_HIGH_BASE);
	return true;
}

static void mark_range(uint64_t *set, uint64_t off, uint64_t len)
{
	uint64_t first = off >> MEM_PAGE_SHIFT, last = (off + len - 1) >> MEM_PAGE_SHIFT;

	for (uint64_t p = first; len && p <= last; p++)
		__atomic_fetch_or(&set[p / 64], 1ull << (p % 64), __ATOMIC_RELEASE);
}

const void *mem_ptr(const struct mem *m, gpa_t gpa, uint64_t len)
{
	uint64_t off;

	return range_offset(m, gpa, len, &off) ? m->base + off : NULL;
}

int mem_read(const struct mem *m, gpa_t gpa, void *buf, uint64_t len)
{
	const void *p = mem_ptr(m, gpa, len);

	if (!p)
		return -EFAULT;
	memcpy(buf, p, len);
	return 0;
}

int mem_write(struct mem *m, gpa_t gpa, const void *buf, uint64_t len)
{
	uint64_t off;

	if (!range_offset(m, gpa, len, &off))
		return -EFAULT;
	memcpy(m->base + off, buf, len);
	mark_range(m->host_dirty, off, len);
	return 0;
}

int mem_zero(struct mem *m, gpa_t gpa, uint64_t len)
{
	uint64_t off;

	if (!range_offset(m, gpa, len, &off))
		return -EFAULT;
	memset(m->base + off, 0, len);
	mark_range(m->host_dirty, off, len);
	return 0;
}

int mem_store16(struct mem *m, gpa_t gpa, uint16_t value)
{
	uint64_t off;

	if (gpa % sizeof(value) || !range_offset(m, gpa, sizeof(value), &off))
		return -EFAULT;
	__atomic_store_n((uint16_t *)(m->base + off), value, __ATOMIC_SEQ_CST);
	mark_range(m->host_dirty, off, sizeof(value));
	return 0;
}

bool mem_valid(const struct mem *m, gpa_t gpa, uint64_t len)
{
	uint64_t off;

	return range_offset(m, gpa, len, &off);
}

bool mem_ready(const struct mem *m, gpa_t gpa, uint64_t len)
{
	uint64_t off, first;

	if (!m->late || !len || !range_offset(m, gpa, len, &off))
		return true;
	first = off >> MEM_PAGE_SHIFT;
	return m->late->ready(m->late->arg, first, ((off + len - 1) >> MEM_PAGE_SHIFT) - first + 1);
}

static uint64_t take_word(uint64_t *set, uint64_t word)
{
	if (!__atomic_load_n(&set[word], __ATOMIC_RELAXED))
		return 0;
	return __atomic_exchange_n(&set[word], 0, __ATOMIC_ACQUIRE);
}

uint64_t mem_take_host_dirty(struct mem *m, uint64_t word)
{
	return take_word(m->host_dirty, word);
}

void mem_put_host_dirty(struct mem *m, uint64_t word, uint64_t bits)
{
	__atomic_fetch_or(&m->host_dirty[word], bits, __ATOMIC_RELEASE);
}

uint64_t mem_take_discarded(struct mem *m, uint64_t word)
{
	return take_word(m->discarded, word);
}

uint64_t mem_marks(const struct mem *m, uint64_t word)
{
	return __atomic_load_n(&m->host_dirty[word], __ATOMIC_ACQUIRE) |
	       __atomic_load_n(&m->discarded[word], __ATOMIC_ACQUIRE);
}

static int punch(const struct mem *m, uint64_t off, uint64_t len)
{
	return fallocate(m->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, off, len) ? -errno : 0;
}

/* Where allocated memory begins at or after off; UINT64_MAX: nowhere; off when nobody can tell. */
static uint64_t seek_data(const struct mem *m, uint64_t off)
{
	off_t data = lseek(m->fd, off, SEEK_DATA);

	return data >= 0 ? (uint64_t)data : errno == ENXIO ? UINT64_MAX : off;
}

/* Pages without memory are zero, and stay without. */
static void zero_data(const struct mem *m, uint64_t off, uint64_t stop)
{
	while (off < stop && (off = seek_data(m, off)) < stop) {
		memset(m->kept + off, 0, MEM_PAGE_SIZE);
		off += MEM_PAGE_SIZE;
	}
}

/* The guest's view of split memory. A private page may lie over nothing: then it goes. */
static void zero_private(const struct mem *m, uint64_t off, uint64_t stop)
{
	while (off < stop) {
		uint64_t data = seek_data(m, off);

		data = data < stop ? data : stop;
		VMM_BUG_ON(data > off && madvise(m->base + off, data - off, MADV_DONTNEED));
		if (data < stop)
			memset(m->base + data, 0, MEM_PAGE_SIZE);
		off = data + MEM_PAGE_SIZE;
	}
}

int mem_discard(struct mem *m, gpa_t gpa, uint64_t len)
{
	uint64_t off;
	int r = 0;

	if (gpa % MEM_PAGE_SIZE || len % MEM_PAGE_SIZE || !len)
		return -EINVAL;
	if (!range_offset(m, gpa, len, &off))
		return -EFAULT;
	if (m->late)
		m->late->discard(m->late->arg, off >> MEM_PAGE_SHIFT, len >> MEM_PAGE_SHIFT);
	if (mem_is_split(m))
		zero_private(m, off, off + len);
	else
		r = punch(m, off, len);
	if (m->late)
		m->late->discarded(m->late->arg, off >> MEM_PAGE_SHIFT, len >> MEM_PAGE_SHIFT);
	/* After it, so that whoever takes the mark sees zeros; also when only a part was done. */
	mark_range(m->holes, off, len);
	mark_range(m->discarded, off, len);
	return r;
}

bool mem_is_hole(const struct mem *m, uint64_t page, struct mem_hole *h)
{
	uint64_t off = page << MEM_PAGE_SHIFT;

	if (off < h->from || off >= h->end)
		*h = (struct mem_hole){off, seek_data(m, off)};
	return off < h->end;
}

bool mem_absent(const struct mem *m, uint64_t page, struct mem_hole *h)
{
	if (!(__atomic_load_n(&m->holes[page / 64], __ATOMIC_RELAXED) >> (page % 64) & 1))
		return false;
	return mem_is_hole(m, page, h);
}

void mem_found(struct mem *m, uint64_t page)
{
	__atomic_fetch_and(&m->holes[page / 64], ~(1ull << (page % 64)), __ATOMIC_RELAXED);
}

void mem_populate(struct mem *m, uint64_t page)
{
	volatile uint8_t *p = mem_kept_page(m, page);
	uint8_t byte = *p;

	*p = byte; /* a fault, if there is no memory; else it costs next to nothing */
}

void mem_zero_pages(struct mem *m, uint64_t page, uint64_t n)
{
	uint64_t off = page << MEM_PAGE_SHIFT, stop = (page + n) << MEM_PAGE_SHIFT;

	if (n >= PUNCH_PAGES && !punch(m, off, stop - off))
		return;
	zero_data(m, off, stop);
}

int mem_empty_pages(struct mem *m, uint64_t page, uint64_t n)
{
	uint64_t off = page << MEM_PAGE_SHIFT, stop = (page + n) << MEM_PAGE_SHIFT;
	int r = punch(m, off, stop - off);

	return r ? r : seek_data(m, off) < stop ? -EBUSY : 0;
}

int mem_fill_pages(struct mem *m, uint64_t page, const struct iovec *data, unsigned n)
{
	VMM_BUG_ON(n > MEM_FILL_MAX);
	for (unsigned done = 0; done < n;) {
		ssize_t r = pwritev(m->fd, data + done, (int)(n - done),
				    (off_t)((page + done) << MEM_PAGE_SHIFT));

		if (r < 0 && errno == EINTR)
			continue;
		/* A short write means that the next one says why. */
		if (r < (ssize_t)MEM_PAGE_SIZE)
			return r < 0 ? -errno : -ENOMEM;
		done += (unsigned)(r / (ssize_t)MEM_PAGE_SIZE);
	}
	return 0;
}

bool mem_is_zero_page(const uint8_t *page)
{
	return page[0] == 0 && !memcmp(page, page + 1, MEM_PAGE_SIZE - 1);
}

bool mem_next_data(const struct mem *m, uint64_t *off, uint64_t *end)
{
	off_t data = *off < m->bytes ? lseek(m->fd, *off, SEEK_DATA) : -1, hole;

	if (data < 0)
		return false;
	hole = lseek(m->fd, data, SEEK_HOLE);
	*off = data;
	*end = hole < 0 ? m->bytes : (uint64_t)hole;
	return true;
}

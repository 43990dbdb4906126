#define _GNU_SOURCE
#include "tests/unit/libviews.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#define PRESENT (1ull << 63)
#define SWAPPED (1ull << 62)
#define OF_FILE (1ull << 61)

uint64_t views_allocated(const struct mem *m)
{
	struct stat st;

	assert_int_equal(fstat(m->fd, &st), 0);
	return (uint64_t)st.st_blocks / (MEM_PAGE_SIZE / 512);
}

uint64_t views_private(const struct mem *m)
{
	uint64_t entry[512], n = 0, first = (uintptr_t)m->base / MEM_PAGE_SIZE;
	int fd = open("/proc/self/pagemap", O_RDONLY);

	assert_true(fd >= 0);
	for (uint64_t page = 0; page < m->npages; page += 512) {
		assert_int_equal(pread(fd, entry, sizeof(entry), (off_t)(first + page) * 8),
				 sizeof(entry));
		for (unsigned i = 0; i < 512; i++)
			n += (entry[i] & (PRESENT | SWAPPED)) && !(entry[i] & OF_FILE);
	}
	close(fd);
	return n;
}

bool views_has(const struct mem *m, uint64_t page)
{
	off_t off = (off_t)(page * MEM_PAGE_SIZE);

	return lseek(m->fd, off, SEEK_DATA) == off;
}

void views_read_kept(const struct mem *m, uint64_t page, uint8_t *buf)
{
	assert_int_equal(pread(m->fd, buf, MEM_PAGE_SIZE, (off_t)(page * MEM_PAGE_SIZE)),
			 MEM_PAGE_SIZE);
}

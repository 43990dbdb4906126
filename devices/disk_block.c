#define _GNU_SOURCE
#include "devices/disk_block.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/stat.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "vmm/machine/machine.h"

static uint32_t at_least(uint32_t v, uint32_t min)
{
	return v < min ? min : v;
}

/* The largest power of two that is not above v, within the limits of a machine. */
static uint32_t as_physical(uint64_t v)
{
	uint32_t p = MACHINE_BLOCK_MIN;

	while (p < MACHINE_PHYSICAL_MAX && 2ull * p <= v)
		p *= 2;
	return p;
}

int disk_block_no_direct(const char *path, int r, struct err *e)
{
	if (r != -EINVAL)
		return err_set(e, r, "cannot open %s: %s", path, strerror(-r));
	return err_set(e, r,
		       "%s cannot be opened with 'direct': its file system has no direct access; "
		       "leave 'direct' out, or move the image to one that has (ext4, xfs)",
		       path);
}

/* Kernels before 6.1 and some file systems do not say (STATX_DIOALIGN): a read shows it. */
static uint32_t try_align(int fd)
{
	uint8_t buf[MACHINE_BLOCK_MAX] __attribute__((aligned(4096)));
	uint32_t n = MACHINE_BLOCK_MIN;

	while (n < MACHINE_BLOCK_MAX && pread(fd, buf, n, n) < 0 && errno == EINVAL)
		n *= 2;
	return n;
}

static int direct_align(int fd, const char *path, uint32_t *ret, struct err *e)
{
	struct statx sx = {0};

	if (syscall(SYS_statx, fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &sx) < 0 ||
	    !(sx.stx_mask & STATX_DIOALIGN)) {
		*ret = try_align(fd);
		return 0;
	}
	if (!sx.stx_dio_offset_align)
		return disk_block_no_direct(path, -EINVAL, e);
	*ret = at_least(sx.stx_dio_offset_align, MACHINE_BLOCK_MIN);
	return 0;
}

static int of_device(int fd, const char *path, struct disk_block *b, struct err *e)
{
	unsigned physical;
	int logical;

	if (ioctl(fd, BLKSSZGET, &logical) < 0 || ioctl(fd, BLKPBSZGET, &physical) < 0)
		return err_sys(e, "%s: its block size", path);
	if (logical < (int)MACHINE_BLOCK_MIN || logical > (int)MACHINE_BLOCK_MAX)
		return err_set(e, -EINVAL, "%s has blocks of %d bytes; %u to %u are possible", path,
			       logical, MACHINE_BLOCK_MIN, MACHINE_BLOCK_MAX);
	b->logical = (uint32_t)logical;
	b->physical = at_least(as_physical(physical), b->logical);
	return 0;
}

int disk_block_divides(const char *path, uint64_t bytes, uint32_t block, struct err *e)
{
	if (bytes && !(bytes % block))
		return 0;
	return err_set(e, -EINVAL,
		       "'%s' has %llu bytes; a raw image is a multiple of its blocks of %u bytes "
		       "(truncate -s)",
		       path, (unsigned long long)bytes, block);
}

int disk_block_of(int fd, bool direct, const char *path, struct disk_block *ret, struct err *e)
{
	struct stat st;
	int r = 0;

	if (fstat(fd, &st) < 0)
		return err_sys(e, "%s", path);
	*ret = (struct disk_block){MACHINE_BLOCK_MIN, as_physical((uint64_t)st.st_blksize),
				   MACHINE_BLOCK_MIN};
	if (S_ISBLK(st.st_mode))
		r = of_device(fd, path, ret, e);
	if (r || !direct)
		return r; /* the page cache takes any */
	if (S_ISBLK(st.st_mode)) {
		ret->align = ret->logical;
		return 0;
	}
	return direct_align(fd, path, &ret->align, e);
}

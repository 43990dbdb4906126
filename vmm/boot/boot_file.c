#define _GNU_SOURCE
#include "vmm/boot/boot_file.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAX_FILE_BYTES (1ull << 30)

/* All of it, or a negative errno; a file that shrinks meanwhile is one that cannot be read. */
static int read_all(int fd, uint8_t *to, uint64_t len)
{
	uint64_t have = 0;

	while (have < len) {
		ssize_t n = pread(fd, to + have, len - have, have);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -EIO;
		have += n;
	}
	return 0;
}

/*
 * Copied, not mapped: at a reset the file may be replaced in place at this moment, and a mapping of
 * what is gone is SIGBUS.
 */
static int load(struct boot_file *f, int fd)
{
	struct stat st;
	void *p;
	int r;

	if (fstat(fd, &st) < 0)
		return -errno;
	if (!S_ISREG(st.st_mode) || st.st_size == 0 || (uint64_t)st.st_size > MAX_FILE_BYTES)
		return -EINVAL;
	p = mmap(NULL, st.st_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED)
		return -errno;
	r = read_all(fd, p, st.st_size);
	if (r)
		munmap(p, st.st_size);
	else
		*f = (struct boot_file){p, st.st_size, NULL};
	return r;
}

int boot_file_read(struct boot_file *f, const char *what, const char *path, struct err *e)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC), r;

	if (fd < 0)
		return err_sys(e, "%s '%s'", what, path);
	r = load(f, fd);
	close(fd);
	f->path = path;
	if (r == -EINVAL)
		return err_set(e, r, "%s '%s': not a regular file of 1 byte to 1G", what, path);
	return r ? err_set(e, r, "%s '%s': %s", what, path, strerror(-r)) : 0;
}

void boot_file_free(struct boot_file *f)
{
	if (f->p)
		munmap((void *)f->p, f->len);
	f->p = NULL;
}

int boot_files_read(struct boot_files *f, const char *kernel, const char *initrd, struct err *e)
{
	int r;

	*f = (struct boot_files){0};
	r = boot_file_read(&f->kernel, "kernel", kernel, e);
	if (r || !initrd[0])
		return r;
	r = boot_file_read(&f->initrd, "initrd", initrd, e);
	if (r)
		boot_files_free(f);
	return r;
}

void boot_files_free(struct boot_files *f)
{
	boot_file_free(&f->kernel);
	boot_file_free(&f->initrd);
}

#define _GNU_SOURCE
#include "vmm/boot_file.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAX_FILE_BYTES (1ull << 30)

int boot_file_map(struct boot_file *f, const char *what, const char *path, struct err *e)
{
	struct stat st;
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return err_sys(e, "%s '%s'", what, path);
	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || st.st_size == 0 ||
	    (uint64_t)st.st_size > MAX_FILE_BYTES) {
		close(fd);
		return err_set(e, -EINVAL, "%s '%s': not a regular file of 1 byte to 1G", what,
			       path);
	}
	f->len = st.st_size;
	f->p = mmap(NULL, f->len, PROT_READ, MAP_PRIVATE, fd, 0);
	close(fd);
	return f->p == MAP_FAILED ? err_sys(e, "%s '%s'", what, path) : 0;
}

void boot_file_unmap(struct boot_file *f)
{
	munmap((void *)f->p, f->len);
}

#define _GNU_SOURCE
#include "ft/common/side.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "vmm/base/hash.h"

#define IMAGE_MASK (STATX_INO | STATX_BTIME | STATX_TYPE)

/* Hosts made of one template may share the id, and namespaces of one host the name. */
static void add_host(XXH3_state_t *x)
{
	char text[128] = "";
	ssize_t n = 0;
	int fd = open("/etc/machine-id", O_RDONLY | O_CLOEXEC);

	if (fd >= 0) {
		n = read(fd, text, sizeof(text));
		close(fd);
	}
	if (n > 0)
		XXH3_64bits_update(x, text, n);
	if (!gethostname(text, sizeof(text) - 1))
		XXH3_64bits_update(x, text, strnlen(text, sizeof(text)));
}

/*
 * A file is its inode, and when that was made: device numbers change with the order of mounts, so
 * they count only where the file system knows no such time. A block device is its path.
 */
static int image_identity(const struct config_disk *cd, uint64_t *ret, struct err *e)
{
	uint64_t id[4] = {0};
	struct statx st;
	char text[sizeof(cd->id) + sizeof(cd->path) + 80];

	if (statx(AT_FDCWD, cd->path, 0, IMAGE_MASK, &st) < 0)
		return err_sys(e, "disk '%s': '%s'", cd->id, cd->path);
	if (S_ISBLK(st.stx_mode)) {
		snprintf(text, sizeof(text), "%s %s", cd->id, cd->path);
	} else {
		id[0] = st.stx_ino;
		if (st.stx_mask & STATX_BTIME) {
			id[1] = (uint64_t)st.stx_btime.tv_sec;
			id[2] = st.stx_btime.tv_nsec;
		} else {
			id[3] = makedev(st.stx_dev_major, st.stx_dev_minor);
		}
		snprintf(text, sizeof(text), "%s %llx %llx %llx %llx", cd->id,
			 (unsigned long long)id[0], (unsigned long long)id[1],
			 (unsigned long long)id[2], (unsigned long long)id[3]);
	}
	*ret = XXH3_64bits(text, strlen(text));
	return 0;
}

int side_identity(const struct config *cfg, uint64_t *ret, struct err *e)
{
	uint64_t sum = 0, one = 0;
	XXH3_state_t x;

	*ret = 0;
	for (unsigned i = 0; i < cfg->ndisks; i++) {
		int r;

		if (cfg->disks[i].readonly || cfg->disks[i].ft == DISK_FT_SHARED)
			continue;
		r = image_identity(&cfg->disks[i], &one, e);
		if (r)
			return r;
		sum += one; /* the order of -d says nothing */
	}
	if (!sum)
		return 0;
	XXH3_64bits_reset(&x);
	add_host(&x);
	XXH3_64bits_update(&x, &sum, sizeof(sum));
	*ret = XXH3_64bits_digest(&x) | 1;
	return 0;
}

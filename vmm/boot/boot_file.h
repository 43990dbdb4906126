/* Kernel and initrd files in memory: outside data, every offset is to be checked. */
#ifndef VMM_BOOT_FILE_H
#define VMM_BOOT_FILE_H

#include <stdbool.h>
#include <stdint.h>

#include "vmm/base/err.h"

struct boot_file {
	const uint8_t *p;
	uint64_t len;
	const char *path; /* as it was given: for errors */
};

struct boot_files {
	struct boot_file kernel, initrd; /* initrd.p is NULL: none */
};

/* A regular file of 1 byte to 1G; `what` names it in errors. */
int boot_file_read(struct boot_file *f, const char *what, const char *path, struct err *e);
void boot_file_free(struct boot_file *f); /* safe on a zeroed one */

/*
 * Both; initrd may be "". The paths must live as long as the files. May take long on slow storage:
 * not for the loop while a peer listens for its heart. On failure nothing is to be freed.
 */
int boot_files_read(struct boot_files *f, const char *kernel, const char *initrd, struct err *e);
void boot_files_free(struct boot_files *f);

static inline bool boot_file_has(const struct boot_file *f, uint64_t off, uint64_t len)
{
	return off <= f->len && len <= f->len - off;
}

#endif

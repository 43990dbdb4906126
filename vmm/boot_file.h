/* A kernel or initrd file in memory: outside data, every offset is to be checked. */
#ifndef VMM_BOOT_FILE_H
#define VMM_BOOT_FILE_H

#include <stdbool.h>
#include <stdint.h>

#include "vmm/err.h"

struct boot_file {
	const uint8_t *p;
	uint64_t len;
};

/* A regular file of 1 byte to 1G; `what` names it in errors. */
int boot_file_read(struct boot_file *f, const char *what, const char *path, struct err *e);
void boot_file_free(struct boot_file *f);

static inline bool boot_file_has(const struct boot_file *f, uint64_t off, uint64_t len)
{
	return off <= f->len && len <= f->len - off;
}

#endif

/*
 * Linux bzImage by the 64-bit boot protocol (Documentation/arch/x86/boot.rst): a bounded parser of
 * the setup header, and the zero page.
 */
#ifndef VMM_BOOT_LINUX_H
#define VMM_BOOT_LINUX_H

#include <asm/bootparam.h>

#include "vmm/boot/boot_file.h"
#include "vmm/machine/mem.h"

struct boot_linux {
	struct boot_params params; /* holds the image's setup header; the caller adds the rest */
	uint64_t entry;		   /* 64-bit */
	uint64_t end;		   /* of the memory that the image needs to unpack itself */
};

bool boot_linux_is(const struct boot_file *f);
int boot_linux_load(struct mem *m, const struct boot_file *f, struct boot_linux *ret,
		    struct err *e);
/* GDT and identity map of the first 4 GiB, as the protocol wants them at the entry. */
void boot_linux_write_tables(struct mem *m);

#endif

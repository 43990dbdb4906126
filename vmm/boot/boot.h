/*
 * Getting a guest into memory: the kernel (an ELF file with a PVH entry, or a Linux bzImage), its
 * initrd and command line, the memory map, ACPI tables and the device tree.
 */
#ifndef VMM_BOOT_H
#define VMM_BOOT_H

#include <stddef.h>
#include <stdint.h>

#include "vmm/boot/boot_file.h"
#include "vmm/base/err.h"
#include "vmm/machine/machine.h"
#include "vmm/machine/mem.h"

/* What the first vCPU starts with. */
struct boot_entry {
	bool long_mode; /* 64-bit with paging, else 32-bit flat without */
	uint64_t rip;
	uint64_t info; /* PVH: rbx; Linux: rsi */
};

/* The device tree is a PVH module, or Linux setup data. The files are not needed afterwards. */
int boot_load(struct mem *m, const struct machine *mc, const struct boot_files *files,
	      struct boot_entry *ret, struct err *e);

#endif

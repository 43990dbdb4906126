/* A bounded loader of x86-64 ELF files with a PVH note (Xen PVH entry ABI): vmlinux and others. */
#ifndef VMM_BOOT_ELF_H
#define VMM_BOOT_ELF_H

#include "vmm/boot/boot_file.h"
#include "vmm/machine/mem.h"

/* Load all segments; *ret_entry is the 32-bit entry point, *ret_end where the image ends. */
int boot_elf_load(struct mem *m, const struct boot_file *f, uint64_t *ret_entry, uint64_t *ret_end,
		  struct err *e);

#endif

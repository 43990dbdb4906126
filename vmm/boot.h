/*
 * Getting a guest into memory: a bounded ELF loader and the PVH boot data (Xen PVH entry ABI,
 * public/arch-x86/hvm/start_info.h).
 */
#ifndef VMM_BOOT_H
#define VMM_BOOT_H

#include <stddef.h>
#include <stdint.h>

#include "vmm/err.h"
#include "vmm/machine.h"
#include "vmm/mem.h"

/* Load an x86-64 ELF with a PVH note; *ret_entry is its 32-bit entry point. */
int boot_load_elf(struct mem *m, const char *path, uint64_t *ret_entry, struct err *e);
/*
 * Write start info, memory map, command line, device tree and initrd (path, "" for none).
 * Modules are the device tree, then the initrd. *ret_start_info is what rbx must hold.
 */
int boot_write_pvh(struct mem *m, const struct machine *mc, const char *initrd,
		   uint64_t *ret_start_info, struct err *e);

#endif

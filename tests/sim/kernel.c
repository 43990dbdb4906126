/* A kernel file of one page: no instruction of it is ever run, guest.c is the guest. */
#include "tests/sim/kernel.h"

#include <elf.h>
#include <string.h>

#include "tests/sim/file.h"

#define BYTES	  4096
#define ENTRY	  0x100000u
#define PVH_ENTRY 18 /* XEN_ELFNOTE_PHYS32_ENTRY */

static const struct {
	Elf64_Ehdr head;
	Elf64_Phdr segment, notes;
	struct {
		Elf64_Nhdr head;
		char name[4];
		uint32_t entry;
	} note;
} image = {
	.head = {.e_ident = {0x7f, 'E', 'L', 'F', ELFCLASS64, ELFDATA2LSB, EV_CURRENT},
		 .e_type = ET_EXEC,
		 .e_machine = EM_X86_64,
		 .e_version = EV_CURRENT,
		 .e_entry = ENTRY,
		 .e_phoff = sizeof(Elf64_Ehdr),
		 .e_ehsize = sizeof(Elf64_Ehdr),
		 .e_phentsize = sizeof(Elf64_Phdr),
		 .e_phnum = 2},
	.segment = {.p_type = PT_LOAD, .p_paddr = ENTRY, .p_filesz = BYTES, .p_memsz = BYTES},
	.notes = {.p_type = PT_NOTE,
		  .p_offset = sizeof(Elf64_Ehdr) + 2 * sizeof(Elf64_Phdr),
		  .p_filesz = sizeof(Elf64_Nhdr) + 8},
	.note = {.head = {.n_namesz = 4, .n_descsz = 4, .n_type = PVH_ENTRY},
		 .name = "Xen",
		 .entry = ENTRY},
};

void kernel_make(void)
{
	size_t size;

	file_make(KERNEL_PATH, BYTES);
	memcpy(file_data(KERNEL_PATH, &size), &image, sizeof(image));
}

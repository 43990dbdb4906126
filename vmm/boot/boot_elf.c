#include "vmm/boot/boot_elf.h"

#include <elf.h>
#include <errno.h>
#include <string.h>

#include "vmm/boot/boot_layout.h"

#define PVH_NOTE_TYPE 18 /* XEN_ELFNOTE_PHYS32_ENTRY */
#define MAX_PHDRS     64

static bool find_pvh_note(const struct boot_file *f, const Elf64_Phdr *ph, uint64_t *ret_entry)
{
	uint64_t pos = ph->p_offset, end;

	if (!boot_file_has(f, ph->p_offset, ph->p_filesz))
		return false;
	end = ph->p_offset + ph->p_filesz;
	while (end - pos >= sizeof(Elf64_Nhdr)) {
		Elf64_Nhdr n;
		uint64_t name, desc, next;

		memcpy(&n, f->p + pos, sizeof(n));
		name = pos + sizeof(n);
		desc = name + ((n.n_namesz + 3ull) & ~3ull);
		next = desc + ((n.n_descsz + 3ull) & ~3ull);
		if (next > end || desc > end)
			return false;
		if (n.n_type == PVH_NOTE_TYPE && n.n_namesz == 4 &&
		    !memcmp(f->p + name, "Xen", 4) && (n.n_descsz == 4 || n.n_descsz == 8)) {
			*ret_entry = 0;
			memcpy(ret_entry, f->p + desc, n.n_descsz);
			return *ret_entry <= UINT32_MAX;
		}
		pos = next;
	}
	return false;
}

/*
 * At a reset memory holds what the last kernel left. Whole pages are given back instead of written,
 * so that a large .bss costs nothing.
 */
static void zero(struct mem *m, uint64_t gpa, uint64_t len)
{
	uint64_t first = (gpa + MEM_PAGE_SIZE - 1) & ~(uint64_t)(MEM_PAGE_SIZE - 1);
	uint64_t last = (gpa + len) & ~(uint64_t)(MEM_PAGE_SIZE - 1);

	if (first >= last || mem_discard(m, first, last - first)) {
		mem_zero(m, gpa, len);
		return;
	}
	zero(m, gpa, first - gpa);
	zero(m, last, gpa + len - last);
}

static int load_segment(struct mem *m, const struct boot_file *f, const Elf64_Phdr *ph)
{
	if (ph->p_filesz > ph->p_memsz || !boot_file_has(f, ph->p_offset, ph->p_filesz) ||
	    ph->p_paddr < KERNEL_MIN_GPA)
		return -EINVAL;
	if (ph->p_memsz == 0)
		return 0;
	if (!mem_valid(m, ph->p_paddr, ph->p_memsz))
		return -ENOMEM;
	zero(m, ph->p_paddr + ph->p_filesz, ph->p_memsz - ph->p_filesz);
	return mem_write(m, ph->p_paddr, f->p + ph->p_offset, ph->p_filesz);
}

int boot_elf_load(struct mem *m, const struct boot_file *f, uint64_t *ret_entry, uint64_t *ret_end,
		  struct err *e)
{
	Elf64_Ehdr eh;
	bool found = false;

	*ret_end = KERNEL_MIN_GPA;
	memset(&eh, 0, sizeof(eh));
	if (boot_file_has(f, 0, sizeof(eh)))
		memcpy(&eh, f->p, sizeof(eh));
	if (memcmp(eh.e_ident, ELFMAG, SELFMAG) || eh.e_ident[EI_CLASS] != ELFCLASS64 ||
	    eh.e_ident[EI_DATA] != ELFDATA2LSB || eh.e_machine != EM_X86_64)
		return err_set(
			e, -ENOEXEC,
			"kernel '%s': neither an x86-64 ELF file nor a bzImage (use vmlinuz, "
			"vmlinux or a guest with a PVH note)",
			f->path);
	if (eh.e_phentsize != sizeof(Elf64_Phdr) || eh.e_phnum == 0 || eh.e_phnum > MAX_PHDRS ||
	    !boot_file_has(f, eh.e_phoff, (uint64_t)eh.e_phnum * sizeof(Elf64_Phdr)))
		return err_set(e, -ENOEXEC, "kernel '%s': bad program headers", f->path);
	for (unsigned i = 0; i < eh.e_phnum; i++) {
		Elf64_Phdr ph;
		int r = 0;

		memcpy(&ph, f->p + eh.e_phoff + i * sizeof(ph), sizeof(ph));
		if (ph.p_type == PT_NOTE && !found)
			found = find_pvh_note(f, &ph, ret_entry);
		if (ph.p_type == PT_LOAD)
			r = load_segment(m, f, &ph);
		if (ph.p_type == PT_LOAD && !r && ph.p_memsz && ph.p_paddr + ph.p_memsz > *ret_end)
			*ret_end = ph.p_paddr + ph.p_memsz;
		if (r == -ENOMEM)
			return err_set(e, r,
				       "kernel '%s': segment of %llu bytes at %#llx does not fit "
				       "into %lluM of memory (-m)",
				       f->path, (unsigned long long)ph.p_memsz,
				       (unsigned long long)ph.p_paddr,
				       (unsigned long long)(m->bytes >> 20));
		if (r)
			return err_set(e, r,
				       "kernel '%s': segment at %#llx is below 1M or reaches past "
				       "the end of the file; is this a kernel (vmlinux)?",
				       f->path, (unsigned long long)ph.p_paddr);
	}
	if (!found)
		return err_set(e, -ENOEXEC, "kernel '%s': no PVH entry note (Linux: CONFIG_PVH=y)",
			       f->path);
	return 0;
}

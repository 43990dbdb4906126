#define _GNU_SOURCE
#include "vmm/boot.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vmm/fdt.h"

#define START_INFO_GPA 0x6000ull
#define MODLIST_GPA    0x6100ull
#define MEMMAP_GPA     0x6200ull
#define CMDLINE_GPA    0x7000ull
#define FDT_GPA	       0x10000ull
#define KERNEL_MIN_GPA 0x100000ull /* below: boot data and the PC's legacy holes */
#define PVH_NOTE_TYPE  18	   /* XEN_ELFNOTE_PHYS32_ENTRY */
#define START_MAGIC    0x336ec578u
#define MAX_PHDRS      64
#define MAX_FILE_BYTES (1ull << 30)

/* --- a read-only file in memory ------------------------------------------------------------- */

struct file {
	const uint8_t *p;
	uint64_t len;
};

static int file_map(struct file *f, const char *what, const char *path, struct err *e)
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

static void file_unmap(struct file *f)
{
	munmap((void *)f->p, f->len);
}

static bool file_has(const struct file *f, uint64_t off, uint64_t len)
{
	return off <= f->len && len <= f->len - off;
}

/* --- ELF ------------------------------------------------------------------------------------ */

static bool find_pvh_note(const struct file *f, const Elf64_Phdr *ph, uint64_t *ret_entry)
{
	uint64_t pos = ph->p_offset, end;

	if (!file_has(f, ph->p_offset, ph->p_filesz))
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

static int load_segment(struct mem *m, const struct file *f, const Elf64_Phdr *ph)
{
	void *to;

	if (ph->p_filesz > ph->p_memsz || !file_has(f, ph->p_offset, ph->p_filesz) ||
	    ph->p_paddr < KERNEL_MIN_GPA)
		return -EINVAL;
	if (ph->p_memsz == 0)
		return 0;
	/* RAM is zero already: only the file's part is touched, so a large .bss costs nothing. */
	if (!mem_valid(m, ph->p_paddr, ph->p_memsz))
		return -ENOMEM;
	if (ph->p_filesz == 0)
		return 0;
	to = mem_ptr_write(m, ph->p_paddr, ph->p_filesz);
	memcpy(to, f->p + ph->p_offset, ph->p_filesz);
	return 0;
}

static int load_elf(struct mem *m, const struct file *f, const char *path, uint64_t *ret_entry,
		    struct err *e)
{
	Elf64_Ehdr eh;
	bool found = false;

	if (!file_has(f, 0, sizeof(eh)))
		return err_set(e, -ENOEXEC, "kernel '%s': too short for an ELF file", path);
	memcpy(&eh, f->p, sizeof(eh));
	if (memcmp(eh.e_ident, ELFMAG, SELFMAG) || eh.e_ident[EI_CLASS] != ELFCLASS64 ||
	    eh.e_ident[EI_DATA] != ELFDATA2LSB || eh.e_machine != EM_X86_64)
		return err_set(e, -ENOEXEC,
			       "kernel '%s': not an x86-64 ELF file (use vmlinux or a guest with a "
			       "PVH note)",
			       path);
	if (eh.e_phentsize != sizeof(Elf64_Phdr) || eh.e_phnum == 0 || eh.e_phnum > MAX_PHDRS ||
	    !file_has(f, eh.e_phoff, (uint64_t)eh.e_phnum * sizeof(Elf64_Phdr)))
		return err_set(e, -ENOEXEC, "kernel '%s': bad program headers", path);
	for (unsigned i = 0; i < eh.e_phnum; i++) {
		Elf64_Phdr ph;
		int r = 0;

		memcpy(&ph, f->p + eh.e_phoff + i * sizeof(ph), sizeof(ph));
		if (ph.p_type == PT_NOTE && !found)
			found = find_pvh_note(f, &ph, ret_entry);
		if (ph.p_type == PT_LOAD)
			r = load_segment(m, f, &ph);
		if (r == -ENOMEM)
			return err_set(e, r,
				       "kernel '%s': segment of %llu bytes at %#llx does not fit "
				       "into %lluM of memory (-m)",
				       path, (unsigned long long)ph.p_memsz,
				       (unsigned long long)ph.p_paddr,
				       (unsigned long long)(m->bytes >> 20));
		if (r)
			return err_set(e, r,
				       "kernel '%s': segment at %#llx is below 1M or reaches past "
				       "the end of the file; is this a kernel (vmlinux)?",
				       path, (unsigned long long)ph.p_paddr);
	}
	if (!found)
		return err_set(e, -ENOEXEC, "kernel '%s': no PVH entry note (Linux: CONFIG_PVH=y)",
			       path);
	return 0;
}

int boot_load_elf(struct mem *m, const char *path, uint64_t *ret_entry, struct err *e)
{
	struct file f;
	int r = file_map(&f, "kernel", path, e);

	if (r)
		return r;
	r = load_elf(m, &f, path, ret_entry, e);
	file_unmap(&f);
	return r;
}

/* --- PVH boot data -------------------------------------------------------------------------- */

struct start_info {
	uint32_t magic, version, flags, nr_modules;
	uint64_t modlist, cmdline, rsdp, memmap;
	uint32_t memmap_entries, reserved;
};

struct modlist_entry {
	uint64_t gpa, size, cmdline, reserved;
};

struct memmap_entry {
	uint64_t addr, size;
	uint32_t type, reserved;
};

enum { MEMMAP_RAM = 1, MEMMAP_RESERVED = 2 };

static uint32_t write_memmap(struct mem *m)
{
	struct memmap_entry map[4] = {
		{0, 0x9fc00, MEMMAP_RAM, 0},
		{0x9fc00, 0x100000 - 0x9fc00, MEMMAP_RESERVED, 0},
		{0x100000, m->low_bytes - 0x100000, MEMMAP_RAM, 0},
		{MEM_HIGH_BASE, m->bytes - m->low_bytes, MEMMAP_RAM, 0},
	};
	uint32_t n = m->bytes > m->low_bytes ? 4 : 3;

	mem_write(m, MEMMAP_GPA, map, n * sizeof(map[0]));
	return n;
}

static int write_initrd(struct mem *m, const char *path, struct modlist_entry *mod, struct err *e)
{
	struct file f;
	int r = file_map(&f, "initrd", path, e);

	if (r)
		return r;
	mod->size = f.len;
	/* At the end of low RAM, page aligned: far from the kernel. */
	mod->gpa =
		f.len < m->low_bytes ? (m->low_bytes - f.len) & ~(uint64_t)(MEM_PAGE_SIZE - 1) : 0;
	if (mod->gpa < KERNEL_MIN_GPA || mem_write(m, mod->gpa, f.p, f.len))
		r = err_set(e, -ENOMEM, "initrd '%s': %llu bytes do not fit into memory (-m)", path,
			    (unsigned long long)f.len);
	file_unmap(&f);
	return r;
}

int boot_write_pvh(struct mem *m, const struct machine *mc, const char *initrd,
		   uint64_t *ret_start_info, struct err *e)
{
	struct modlist_entry mods[2] = {{.gpa = FDT_GPA}};
	struct start_info si = {.magic = START_MAGIC,
				.version = 1,
				.modlist = MODLIST_GPA,
				.nr_modules = 1,
				.cmdline = CMDLINE_GPA,
				.memmap = MEMMAP_GPA};
	void *fdt = mem_ptr_write(m, FDT_GPA, FDT_MAX_BYTES);
	int r;

	if (!fdt)
		return err_set(e, -ENOMEM, "memory is too small for boot data");
	r = fdt_build(mc, fdt, FDT_MAX_BYTES, e);
	if (r < 0)
		return r;
	mods[0].size = r;
	if (initrd[0]) {
		r = write_initrd(m, initrd, &mods[1], e);
		if (r)
			return r;
		si.nr_modules = 2;
	}
	mem_write(m, MODLIST_GPA, mods, sizeof(mods));
	mem_write(m, CMDLINE_GPA, mc->cmdline, strlen(mc->cmdline) + 1);
	si.memmap_entries = write_memmap(m);
	mem_write(m, START_INFO_GPA, &si, sizeof(si));
	*ret_start_info = START_INFO_GPA;
	return 0;
}

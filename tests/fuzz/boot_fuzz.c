/*
 * A kernel file. The first byte picks: the rest is the file; or a list of edits {u16 place, u8
 * value} to a good one, an ELF file or a bzImage. Nothing is written below 1 MiB, where the boot
 * data goes, and an accepted entry is one that a 32-bit register can hold.
 */
#define _GNU_SOURCE
#include <elf.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/boot/boot_elf.h"
#include "vmm/boot/boot_linux.h"

#define RAM	   (4ull << 20)
#define LOW	   (1u << 20)
#define FILE_BYTES 2048

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool c)
{
	if (!c)
		abort();
}

static void build_good(uint8_t *out)
{
	Elf64_Ehdr eh = {.e_ident = {0x7f, 'E', 'L', 'F', ELFCLASS64, ELFDATA2LSB, EV_CURRENT},
			 .e_type = ET_EXEC,
			 .e_machine = EM_X86_64,
			 .e_phoff = sizeof(eh),
			 .e_phentsize = sizeof(Elf64_Phdr),
			 .e_phnum = 3};
	Elf64_Phdr ph[3] = {
		{.p_type = PT_NOTE, .p_offset = 512, .p_filesz = 48},
		{.p_type = PT_LOAD,
		 .p_offset = 0,
		 .p_paddr = LOW,
		 .p_filesz = FILE_BYTES,
		 .p_memsz = 65536},
		{.p_type = PT_LOAD,
		 .p_offset = 600,
		 .p_paddr = RAM - 4096,
		 .p_filesz = 10,
		 .p_memsz = 4096},
	};
	struct {
		Elf64_Nhdr n;
		char name[4];
		uint64_t entry;
	} note[2] = {{{4, 8, 1}, "GNU", 0}, {{4, 8, 18}, "Xen", LOW}};

	memset(out, 0x90, FILE_BYTES);
	memcpy(out, &eh, sizeof(eh));
	memcpy(out + sizeof(eh), ph, sizeof(ph));
	memcpy(out + 512, note, sizeof(note));
}

/* A setup header in front: two sectors, then 512 bytes of kernel. */
static void build_good_linux(uint8_t *out)
{
	struct setup_header h = {.setup_sects = 1,
				 .syssize = 32,
				 .boot_flag = 0xaa55,
				 .jump = 0x66eb,
				 .header = 0x53726448,
				 .version = 0x20f,
				 .loadflags = 1,
				 .xloadflags = 1,
				 .pref_address = LOW,
				 .init_size = 65536};

	memset(out, 0, FILE_BYTES);
	memcpy(out + 0x1f1, &h, sizeof(h));
}

/* All that was written is known as such, and lies where a kernel may lie. Back to zeros. */
static void clean(struct mem *m)
{
	for (uint64_t w = 0; w * 64 < m->npages; w++)
		for (uint64_t bits = mem_take_host_dirty(m, w); bits; bits &= bits - 1) {
			uint64_t page = w * 64 + (unsigned)__builtin_ctzll(bits);

			require(page >= LOW / MEM_PAGE_SIZE);
			memset(mem_page(m, page), 0, MEM_PAGE_SIZE);
		}
}

/* A bzImage: the loader finds its place in memory in the file. */
static void load_linux(struct mem *m, const struct boot_file *f)
{
	struct boot_linux image;
	struct err e = {0};
	int r = boot_linux_load(m, f, &image, &e);

	require(r ? r < 0 && e.msg[0] : image.entry < image.end && image.end <= RAM);
}

static void load_elf(struct mem *m, const struct boot_file *f)
{
	uint64_t entry = UINT64_MAX, end;
	struct err e = {0};
	int r = boot_elf_load(m, f, &entry, &end, &e);

	require(r ? r < 0 && e.msg[0] : entry <= UINT32_MAX && end <= RAM);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct mem mem;
	uint8_t file[FILE_BYTES];
	struct boot_file f = {file, FILE_BYTES};

	if (!mem.base)
		require(mem_init(&mem, MEM_SHARED_FILE, RAM, NULL) == 0);
	if (size < 2)
		return 0;
	if (data[0] & 1) {
		f = (struct boot_file){data + 1, size - 1};
	} else {
		build_good(file);
		if (data[0] & 2)
			build_good_linux(file);
		for (size_t i = 1; i + 3 <= size; i += 3)
			file[(data[i] | data[i + 1] << 8) % FILE_BYTES] = data[i + 2];
	}
	if (boot_linux_is(&f))
		load_linux(&mem, &f);
	else
		load_elf(&mem, &f);
	clean(&mem);
	return 0;
}

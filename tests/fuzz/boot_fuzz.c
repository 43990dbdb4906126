/*
 * A kernel file. The first byte picks: the rest is the file; or a list of edits {u16 place, u8
 * value} to a good one. Nothing is written below 1 MiB, where the boot data goes, and an accepted
 * entry is one that a 32-bit register can hold.
 */
#define _GNU_SOURCE
#include <elf.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "vmm/boot.h"

#define RAM	   (4ull << 20)
#define LOW	   (1u << 20)
#define FILE_BYTES 1024

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

/* The loader is told a path: a file in memory has one. */
static int put_file(const uint8_t *p, size_t n, char *path, size_t cap)
{
	int fd = memfd_create("kernel", MFD_CLOEXEC);

	require(fd >= 0 && write(fd, p, n) == (ssize_t)n);
	snprintf(path, cap, "/proc/self/fd/%d", fd);
	return fd;
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

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct mem mem;
	uint8_t file[FILE_BYTES];
	uint64_t entry = UINT64_MAX;
	struct err e = {0};
	char path[64];
	int fd, r;

	if (!mem.base)
		require(mem_init(&mem, RAM, NULL) == 0);
	if (!size)
		return 0;
	if (data[0] & 1) {
		fd = put_file(data + 1, size - 1, path, sizeof(path));
	} else {
		build_good(file);
		for (size_t i = 1; i + 3 <= size; i += 3)
			file[(data[i] | data[i + 1] << 8) % FILE_BYTES] = data[i + 2];
		fd = put_file(file, FILE_BYTES, path, sizeof(path));
	}
	r = boot_load_elf(&mem, path, &entry, &e);
	require(r ? r < 0 && e.msg[0] : entry <= UINT32_MAX);
	clean(&mem);
	close(fd);
	return 0;
}

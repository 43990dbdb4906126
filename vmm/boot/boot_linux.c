#include "vmm/boot/boot_linux.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>

#include "vmm/boot/boot_layout.h"

#define HEADER_AT     offsetof(struct boot_params, hdr)
#define HEADER_MAGIC  0x53726448u /* "HdrS" */
#define BOOT_FLAG     0xaa55
#define VERSION_MIN   0x020c /* the first with xloadflags */
#define ENTRY64	      0x200  /* from the start of the protected-mode code */
#define JUMP_LENGTH   0x201  /* byte that says where the header ends, counted from 0x202 */
#define INIT_SIZE_MAX (1u << 30)
#define LOADER_OTHER  0xff
#define PTE_TABLE     3ull    /* present, writable */
#define PTE_2M	      0x83ull /* and a large page */

static bool read_header(const struct boot_file *f, struct setup_header *h)
{
	uint64_t len;

	if (!boot_file_has(f, HEADER_AT, sizeof(*h)))
		return false;
	len = JUMP_LENGTH + 1 + f->p[JUMP_LENGTH] - HEADER_AT;
	if (len > sizeof(*h))
		len = sizeof(*h);
	memset(h, 0, sizeof(*h));
	memcpy(h, f->p + HEADER_AT, len);
	return h->boot_flag == BOOT_FLAG && h->header == HEADER_MAGIC;
}

bool boot_linux_is(const struct boot_file *f)
{
	struct setup_header h;

	return read_header(f, &h);
}

static int check_header(const struct setup_header *h, const char *path, struct err *e)
{
	if (h->version < VERSION_MIN || !(h->xloadflags & XLF_KERNEL_64) ||
	    !(h->loadflags & LOADED_HIGH))
		return err_set(
			e, -ENOEXEC,
			"kernel '%s': boot protocol %u.%02u without a 64-bit entry; a 64-bit "
			"Linux 3.8 or later is needed",
			path, h->version >> 8, h->version & 0xff);
	if (h->pref_address < KERNEL_MIN_GPA || h->pref_address > UINT32_MAX || h->init_size == 0 ||
	    h->init_size > INIT_SIZE_MAX)
		return err_set(
			e, -ENOEXEC,
			"kernel '%s': wants %#x bytes at %#llx; the limits are 1G, and 1M to "
			"4G",
			path, h->init_size, (unsigned long long)h->pref_address);
	return 0;
}

int boot_linux_load(struct mem *m, const struct boot_file *f, struct boot_linux *ret, struct err *e)
{
	struct setup_header *h = &ret->params.hdr;
	uint64_t code, len;
	int r;

	memset(ret, 0, sizeof(*ret));
	if (!read_header(f, h))
		return err_set(e, -ENOEXEC, "kernel '%s': no Linux setup header", f->path);
	r = check_header(h, f->path, e);
	if (r)
		return r;
	/* Zero setup sectors mean 4, for history's sake. */
	code = ((h->setup_sects ? h->setup_sects : 4) + 1ull) * 512;
	len = (uint64_t)h->syssize * 16;
	/* syssize counts paragraphs: the file may end within the last one. */
	if (code < f->len && len > f->len - code && len - (f->len - code) < 16)
		len = f->len - code;
	if (len <= ENTRY64 || !boot_file_has(f, code, len))
		return err_set(e, -ENOEXEC, "kernel '%s': the file ends before the kernel does",
			       f->path);
	ret->entry = h->pref_address + ENTRY64;
	ret->end = h->pref_address + (h->init_size > len ? h->init_size : len);
	if (!mem_valid(m, h->pref_address, ret->end - h->pref_address))
		return err_set(e, -ENOMEM,
			       "kernel '%s': needs memory up to %lluM, there is %lluM (-m)",
			       f->path, (unsigned long long)(ret->end >> 20) + 1,
			       (unsigned long long)(m->bytes >> 20));
	mem_write(m, h->pref_address, f->p + code, len);
	h->type_of_loader = LOADER_OTHER;
	h->ramdisk_image = h->ramdisk_size = 0;
	h->setup_data = 0;
	return 0;
}

void boot_linux_write_tables(struct mem *m)
{
	/* Selectors 0x10 (code) and 0x18 (data), flat: __BOOT_CS and __BOOT_DS. */
	static const uint64_t gdt[4] = {0, 0, 0x00af9b000000ffff, 0x00cf93000000ffff};
	uint64_t pdpt = PML4_GPA + MEM_PAGE_SIZE, pd = pdpt + MEM_PAGE_SIZE, e = pdpt | PTE_TABLE;

	mem_write(m, GDT_GPA, gdt, sizeof(gdt));
	mem_write(m, PML4_GPA, &e, sizeof(e));
	for (uint64_t g = 0; g < 4; g++) {
		e = (pd + g * MEM_PAGE_SIZE) | PTE_TABLE;
		mem_write(m, pdpt + g * 8, &e, sizeof(e));
	}
	for (uint64_t i = 0; i < 4 * 512; i++) {
		e = i << 21 | PTE_2M;
		mem_write(m, pd + i * 8, &e, sizeof(e));
	}
}

#include "vmm/boot/boot.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "devices/ged.h"
#include "vmm/boot/acpi.h"
#include "vmm/boot/boot_elf.h"
#include "vmm/boot/boot_layout.h"
#include "vmm/boot/boot_linux.h"
#include "vmm/machine/fdt.h"

#define INITRD_END_MAX (2ull << 30) /* kernels without a limit of their own get this one */

/* Boot data of one guest, on its way into memory. */
struct boot {
	struct mem *mem;
	const struct machine *machine;
	const struct boot_files *files;
	uint64_t kernel_end;
	uint64_t initrd, initrd_len;
	uint32_t fdt_len;
};

/* --- memory map ------------------------------------------------------------------------------ */

/* Types are those of both E820 and PVH. */
enum { RANGE_RAM = 1, RANGE_RESERVED = 2 };

struct range {
	uint64_t addr, size;
	uint32_t type;
};

static unsigned list_ranges(const struct mem *m, struct range ret[4])
{
	ret[0] = (struct range){0, LOW_RAM_END, RANGE_RAM};
	ret[1] = (struct range){LOW_RAM_END, KERNEL_MIN_GPA - LOW_RAM_END, RANGE_RESERVED};
	ret[2] = (struct range){KERNEL_MIN_GPA, m->low_bytes - KERNEL_MIN_GPA, RANGE_RAM};
	ret[3] = (struct range){MEM_HIGH_BASE, m->bytes - m->low_bytes, RANGE_RAM};
	return m->bytes > m->low_bytes ? 4 : 3;
}

/* --- parts that both protocols have ---------------------------------------------------------- */

/* At the end of low RAM, page aligned: far from the kernel. */
static int write_initrd(struct boot *b, uint64_t end_max, struct err *e)
{
	const struct boot_file *f = &b->files->initrd;
	uint64_t end = b->mem->low_bytes < end_max ? b->mem->low_bytes : end_max;

	b->initrd_len = f->len;
	b->initrd = f->len < end ? (end - f->len) & ~(uint64_t)(MEM_PAGE_SIZE - 1) : 0;
	if (b->initrd >= b->kernel_end && !mem_write(b->mem, b->initrd, f->p, f->len))
		return 0;
	return err_set(e, -ENOMEM,
		       "initrd '%s': %llu bytes do not fit between the kernel's end at %lluM and "
		       "%lluM; give more with -m",
		       f->path, (unsigned long long)f->len,
		       (unsigned long long)(b->kernel_end + (1 << 20) - 1) >> 20,
		       (unsigned long long)end >> 20);
}

/*
 * Linux on hardware-reduced ACPI without EFI reboots by a jump to the BIOS, in real mode: there is
 * one, and all it can do is write to the reset register.
 */
static void write_reset_vector(struct mem *m)
{
	static const uint8_t code[] = {
		0xba,
		(GED_BASE + GED_RESET) & 0xff,
		(GED_BASE + GED_RESET) >> 8, /* mov dx, port */
		0xb0,
		GED_RESET_VALUE, /* mov al, value */
		0xee,		 /* out dx, al */
		0xf4,
		0xeb,
		0xfd, /* hlt; again */
	};

	mem_write(m, RESET_VECTOR_GPA, code, sizeof(code));
}

/* Device tree and ACPI tables; buf has room for either. */
static int write_tables(struct boot *b, uint8_t *buf, struct err *e)
{
	int r = fdt_build(b->machine, buf, FDT_MAX_BYTES, e);

	if (r < 0)
		return r;
	b->fdt_len = r;
	if (mem_write(b->mem, FDT_GPA, buf, r))
		return err_set(e, -ENOMEM, "memory is too small for boot data");
	r = acpi_build(b->machine, buf, ACPI_BYTES, ACPI_GPA, GENID_GPA, e);
	if (r < 0)
		return r;
	return mem_write(b->mem, ACPI_GPA, buf, r)
		       ? err_set(e, -ENOMEM, "memory is too small for boot data")
		       : 0;
}

static int write_common(struct boot *b, uint64_t initrd_end_max, struct err *e)
{
	const char *cmdline = b->machine->cmdline;
	uint8_t *buf = malloc(ACPI_BYTES > FDT_MAX_BYTES ? ACPI_BYTES : FDT_MAX_BYTES);
	int r = buf ? write_tables(b, buf, e) : err_set(e, -ENOMEM, "boot data: out of memory");

	free(buf);
	if (r)
		return r;
	write_reset_vector(b->mem);
	mem_write(b->mem, CMDLINE_GPA, cmdline, strlen(cmdline) + 1);
	return b->files->initrd.p ? write_initrd(b, initrd_end_max, e) : 0;
}

/* --- PVH (Xen public/arch-x86/hvm/start_info.h) ---------------------------------------------- */

#define START_MAGIC 0x336ec578u

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

static void write_start_info(struct boot *b)
{
	struct start_info si = {.magic = START_MAGIC,
				.version = 1,
				.modlist = MODLIST_GPA,
				.cmdline = CMDLINE_GPA,
				.rsdp = ACPI_GPA,
				.memmap = MEMMAP_GPA};
	struct memmap_entry map[4] = {0};
	/* Linux takes the first module for its initrd, whatever it is: there may be an empty one.
	 */
	struct modlist_entry mods[2] = {{b->initrd, b->initrd_len, 0, 0},
					{FDT_GPA, b->fdt_len, 0, 0}};
	struct range ranges[4];

	si.nr_modules = 2;
	si.memmap_entries = list_ranges(b->mem, ranges);
	for (uint32_t i = 0; i < si.memmap_entries; i++)
		map[i] = (struct memmap_entry){ranges[i].addr, ranges[i].size, ranges[i].type, 0};
	mem_write(b->mem, MEMMAP_GPA, map, sizeof(map));
	mem_write(b->mem, MODLIST_GPA, mods, sizeof(mods));
	mem_write(b->mem, START_INFO_GPA, &si, sizeof(si));
}

static int boot_pvh(struct boot *b, struct boot_entry *ret, struct err *e)
{
	int r = boot_elf_load(b->mem, &b->files->kernel, &ret->rip, &b->kernel_end, e);

	if (!r)
		r = write_common(b, INITRD_END_MAX, e);
	if (r)
		return r;
	write_start_info(b);
	ret->info = START_INFO_GPA;
	return 0;
}

/* --- Linux: the zero page --------------------------------------------------------------------- */

static void write_zero_page(struct boot *b, struct boot_params *p)
{
	/* For kernels with CONFIG_OF; the others ignore it. */
	struct setup_data dtb = {.type = SETUP_DTB, .len = b->fdt_len};
	struct range ranges[4];

	_Static_assert(SETUP_DATA_GPA + sizeof(dtb) == FDT_GPA, "the payload follows its header");
	p->e820_entries = list_ranges(b->mem, ranges);
	for (unsigned i = 0; i < p->e820_entries; i++)
		p->e820_table[i] =
			(struct boot_e820_entry){ranges[i].addr, ranges[i].size, ranges[i].type};
	p->acpi_rsdp_addr = ACPI_GPA;
	p->hdr.cmd_line_ptr = CMDLINE_GPA;
	p->hdr.ramdisk_image = b->initrd;
	p->hdr.ramdisk_size = b->initrd_len;
	p->hdr.setup_data = SETUP_DATA_GPA;
	mem_write(b->mem, SETUP_DATA_GPA, &dtb, sizeof(dtb));
	mem_write(b->mem, ZERO_PAGE_GPA, p, sizeof(*p));
	boot_linux_write_tables(b->mem);
}

static int boot_bzimage(struct boot *b, struct boot_entry *ret, struct err *e)
{
	const struct boot_file *f = &b->files->kernel;
	struct boot_linux image;
	size_t cmdline = strlen(b->machine->cmdline);
	int r = boot_linux_load(b->mem, f, &image, e);

	if (r)
		return r;
	if (image.params.hdr.cmdline_size && cmdline > image.params.hdr.cmdline_size)
		return err_set(e, -E2BIG, "--cmdline: %zu characters, kernel '%s' takes %u",
			       cmdline, f->path, image.params.hdr.cmdline_size);
	b->kernel_end = image.end;
	r = write_common(b, image.params.hdr.initrd_addr_max + 1ull, e);
	if (r)
		return r;
	write_zero_page(b, &image.params);
	*ret = (struct boot_entry){true, image.entry, ZERO_PAGE_GPA};
	return 0;
}

int boot_load(struct mem *m, const struct machine *mc, const struct boot_files *files,
	      struct boot_entry *ret, struct err *e)
{
	struct boot b = {.mem = m, .machine = mc, .files = files};

	*ret = (struct boot_entry){0};
	return boot_linux_is(&files->kernel) ? boot_bzimage(&b, ret, e) : boot_pvh(&b, ret, e);
}

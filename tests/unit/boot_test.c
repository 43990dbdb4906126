/* Boot data of both protocols, as a guest finds it, from kernels made up here. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <asm/bootparam.h>
#include <elf.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "vmm/boot/boot.h"
#include "vmm/boot/boot_layout.h"

#define RAM	  (64ull << 20)
#define PREF	  0x1000000ull
#define INIT_SIZE 0x800000u

struct fix {
	struct mem mem;
	struct machine machine;
	char kernel[40], initrd[40];
	struct boot_entry entry;
	struct err e;
};

static void write_file(char *path, const void *p, size_t n)
{
	int fd;

	strcpy(path, "/tmp/boot_test.XXXXXX");
	fd = mkstemp(path);
	assert_true(fd >= 0 && write(fd, p, n) == (ssize_t)n);
	close(fd);
}

static int setup_mem(void **state, uint64_t bytes)
{
	struct fix *f = calloc(1, sizeof(*f));

	assert_int_equal(mem_init(&f->mem, MEM_SHARED_FILE, bytes, NULL), 0);
	f->machine = (struct machine){.mem_bytes = bytes, .vcpus = 2, .cmdline = "quiet x=1"};
	*state = f;
	return 0;
}

static int setup(void **state)
{
	return setup_mem(state, RAM);
}

/* With a part above the hole. */
static int setup_big(void **state)
{
	return setup_mem(state, 5ull << 30);
}

static int teardown(void **state)
{
	struct fix *f = *state;

	unlink(f->kernel);
	if (f->initrd[0])
		unlink(f->initrd);
	mem_done(&f->mem);
	free(f);
	return 0;
}

static struct setup_header good_header(void)
{
	return (struct setup_header){.setup_sects = 1,
				     .syssize = 1024 / 16,
				     .boot_flag = 0xaa55,
				     .jump = 0x66eb,
				     .header = 0x53726448,
				     .version = 0x20f,
				     .loadflags = LOADED_HIGH,
				     .initrd_addr_max = 0x7fffffff,
				     .cmdline_size = 2047,
				     .xloadflags = XLF_KERNEL_64,
				     .pref_address = PREF,
				     .init_size = INIT_SIZE};
}

static int load(struct fix *f, const char *initrd)
{
	struct boot_files files;
	int r = boot_files_read(&files, f->kernel, initrd, &f->e);

	if (r)
		return r;
	r = boot_load(&f->mem, &f->machine, &files, &f->entry, &f->e);
	boot_files_free(&files);
	return r;
}

/* Two sectors with the header, then 1 KiB of kernel. */
static int boot_linux(struct fix *f, const struct setup_header *h)
{
	uint8_t image[2048];

	memset(image, 0, 1024);
	memset(image + 1024, 0x90, 1024);
	memcpy(image + 0x1f1, h, sizeof(*h));
	write_file(f->kernel, image, sizeof(image));
	return load(f, f->initrd);
}

static void give_initrd(struct fix *f, size_t len)
{
	uint8_t *p = malloc(len);

	memset(p, 0x5a, len);
	write_file(f->initrd, p, len);
	free(p);
}

static void linux_zero_page(void **state)
{
	struct fix *f = *state;
	struct setup_header h = good_header();
	struct boot_params p;
	char cmdline[16];
	uint8_t byte;

	give_initrd(f, 5000);
	assert_int_equal(boot_linux(f, &h), 0);
	assert_true(f->entry.long_mode);
	assert_int_equal(f->entry.rip, PREF + 0x200);
	assert_int_equal(mem_read(&f->mem, f->entry.info, &p, sizeof(p)), 0);
	assert_int_equal(p.hdr.header, 0x53726448);
	assert_int_equal(p.hdr.type_of_loader, 0xff);
	assert_int_equal(p.acpi_rsdp_addr, ACPI_GPA);
	mem_read(&f->mem, p.hdr.cmd_line_ptr, cmdline, sizeof(cmdline));
	assert_string_equal(cmdline, "quiet x=1");
	assert_int_equal(p.hdr.ramdisk_size, 5000);
	assert_true(p.hdr.ramdisk_image >= PREF + INIT_SIZE &&
		    p.hdr.ramdisk_image + 5000 <= f->mem.bytes);
	mem_read(&f->mem, p.hdr.ramdisk_image + 4999, &byte, 1);
	assert_int_equal(byte, 0x5a);
	mem_read(&f->mem, PREF + 1023, &byte, 1);
	assert_int_equal(byte, 0x90);
	assert_int_equal(p.e820_entries, 3);
	assert_int_equal(p.e820_table[2].addr + p.e820_table[2].size, RAM);
	assert_int_equal(p.e820_table[1].type, 2);
	assert_true(p.e820_table[1].addr <= ACPI_GPA);
}

static void linux_device_tree(void **state)
{
	struct fix *f = *state;
	struct setup_header h = good_header();
	struct boot_params p;
	struct setup_data d;
	uint32_t magic;

	assert_int_equal(boot_linux(f, &h), 0);
	mem_read(&f->mem, f->entry.info, &p, sizeof(p));
	assert_int_equal(p.hdr.ramdisk_size, 0);
	assert_int_equal(mem_read(&f->mem, p.hdr.setup_data, &d, sizeof(d)), 0);
	assert_int_equal(d.type, SETUP_DTB);
	assert_int_equal(d.next, 0);
	mem_read(&f->mem, p.hdr.setup_data + sizeof(d), &magic, 4);
	assert_int_equal(__builtin_bswap32(magic), 0xd00dfeed);
}

/* Every address below 4 GiB is itself, by the tables that CR3 gets. */
static void linux_identity_map(void **state)
{
	struct fix *f = *state;
	struct setup_header h = good_header();

	assert_int_equal(boot_linux(f, &h), 0);
	for (uint64_t gpa = 0; gpa < 4ull << 30; gpa += 0x1ff000) {
		uint64_t at = PML4_GPA, e = 0;

		for (int shift = 39; shift >= 21; shift -= 9) {
			mem_read(&f->mem, at + (gpa >> shift & 511) * 8, &e, 8);
			assert_int_equal(e & 3, 3);
			at = e & ~0xfffull;
		}
		assert_int_equal(e & 0x80, 0x80);
		assert_int_equal((e & ~0x1fffffull) | (gpa & 0x1fffff), gpa);
	}
}

static void linux_above_4g(void **state)
{
	struct fix *f = *state;
	struct setup_header h = good_header();
	struct boot_params p;

	give_initrd(f, 5000);
	assert_int_equal(boot_linux(f, &h), 0);
	mem_read(&f->mem, f->entry.info, &p, sizeof(p));
	assert_int_equal(p.e820_entries, 4);
	assert_int_equal(p.e820_table[2].addr + p.e820_table[2].size, 3ull << 30);
	assert_int_equal(p.e820_table[3].addr, 4ull << 30);
	assert_int_equal(p.e820_table[3].size, 2ull << 30);
	/* Where the kernel says that it can read it. */
	assert_true(p.hdr.ramdisk_image + 5000ull <= 0x80000000ull);
}

static void linux_refused(void **state)
{
	static const struct {
		const char *message;
		struct setup_header change;
	} rows[] = {
		{"2.11 without a 64-bit entry", {.version = 0x20b}},
		{"without a 64-bit entry", {.xloadflags = XLF_CAN_BE_LOADED_ABOVE_4G}},
		{"the file ends before", {.syssize = 0x1000}},
		{"wants 0x800000 bytes at 0x1000", {.pref_address = 0x1000}},
		{"bytes at 0x100000000", {.pref_address = 4ull << 30}},
		{"the limits are 1G", {.init_size = 0x50000000}},
		{"needs memory up to", {.init_size = 0x10000000}},
		{"9 characters, kernel", {.cmdline_size = 8}},
	};
	struct fix *f = *state;

	for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct setup_header h = good_header();

		if (rows[i].change.syssize)
			h.syssize = rows[i].change.syssize;
		if (rows[i].change.version)
			h.version = rows[i].change.version;
		if (rows[i].change.xloadflags)
			h.xloadflags = rows[i].change.xloadflags;
		if (rows[i].change.pref_address)
			h.pref_address = rows[i].change.pref_address;
		if (rows[i].change.init_size)
			h.init_size = rows[i].change.init_size;
		if (rows[i].change.cmdline_size)
			h.cmdline_size = rows[i].change.cmdline_size;
		f->e = (struct err){0};
		assert_true(boot_linux(f, &h) < 0);
		if (!strstr(f->e.msg, rows[i].message))
			fail_msg("'%s' lacks '%s'", f->e.msg, rows[i].message);
		unlink(f->kernel);
	}
	/* Not a kernel at all. */
	f->e = (struct err){0};
	write_file(f->kernel, "#!/bin/sh\n", 10);
	assert_true(load(f, "") < 0);
	assert_non_null(strstr(f->e.msg, "neither an x86-64 ELF file nor a bzImage"));
}

static void initrd_must_fit(void **state)
{
	struct fix *f = *state;
	struct setup_header h = good_header();

	give_initrd(f, RAM - PREF - INIT_SIZE + 1);
	assert_int_equal(boot_linux(f, &h), -ENOMEM);
	assert_non_null(strstr(f->e.msg, "do not fit between the kernel's end at 24M and 64M"));
}

struct elf_image {
	Elf64_Ehdr eh;
	Elf64_Phdr ph[2];
	Elf64_Nhdr note;
	char name[4];
	uint64_t entry;
};

static int boot_pvh(struct fix *f)
{
	struct elf_image im = {
		.eh = {.e_ident = {0x7f, 'E', 'L', 'F', ELFCLASS64, ELFDATA2LSB, EV_CURRENT},
		       .e_type = ET_EXEC,
		       .e_machine = EM_X86_64,
		       .e_phoff = offsetof(struct elf_image, ph),
		       .e_phentsize = sizeof(Elf64_Phdr),
		       .e_phnum = 2},
		.ph = {{.p_type = PT_NOTE,
			.p_offset = offsetof(struct elf_image, note),
			.p_filesz = 24},
		       {.p_type = PT_LOAD,
			.p_paddr = 0x100000,
			.p_filesz = sizeof(im),
			.p_memsz = 1 << 20}},
		.note = {4, 8, 18},
		.name = "Xen",
		.entry = 0x100040,
	};

	write_file(f->kernel, &im, sizeof(im));
	return load(f, f->initrd);
}

/* hvm_start_info: Linux takes the first module for its initrd; the device tree is the second. */
static void pvh_start_info(void **state)
{
	struct fix *f = *state;
	uint64_t mods[8];
	uint32_t si[16], magic;

	give_initrd(f, 5000);
	assert_int_equal(boot_pvh(f), 0);
	assert_false(f->entry.long_mode);
	assert_int_equal(f->entry.rip, 0x100040);
	mem_read(&f->mem, f->entry.info, si, sizeof(si));
	assert_int_equal(si[0], 0x336ec578);
	assert_int_equal(si[3], 2);
	assert_int_equal(si[8], ACPI_GPA);
	mem_read(&f->mem, si[4], mods, sizeof(mods));
	assert_int_equal(mods[1], 5000);
	mem_read(&f->mem, mods[4], &magic, 4);
	assert_int_equal(__builtin_bswap32(magic), 0xd00dfeed);
}

/* mov dx, port; mov al, value; out dx, al */
static void bios_resets(void **state)
{
	struct fix *f = *state;
	uint8_t code[6];

	assert_int_equal(boot_pvh(f), 0);
	mem_read(&f->mem, 0xffff0, code, sizeof(code));
	assert_memory_equal(code, ((uint8_t[]){0xba, 0x03, 0x06, 0xb0, 0x01, 0xee}), 6);
}

static void pvh_without_initrd(void **state)
{
	struct fix *f = *state;
	uint64_t mods[8];

	assert_int_equal(boot_pvh(f), 0);
	mem_read(&f->mem, MODLIST_GPA, mods, sizeof(mods));
	assert_int_equal(mods[1], 0); /* an empty one */
	assert_true(mods[5] > 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(linux_zero_page, setup, teardown),
		cmocka_unit_test_setup_teardown(linux_device_tree, setup, teardown),
		cmocka_unit_test_setup_teardown(linux_identity_map, setup, teardown),
		cmocka_unit_test_setup_teardown(linux_above_4g, setup_big, teardown),
		cmocka_unit_test_setup_teardown(linux_refused, setup, teardown),
		cmocka_unit_test_setup_teardown(initrd_must_fit, setup, teardown),
		cmocka_unit_test_setup_teardown(pvh_start_info, setup, teardown),
		cmocka_unit_test_setup_teardown(pvh_without_initrd, setup, teardown),
		cmocka_unit_test_setup_teardown(bios_resets, setup, teardown),
	};

	return cmocka_run_group_tests_name("boot", tests, NULL, NULL);
}

/* ACPI tables: structure by our own reading, and AML by iasl's, there and back. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "vmm/boot/acpi.h"
#include "vmm/boot/aml.h"

#define GPA   0xe0000ull
#define GENID 0xef000ull
#define HEAD  36 /* bytes of a table's header */

static uint8_t buf[0xf000];

static struct machine make_machine(unsigned ndevs, unsigned vcpus)
{
	struct machine m = {.mem_bytes = 64 << 20, .vcpus = vcpus, .ndevs = ndevs};

	for (unsigned i = 0; i < ndevs; i++)
		m.devs[i] = (struct mdev){.kind = MDEV_RNG,
					  .gpa = MACHINE_MMIO_BASE + i * MACHINE_MMIO_STEP,
					  .gsi = MACHINE_GSI_BASE + i};
	return m;
}

static uint8_t sum(const uint8_t *p, size_t n)
{
	uint8_t s = 0;

	while (n--)
		s += *p++;
	return s;
}

static uint64_t get(const uint8_t *p, unsigned bytes)
{
	uint64_t v = 0;

	memcpy(&v, p, bytes);
	return v;
}

/* The table at a guest address: inside what was built, as long as it says, with a right sum. */
static const uint8_t *table(uint64_t gpa, const char *signature, size_t used)
{
	const uint8_t *p = buf + (gpa - GPA);

	assert_true(gpa >= GPA && gpa % 16 == 0 && gpa - GPA + HEAD <= used);
	assert_memory_equal(p, signature, 4);
	assert_true(get(p + 4, 4) >= HEAD && gpa - GPA + get(p + 4, 4) <= used);
	assert_int_equal(sum(p, get(p + 4, 4)), 0);
	return p;
}

static size_t build(const struct machine *m)
{
	struct err e = {0};
	int n = acpi_build(m, buf, sizeof(buf), GPA, GENID, &e);

	assert_true(n > 0);
	return n;
}

static const uint8_t *find(const char *signature, size_t used)
{
	const uint8_t *xsdt = table(get(buf + 24, 8), "XSDT", used);

	for (size_t at = HEAD; at < get(xsdt + 4, 4); at += 8)
		if (!memcmp(buf + (get(xsdt + at, 8) - GPA), signature, 4))
			return table(get(xsdt + at, 8), signature, used);
	fail_msg("no %s", signature);
	return NULL;
}

static void structure(void **state)
{
	for (unsigned vcpus = 1; vcpus <= MACHINE_MAX_VCPUS; vcpus++) {
		struct machine m = make_machine(vcpus, vcpus);
		size_t used = build(&m);
		const uint8_t *fadt, *madt;

		assert_memory_equal(buf, "RSD PTR ", 8);
		assert_int_equal(sum(buf, 20), 0);
		assert_int_equal(sum(buf, 36), 0);
		fadt = find("FACP", used);
		assert_true(get(fadt + 112, 4) & 1 << 20); /* hardware-reduced */
		table(get(fadt + 140, 8), "DSDT", used);
		madt = find("APIC", used);
		for (unsigned i = 0; i < vcpus; i++)
			assert_memory_equal(madt + HEAD + 8 + 8 * i,
					    ((uint8_t[]){0, 8, i, i, 1, 0, 0, 0}), 8);
		assert_int_equal(madt[HEAD + 8 + 8 * vcpus], 1); /* then the I/O APIC */
		find("WDAT", used);
	}
}

static void too_small(void **state)
{
	struct machine m = make_machine(MACHINE_MAX_DEVS, 2);
	size_t used = build(&m);

	for (size_t cap = 40; cap < used; cap++) {
		uint8_t *small = malloc(cap); /* of its exact size, for the sanitizers */
		struct err e = {0};

		assert_true(acpi_build(&m, small, cap, GPA, GENID, &e) < 0);
		assert_non_null(strstr(e.msg, "ACPI"));
		free(small);
	}
}

/* Each form of a length, of an integer and of a name (ACPI 6.4, sections 20.2.2 to 20.2.4). */
static void encodings(void **state)
{
	static const struct {
		size_t content;
		unsigned prefix;
	} lengths[] = {{62, 1}, {63, 2}, {4093, 2}, {4094, 3}};
	static const struct {
		uint64_t v;
		size_t len;
	} ints[] = {{0, 1}, {1, 1}, {2, 2}, {255, 2}, {256, 3}, {65536, 5}, {1ull << 32, 9}};
	static uint8_t out[8192];

	for (unsigned i = 0; i < 4; i++) {
		struct aml a = {out, 0, sizeof(out), false};
		size_t begin = aml_begin_if(&a), n;

		for (size_t k = 0; k < lengths[i].content; k++)
			aml_byte(&a, 0xa3);
		aml_end(&a, begin);
		assert_int_equal(a.len, 1 + lengths[i].prefix + lengths[i].content);
		n = out[1] >> 6;
		assert_int_equal(n + 1, lengths[i].prefix);
		assert_int_equal(n ? (out[1] & 15) | out[2] << 4 | (n > 1 ? out[3] << 12 : 0)
				   : out[1],
				 lengths[i].prefix + lengths[i].content);
	}
	for (unsigned i = 0; i < 7; i++) {
		struct aml a = {out, 0, sizeof(out), false};

		aml_int(&a, ints[i].v);
		assert_int_equal(a.len, ints[i].len);
	}
	struct aml a = {out, 0, sizeof(out), false};

	aml_path(&a, "\\_SB.A.BCDE");
	assert_memory_equal(out, "\\\x2f\x03_SB_A___BCDE", 15);
	a.len = 0;
	aml_eisa_id(&a, "PNP0501");
	assert_memory_equal(out, "\x0c\x41\xd0\x05\x01", 5);
}

static void write_file(const char *dir, const char *name, const uint8_t *t)
{
	char path[128];
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	f = fopen(path, "w");
	assert_non_null(f);
	assert_int_equal(fwrite(t, 1, get(t + 4, 4), f), get(t + 4, 4));
	fclose(f);
}

static void run_iasl(const char *dir, const char *args)
{
	char cmd[512];

	snprintf(cmd, sizeof(cmd),
		 "cd %s && iasl %s >log 2>&1 && ! grep -E 'Error |Warning |[1-9][0-9]* "
		 "(Errors|Warnings)' log || "
		 "{ cat log; exit 1; }",
		 dir, args);
	assert_int_equal(system(cmd), 0);
}

/* What iasl compiles from its own reading of our DSDT is our DSDT. */
static void iasl_agrees(void **state)
{
	struct machine m = make_machine(MACHINE_MAX_DEVS, 2);
	char dir[] = "/tmp/acpi.XXXXXX", path[128];
	const uint8_t *dsdt;
	uint8_t *again;
	size_t used = build(&m), len;
	FILE *f;

	if (system("command -v iasl >/dev/null")) {
		assert_null(getenv("CI"));
		print_message("no iasl here (acpica-tools)\n");
		skip();
	}
	assert_non_null(mkdtemp(dir));
	dsdt = table(get(find("FACP", used) + 140, 8), "DSDT", used);
	write_file(dir, "dsdt.dat", dsdt);
	write_file(dir, "facp.dat", find("FACP", used));
	write_file(dir, "apic.dat", find("APIC", used));
	write_file(dir, "wdat.dat", find("WDAT", used));
	run_iasl(dir, "-d facp.dat apic.dat wdat.dat");
	run_iasl(dir, "-d dsdt.dat");
	run_iasl(dir, "-p again dsdt.dsl");
	snprintf(path, sizeof(path), "%s/again.aml", dir);
	f = fopen(path, "r");
	assert_non_null(f);
	again = malloc(used);
	len = fread(again, 1, used, f);
	fclose(f);
	assert_int_equal(len, get(dsdt + 4, 4));
	assert_memory_equal(dsdt + HEAD, again + HEAD, len - HEAD);
	free(again);
	snprintf(path, sizeof(path), "rm -r %s", dir);
	assert_int_equal(system(path), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(structure),
		cmocka_unit_test(too_small),
		cmocka_unit_test(encodings),
		cmocka_unit_test(iasl_agrees),
	};

	return cmocka_run_group_tests_name("acpi", tests, NULL, NULL);
}

/*
 * Machine descriptions: what is built is parsed again without loss; what was damaged is refused, or
 * is another machine within all limits (the fuzzer's judgement).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <libfdt.h>
#include <stdio.h>

#include "tests/fuzz/fdt_fuzz.c"

static uint8_t good[FDT_MAX_BYTES] __attribute__((aligned(8)));

static void parse_good(struct machine *m)
{
	assert_int_equal(fdt_parse(good, build_good(good), m, NULL), 0);
}

/* m is built, and must be refused with these words. */
static void refuses(const struct machine *m, const char *words)
{
	struct machine out;
	struct err e = {0};
	int n = fdt_build(m, good, sizeof(good), NULL);

	assert_true(n > 0);
	assert_int_equal(fdt_parse(good, (size_t)n, &out, &e), -EBADMSG);
	if (!strstr(e.msg, words))
		fail_msg("'%s' without '%s'", e.msg, words);
}

static void round_trip(void **state)
{
	static const uint64_t sizes[] = {2ull << 20, 64ull << 20, 3ull << 30,
					 (3ull << 30) + (2 << 20), 1ull << 40};
	struct machine m, again;
	int n;

	parse_good(&m);
	assert_int_equal(m.ndevs, 7);
	for (unsigned i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++)
		for (m.vcpus = 1; m.vcpus <= MACHINE_MAX_VCPUS; m.vcpus++) {
			m.mem_bytes = sizes[i];
			memset(m.cmdline, 'x', sizeof(m.cmdline) - 1);
			memset(m.name, 'n', sizeof(m.name) - 1);
			n = fdt_build(&m, good, sizeof(good), NULL);
			assert_true(n > 0);
			assert_int_equal(fdt_parse(good, (size_t)n, &again, NULL), 0);
			assert_memory_equal(&m, &again, sizeof(m));
		}
}

static void every_length(void **state)
{
	size_t len = build_good(good);
	struct machine m;

	for (size_t n = 0; n < len; n++) {
		/* Of its exact size, for the sanitizers. */
		uint8_t *cut = malloc(n ? n : 1);
		struct err e = {0};

		memcpy(cut, good, n);
		assert_int_equal(fdt_parse(cut, n, &m, &e), -EBADMSG);
		assert_true(e.msg[0]);
		free(cut);
	}
}

/* Each bit, and each byte with a few values; the judge aborts when it is wrong. */
static void every_byte(void **state)
{
	static const uint8_t values[] = {0, 1, 0x7f, 0x80, 0xff, '/', 0x1b};
	size_t len = build_good(good);

	for (size_t at = 0; at < len; at++) {
		uint8_t edit[4] = {0, (uint8_t)at, (uint8_t)(at >> 8), 0};

		for (unsigned bit = 0; bit < 8; bit++) {
			edit[3] = (uint8_t)(good[at] ^ 1u << bit);
			LLVMFuzzerTestOneInput(edit, sizeof(edit));
		}
		for (unsigned i = 0; i < sizeof(values); i++) {
			edit[3] = values[i];
			LLVMFuzzerTestOneInput(edit, sizeof(edit));
		}
	}
}

static void limits(void **state)
{
	struct machine base, m;

	parse_good(&base);
#define BAD(words, change)                                                                         \
	do {                                                                                       \
		m = base;                                                                          \
		change;                                                                            \
		refuses(&m, words);                                                                \
	} while (0)
	BAD("memory", m.mem_bytes = 0);
	BAD("memory", m.mem_bytes = 1 << 20);
	BAD("memory", m.mem_bytes += 4096);
	BAD("memory", m.mem_bytes = 1ull << 47);
	BAD("vCPUs", m.vcpus = 0);
	BAD("vCPUs", m.vcpus = MACHINE_MAX_VCPUS + 1);
	BAD("name", m.name[0] = 0);
	BAD("name", strcpy(m.name, "a b"));
	BAD("name", strcpy(m.name, "\033[2J"));
	BAD("id", m.devs[0].id[0] = 0);
	BAD("id", strcpy(m.devs[0].id, "a/b"));
	BAD("id", strcpy(m.devs[0].id, "\xc3\xa4"));
	BAD("same id", strcpy(m.devs[0].id, "rng"));
	BAD("address", m.devs[1].gpa += 0x1000);
	BAD("address", m.devs[1].gsi++);
	BAD("size", m.devs[2].bytes = 0);
	BAD("size", m.devs[2].bytes = 513);
	BAD("size", m.devs[2].bytes = (1ull << 50) + 512);
	BAD("size", m.devs[2].block = 4096; m.devs[2].physical = 4096; m.devs[2].bytes += 512);
	BAD("blocks", m.devs[2].block = 256);
	BAD("blocks", m.devs[2].block = 1536; m.devs[2].physical = 4096);
	BAD("blocks", m.devs[2].block = m.devs[2].physical = 2 * MACHINE_BLOCK_MAX);
	BAD("blocks", m.devs[2].block = 4096; m.devs[2].physical = 512);
	BAD("blocks", m.devs[2].physical = 3 * 512);
	BAD("blocks", m.devs[2].physical = 2 * MACHINE_PHYSICAL_MAX);
	BAD("queues", m.devs[2].queues = 0);
	BAD("queues", m.devs[2].queues = MACHINE_MAX_QUEUES + 1);
	BAD("mirror", m.devs[2].readonly = true);
	BAD("CPUID", m.ncpuid = 0);
	BAD("CPUID", m.ncpuid = 1);
	BAD("CPUID", m.cpuid[0].function = 2);
	BAD("CPUID", m.cpuid[2].flags = 0);
	BAD("CPUID", m.cpuid[2].flags = 3);
	BAD("CPUID", m.cpuid[2] = m.cpuid[1]);
	BAD("CPUID", m.tsc_khz = 0);
	BAD("CPUID", m.tsc_khz = UINT32_MAX);
	BAD("cid", m.devs[6].cid = 2);
	BAD("cid", m.devs[6].cid = UINT32_MAX);
	BAD("second", m.devs[0].kind = MDEV_VSOCK; m.devs[0].cid = 3);
#undef BAD
}

/* --- trees that fdt_build() does not make -------------------------------------------------------
 */

static uint8_t tree[2 * FDT_MAX_BYTES] __attribute__((aligned(8)));

static void open_tree(void)
{
	build_good(good);
	assert_int_equal(fdt_open_into(good, tree, sizeof(tree)), 0);
}

static int node(const char *path)
{
	int n = fdt_path_offset(tree, path);

	assert_true(n >= 0);
	return n;
}

static int parse_tree(struct machine *m, struct err *e)
{
	assert_int_equal(fdt_pack(tree), 0);
	memset(e, 0, sizeof(*e));
	return fdt_parse(tree, fdt_totalsize(tree), m, e);
}

static void refuses_tree(void)
{
	struct machine m;
	struct err e;

	assert_int_equal(parse_tree(&m, &e), -EBADMSG);
	assert_true(strlen(e.msg) > 20);
}

/* Longer than what it is copied to, with a zero inside, without one at the end, empty. */
static void check_text(const char *path, const char *name, size_t cap)
{
	char text[4096];
	struct machine m;
	struct err e;

	memset(text, 'a', sizeof(text));
	for (size_t len = cap - 2; len < cap + 3; len++) {
		open_tree();
		text[len - 1] = 0;
		assert_int_equal(fdt_setprop(tree, node(path), name, text, (int)len), 0);
		text[len - 1] = 'a';
		if (len > cap)
			refuses_tree();
		else
			assert_int_equal(parse_tree(&m, &e), 0);
	}
	open_tree();
	assert_int_equal(fdt_setprop(tree, node(path), name, text, (int)cap), 0);
	refuses_tree();
	open_tree();
	assert_int_equal(fdt_setprop(tree, node(path), name, text, 0), 0);
	refuses_tree();
	open_tree();
	assert_int_equal(fdt_setprop(tree, node(path), name, "a\0b", 4), 0);
	refuses_tree();
}

static void texts(void **state)
{
	check_text("/", "model", sizeof(((struct machine *)0)->name));
	check_text("/chosen", "bootargs", sizeof(((struct machine *)0)->cmdline));
	check_text("/virtio_mmio@d0000000", "ftvmm,id", sizeof(((struct mdev *)0)->id));
}

/* Each property of each node that counts: gone, longer, shorter. */
static void properties(void **state)
{
	static const struct {
		const char *path, *name;
	} all[] = {
		{"/", "compatible"},
		{"/", "model"},
		{"/chosen", "bootargs"},
		{"/memory@0", "reg"},
		{"/cpus", "ftvmm,cpu"},
		{"/cpus", "ftvmm,cpuid"},
		{"/cpus", "ftvmm,tsc-khz"},
		{"/virtio_mmio@d0000000", "reg"},
		{"/virtio_mmio@d0000000", "interrupts"},
		{"/virtio_mmio@d0000000", "ftvmm,id"},
		{"/virtio_mmio@d0002000", "ftvmm,kind"},
		{"/virtio_mmio@d0002000", "ftvmm,bytes"},
		{"/virtio_mmio@d0002000", "ftvmm,physical"},
		{"/virtio_mmio@d0002000", "ftvmm,ft"},
		{"/virtio_mmio@d0002000", "ftvmm,readonly"},
		{"/virtio_mmio@d0004000", "local-mac-address"},
	};

	for (unsigned i = 0; i < sizeof(all) / sizeof(all[0]); i++)
		for (int by = -2; by <= 1; by++) {
			const void *p;
			char copy[256] = {0};
			int len;

			open_tree();
			p = fdt_getprop(tree, node(all[i].path), all[i].name, &len);
			assert_true(p && len > 1 && len < 250);
			memcpy(copy, p, (size_t)len);
			assert_int_equal(fdt_delprop(tree, node(all[i].path), all[i].name), 0);
			if (by > -2 && by)
				assert_int_equal(fdt_setprop(tree, node(all[i].path), all[i].name,
							     copy, len + by),
						 0);
			refuses_tree();
		}
}

/* What older descriptions do not say. */
static void defaults(void **state)
{
	struct machine m;
	struct err e;

	open_tree();
	assert_int_equal(fdt_delprop(tree, node("/virtio_mmio@d0002000"), "ftvmm,queues"), 0);
	assert_int_equal(fdt_delprop(tree, node("/virtio_mmio@d0002000"), "ftvmm,block"), 0);
	assert_int_equal(parse_tree(&m, &e), 0);
	assert_int_equal(m.devs[2].queues, 1);
	assert_int_equal(m.devs[2].block, 512);
	assert_int_equal(m.devs[2].physical, 512);
	assert_int_equal(m.devs[4].queues, 2);
	assert_true(m.devs[4].no_offload);
	open_tree();
	assert_int_equal(fdt_delprop(tree, node("/virtio_mmio@d0004000"), "ftvmm,no-offload"), 0);
	assert_int_equal(parse_tree(&m, &e), 0);
	assert_false(m.devs[4].no_offload);
	open_tree();
	assert_int_equal(
		fdt_setprop_u32(tree, node("/virtio_mmio@d0004000"), "ftvmm,no-offload", 2), 0);
	refuses_tree();
	open_tree();
	assert_int_equal(
		fdt_setprop(tree, node("/virtio_mmio@d0002000"), "ftvmm,queues", "\0\0\1", 3), 0);
	refuses_tree();
}

static void nodes(void **state)
{
	static const char *const needed[] = {"/chosen", "/memory@0", "/cpus"};
	char name[40];
	int n;

	for (unsigned i = 0; i < 3; i++) {
		open_tree();
		assert_int_equal(fdt_del_node(tree, node(needed[i])), 0);
		refuses_tree();
	}
	open_tree();
	for (unsigned i = 3; i <= MACHINE_MAX_VCPUS; i++) {
		snprintf(name, sizeof(name), "cpu@%x", i);
		assert_true(fdt_add_subnode(tree, node("/cpus"), name) >= 0);
	}
	refuses_tree();
	/* Nine devices, each right in itself. */
	open_tree();
	for (unsigned i = 7; i <= MACHINE_MAX_DEVS; i++) {
		uint64_t gpa = MACHINE_MMIO_BASE + i * MACHINE_MMIO_STEP;
		fdt64_t reg[2] = {cpu_to_fdt64(gpa), cpu_to_fdt64(0x1000)};

		snprintf(name, sizeof(name), "virtio_mmio@%llx", (unsigned long long)gpa);
		n = fdt_add_subnode(tree, 0, name);
		assert_true(n >= 0);
		snprintf(name, sizeof(name), "rng%u", i);
		assert_false(fdt_setprop(tree, n, "reg", reg, sizeof(reg)) ||
			     fdt_setprop_u32(tree, n, "interrupts", MACHINE_GSI_BASE + i) ||
			     fdt_setprop_string(tree, n, "ftvmm,kind", "rng") ||
			     fdt_setprop_string(tree, n, "ftvmm,id", name));
	}
	refuses_tree();
}

/* As many leaves as there can be, and one more. */
static void cpuid_table(void **state)
{
	static uint8_t longer[(MACHINE_MAX_CPUID + 1) * 28];
	struct machine m, again;
	struct err e;
	int n;

	parse_good(&m);
	while (m.ncpuid < MACHINE_MAX_CPUID) {
		m.cpuid[m.ncpuid] = (struct machine_cpuid){.function = 0x100 + m.ncpuid, .eax = 1};
		m.ncpuid++;
	}
	n = fdt_build(&m, good, sizeof(good), NULL);
	assert_true(n > 0);
	assert_int_equal(fdt_parse(good, (size_t)n, &again, NULL), 0);
	assert_memory_equal(&m, &again, sizeof(m));
	m.ncpuid++;
	assert_true(fdt_build(&m, good, sizeof(good), NULL) < 0);

	for (unsigned i = 0; i <= MACHINE_MAX_CPUID; i++)
		longer[i * 28 + 3] = (uint8_t)i; /* leaves 0, 1, 2 ... */
	for (int len = (int)sizeof(longer); len >= (int)sizeof(longer) - 28; len -= 28) {
		open_tree();
		assert_int_equal(fdt_setprop(tree, node("/cpus"), "ftvmm,cpuid", longer, len), 0);
		assert_int_equal(parse_tree(&m, &e), len > MACHINE_MAX_CPUID * 28 ? -EBADMSG : 0);
	}
	open_tree();
	assert_int_equal(fdt_setprop_string(tree, node("/cpus"), "ftvmm,cpu", "x86-64-v9"), 0);
	refuses_tree();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(round_trip),  cmocka_unit_test(every_length),
		cmocka_unit_test(every_byte),  cmocka_unit_test(limits),
		cmocka_unit_test(texts),       cmocka_unit_test(properties),
		cmocka_unit_test(nodes),       cmocka_unit_test(defaults),
		cmocka_unit_test(cpuid_table),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

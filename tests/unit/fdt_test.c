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
	assert_int_equal(m.ndevs, 5);
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
	BAD("mirror", m.devs[2].readonly = true);
#undef BAD
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(round_trip),
		cmocka_unit_test(every_length),
		cmocka_unit_test(every_byte),
		cmocka_unit_test(limits),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

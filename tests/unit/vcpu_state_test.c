/* A vCPU's state against the CPUID table of its machine. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <string.h>

#include "vmm/machine/cpuid.h"
#include "vmm/vm/vcpu.h"

static int fits(uint32_t offered, uint64_t xcr0, uint64_t present)
{
	struct machine m = {
		.ncpuid = offered ? 2 : 1,
		.cpuid = {{.function = 1}, {.function = 0xd, .flags = 1, .eax = offered}}};
	struct vcpu_state s = {.xcr0 = xcr0};
	struct err e = {0};
	int r;

	memcpy((char *)&s.xsave + 512, &present, sizeof(present));
	r = vcpu_state_fits(&s, &m, &e);
	assert_true(!r || (r == -EBADMSG && strstr(e.msg, "CPUID")));
	return r;
}

static void what_is_offered(void **state)
{
	static const uint32_t offers[] = {0x7, 0xe7, 0x207, 0x2e7};

	for (unsigned i = 0; i < sizeof(offers) / sizeof(offers[0]); i++)
		for (unsigned bit = 0; bit < 64; bit++) {
			uint64_t one = 1ull << bit;

			assert_int_equal(!fits(offers[i], 1 | one, 0), (offers[i] & one) != 0);
			assert_int_equal(!fits(offers[i], offers[i], one),
					 ((offers[i] | 0x200) & one) != 0);
		}
	/* What XCR0 had on before keeps its registers. */
	assert_int_equal(fits(0xe7, 1, 0xe7), 0);
}

/* --cpu x86-64-v2, and hosts without XSAVE: x87 and SSE are state all the same. */
static void without_xsave(void **state)
{
	assert_int_equal(fits(0, 1, 3), 0);
	assert_int_equal(fits(0, 1, 0x203), 0);
	assert_int_equal(fits(0, 3, 3), -EBADMSG);
	assert_int_equal(fits(0, 7, 3), -EBADMSG);
	assert_int_equal(fits(0, 1, 7), -EBADMSG);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_is_offered),
		cmocka_unit_test(without_xsave),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

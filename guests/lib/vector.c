/* Written in assembly throughout: the compiler uses no vector register. boot.S turned them on. */
#include "guests/lib/vector.h"

#include "guests/lib/guest.h"

#define CPUID_1_ECX_OSXSAVE (1u << 27)
#define CPUID_1_ECX_AVX	    (1u << 28)
#define XCR0_AVX	    0x06u /* with SSE */
#define XCR0_AVX512	    0xe6u
#define FIRST		    8 /* SSE code may use those below */
#define YMM		    "8,9,10,11,12,13,14,15"
#define ZMM		    YMM ",16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31"
#define COUNT		    24

/* One instruction for each register of a list; &at is that register's place in memory. */
#define EACH(list, insn) ".irp n," list "\n\t" insn "\n\t.endr"
#define AT		 "64 * (\\n - 8)(%0)"

typedef uint64_t file[COUNT][8];

static unsigned lanes; /* of 64 bits in a register: 4, 8, or 0 if none can be used */
static file want;
static uint32_t want_mask;

static uint32_t xcr0(void)
{
	uint32_t a = 1, b, c = 0, d;

	__asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
	if (~c & (CPUID_1_ECX_OSXSAVE | CPUID_1_ECX_AVX))
		return 0;
	__asm__ volatile("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
	return a;
}

const char *vector_start(void)
{
	uint32_t on = xcr0();

	if ((on & XCR0_AVX512) == XCR0_AVX512)
		lanes = 8;
	else if ((on & XCR0_AVX) == XCR0_AVX)
		lanes = 4;
	vector_check();
	return lanes == 8 ? "avx512" : lanes ? "avx" : "sse";
}

void vector_mix(uint64_t seed)
{
	file by;

	for (unsigned r = 0; r < COUNT; r++)
		for (unsigned i = 0; i < lanes; i++) {
			by[r][i] = (seed + 8 * r + i) * 0x9e3779b97f4a7c15ull;
			want[r][i] ^= by[r][i];
		}
	if (lanes == 4)
		__asm__ volatile(EACH(YMM, "vxorpd " AT ",%%ymm\\n,%%ymm\\n")
				 :
				 : "r"(by)
				 : "memory");
	if (lanes != 8)
		return;
	want_mask ^= seed & 0xffff;
	__asm__ volatile(EACH(ZMM, "vpxorq " AT ",%%zmm\\n,%%zmm\\n") : : "r"(by) : "memory");
	__asm__ volatile("kmovw %0,%%k2; kxorw %%k2,%%k1,%%k1" : : "r"((uint32_t)seed));
}

void vector_check(void)
{
	uint32_t mask = want_mask;
	file have;

	if (lanes == 4)
		__asm__ volatile(EACH(YMM, "vmovupd %%ymm\\n," AT) : : "r"(have) : "memory");
	if (lanes == 8) {
		__asm__ volatile(EACH(ZMM, "vmovdqu64 %%zmm\\n," AT) : : "r"(have) : "memory");
		__asm__ volatile("kmovw %%k1,%0" : "=r"(mask));
	}
	for (unsigned r = 0; r < (lanes == 4 ? 8 : COUNT); r++)
		for (unsigned i = 0; i < lanes; i++)
			if (have[r][i] != want[r][i])
				guest_die(3, "CORRUPT vector register %u lane %u: %#lx, not %#lx",
					  FIRST + r, i, have[r][i], want[r][i]);
	if (mask != want_mask)
		guest_die(3, "CORRUPT mask register: %#x, not %#x", mask, want_mask);
}

/*
 * Values in all vector registers that no other code of a guest uses, to see that none is lost:
 * ymm8-ymm15 with AVX, zmm8-zmm31 and the mask k1 with AVX-512. For the CPU that calls.
 */
#ifndef GUESTS_LIB_VECTOR_H
#define GUESTS_LIB_VECTOR_H

#include <stdint.h>

/* Once, first: ends the guest unless they are zeros, as after a reset. "avx512", "avx" or "sse":
 * none. */
const char *vector_start(void);
/* Changes each by a value of its own that comes from `seed`. */
void vector_mix(uint64_t seed);
/* Ends the guest with CORRUPT if one is not what was mixed. */
void vector_check(void);

#endif

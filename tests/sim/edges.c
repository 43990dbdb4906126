/*
 * Which parts of the program the histories came to, where the compiler counts that (clang, as for
 * the fuzzers: -fsanitize=fuzzer-no-link). Each process of a history leaves what it came to.
 */
#include "tests/sim/edges.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "tests/sim/real.h"

extern const char __ehdr_start[]; /* where the program was loaded: by the linker */

static const uint8_t *first, *end;
static const uintptr_t *places; /* an address and its flags for each counter */
static uint8_t *seen;		/* shared with the processes of histories */

void __sanitizer_cov_8bit_counters_init(uint8_t *begin, uint8_t *stop);
void __sanitizer_cov_pcs_init(const uintptr_t *begin, const uintptr_t *stop);

void __sanitizer_cov_8bit_counters_init(uint8_t *begin, uint8_t *stop)
{
	first = begin;
	end = stop;
}

void __sanitizer_cov_pcs_init(const uintptr_t *begin, const uintptr_t *stop)
{
	places = begin;
}

void edges_init(void)
{
	if (end > first)
		seen = REAL(mmap)(NULL, (size_t)(end - first), PROT_READ | PROT_WRITE,
				  MAP_SHARED | MAP_ANONYMOUS, -1, 0);
}

void edges_keep(void)
{
	for (size_t i = 0; seen && i < (size_t)(end - first); i++)
		if (first[i])
			seen[i] = 1;
}

bool edges_print(const char *path)
{
	FILE *f = seen && places ? fopen(path, "w") : NULL;
	char line[32];

	for (size_t i = 0; f && i < (size_t)(end - first); i++) {
		snprintf(line, sizeof(line), "%d 0x%lx\n", seen[i],
			 (unsigned long)(places[2 * i] - (uintptr_t)__ehdr_start));
		fputs(line, f);
	}
	return f && !fclose(f);
}

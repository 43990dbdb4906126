/*
 * Pages from outside: a row of entries over an in-place page. Whatever decodes must encode again
 * and come back the same, by each way the encoder has.
 */
#include <stdlib.h>
#include <string.h>

#include "vmm/copy/pages.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define NPAGES 4096

static void check_encode(const uint8_t *page, const uint8_t *base)
{
	uint8_t *out = malloc(PAGE_ENTRY_MAX), *back = malloc(MEM_PAGE_SIZE);

	if (!out || !back)
		abort();
	for (int how = 0; how < 4; how++) {
		const uint8_t *with = how & 1 ? base : NULL, *pos = out;
		uint32_t len = pages_encode(7, page, with, how & 2, out);
		struct page_entry en;

		if (len > PAGE_ENTRY_MAX || pages_next(&pos, out + len, NPAGES, &en) != 1 ||
		    pos != out + len || en.page != 7 || pages_decode(&en, with, back) ||
		    memcmp(back, page, MEM_PAGE_SIZE))
			abort();
	}
	free(out);
	free(back);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t *copy = malloc(size ? size : 1), *page = calloc(1, MEM_PAGE_SIZE);
	uint8_t *before = malloc(MEM_PAGE_SIZE), *other = malloc(MEM_PAGE_SIZE);
	const uint8_t *pos = copy;
	struct page_entry en;

	if (!copy || !page || !before || !other)
		abort();
	memcpy(copy, data, size);
	for (unsigned i = 0; i < MEM_PAGE_SIZE; i++)
		page[i] = (uint8_t)(i * 7);
	while (pages_next(&pos, copy + size, NPAGES, &en) == 1) {
		if (en.page >= NPAGES || en.data + en.length != pos)
			abort();
		memcpy(before, page, MEM_PAGE_SIZE);
		memset(other, (int)en.page, MEM_PAGE_SIZE);
		if (pages_decode(&en, page, page)) {
			if (en.method != PAGE_LZ4) /* the others were whole once they were parsed */
				abort();
			break;
		}
		/* whatever was in the buffer before must not show through */
		if (pages_decode(&en, before, other) || memcmp(page, other, MEM_PAGE_SIZE))
			abort();
		check_encode(page, before);
	}
	free(copy);
	free(page);
	free(before);
	free(other);
	return 0;
}

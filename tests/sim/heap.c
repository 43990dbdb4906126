#define _GNU_SOURCE
#include "tests/sim/heap.h"

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "tests/sim/real.h"

#define HEAP_BYTES (4ul << 30) /* of addresses */
#define HEAD	   sizeof(struct head)
#define PAGE	   4096ul
#define BEGINS	   (2 * PAGE)
#define FINE	   1024ul /* up to here in steps of 16 bytes, then four to a doubling */
#define CLASSES	   160u

struct head { /* before each block */
	uint32_t class;
	bool aligned; /* to a page */
	bool free;
	uint64_t len; /* that it has room for */
};

/* At the heap's own beginning: heap_rewind() sets back the program's variables, not this. */
struct heap {
	uint8_t *top, *end, *mark;
	uint8_t *touched;	/* behind it all is zero */
	void *free[2][CLASSES]; /* aligned or not; each begins with the next */
	void *variables;
};

void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t n);
void *__real_aligned_alloc(size_t to, size_t n);
void __real_free(void *p);
/* There is one where the address sanitizer is. */
void __asan_unpoison_memory_region(const void *p, size_t n) __attribute__((weak));
/* The program's variables: by the linker. */
extern char __data_start[], _end[];

static struct heap *heap;

void heap_init(void)
{
	void *p;

	if (__asan_unpoison_memory_region)
		return;
	p = REAL(mmap)(NULL, HEAP_BYTES, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (p == MAP_FAILED)
		return;
	madvise(p, HEAP_BYTES, MADV_HUGEPAGE);
	heap = p;
	heap->top = heap->touched = (uint8_t *)p + BEGINS;
	heap->end = (uint8_t *)p + HEAP_BYTES;
}

bool heap_is_ours(void)
{
	return heap;
}

_Static_assert(sizeof(struct heap) <= BEGINS, "before the first block");
_Static_assert(sizeof(struct head) == 16, "blocks are aligned to it");

static bool is_in(const void *p)
{
	return heap && (uintptr_t)p - (uintptr_t)heap < HEAP_BYTES;
}

static struct head *head_of(void *p)
{
	return (struct head *)p - 1;
}

/* The class for n bytes, and how many all of it have. */
static uint32_t class_of(size_t n, uint64_t *len)
{
	unsigned shift;
	uint64_t step;

	n = n < 16 ? 16 : n;
	if (n <= FINE) {
		*len = (n + 15) & ~15ul;
		return (uint32_t)(*len / 16 - 1);
	}
	shift = 63 - (unsigned)__builtin_clzl(n - 1); /* 10 and more */
	step = (n - 1) >> (shift - 2) & 3;
	*len = (1ul << shift) + ((step + 1) << (shift - 2));
	return (uint32_t)(FINE / 16 + (shift - 10) * 4 + step);
}

static void *cut(uint64_t len, bool aligned)
{
	uintptr_t p = (uintptr_t)heap->top + HEAD;

	p = aligned ? (p + PAGE - 1) & ~(PAGE - 1) : p;
	if (len > (uintptr_t)heap->end - p)
		return NULL;
	heap->top = (uint8_t *)p + len;
	return (void *)p;
}

static void *take(size_t n, bool aligned, bool zero)
{
	uint64_t len;
	uint32_t class;
	void *p, **list;

	if (n > HEAP_BYTES / 4)
		return NULL;
	class = class_of(n, &len);
	list = &heap->free[aligned][class];
	p = *list;
	if (p)
		*list = *(void **)p;
	else
		p = cut(len, aligned);
	if (!p)
		return NULL;
	if (zero && (uint8_t *)p < heap->touched) {
		uint64_t old = (uint64_t)(heap->touched - (uint8_t *)p);

		memset(p, 0, old < n ? old : n);
	}
	heap->touched = heap->top > heap->touched ? heap->top : heap->touched;
	*head_of(p) = (struct head){.class = class, .aligned = aligned, .len = len};
	return p;
}

static void *or_error(void *p)
{
	if (!p)
		errno = ENOMEM;
	return p;
}

void *__wrap_malloc(size_t n)
{
	return heap ? or_error(take(n, false, false)) : __real_malloc(n);
}

void *__wrap_calloc(size_t n, size_t size)
{
	size_t len;

	if (!heap)
		return __real_calloc(n, size);
	return or_error(__builtin_mul_overflow(n, size, &len) ? NULL : take(len, false, true));
}

void *__wrap_aligned_alloc(size_t to, size_t n)
{
	if (!heap || to > PAGE)
		return __real_aligned_alloc(to, n);
	return or_error(take(n, to > 16, false));
}

void __wrap_free(void *p)
{
	void **list;

	if (!p)
		return;
	if (!is_in(p)) {
		__real_free(p);
		return;
	}
	if (head_of(p)->free) /* twice */
		abort();
	head_of(p)->free = true;
	list = &heap->free[head_of(p)->aligned][head_of(p)->class];
	*(void **)p = *list;
	*list = p;
}

void *__wrap_realloc(void *p, size_t n)
{
	void *larger;

	if (!heap || (p && !is_in(p)))
		return __real_realloc(p, n);
	if (p && n <= head_of(p)->len)
		return p;
	larger = or_error(take(n, false, false));
	if (larger && p) {
		memcpy(larger, p, head_of(p)->len);
		__wrap_free(p);
	}
	return larger;
}

/* --- from one history to the next ------------------------------------------------------------- */

void heap_mark(void)
{
	size_t n = (size_t)(_end - __data_start);

	if (!heap)
		return;
	heap->variables = take(n, true, false);
	heap->mark = heap->top;
	memcpy(heap->variables, __data_start, n);
}

void heap_rewind(void)
{
	if (!heap)
		return;
	heap->top = heap->mark;
	memset(heap->free, 0, sizeof(heap->free)); /* what was free at the mark may be in use now */
	memcpy(__data_start, heap->variables, (size_t)(_end - __data_start));
}

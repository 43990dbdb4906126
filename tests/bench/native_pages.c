/*
 * The page writer and reader alone, beside memcpy of as many pages: all methods of
 * vmm/copy/pages.c, and vmm/copy/squeeze.c on a fast link, where trying LZ4 does not pay.
 */
#include "tests/bench/native.h"

#include "vmm/copy/pages.h"
#include "vmm/copy/squeeze.h"

#define PAGES 512u /* 2 MiB, an epoch's worth */
#define LAPS  4u   /* in one measurement */

struct set {
	uint8_t *data, *base, *out;
	struct chan link;
	struct squeeze squeeze;
};

enum fill { FILL_ZERO, FILL_EQUAL, FILL_SPARSE, FILL_EIGHTH, FILL_RANDOM, FILL_TEXT };
enum how { HOW_PLAIN, HOW_LZ4, HOW_SQUEEZE };

static void fill_page(enum fill kind, uint8_t *data, uint8_t *base)
{
	static const char words[] = "the quick brown fox jumps over the lazy dog and runs away; ";

	fill_random(base, MEM_PAGE_SIZE);
	memcpy(data, base, MEM_PAGE_SIZE);
	switch (kind) {
	case FILL_ZERO:
		memset(data, 0, MEM_PAGE_SIZE);
		break;
	case FILL_SPARSE: /* 8 words, anywhere */
		for (int i = 0; i < 8; i++)
			data[next_random() % MEM_PAGE_SIZE] ^= 0x5a;
		break;
	case FILL_EIGHTH: /* one run of 512 bytes */
		fill_random(data + next_random() % 448 * 8, 512);
		break;
	case FILL_RANDOM:
		fill_random(data, MEM_PAGE_SIZE);
		break;
	case FILL_TEXT:
		for (unsigned i = 0; i < MEM_PAGE_SIZE; i++)
			data[i] = (uint8_t)words[(i + (i / 97) * 13) % (sizeof(words) - 1)];
		break;
	case FILL_EQUAL:
		break;
	}
}

/* These return nanoseconds for one page. */
static double encode_all(struct set *s, bool with_base, enum how how)
{
	uint64_t start = loop_now_ns();

	for (unsigned n = 0; n < LAPS * PAGES; n++) {
		size_t i = n % PAGES;
		const uint8_t *data = s->data + i * MEM_PAGE_SIZE;
		const uint8_t *base = with_base ? s->base + i * MEM_PAGE_SIZE : NULL;
		uint8_t *out = s->out + i * PAGE_ENTRY_MAX;

		if (how == HOW_SQUEEZE)
			squeeze_encode(&s->squeeze, i, data, base, out);
		else
			pages_encode(i, data, base, how == HOW_LZ4, out);
	}
	return (double)(loop_now_ns() - start) / (LAPS * PAGES);
}

static double decode_all(const struct set *s, uint8_t *to)
{
	uint64_t start = loop_now_ns();

	for (unsigned n = 0; n < LAPS * PAGES; n++) {
		size_t i = n % PAGES;
		const uint8_t *pos = s->out + i * PAGE_ENTRY_MAX;
		struct page_entry en;

		if (pages_next(&pos, pos + PAGE_ENTRY_MAX, PAGES, &en) != 1 ||
		    pages_decode(&en, s->base + i * MEM_PAGE_SIZE, to))
			die("a page does not decode", EBADMSG);
	}
	return (double)(loop_now_ns() - start) / (LAPS * PAGES);
}

/* to_step: bytes from one copy to the next; 0: all to the same place, as the decoder. */
static double copy_all(const uint8_t *from, size_t from_step, uint8_t *to, size_t to_step)
{
	uint64_t start = loop_now_ns();

	for (unsigned n = 0; n < LAPS * PAGES; n++) {
		memcpy(to + n % PAGES * to_step, from + n % PAGES * from_step, MEM_PAGE_SIZE);
		__asm__ volatile("" : : "r"(to) : "memory");
	}
	return (double)(loop_now_ns() - start) / (LAPS * PAGES);
}

/* What comes out of the reader is what went into the writer. */
static void verify(const struct set *s)
{
	uint8_t page[MEM_PAGE_SIZE];

	for (size_t i = 0; i < PAGES; i++) {
		const uint8_t *pos = s->out + i * PAGE_ENTRY_MAX;
		struct page_entry en;

		if (pages_next(&pos, pos + PAGE_ENTRY_MAX, PAGES, &en) != 1 || en.page != i ||
		    pages_decode(&en, s->base + i * MEM_PAGE_SIZE, page) ||
		    memcmp(page, s->data + i * MEM_PAGE_SIZE, MEM_PAGE_SIZE))
			die("a page is not what it was", EBADMSG);
	}
}

static void bench_pages(struct set *s, enum fill kind, const char *name, enum how how)
{
	bool with_base = kind != FILL_TEXT;
	char write_name[64], read_name[64];
	struct figure encode = {.name = write_name, .unit = "ns/page"};
	struct figure decode = {.name = read_name, .unit = "ns/page"};
	uint8_t page[MEM_PAGE_SIZE];

	snprintf(write_name, sizeof(write_name), "page writer: %s", name);
	snprintf(read_name, sizeof(read_name), "page reader: %s", name);
	for (unsigned i = 0; i < PAGES; i++)
		fill_page(kind, s->data + (size_t)i * MEM_PAGE_SIZE,
			  s->base + (size_t)i * MEM_PAGE_SIZE);
	encode_all(s, with_base, how);
	for (unsigned r = 0; r < ROUNDS; r++) {
		double floor = copy_all(s->data, MEM_PAGE_SIZE, s->out, PAGE_ENTRY_MAX);

		figure_add(&encode, floor, encode_all(s, with_base, how));
		floor = copy_all(s->out, PAGE_ENTRY_MAX, page, 0);
		figure_add(&decode, floor, decode_all(s, page));
	}
	verify(s);
	figure_print(&encode);
	if (how != HOW_SQUEEZE)
		figure_print(&decode);
}

/* Which knows the link's speed from what went over it. */
static void start_squeeze(struct set *s, int fds[2])
{
	struct plain_job j = {.bytes = 64u << 20, .chunk = CHUNK};
	pthread_t thread;

	tcp_pair(fds);
	j.fd = fds[0];
	check("thread", -pthread_create(&thread, NULL, plain_main, &j));
	read_away(fds[1], j.bytes);
	pthread_join(thread, NULL);
	s->link = chan_of(fds[0]);
	squeeze_init(&s->squeeze, &s->link);
	squeeze_look(&s->squeeze);
}

int main(void)
{
	static const struct {
		enum fill kind;
		const char *name;
		enum how how;
	} runs[] = {
		{FILL_ZERO, "zeros", HOW_PLAIN},
		{FILL_EQUAL, "unchanged", HOW_PLAIN},
		{FILL_SPARSE, "8 bytes changed", HOW_PLAIN},
		{FILL_EIGHTH, "an eighth changed", HOW_PLAIN},
		{FILL_RANDOM, "random", HOW_PLAIN},
		{FILL_RANDOM, "random, LZ4", HOW_LZ4},
		{FILL_TEXT, "text, LZ4", HOW_LZ4},
		{FILL_RANDOM, "random, squeeze", HOW_SQUEEZE},
		{FILL_TEXT, "text, squeeze", HOW_SQUEEZE},
	};
	struct set s = {must(aligned_alloc(4096, (size_t)PAGES * MEM_PAGE_SIZE)),
			must(aligned_alloc(4096, (size_t)PAGES * MEM_PAGE_SIZE)),
			must(aligned_alloc(4096, (size_t)PAGES * (PAGE_ENTRY_MAX + 8))),
			{0},
			{0}};
	int fds[2];

	start_squeeze(&s, fds);
	for (unsigned i = 0; i < sizeof(runs) / sizeof(runs[0]); i++)
		bench_pages(&s, runs[i].kind, runs[i].name, runs[i].how);
	close(fds[0]);
	close(fds[1]);
	free(s.data);
	free(s.base);
	free(s.out);
	return 0;
}

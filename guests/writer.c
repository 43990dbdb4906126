/*
 * Dirties memory at a chosen rate, checks that nothing it wrote got lost, and measures how fast it
 * is allowed to run.
 *
 *	pages=N    pages written per tick (256)
 *	tick=MS    time between ticks (10); 0: no ticks, write as fast as possible
 *	mode=      hot: always the same N; seq: the next N of `total`; random: any N of `total`
 *	total=N    pages in the set (hot: pages; else 4 * pages)
 *	skip=SIZE  memory that is left alone before the set, so that it lies above 4 GiB (0)
 *	words=K    8-byte words changed per write (8; at most 510)
 *	work=N     iterations of pure computation in a pass (tick=0: 0, else 10000);
 *		   with ticks, 0 means to sleep between them
 *	report=SEC seconds between speed lines (1), seconds=N run time (for ever)
 *
 * `speed N` counts passes per second: with tick=0 a pass is one round over N pages plus `work`,
 * otherwise it is `work` alone, done over and over between the ticks. `progress at A`: there, in
 * guest memory, is the number of passes so far, for a host that looks.
 */
#include "guests/lib/guest.h"

#define PAGE_WORDS 512u
#define HEAD_WORDS 2u /* page number and generation, in every page */
#define BODY_WORDS (PAGE_WORDS - HEAD_WORDS)
#define NS_PER_MS  1000000ul
#define NS_PER_S   1000000000ul

enum mode { MODE_HOT, MODE_SEQ, MODE_RANDOM };

struct writer {
	uint64_t pages, total, words, work, tick_ns;
	enum mode mode;
	uint64_t *set;	 /* total pages */
	uint32_t *gen;	 /* what the generation of each page must be */
	uint64_t cursor; /* seq: next page */
	uint64_t scrub;	 /* next page to be checked whole */
	uint64_t random;
	uint64_t passes;
	uint64_t sink;
};

static uint64_t progress;

static inline uint64_t pattern(uint64_t page, uint64_t word, uint64_t gen)
{
	return (page << 42 ^ word << 32 ^ gen) * 0x9e3779b97f4a7c15ull;
}

_Noreturn static void corrupt(uint64_t page, uint64_t word, uint64_t got, uint64_t want)
{
	guest_die(3, "CORRUPT page %lu word %lu got %#lx want %#lx", page, word, got, want);
}

static inline void expect(uint64_t page, uint64_t word, uint64_t got, uint64_t want)
{
	if (__builtin_expect(got != want, 0))
		corrupt(page, word, got, want);
}

/*
 * Generation g writes the `words` body words that follow those of generation g - 1, around and
 * around. So the generation that wrote a word last follows from that of its page.
 */
static void page_check_all(const struct writer *w, uint64_t page)
{
	const uint64_t *p = w->set + page * PAGE_WORDS;
	uint64_t written = w->gen[page] * w->words;

	expect(page, 0, p[0], page);
	expect(page, 1, p[1], w->gen[page]);
	for (uint64_t i = 0; i < BODY_WORDS; i++) {
		uint64_t gen = 0;

		if (written > i)
			gen = (written - 1 - (written - 1 - i) % BODY_WORDS) / w->words + 1;
		expect(page, i, p[HEAD_WORDS + i], pattern(page, i, gen));
	}
}

static uint64_t body_start(const struct writer *w, uint32_t gen)
{
	return gen * w->words % BODY_WORDS;
}

/* Checks the head and what the last generation wrote, then writes the next one. */
static void page_write(struct writer *w, uint64_t page)
{
	uint64_t *p = w->set + page * PAGE_WORDS;
	uint32_t gen = w->gen[page];
	uint64_t at;

	expect(page, 0, p[0], page);
	expect(page, 1, p[1], gen);
	at = gen ? body_start(w, gen - 1) : 0;
	for (uint64_t i = 0; gen && i < w->words; i++) {
		expect(page, at, p[HEAD_WORDS + at], pattern(page, at, gen));
		at = at + 1 == BODY_WORDS ? 0 : at + 1;
	}
	w->gen[page] = gen + 1;
	for (uint64_t i = 0; i < w->words; i++) {
		p[HEAD_WORDS + at] = pattern(page, at, gen + 1);
		at = at + 1 == BODY_WORDS ? 0 : at + 1;
	}
	p[1] = gen + 1;
}

static uint64_t page_choose(struct writer *w, uint64_t i)
{
	switch (w->mode) {
	case MODE_HOT:
		return i;
	case MODE_SEQ:
		i = w->cursor;
		w->cursor = i + 1 == w->total ? 0 : i + 1;
		return i;
	case MODE_RANDOM:
		break;
	}
	w->random = w->random * 6364136223846793005ull + 1442695040888963407ull;
	return ((w->random >> 32) * w->total) >> 32;
}

static void write_tick(struct writer *w)
{
	for (uint64_t i = 0; i < w->pages; i++)
		page_write(w, page_choose(w, i));
	page_check_all(w, w->scrub);
	w->scrub = w->scrub + 1 == w->total ? 0 : w->scrub + 1;
}

static void compute(struct writer *w)
{
	uint64_t v = w->sink + 1;

	for (uint64_t i = 0; i < w->work; i++)
		v = v * 6364136223846793005ull + i;
	w->sink = v;
}

static void writer_setup(struct writer *w)
{
	w->pages = cmdline_u64("pages", 256);
	w->tick_ns = cmdline_u64("tick", 10) * NS_PER_MS;
	w->words = cmdline_u64("words", 8);
	w->work = cmdline_u64("work", w->tick_ns ? 10000 : 0);
	w->mode = cmdline_is("mode", "random") ? MODE_RANDOM
		  : cmdline_is("mode", "seq")  ? MODE_SEQ
					       : MODE_HOT;
	w->total = cmdline_u64("total", w->mode == MODE_HOT ? w->pages : 4 * w->pages);
	w->random = cmdline_u64("seed", 1);
	if (w->words < 1 || w->words > BODY_WORDS || w->total < 1 || w->total >> 22 ||
	    (w->mode == MODE_HOT && w->total < w->pages))
		guest_die(1, "writer: words must be 1..%u, total 1..4M, hot: at least pages",
			  BODY_WORDS);
	mem_alloc(cmdline_u64("skip", 0) / PAGE_SIZE);
	w->set = mem_alloc(w->total);
	w->gen = mem_alloc((w->total * sizeof(*w->gen) + PAGE_SIZE - 1) / PAGE_SIZE);
	memset(w->gen, 0, w->total * sizeof(*w->gen));
	for (uint64_t page = 0; page < w->total; page++) {
		uint64_t *p = w->set + page * PAGE_WORDS;

		p[0] = page;
		p[1] = 0;
		for (uint64_t i = 0; i < BODY_WORDS; i++)
			p[HEAD_WORDS + i] = pattern(page, i, 0);
	}
}

static void pass(struct writer *w, uint64_t *next_tick)
{
	uint64_t now;

	if (w->tick_ns == 0) {
		write_tick(w);
		compute(w);
		w->passes++;
		return;
	}
	now = clock_ns();
	if (now >= *next_tick) {
		write_tick(w);
		/* ticks that a pause swallowed are not made up for */
		*next_tick =
			*next_tick + w->tick_ns > now ? *next_tick + w->tick_ns : now + w->tick_ns;
	}
	if (w->work) {
		compute(w);
		w->passes++;
	} else {
		guest_sleep_until(*next_tick);
		w->passes++;
	}
}

int main(void)
{
	static struct writer writer;
	struct writer *w = &writer;
	uint64_t report = cmdline_u64("report", 1) * NS_PER_S;
	uint64_t seconds = cmdline_u64("seconds", 0);
	uint64_t begin, last, last_passes = 0, next_tick;

	writer_setup(w);
	print("progress at %#lx\n", (uint64_t)&progress);
	print("READY\n");
	begin = last = clock_ns();
	next_tick = begin + w->tick_ns;
	for (;;) {
		uint64_t now;

		pass(w, &next_tick);
		__atomic_store_n(&progress, w->passes, __ATOMIC_RELAXED);
		now = clock_ns();
		if (report && now - last >= report) {
			print("speed %lu\n", (w->passes - last_passes) * NS_PER_S / (now - last));
			last = now;
			last_passes = w->passes;
		}
		if (seconds && now - begin >= seconds * NS_PER_S)
			break;
	}
	for (uint64_t page = 0; page < w->total; page++)
		page_check_all(w, page);
	print("writer ok passes=%lu\n", w->passes);
	return (int)cmdline_u64("code", 0);
}

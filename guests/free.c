/*
 * Gives memory back to the host and takes it into use again, and checks that what was given back is
 * zero then, and that everything else is what it was. Needs a virtio-balloon with page reporting.
 *
 *	free=PERCENT of RAM that is dirtied and then reported free (60)
 *	keep=BYTES   dirtied and kept (4M)
 *	churn=PAGES  taken into use and reported again every tick (0)
 *	tick=MS      (10), seconds=N run time (for ever)
 *	wait=MS      between dirtying and reporting (0)
 *	report=0     nothing is reported at first: only the balloon takes memory
 *
 * Prints `DIRTY MIB`, then `READY freed=MIB` when it is reported, then `free SECOND reports N
 * balloon PAGES`. Fills and empties the balloon as the host asks, from the far end of what is free.
 */
#include "guests/lib/guest.h"
#include "guests/lib/sys.h"
#include "guests/lib/virtio.h"

#define F_REPORTING (1ull << 5)
#define INFLATE	    0u
#define DEFLATE	    1u
#define REPORT	    2u /* the third of those in use; the standard says 4 */
#define CFG_TARGET  0u
#define CFG_ACTUAL  4u
#define REG_CONFIG  0x100u
#define PAGE_WORDS  512u
#define CHUNK	    1024u /* pages in one buffer of a report: Linux's are 2 or 4 MiB */
#define CHUNKS	    16u
#define PFNS	    256u

struct area {
	uint8_t *mem;
	uint64_t pages;
	uint64_t salt; /* of the pattern */
};

static struct {
	struct virtio_dev dev;
	struct virtq q[3];
	struct area free, keep;
	uint64_t churn, cursor; /* pages per tick; the first of those in use */
	uint64_t limit;		/* churn and balloon share the free pages here */
	uint64_t scrub;		/* the next of the kept pages to be checked */
	uint64_t reports, generation;
	uint32_t pfn[PFNS], actual;
} g;

/* ---- contents that do not compress ---- */

static uint64_t mix(uint64_t x)
{
	x ^= x >> 33;
	x *= 0xff51afd7ed558ccdull;
	x ^= x >> 29;
	x *= 0xc4ceb9fe1a85ec53ull;
	return x ^ x >> 32;
}

static uint64_t word(uint64_t salt, uint64_t page, unsigned i)
{
	return mix(salt << 48 ^ page << 10 ^ i) | 1;
}

static void fill(const struct area *a, uint64_t page)
{
	uint64_t *p = (uint64_t *)(a->mem + page * PAGE_SIZE);

	for (unsigned i = 0; i < PAGE_WORDS; i++)
		p[i] = word(a->salt, page, i);
}

static void check(const struct area *a, uint64_t page, bool zero)
{
	const uint64_t *p = (const uint64_t *)(a->mem + page * PAGE_SIZE);

	for (unsigned i = 0; i < PAGE_WORDS; i++)
		if (p[i] != (zero ? 0 : word(a->salt, page, i)))
			guest_die(3, "CORRUPT %s page %lu word %u: %#lx",
				  zero		 ? "freed"
				  : a == &g.keep ? "kept"
						 : "used",
				  page, i, p[i]);
}

/* ---- the device ---- */

static void device_open(void)
{
	if (!virtio_find(&g.dev, VIRTIO_ID_BALLOON, 0) || virtio_setup(&g.dev, F_REPORTING) ||
	    !(g.dev.features & F_REPORTING))
		guest_die(2, "free: no balloon that takes reports of free pages");
	for (unsigned i = 0; i < 3; i++)
		if (virtq_init(&g.q[i], &g.dev, i, CHUNKS))
			guest_die(2, "free: no queue %u", i);
	virtio_start(&g.dev);
}

static void wait_answer(struct virtq *q)
{
	virtq_kick(q);
	for (;;) {
		uint64_t seen = guest_events();

		if (virtq_get(q, NULL))
			return;
		guest_wait(seen);
	}
}

static void report(const struct area *a, uint64_t from, uint64_t n)
{
	while (n) {
		struct virtq_buf buf[CHUNKS];
		unsigned count = 0;

		for (; n && count < CHUNKS; count++) {
			uint64_t pages = n < CHUNK ? n : CHUNK;

			buf[count] = (struct virtq_buf){a->mem + from * PAGE_SIZE,
							(uint32_t)(pages * PAGE_SIZE)};
			from += pages;
			n -= pages;
		}
		virtq_add(&g.q[REPORT], buf, 0, count, &g);
		wait_answer(&g.q[REPORT]);
		g.reports++;
	}
}

/* A step towards what the host wants; what comes out of the balloon must be zero. */
static void balloon_step(void)
{
	uint32_t target = virtio_config32(&g.dev, CFG_TARGET), n = 0;
	bool in = target > g.actual;
	struct virtq_buf buf = {g.pfn, 0};

	if (target > g.free.pages - g.limit)
		target = (uint32_t)(g.free.pages - g.limit);
	while (n < PFNS && g.actual != target) {
		uint64_t page = g.free.pages - 1 - (in ? g.actual : g.actual - 1);

		g.pfn[n++] = (uint32_t)((uint64_t)(g.free.mem + page * PAGE_SIZE) / PAGE_SIZE);
		g.actual += in ? 1 : -1u;
	}
	if (!n)
		return;
	buf.len = n * 4;
	virtq_add(&g.q[in ? INFLATE : DEFLATE], &buf, 1, 0, &g);
	wait_answer(&g.q[in ? INFLATE : DEFLATE]);
	mmio_write32(g.dev.regs + REG_CONFIG + CFG_ACTUAL, g.actual);
	for (unsigned i = 0; i < n && !in; i++)
		check(&g.free, g.free.pages - 1 - (g.actual + i), true);
}

/* ---- the work ---- */

static void setup(void)
{
	uint64_t percent = cmdline_u64("free", 60);

	g.keep.pages = cmdline_u64("keep", 4u << 20) / PAGE_SIZE;
	g.free.pages = mem_bytes() * percent / 100 / PAGE_SIZE / CHUNK * CHUNK;
	g.limit = g.free.pages / 2;
	g.churn = cmdline_u64("churn", 0);
	if (!g.keep.pages || !g.free.pages || percent > 95 || g.churn > g.limit / 2 ||
	    (g.churn && !cmdline_u64("report", 1)))
		guest_die(1, "free: free must be 1..95 percent, keep at least a page, churn less, "
			     "and nothing without report");
	g.keep.salt = 1;
	g.free.salt = 2;
	g.keep.mem = mem_alloc(g.keep.pages);
	/* Reports are of whole 2 MiB, as Linux's are. */
	g.free.mem = mem_alloc(g.free.pages + CHUNK / 2);
	g.free.mem = (uint8_t *)(((uint64_t)g.free.mem + (2u << 20) - 1) & ~((2ul << 20) - 1));
	for (uint64_t i = 0; i < g.keep.pages; i++)
		fill(&g.keep, i);
	for (uint64_t i = 0; i < g.free.pages; i++)
		fill(&g.free, i);
}

/* What was in use is reported; the next pages come into use, and must be zero. */
static void churn_step(void)
{
	for (uint64_t i = 0; i < g.churn && g.generation; i++)
		check(&g.free, g.cursor + i, false);
	if (g.generation)
		report(&g.free, g.cursor, g.churn);
	g.cursor = g.cursor + 2 * g.churn <= g.limit ? g.cursor + g.churn : 0;
	g.free.salt = 3 + ++g.generation;
	for (uint64_t i = 0; i < g.churn; i++) {
		check(&g.free, g.cursor + i, true);
		fill(&g.free, g.cursor + i);
	}
}

static void keep_step(void)
{
	for (unsigned i = 0; i < 8; i++) {
		check(&g.keep, g.scrub, false);
		fill(&g.keep, g.scrub);
		g.scrub = g.scrub + 1 == g.keep.pages ? 0 : g.scrub + 1;
	}
}

int main(void)
{
	uint64_t tick = cmdline_u64("tick", 10) * 1000000ul, seconds = cmdline_u64("seconds", 0);
	uint64_t first = cmdline_u64("report", 1), begin, next, said = 0;

	setup();
	device_open();
	print("DIRTY %lu\n", (g.free.pages + g.keep.pages) >> 8);
	guest_sleep_until(clock_ns() + cmdline_u64("wait", 0) * 1000000ul);
	if (first)
		report(&g.free, 0, g.free.pages);
	print("READY freed=%lu\n", first ? g.free.pages >> 8 : 0);
	begin = next = clock_ns();
	for (;;) {
		uint64_t second = (clock_ns() - begin) / 1000000000ul;

		if (second != said)
			print("free %lu reports %lu balloon %u\n", second, g.reports, g.actual);
		said = second;
		if (seconds && second >= seconds)
			break;
		keep_step();
		if (g.churn)
			churn_step();
		balloon_step();
		next = next + tick > clock_ns() ? next + tick : clock_ns();
		guest_sleep_until(next);
	}
	for (uint64_t i = 0; i < g.keep.pages; i++)
		check(&g.keep, i, false);
	print("free ok reports=%lu\n", g.reports);
	return 0;
}

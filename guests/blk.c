/*
 * Checks a disk: random writes of stamped sectors, reads that must return the last stamp, flush,
 * discard and write-zeroes where the device has them, several requests at a time, over all queues
 * that it has.
 *
 *	ops=N (1000; 0 for ever) region=SECTORS (at most 65536) depth=N (4) seed=S
 *	span=SECTORS (8, at most 128): the largest request
 *	key=1: not before a key is pressed at the serial port
 *
 * Each of the `depth` workers owns a slice of the region, so requests in flight never overlap.
 * Destroys what is on the first disk.
 */
#include "guests/lib/guest.h"
#include "guests/lib/cpu.h"

#define REGION_MAX  65536u
#define DEPTH_MAX   16u
#define SERIAL_DATA 0x3f8
#define SERIAL_LSR  0x3fd
#define DATA_READY  0x01
#define SPAN_MAX    128u
#define WORDS	    (BLK_SECTOR / 8)
#define MAGIC	    0x006b636f6c62746bull

/* What a sector must hold: a generation >= 1, or one of these. */
#define GEN_UNKNOWN 0u /* never written, or discarded */
#define GEN_ZERO    UINT32_MAX

struct worker {
	struct blk_req req;
	uint64_t first, count; /* its slice */
	uint8_t *buf;
	uint64_t random;
	bool busy;
};

struct checker {
	struct blk *disk;
	uint32_t *gen; /* of each sector of the region */
	uint32_t last_gen;
	struct worker workers[DEPTH_MAX];
	unsigned depth, span;
	uint64_t ops;
	uint64_t kinds[16];
};

static uint64_t sector_sum(const uint64_t *w)
{
	uint64_t h = 0xcbf29ce484222325ull;

	for (unsigned i = 0; i < WORDS - 1; i++)
		h = (h ^ w[i]) * 0x100000001b3ull;
	return h;
}

static void sector_stamp(uint64_t *w, uint64_t sector, uint32_t gen)
{
	w[0] = MAGIC;
	w[1] = sector;
	w[2] = gen;
	for (unsigned i = 3; i < WORDS - 1; i++)
		w[i] = (sector << 32 | gen) * 0x9e3779b97f4a7c15ull + i;
	w[WORDS - 1] = sector_sum(w);
}

static void sector_check(const uint64_t *w, uint64_t sector, uint32_t gen)
{
	if (gen == GEN_UNKNOWN)
		return;
	for (unsigned i = 0; gen == GEN_ZERO && i < WORDS; i++) {
		if (w[i])
			guest_die(3, "CORRUPT sector %lu word %u got %#lx want 0", sector, i, w[i]);
	}
	if (gen == GEN_ZERO)
		return;
	if (w[0] != MAGIC || w[1] != sector || w[2] != gen || w[WORDS - 1] != sector_sum(w))
		guest_die(3, "CORRUPT sector %lu got %lu gen %lu sum %s want gen %u", sector, w[1],
			  w[2], w[WORDS - 1] == sector_sum(w) ? "good" : "bad", gen);
}

static uint64_t random_below(struct worker *w, uint64_t n)
{
	w->random = w->random * 6364136223846793005ull + 1442695040888963407ull;
	return ((w->random >> 32) * n) >> 32;
}

static enum blk_op choose_op(struct checker *c, struct worker *w)
{
	uint64_t dice = random_below(w, 64);

	if (dice < 3 && blk_can(c->disk, BLK_FLUSH))
		return BLK_FLUSH;
	if (dice < 5 && blk_can(c->disk, BLK_DISCARD))
		return BLK_DISCARD;
	if (dice < 8 && blk_can(c->disk, BLK_ZEROES))
		return BLK_ZEROES;
	return dice < 36 ? BLK_WRITE : BLK_READ;
}

static void worker_begin(struct checker *c, struct worker *w)
{
	uint32_t span = (uint32_t)(1 + random_below(w, c->span));

	w->req.op = choose_op(c, w);
	w->req.nsect = span;
	w->req.sector = w->first + random_below(w, w->count - span + 1);
	w->req.buf = w->buf;
	for (uint32_t i = 0; i < span && w->req.op != BLK_READ && w->req.op != BLK_FLUSH; i++) {
		uint32_t *gen = &c->gen[w->req.sector + i];

		if (w->req.op == BLK_WRITE) {
			*gen = ++c->last_gen;
			sector_stamp((uint64_t *)(w->buf + i * BLK_SECTOR), w->req.sector + i,
				     *gen);
		} else {
			*gen = w->req.op == BLK_ZEROES ? GEN_ZERO : GEN_UNKNOWN;
		}
	}
	w->busy = blk_submit(c->disk, &w->req) == 0;
	if (!w->busy)
		guest_die(2, "blk: ring full with %u requests", c->depth);
	c->kinds[w->req.op]++;
}

static void worker_end(struct checker *c, struct worker *w)
{
	if (w->req.result)
		guest_die(3, "FAILED op %u sector %lu result %d", w->req.op, w->req.sector,
			  w->req.result);
	for (uint32_t i = 0; w->req.op == BLK_READ && i < w->req.nsect; i++)
		sector_check((uint64_t *)(w->buf + i * BLK_SECTOR), w->req.sector + i,
			     c->gen[w->req.sector + i]);
	w->busy = false;
	c->ops++;
}

/* Lets the workers go on until `ops` are done, then until none is busy. */
static void run(struct checker *c, uint64_t ops)
{
	uint64_t begun = 0;
	bool busy;

	do {
		uint64_t seen = guest_events();
		bool idle = blk_poll(c->disk) == 0;

		busy = false;
		for (unsigned i = 0; i < c->depth; i++) {
			struct worker *w = &c->workers[i];

			if (w->busy && w->req.done)
				worker_end(c, w);
			if (!w->busy && (!ops || begun < ops)) {
				worker_begin(c, w);
				begun++;
				idle = false;
			}
			busy |= w->busy;
		}
		if (idle && busy)
			guest_wait(seen);
	} while (busy);
}

static void check_everything(struct checker *c, uint64_t region)
{
	uint8_t *buf = c->workers[0].buf;

	if (blk_flush(c->disk))
		guest_die(3, "FAILED flush");
	for (uint64_t s = 0; s < region; s += c->span) {
		uint32_t n = region - s < c->span ? (uint32_t)(region - s) : c->span;

		if (blk_read(c->disk, s, buf, n))
			guest_die(3, "FAILED read of sector %lu", s);
		for (uint32_t i = 0; i < n; i++)
			sector_check((uint64_t *)(buf + i * BLK_SECTOR), s + i, c->gen[s + i]);
	}
}

static void wait_for_key(void)
{
	while (!(cpu_in8(SERIAL_LSR) & DATA_READY))
		guest_sleep_until(clock_ns() + 1000000);
	cpu_in8(SERIAL_DATA);
}

int main(void)
{
	static struct checker c;
	uint64_t ops = cmdline_u64("ops", 1000), region = cmdline_u64("region", REGION_MAX);
	uint64_t depth = cmdline_u64("depth", 4), span = cmdline_u64("span", 8);

	c.disk = blk_open(0);
	if (!c.disk)
		guest_die(2, "blk: no disk");
	if (region > blk_sectors(c.disk))
		region = blk_sectors(c.disk);
	if (depth < 1 || depth > DEPTH_MAX || span < 1 || span > SPAN_MAX || region > REGION_MAX ||
	    region / depth < span || blk_readonly(c.disk))
		guest_die(1, "blk: depth 1..%u, span 1..%u, region span*depth..%u, writable disk",
			  DEPTH_MAX, SPAN_MAX, REGION_MAX);
	c.depth = (unsigned)depth;
	c.span = (unsigned)span;
	c.gen = mem_alloc(REGION_MAX * sizeof(*c.gen) / PAGE_SIZE);
	memset(c.gen, 0, region * sizeof(*c.gen));
	for (unsigned i = 0; i < c.depth; i++) {
		c.workers[i].count = region / depth;
		c.workers[i].first = i * (region / depth);
		c.workers[i].buf = mem_alloc((span * BLK_SECTOR + PAGE_SIZE - 1) / PAGE_SIZE);
		c.workers[i].random = cmdline_u64("seed", 1) + i;
	}
	print("READY\n");
	if (cmdline_u64("key", 0))
		wait_for_key();
	run(&c, ops);
	check_everything(&c, region);
	print("blk ok ops=%lu reads=%lu writes=%lu flushes=%lu discards=%lu zeroes=%lu "
	      "queues=%u\n",
	      c.ops, c.kinds[BLK_READ], c.kinds[BLK_WRITE], c.kinds[BLK_FLUSH],
	      c.kinds[BLK_DISCARD], c.kinds[BLK_ZEROES], blk_queues(c.disk));
	return 0;
}

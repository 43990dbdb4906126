/*
 * The worst that a guest may ask of one thread that works all its devices off, everything at once
 * and without a pause:
 *
 *	1 MiB reads and writes on every disk, which are checked (their contents are lost)
 *	64 KiB of TCP in segments of 64 bytes (TSO), a ring full of them, over and over
 *	a balloon that is filled with single pages, none beside another, and 32 MiB that are
 *reported free, all of it touched again at once text on the console, whoever reads it
 *
 *	depth=N requests at a time on each disk (8), seconds=N run time (for ever)
 *	lines=N of text every 10 ms (20), segment=BYTES (64)
 *
 * Without one of the devices it does the rest. Prints `worst SECOND disk MIB frames N pages N`.
 */
#include "guests/lib/guest.h"
#include "guests/lib/sys.h"
#include "guests/lib/virtio.h"

#define TICK_NS	    10000000ul
#define DISKS	    4u
#define DEPTH_MAX   16u
#define BLOCK	    (1u << 20)
#define BLOCK_PAGES (BLOCK / PAGE_SIZE)
#define BLOCK_SECT  (BLOCK / BLK_SECTOR)
#define FRAME_HDR   12u			     /* struct virtio_net_hdr with num_buffers */
#define FRAME_BYTES (14u + 65000u)	     /* Ethernet, IPv4 */
#define TSO	    (1ull << 0 | 1ull << 11) /* VIRTIO_NET_F_CSUM, _HOST_TSO4 */
#define REPORTING   (1ull << 5)
#define CFG_TARGET  0u
#define CFG_ACTUAL  4u
#define REG_CONFIG  0x100u
#define SINGLES	    1024u /* pages of a balloon request */
#define CHUNK_PAGES 512u
#define CHUNKS	    16u

/* One request at a time, on blocks that no other has. */
struct worker {
	struct blk_req req;
	struct blk *disk;
	uint64_t first, count, at; /* blocks */
	uint64_t written;	   /* what is in the block `at`, 0 for unknown */
	uint8_t *buf;
	bool busy;
};

/* Memory that goes to the host and comes back, by one queue. */
struct giver {
	struct virtq q;
	uint8_t *mem;
	uint64_t pages, step; /* each step-th page is given */
	struct virtq_buf buf[CHUNKS];
	unsigned out, in;
	bool busy;
};

static struct {
	struct worker worker[DISKS * DEPTH_MAX];
	struct blk *disk[DISKS];
	unsigned nworkers, ndisks;
	struct virtio_dev net, balloon;
	struct virtq tx;
	uint8_t *frame;
	struct giver single, report;
	uint32_t pfn[SINGLES], actual;
	bool has_net, has_balloon;
	uint64_t mib, frames, given;
} g;

/* ---- disks ---- */

static void stamp(struct worker *w)
{
	w->written += 0x100000001ul;
	for (unsigned i = 0; i < BLOCK_PAGES; i++) {
		uint64_t *p = (uint64_t *)(w->buf + i * PAGE_SIZE);

		p[0] = w->at;
		p[1] = w->written;
		p[2 + w->written % 500] = w->written * 0x9e3779b97f4a7c15ul;
	}
}

static void check(const struct worker *w)
{
	for (unsigned i = 0; i < BLOCK_PAGES; i++) {
		const uint64_t *p = (const uint64_t *)(w->buf + i * PAGE_SIZE);

		if (p[0] != w->at || p[1] != w->written)
			guest_die(3, "CORRUPT block %lu page %u: %lu %#lx, not %#lx", w->at, i,
				  p[0], p[1], w->written);
	}
}

/* A write, and then a read of the same: where that is in the host's memory, it is there at once. */
static void worker_begin(struct worker *w)
{
	bool read = w->written && w->req.op == BLK_WRITE;

	if (!read) {
		w->at = w->first + (w->at + 1) % w->count;
		stamp(w);
	}
	w->req.op = read ? BLK_READ : BLK_WRITE;
	w->req.sector = w->at * BLOCK_SECT;
	w->req.nsect = BLOCK_SECT;
	w->req.buf = w->buf;
	w->busy = blk_submit(w->disk, &w->req) == 0;
	if (!w->busy)
		guest_die(2, "worst: a disk's ring is full");
}

static bool disks_turn(void)
{
	bool any = false;

	for (unsigned i = 0; i < g.ndisks; i++)
		any |= blk_poll(g.disk[i]) != 0;
	for (unsigned i = 0; i < g.nworkers; i++) {
		struct worker *w = &g.worker[i];

		if (w->busy && !w->req.done)
			continue;
		if (w->busy && w->req.result)
			guest_die(3, "FAILED op %u block %lu result %d", w->req.op, w->at,
				  w->req.result);
		if (w->busy && w->req.op == BLK_READ)
			check(w);
		g.mib += w->busy;
		worker_begin(w);
		any = true;
	}
	return any;
}

static void disks_open(unsigned depth)
{
	while (g.ndisks < DISKS && (g.disk[g.ndisks] = blk_open(g.ndisks))) {
		struct blk *disk = g.disk[g.ndisks++];
		uint64_t count = blk_sectors(disk) / BLOCK_SECT / depth;

		if (!count || blk_readonly(disk))
			guest_die(1, "worst: a disk of %u MiB at least, writable", depth);
		for (unsigned i = 0; i < depth; i++)
			g.worker[g.nworkers++] = (struct worker){.disk = disk,
								 .first = i * count,
								 .count = count,
								 .buf = mem_alloc(BLOCK_PAGES)};
	}
}

/* ---- network ---- */

static void put16(uint8_t *p, unsigned v)
{
	p[0] = (uint8_t)(v >> 8);
	p[1] = (uint8_t)v;
}

/* To an address that nobody has, so that every port of a bridge gets it. */
static void frame_make(uint8_t *f, unsigned segment)
{
	uint8_t *eth = f + FRAME_HDR, *ip = eth + 14, *tcp = ip + 20;
	uint32_t sum = 0;

	memset(f, 0, FRAME_HDR + FRAME_BYTES);
	f[0] = 1;  /* NEEDS_CSUM */
	f[1] = 1;  /* TCPV4 */
	f[2] = 54; /* headers, little-endian from here on */
	f[4] = (uint8_t)segment;
	f[5] = (uint8_t)(segment >> 8);
	f[6] = 34; /* csum_start */
	f[8] = 16; /* csum_offset */
	memcpy(eth, "\x52\x54\x00\xe2\x00\xee\x52\x54\x00\xe2\x00\x02\x08\x00", 14);
	ip[0] = 0x45;
	put16(ip + 2, FRAME_BYTES - 14);
	ip[8] = 64;
	ip[9] = 6;
	memcpy(ip + 12, "\x0a\x4d\x00\x02\x0a\x4d\x00\xee", 8); /* 10.77.0.2 to 10.77.0.238 */
	for (unsigned i = 0; i < 20; i += 2)
		sum += (uint32_t)(ip[i] << 8 | ip[i + 1]);
	sum = (sum & 0xffff) + (sum >> 16);
	put16(ip + 10, ~sum & 0xffff);
	put16(tcp, 9);
	put16(tcp + 2, 9);
	tcp[12] = 5 << 4;
	tcp[13] = 0x10; /* ACK */
	put16(tcp + 14, 0xffff);
	/* of the pseudo header, not inverted: the host adds the rest */
	sum = 0x0a4d + 0x0002 + 0x0a4d + 0x00ee + 6 + FRAME_BYTES - 34;
	put16(tcp + 16, (sum & 0xffff) + (sum >> 16));
}

static void net_open(unsigned segment)
{
	g.has_net = virtio_find(&g.net, VIRTIO_ID_NET, 0) && !virtio_setup(&g.net, TSO) &&
		    !virtq_init(&g.tx, &g.net, 1, VIRTQ_MAX);
	if (!g.has_net)
		return;
	g.frame = mem_alloc((FRAME_HDR + FRAME_BYTES) / PAGE_SIZE + 1);
	frame_make(g.frame, segment);
	virtio_start(&g.net);
}

static bool net_turn(void)
{
	struct virtq_buf buf = {g.frame, FRAME_HDR + FRAME_BYTES};
	bool any = false;

	while (virtq_get(&g.tx, NULL))
		g.frames++;
	while (virtq_add(&g.tx, &buf, 1, 0, g.frame))
		any = true;
	virtq_kick(&g.tx);
	return any;
}

/* ---- balloon ---- */

static void touch(const struct giver *v)
{
	for (uint64_t i = 0; i < v->pages; i += v->step) {
		uint64_t *p = (uint64_t *)(v->mem + i * PAGE_SIZE);

		if (p[0])
			guest_die(3, "CORRUPT page given back: %#lx", p[0]);
		p[0] = i + 1;
	}
}

static bool giver_turn(struct giver *v)
{
	if (v->busy && !virtq_get(&v->q, NULL))
		return false;
	if (v->busy) {
		g.given += v->pages / v->step;
		touch(v);
	}
	v->busy = virtq_add(&v->q, v->buf, v->out, v->in, v);
	virtq_kick(&v->q);
	return true;
}

static void balloon_open(void)
{
	struct giver *s = &g.single, *r = &g.report;

	g.has_balloon = virtio_find(&g.balloon, VIRTIO_ID_BALLOON, 0) &&
			!virtio_setup(&g.balloon, REPORTING) && (g.balloon.features & REPORTING) &&
			!virtq_init(&s->q, &g.balloon, 0, 2) &&
			!virtq_init(&r->q, &g.balloon, 2, CHUNKS);
	if (!g.has_balloon)
		return;
	s->pages = 2 * SINGLES;
	s->step = 2;
	s->mem = mem_alloc(s->pages);
	for (unsigned i = 0; i < SINGLES; i++)
		g.pfn[i] = (uint32_t)((uint64_t)s->mem / PAGE_SIZE) + 2 * i;
	s->buf[s->out++] = (struct virtq_buf){g.pfn, sizeof(g.pfn)};
	r->pages = CHUNKS * CHUNK_PAGES;
	r->step = 1;
	r->mem = mem_alloc(r->pages + CHUNK_PAGES);
	r->mem = (uint8_t *)(((uint64_t)r->mem + (2u << 20) - 1) & ~((2ul << 20) - 1));
	while (r->in < CHUNKS) {
		r->buf[r->in] = (struct virtq_buf){r->mem + r->in * CHUNK_PAGES * PAGE_SIZE,
						   CHUNK_PAGES * PAGE_SIZE};
		r->in++;
	}
	virtio_start(&g.balloon);
}

/* The host is told that it has as much as it wants. */
static void obey(void)
{
	uint32_t target = virtio_config32(&g.balloon, CFG_TARGET);

	if (target != g.actual)
		mmio_write32(g.balloon.regs + REG_CONFIG + CFG_ACTUAL, target);
	g.actual = target;
}

/* ---- all of it ---- */

static bool turn(void)
{
	bool any = disks_turn();

	if (g.has_net)
		any |= net_turn();
	if (g.has_balloon) {
		any |= giver_turn(&g.single);
		any |= giver_turn(&g.report);
	}
	return any;
}

static void chatter(uint64_t lines)
{
	static char text[100];

	memset(text, '.', sizeof(text) - 1);
	while (lines--)
		print("%s\n", text);
}

int main(void)
{
	uint64_t seconds = cmdline_u64("seconds", 0), lines = cmdline_u64("lines", 20);
	uint64_t depth = cmdline_u64("depth", 8), begin, next, said = 0;

	if (!depth || depth > DEPTH_MAX)
		guest_die(1, "worst: depth 1..%u", DEPTH_MAX);
	disks_open((unsigned)depth);
	net_open((unsigned)cmdline_u64("segment", 64));
	balloon_open();
	print("READY disks=%u net=%d balloon=%d\n", g.ndisks, g.has_net, g.has_balloon);
	begin = next = clock_ns();
	for (;;) {
		uint64_t seen = guest_events(), now = clock_ns(), second;

		if (!turn())
			guest_wait_until(seen, next);
		if (now < next)
			continue;
		next = now + TICK_NS;
		if (g.has_balloon)
			obey();
		chatter(lines);
		second = (now - begin) / 1000000000ul;
		if (second != said)
			print("worst %lu disk %lu frames %lu pages %lu\n", second, g.mib, g.frames,
			      g.given);
		said = second;
		if (seconds && second >= seconds)
			return 0;
	}
}

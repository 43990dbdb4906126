/* The split virtqueue against drivers that lie: every rule has a case that breaks it. */
#include "tests/unit/libvirtio.h"

#include <errno.h>

#include "devices/virtq.h"

struct fix {
	struct rig rig;
	struct virtq_state st;
	struct virtq vq;
	struct rig_q q;
	struct virtq_chain c;
};

static void set_size(struct fix *f, uint16_t size)
{
	f->q = rig_q(&f->rig, 0, 0, size);
	f->st = (struct virtq_state){.desc = f->q.desc,
				     .avail = f->q.availr,
				     .used = f->q.used,
				     .size = size,
				     .ready = 1};
	f->vq = (struct virtq){.st = &f->st, .mem = &f->rig.mem, .indirect = true};
}

static int setup(void **state)
{
	struct fix *f = calloc(1, sizeof(*f));

	rig_init(&f->rig, 0);
	set_size(f, 8);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fix *f = *state;

	rig_done(&f->rig);
	free(f);
	return 0;
}

static void put(struct fix *f, unsigned i, uint64_t addr, uint32_t len, uint16_t flags,
		uint16_t next)
{
	*rig_desc(&f->q, i) = (struct vring_desc){addr, len, flags, next};
}

/* Post head, pop, take the entry back if it was accepted. */
static int try(struct fix *f, uint16_t head)
{
	int r;

	f->q.avail = f->st.last_avail;
	rig_post(&f->q, head);
	r = virtq_pop(&f->vq, &f->c);
	if (r == 1)
		virtq_unpop(&f->vq, 1);
	return r;
}

#define R 0
#define W VRING_DESC_F_WRITE
#define N VRING_DESC_F_NEXT
#define I VRING_DESC_F_INDIRECT

static void pops_in_order_and_wraps(void **state)
{
	struct fix *f = *state;
	uint8_t buf[8] = "abcdefg";

	for (unsigned i = 0; i < 70000; i++) {
		struct rig_seg s[2] = {{RIG_DATA + i % 1000, 8, false},
				       {RIG_DATA + 0x2000, 16, true}};
		uint16_t head = rig_add(&f->q, s, 2);

		assert_int_equal(virtq_pop(&f->vq, &f->c), 1);
		assert_int_equal(f->c.head, head);
		assert_int_equal(f->c.read_bytes, 8);
		assert_int_equal(f->c.write_bytes, 16);
		assert_int_equal(f->c.seg[0].gpa, s[0].gpa);
		assert_int_equal(virtq_chain_write(&f->vq, &f->c, 0, buf, 8), 8);
		assert_int_equal(virtq_push(&f->vq, head, i), 0);
		assert_int_equal(rig_used_idx(&f->q), (uint16_t)(i + 1));
		assert_int_equal(rig_used(&f->q, (uint16_t)i)->id, head);
		assert_int_equal(rig_used(&f->q, (uint16_t)i)->len, i);
		assert_int_equal(virtq_pop(&f->vq, &f->c), 0);
	}
	assert_int_equal(f->vq.inuse, 0);
}

/* F1: a loop of every length, entered at its start or from a tail before it. */
static void refuses_loops(void **state)
{
	struct fix *f = *state;
	static const uint16_t sizes[] = {1, 2, 8, 64, 256};

	for (unsigned s = 0; s < 5; s++) {
		for (unsigned len = 1; len <= sizes[s]; len++) {
			set_size(f, sizes[s]);
			for (unsigned i = 0; i < sizes[s]; i++)
				put(f, i, RIG_DATA, 1, N, (i + 1) % sizes[s]);
			put(f, len - 1, RIG_DATA, 1, N, 0);
			assert_int_equal(try(f, 0), -EBADMSG);
			if (len < sizes[s]) { /* a tail that leads into the loop */
				put(f, sizes[s] - 1, RIG_DATA, 1, N, 0);
				assert_int_equal(try(f, sizes[s] - 1), -EBADMSG);
			}
			for (unsigned i = 0; i < sizes[s]; i++)
				put(f, i, RIG_DATA, 1, N, i); /* self-link */
			assert_int_equal(try(f, len - 1), -EBADMSG);
		}
	}
}

static void longest_chain_is_the_queue_size(void **state)
{
	struct fix *f = *state;

	set_size(f, 256);
	for (unsigned i = 0; i < 256; i++)
		put(f, i, RIG_DATA + i, 1, i < 255 ? N : 0, i + 1);
	assert_int_equal(try(f, 0), 1);
	assert_int_equal(f->c.nread, 256);
	/* One more by an indirect table at the end: too long. */
	put(f, 255, RIG_DATA + 0x1000, 32, I, 0);
	*(struct vring_desc *)rig_ptr(&f->rig, RIG_DATA + 0x1000) =
		(struct vring_desc){RIG_DATA, 1, N, 1};
	*(struct vring_desc *)rig_ptr(&f->rig, RIG_DATA + 0x1010) =
		(struct vring_desc){RIG_DATA, 1, 0, 0};
	assert_int_equal(try(f, 0), -EBADMSG);
}

struct bad_desc {
	const char *what;
	struct vring_desc d[3];
	int want;
};

static void descriptor_rules(void **state)
{
	struct fix *f = *state;
	const uint64_t d = RIG_DATA, end = RIG_MEM;
	const struct bad_desc table[] = {
		{"plain", {{d, 1, R, 0}}, 1},
		{"last byte of RAM", {{end - 1, 1, R, 0}}, 1},
		{"all of RAM", {{0, (uint32_t)end, W, 0}}, 1},
		{"zero length", {{d, 0, R, 0}}, -EBADMSG},
		{"zero length, device writes", {{d, 0, W, 0}}, -EBADMSG},
		{"zero length in the middle", {{d, 1, N, 1}, {d, 0, N, 2}, {d, 1, R, 0}}, -EBADMSG},
		{"one past RAM", {{end, 1, R, 0}}, -EBADMSG},
		{"straddles the end", {{end - 4, 8, R, 0}}, -EBADMSG},
		{"in the hole", {{0xc0000000, 1, W, 0}}, -EBADMSG},
		{"device registers", {{RIG_BASE, 4, W, 0}}, -EBADMSG},
		{"above 4 GiB", {{1ull << 32, 1, R, 0}}, -EBADMSG},
		{"52 bits", {{1ull << 52, 1, R, 0}}, -EBADMSG},
		{"wraps", {{UINT64_MAX, 2, W, 0}}, -EBADMSG},
		{"wraps to 0", {{UINT64_MAX - 0xfff, 0x1001, R, 0}}, -EBADMSG},
		{"4 GiB - 1", {{d, UINT32_MAX, R, 0}}, -EBADMSG},
		{"next = size", {{d, 1, N, 8}}, -EBADMSG},
		{"next = 65535", {{d, 1, N, 65535}}, -EBADMSG},
		{"next ignored without flag", {{d, 1, R, 65535}}, 1},
		{"read after write", {{d, 1, N | W, 1}, {d, 1, R, 0}}, -EBADMSG},
		{"write after read", {{d, 1, N, 1}, {d, 1, W, 0}}, 1},
		{"unknown flags", {{d, 1, 0xfff8, 0}}, 1},
		{"indirect and next", {{d, 16, I | N, 1}, {d, 1, R, 0}}, -EBADMSG},
	};

	for (unsigned i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
		for (unsigned k = 0; k < 3; k++)
			*rig_desc(&f->q, k) = table[i].d[k];
		if (try(f, 0) != table[i].want)
			fail_msg("%s", table[i].what);
	}
	/* The head itself. */
	put(f, 0, d, 1, R, 0);
	assert_int_equal(try(f, 8), -EBADMSG);
	assert_int_equal(try(f, 65535), -EBADMSG);
}

static void indirect_rules(void **state)
{
	struct fix *f = *state;
	struct vring_desc *t = rig_ptr(&f->rig, RIG_DATA);
	static const uint32_t bad[] = {0, 1, 15, 17, 24, 31, 33, 16 * 9, 16 * 256, 0xfffffff0};

	for (unsigned i = 0; i < 16; i++)
		t[i] = (struct vring_desc){RIG_DATA + 0x1000, 4, i < 7 ? N : 0, i + 1};
	put(f, 0, RIG_DATA, 16 * 8, I, 0);
	assert_int_equal(try(f, 0), 1);
	assert_int_equal(f->c.nread, 8);
	assert_int_equal(f->c.read_bytes, 32);
	put(f, 0, RIG_DATA, 16 * 8, I | N, 1);
	assert_int_equal(try(f, 0), -EBADMSG);
	for (unsigned i = 1; i < 6; i++) /* 7 descriptors and a table of 2: one too many */
		put(f, i, RIG_DATA + 0x1000, 4, N, i + 1);
	put(f, 6, RIG_DATA + 0x1000, 4, N, 7);
	put(f, 7, RIG_DATA + 16 * 6, 32, I, 0);
	put(f, 0, RIG_DATA + 0x1000, 4, N, 1);
	t[6].next = 1;
	assert_int_equal(try(f, 0), -EBADMSG);
	assert_int_equal(try(f, 1), 1); /* 6 and 2 */
	t[6].next = 7;
	put(f, 0, RIG_DATA, 16 * 8, I | W, 0); /* W means nothing here: section 2.7.5.3.2 */
	assert_int_equal(try(f, 0), 1);
	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		put(f, 0, RIG_DATA, bad[i], I, 0);
		assert_int_equal(try(f, 0), -EBADMSG);
	}
	t[0].flags = 0; /* a table of one is fine; odd lengths around it are not */
	put(f, 0, RIG_DATA, 16, I, 0);
	assert_int_equal(try(f, 0), 1);
	for (uint32_t len = 17; len < 32; len++) {
		put(f, 0, RIG_DATA, len, I, 0);
		assert_int_equal(try(f, 0), -EBADMSG);
	}
	t[0].flags = N;
	put(f, 0, RIG_MEM - 16, 32, I, 0);
	assert_int_equal(try(f, 0), -EBADMSG);
	put(f, 0, 0ull - 16, 32, I, 0);
	assert_int_equal(try(f, 0), -EBADMSG);
	/* A table in a table, a loop in a table, next past the table but inside the queue. */
	put(f, 0, RIG_DATA, 16 * 2, I, 0);
	t[0].flags = I;
	assert_int_equal(try(f, 0), -EBADMSG);
	t[0] = (struct vring_desc){RIG_DATA, 4, N, 0};
	assert_int_equal(try(f, 0), -EBADMSG);
	t[0].next = 2;
	assert_int_equal(try(f, 0), -EBADMSG);
	t[0].next = 1;
	t[1].flags = 0;
	assert_int_equal(try(f, 0), 1);
	/* Direct ones first, then a table. */
	put(f, 0, RIG_DATA + 0x1000, 4, N, 1);
	put(f, 1, RIG_DATA, 32, I, 0);
	assert_int_equal(try(f, 0), 1);
	assert_int_equal(f->c.nread, 3);
	f->vq.indirect = false;
	assert_int_equal(try(f, 0), -EBADMSG);
}

/* F1 cross-link: two chains that share descriptors are each walked on their own, bounded. */
static void cross_linked_chains(void **state)
{
	struct fix *f = *state;

	put(f, 0, RIG_DATA, 1, N, 2);
	put(f, 1, RIG_DATA, 1, N, 2);
	put(f, 2, RIG_DATA, 1, N, 3);
	put(f, 3, RIG_DATA, 1, R, 0);
	assert_int_equal(try(f, 0), 1);
	assert_int_equal(try(f, 1), 1);
	put(f, 3, RIG_DATA, 1, N, 0); /* 0 -> 2 -> 3 -> 0 */
	assert_int_equal(try(f, 0), -EBADMSG);
	assert_int_equal(try(f, 1), -EBADMSG);
}

/* F2: the index may be ahead by at most the size, wherever it stands. */
static void index_jumps(void **state)
{
	struct fix *f = *state;
	uint16_t *avail = rig_ptr(&f->rig, f->q.availr);
	static const uint16_t at[] = {0, 1, 7, 8, 32767, 32768, 65528, 65535};

	put(f, 0, RIG_DATA, 1, R, 0);
	for (unsigned a = 0; a < sizeof(at) / sizeof(at[0]); a++) {
		for (uint32_t jump = 0; jump < 65536; jump++) {
			int want = jump == 0 ? 0 : jump <= 8 ? 1 : -EBADMSG;

			f->st.last_avail = at[a];
			f->vq.inuse = 0;
			avail[1] = (uint16_t)(at[a] + jump);
			assert_int_equal(virtq_pop(&f->vq, &f->c), want);
		}
	}
}

/* F3: a driver that posts more than it has descriptors for, never looking at the used ring. */
static void in_flight_is_bounded(void **state)
{
	struct fix *f = *state;

	put(f, 0, RIG_DATA, 1, R, 0);
	for (unsigned i = 0; i < 8; i++) {
		rig_post(&f->q, 0);
		assert_int_equal(virtq_pop(&f->vq, &f->c), 1);
	}
	rig_post(&f->q, 0);
	assert_int_equal(virtq_pop(&f->vq, &f->c), -EBADMSG);
	assert_int_equal(virtq_push(&f->vq, 0, 0), 0);
	assert_int_equal(virtq_pop(&f->vq, &f->c), 1);
}

/* Rings and buffers at both edges of the hole, when the host can map that much. */
static void edges_of_the_hole(void **state)
{
	struct fix *f = *state;
	struct mem big;

	if (mem_init(&big, MEM_SHARED_FILE, MEM_LOW_MAX + (2ull << 20), NULL))
		skip();
	f->vq.mem = &big;
	f->st.desc = MEM_LOW_MAX - 16 * 8;
	f->st.avail = MEM_HIGH_BASE;
	f->st.used = MEM_HIGH_BASE + (2ull << 20) - 72;
	assert_int_equal(virtq_validate(&f->vq), 0);
	f->st.desc += 16;
	assert_int_equal(virtq_validate(&f->vq), -EINVAL);
	f->st.desc = MEM_HIGH_BASE - 16;
	assert_int_equal(virtq_validate(&f->vq), -EINVAL);
	f->st.desc = MEM_LOW_MAX - 16 * 8;
	f->st.used += 4;
	assert_int_equal(virtq_validate(&f->vq), -EINVAL);
	f->st.used -= 4;
	/* A buffer that begins below the hole must not go on above it. */
	struct vring_desc *d = (struct vring_desc *)mem_ptr(&big, f->st.desc, 16);
	uint16_t *avail = (uint16_t *)mem_ptr(&big, f->st.avail, 24);

	avail[1] = 1;
	*d = (struct vring_desc){MEM_LOW_MAX - 128, 128, 0, 0};
	assert_int_equal(virtq_pop(&f->vq, &f->c), 1);
	virtq_unpop(&f->vq, 1);
	d->len++;
	assert_int_equal(virtq_pop(&f->vq, &f->c), -EBADMSG);
	*d = (struct vring_desc){MEM_HIGH_BASE - 1, 2, 0, 0};
	assert_int_equal(virtq_pop(&f->vq, &f->c), -EBADMSG);
	*d = (struct vring_desc){MEM_HIGH_BASE, 2 << 20, 0, 0};
	assert_int_equal(virtq_pop(&f->vq, &f->c), 1);
	mem_done(&big);
}

struct setup_case {
	const char *what;
	uint16_t size;
	uint64_t desc, avail, used;
	bool ok;
};

static void setup_rules(void **state)
{
	struct fix *f = *state;
	const uint64_t d = 0x10000, a = 0x12000, u = 0x14000, end = RIG_MEM;
	const struct setup_case table[] = {
		{"good", 256, d, a, u, true},
		{"size 1", 1, d, a, u, true},
		{"size 0", 0, d, a, u, false},
		{"size 3", 3, d, a, u, false},
		{"size 255", 255, d, a, u, false},
		{"size 512", 512, d, a, u, false},
		{"size 32768", 32768, d, a, u, false},
		{"size 65535", 65535, d, a, u, false},
		{"desc at the end", 256, end - 4096, a, u, true},
		{"desc over the end", 256, end - 4096 + 16, a, u, false},
		{"avail at the end", 256, d, end - 518, u, true},
		{"avail over the end", 256, d, end - 516, u, false},
		{"used at the end", 8, d, a, end - 72, true},
		{"used over the end", 8, d, a, end - 68, false},
		{"desc misaligned", 8, d + 8, a, u, false},
		{"avail misaligned", 8, d, a + 1, u, false},
		{"used misaligned", 8, d, a, u + 2, false},
		{"desc outside", 8, end, a, u, false},
		{"avail in the hole", 8, d, 0xc0000000, u, false},
		{"used in the registers", 8, d, a, RIG_BASE, false},
		{"desc wraps", 256, 0ull - 16, a, u, false},
		{"avail wraps", 8, d, 0ull - 2, u, false},
		{"used wraps", 8, d, a, 0ull - 4, false},
		{"used is avail", 8, d, a, a, false},
		{"used inside desc", 8, d, a, d + 64, false},
		{"avail's end in used", 8, d, u - 4, u, false},
		{"used's end in avail", 8, d, a, a - 68, false},
		{"used just behind avail", 8, d, a, a + 24, true},
		{"all at 0", 8, 0, 0, 0, false},
	};

	for (unsigned i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
		const struct setup_case *t = &table[i];

		f->st = (struct virtq_state){
			.size = t->size, .desc = t->desc, .avail = t->avail, .used = t->used};
		if (virtq_validate(&f->vq) != (t->ok ? 0 : -EINVAL))
			fail_msg("%s", t->what);
	}
}

/* Rings that validate() would refuse (a state that was loaded) still never lead outside. */
static void bad_ring_addresses_at_run_time(void **state)
{
	struct fix *f = *state;
	static const uint64_t bad[] = {RIG_MEM,	   RIG_MEM - 2, 0xbffffffc, 0xd0000000,
				       1ull << 32, 1ull << 63,	0ull - 4};

	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		set_size(f, 8);
		f->st.avail = bad[i];
		assert_true(virtq_pop(&f->vq, &f->c) <= 0);
		set_size(f, 8);
		f->st.used = bad[i];
		assert_int_equal(virtq_push(&f->vq, 0, 0), -EBADMSG);
		f->st.used_idx++;
		virtq_should_signal(&f->vq);
		virtq_kick_off(&f->vq);
		virtq_kick_on(&f->vq, 0);
		set_size(f, 8);
		f->st.desc = bad[i];
		assert_int_equal(try(f, 3), -EBADMSG);
	}
}

static void not_ready_does_nothing(void **state)
{
	struct fix *f = *state;

	put(f, 0, RIG_DATA, 1, R, 0);
	rig_post(&f->q, 0);
	f->st.ready = 0;
	assert_int_equal(virtq_pop(&f->vq, &f->c), 0);
	assert_int_equal(virtq_reload(&f->vq, 0, &f->c), -EBADMSG);
	assert_int_equal(virtq_push(&f->vq, 0, 0), -EBADMSG);
	assert_false(virtq_should_signal(&f->vq));
	assert_false(virtq_kick_on(&f->vq, 0));
	assert_int_equal(rig_used_idx(&f->q), 0);
}

static void unpop_and_reload_give_the_same_chain(void **state)
{
	struct fix *f = *state;
	struct virtq_chain again;
	struct rig_seg s[3] = {
		{RIG_DATA, 5, false}, {RIG_DATA + 9, 3, false}, {RIG_DATA + 99, 7, true}};

	rig_add(&f->q, s, 3);
	assert_int_equal(virtq_pop(&f->vq, &f->c), 1);
	memcpy(&again, &f->c, sizeof(again));
	assert_int_equal(virtq_reload(&f->vq, again.head, &f->c), 0);
	assert_int_equal(f->vq.inuse, 1);
	assert_memory_equal(again.seg, f->c.seg, 3 * sizeof(again.seg[0]));
	virtq_unpop(&f->vq, 1);
	assert_int_equal(f->vq.inuse, 0);
	assert_int_equal(virtq_pop(&f->vq, &f->c), 1);
	assert_memory_equal(again.seg, f->c.seg, 3 * sizeof(again.seg[0]));
}

static void copies_across_segments(void **state)
{
	struct fix *f = *state;
	uint8_t *ram = rig_ptr(&f->rig, RIG_DATA);
	struct rig_seg s[5] = {{RIG_DATA, 3, false},
			       {RIG_DATA + 100, 1, false},
			       {RIG_DATA + 200, 4, false},
			       {RIG_DATA + 300, 2, true},
			       {RIG_DATA + 400, 5, true}};
	char buf[16] = {0};

	memcpy(ram, "abc", 3);
	memcpy(ram + 100, "d", 1);
	memcpy(ram + 200, "efgh", 4);
	rig_add(&f->q, s, 5);
	assert_int_equal(virtq_pop(&f->vq, &f->c), 1);
	for (unsigned off = 0; off <= 8; off++) {
		for (unsigned len = 0; len <= 12; len++) {
			unsigned want = len < 8 - off ? len : 8 - off;

			assert_int_equal(virtq_chain_read(&f->vq, &f->c, off, buf, len), want);
			assert_memory_equal(buf, "abcdefgh" + off, want);
		}
	}
	assert_int_equal(virtq_chain_read(&f->vq, &f->c, 1ull << 40, buf, 1), 0);
	assert_int_equal(virtq_chain_write(&f->vq, &f->c, 1, "1234567890", 10), 6);
	assert_memory_equal(ram + 301, "1\0", 2);
	assert_memory_equal(ram + 400, "23456\0", 6);
	assert_int_equal(virtq_chain_write(&f->vq, &f->c, 7, "x", 1), 0);
}

static uint64_t dirty_pages(struct fix *f)
{
	uint64_t low = mem_take_host_dirty(&f->rig.mem, 0);

	for (uint64_t w = 1; w < f->rig.mem.npages / 64; w++)
		assert_int_equal(mem_take_host_dirty(&f->rig.mem, w), 0);
	return low;
}

/* KVM's log does not see our writes: marks must be there when bytes are, and only then. */
static void marks_exactly_what_it_writes(void **state)
{
	struct fix *f = *state;
	struct rig_seg s[2] = {{0x20000, 64, false}, {0x21ffe, 0x2000, true}};

	f->vq.event_idx = true;
	rig_add(&f->q, s, 2);
	dirty_pages(f);
	assert_int_equal(virtq_pop(&f->vq, &f->c), 1);
	assert_int_equal(dirty_pages(f), 0);
	virtq_chain_write(&f->vq, &f->c, 0, "abcd", 4);
	assert_int_equal(dirty_pages(f), 3ull << 0x21);
	virtq_push(&f->vq, f->c.head, 4);
	assert_int_equal(dirty_pages(f), 1ull << (f->q.used >> 12));
	virtq_kick_on(&f->vq, 0);
	assert_int_equal(dirty_pages(f), 1ull << (f->q.used >> 12));
	virtq_should_signal(&f->vq);
	assert_int_equal(dirty_pages(f), 0);
}

/* The driver asked for an interrupt at used_event: model by going through the indices one by one.
 */
static void event_idx_signals(void **state)
{
	struct fix *f = *state;
	uint16_t *used_event = rig_ptr(&f->rig, f->q.availr + 4 + 2 * 8);

	f->vq.event_idx = true;
	for (unsigned start = 0; start < 65536; start += 4099) {
		for (unsigned n = 1; n <= 8; n++) {
			for (int ev = -12; ev < 12; ev++) {
				bool want = false;

				for (unsigned i = 0; i < n; i++)
					want |= (uint16_t)(start + i) == (uint16_t)(start + ev);
				f->st.signalled = (uint16_t)start;
				f->st.used_idx = (uint16_t)(start + n);
				*used_event = (uint16_t)(start + ev);
				assert_int_equal(virtq_should_signal(&f->vq), want);
				assert_false(virtq_should_signal(&f->vq));
			}
		}
	}
}

static void flags_without_event_idx(void **state)
{
	struct fix *f = *state;
	uint16_t *avail = rig_ptr(&f->rig, f->q.availr), *used = rig_ptr(&f->rig, f->q.used);

	virtq_push(&f->vq, 0, 0);
	avail[0] = VRING_AVAIL_F_NO_INTERRUPT;
	assert_false(virtq_should_signal(&f->vq));
	virtq_push(&f->vq, 0, 0);
	avail[0] = 0;
	assert_true(virtq_should_signal(&f->vq));
	virtq_kick_off(&f->vq);
	assert_int_equal(used[0], VRING_USED_F_NO_NOTIFY);
	assert_false(virtq_kick_on(&f->vq, 0));
	assert_int_equal(used[0], 0);
	rig_post(&f->q, 0);
	assert_true(virtq_kick_on(&f->vq, 0));
	assert_false(virtq_kick_on(&f->vq, 1));
}

static void asks_for_a_kick_behind_what_it_saw(void **state)
{
	struct fix *f = *state;
	uint16_t *avail_event = rig_ptr(&f->rig, f->q.used + 4 + 8 * 8);

	f->vq.event_idx = true;
	f->st.last_avail = f->q.avail = 65534;
	rig_post(&f->q, 0);
	rig_post(&f->q, 0);
	rig_post(&f->q, 0);
	assert_true(virtq_kick_on(&f->vq, 0));
	assert_int_equal(*avail_event, 65534);
	assert_false(virtq_kick_on(&f->vq, 3));
	assert_int_equal(*avail_event, 1);
}

static void shows_many_used_entries_at_once(void **state)
{
	struct fix *f = *state;

	for (unsigned i = 0; i < 3; i++) {
		assert_int_equal(virtq_fill(&f->vq, i, i + 1, 10 * i), 0);
		assert_int_equal(rig_used_idx(&f->q), 0);
	}
	assert_int_equal(virtq_flush(&f->vq, 3), 0);
	assert_int_equal(rig_used_idx(&f->q), 3);
	assert_int_equal(rig_used(&f->q, 2)->id, 3);
	assert_int_equal(rig_used(&f->q, 2)->len, 20);
}

/* Random rings: whatever they hold, a chain that is accepted keeps all rules. */
static void random_rings(void **state)
{
	struct fix *f = *state;
	unsigned seed = 20, good = 0;

	for (unsigned round = 0; round < 30000; round++) {
		uint16_t size = 1u << (rand_r(&seed) % 5);

		set_size(f, size);
		for (unsigned i = 0; i < size; i++)
			put(f, i,
			    rand_r(&seed) % 8 ? RIG_DATA + rand_r(&seed) % 65536
					      : (uint64_t)rand_r(&seed) << 20,
			    rand_r(&seed) % 16 ? rand_r(&seed) % 256u
					       : (uint32_t)rand_r(&seed) << 4,
			    rand_r(&seed) % 8, rand_r(&seed) % (size + 1));
		for (unsigned i = 0; i < 4096; i += 4) /* indirect tables, perhaps */
			*(uint32_t *)rig_ptr(&f->rig, RIG_DATA + i) = rand_r(&seed) % 300;
		if (try(f, rand_r(&seed) % (size + 1)) != 1)
			continue;
		good++;
		assert_in_range(f->c.nread + f->c.nwrite, 1, size);
		for (unsigned i = 0; i < (unsigned)f->c.nread + f->c.nwrite; i++)
			assert_true(mem_valid(&f->rig.mem, f->c.seg[i].gpa, f->c.seg[i].len));
	}
	assert_true(good > 1000);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(pops_in_order_and_wraps),
		T(refuses_loops),
		T(longest_chain_is_the_queue_size),
		T(descriptor_rules),
		T(indirect_rules),
		T(cross_linked_chains),
		T(index_jumps),
		T(in_flight_is_bounded),
		T(edges_of_the_hole),
		T(setup_rules),
		T(bad_ring_addresses_at_run_time),
		T(not_ready_does_nothing),
		T(unpop_and_reload_give_the_same_chain),
		T(copies_across_segments),
		T(marks_exactly_what_it_writes),
		T(event_idx_signals),
		T(flags_without_event_idx),
		T(asks_for_a_kick_behind_what_it_saw),
		T(shows_many_used_entries_at_once),
		T(random_rings),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

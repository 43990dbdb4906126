#include "vmm/copy/disk_sums.h"

#include <errno.h>
#include <string.h>

#include "vmm/base/hash.h"
#include "vmm/base/loop.h"

void disk_sum_key_make(struct disk_sum_key *key, uint64_t session)
{
	XXH3_generateSecret(key->secret, sizeof(key->secret), &session, sizeof(session));
}

uint64_t disk_sum(const struct disk_sum_key *key, const void *block, size_t len)
{
	return XXH3_64bits_withSecret(block, len, key->secret, sizeof(key->secret));
}

/* What is to be said next. */
struct gather {
	const struct disk_pass *p;
	uint64_t *asked;
	struct disk_sum_key key;
	struct wire_sums said;
	uint64_t sums[WIRE_SUMS_MAX];
};

static int say(struct gather *g)
{
	const struct disk_pass *p = g->p;
	size_t bytes = g->said.count * sizeof(g->sums[0]);
	struct iovec iov[2] = {{&g->said, sizeof(g->said)}, {g->sums, bytes}};
	int r;

	if (!g->said.where.blocks)
		return 0;
	__atomic_fetch_add(p->bytes, sizeof(g->said) + bytes, __ATOMIC_RELAXED);
	__atomic_fetch_add(g->asked, 1, __ATOMIC_RELEASE);
	r = stream_send(p->stream, FRAME_SUMS, 0, iov, bytes ? 2 : 1, loop_now_ns() + p->frame_ns);
	g->said.count = 0;
	g->said.where.blocks = 0;
	return r ? r : p->between(p->arg);
}

static int add_zeros(struct gather *g, uint64_t block, uint64_t blocks)
{
	int r = say(g);

	while (blocks && !r) {
		g->said.where.block = block;
		g->said.where.blocks = blocks < WIRE_ZEROS_MAX ? blocks : WIRE_ZEROS_MAX;
		block += g->said.where.blocks;
		blocks -= g->said.where.blocks;
		r = say(g);
	}
	return r;
}

static int add_block(struct gather *g, uint64_t block)
{
	const struct disk_pass *p = g->p;
	uint64_t off = block * BLOCK_MAP_BYTES, left = p->disk->bytes - off;
	uint32_t len = left < BLOCK_MAP_BYTES ? (uint32_t)left : BLOCK_MAP_BYTES;
	int r;

	/* Take the mark first: a write that comes later marks again. */
	block_map_take(p->map, block);
	r = disk_pass_read(p->disk->fd, p->buf, off, len);
	if (!r)
		r = p->between(p->arg);
	if (r)
		return r;
	if (!g->said.count)
		g->said.where.block = block;
	g->sums[g->said.count++] = disk_sum(&g->key, p->buf, len);
	g->said.where.blocks++;
	return g->said.count == WIRE_SUMS_MAX ? say(g) : 0;
}

int disk_sums_send(const struct disk_pass *p, uint64_t *asked)
{
	struct gather g = {.p = p, .asked = asked, .said.disk = p->index};
	uint64_t block = 0, end = p->map->nblocks;
	int r = 0;

	disk_sum_key_make(&g.key, p->stream->session);
	while (block < end && !r) {
		uint64_t data =
			disk_pass_data(p->disk->fd, block * BLOCK_MAP_BYTES, p->disk->bytes);

		data = data < p->disk->bytes ? data / BLOCK_MAP_BYTES : end;
		/* Marks in a hole stay: what was written after the look at it is not seen here. */
		if (data > block)
			r = add_zeros(&g, block, data - block);
		block = data;
		if (block < end && !r)
			r = add_block(&g, block++);
	}
	return r ? r : say(&g);
}

static bool is_inside(const struct wire_blocks *b, uint64_t block, uint64_t blocks)
{
	return b->blocks && b->block >= block && b->block - block < blocks &&
	       b->blocks <= blocks - (b->block - block);
}

int disk_sums_answer(const struct frame *f, struct block_map *maps, unsigned nmaps, struct err *e)
{
	struct wire_differ w;
	struct wire_blocks b;

	if (f->length < sizeof(w))
		return err_set(e, -EBADMSG, "disk sums: short answer");
	memcpy(&w, f->data, sizeof(w));
	if (w.disk >= nmaps || !is_inside(&w.where, 0, maps[w.disk].nblocks))
		return err_set(e, -EBADMSG,
			       "disk sums: an answer for no disk %u that was asked for", w.disk);
	if (w.count > WIRE_DIFFER_MAX || f->length != sizeof(w) + w.count * sizeof(b))
		return err_set(e, -EBADMSG, "disk sums: an answer of %u pieces in %u bytes",
			       w.count, f->length);
	for (uint32_t i = 0; i < w.count; i++) {
		memcpy(&b, f->data + sizeof(w) + i * sizeof(b), sizeof(b));
		if (!is_inside(&b, w.where.block, w.where.blocks))
			return err_set(e, -EBADMSG, "disk sums: an answer outside of the question");
		block_map_mark(&maps[w.disk], b.block * BLOCK_MAP_BYTES,
			       b.blocks * BLOCK_MAP_BYTES);
	}
	return 0;
}

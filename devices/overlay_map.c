#define _GNU_SOURCE
#include "devices/overlay_map.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "vmm/base/log.h"

#define BITS 6u /* of a block's number that a level takes */

_Static_assert(OVERLAY_FAN == 1u << BITS, "a level");

static unsigned place(uint64_t block, unsigned level)
{
	return block >> level * BITS & (OVERLAY_FAN - 1);
}

/* Blocks below a node of this level; 0 is a leaf. */
static uint64_t span(unsigned level)
{
	return 1ull << (level + 1) * BITS;
}

int overlay_map_init(struct overlay_map *m, uint64_t blocks, uint32_t max)
{
	memset(m, 0, sizeof(*m));
	m->max = max;
	m->nodes = mmap(NULL, (size_t)max * sizeof(*m->nodes), PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (m->nodes == MAP_FAILED) {
		m->nodes = NULL;
		return -ENOMEM;
	}
	/* A disk has less than 2^63 bytes, so span() does not overflow. */
	while (span(m->levels) < blocks)
		m->levels++;
	return 0;
}

void overlay_map_done(struct overlay_map *m)
{
	if (m->nodes)
		munmap(m->nodes, (size_t)m->max * sizeof(*m->nodes));
	memset(m, 0, sizeof(*m));
}

void overlay_map_reset(struct overlay_map *m, uint32_t keep)
{
	size_t had = (size_t)m->top * sizeof(*m->nodes), stay = (size_t)keep * sizeof(*m->nodes);

	stay = (stay + 4095) & ~(size_t)4095;
	if (had > stay)
		madvise((char *)m->nodes + stay, had - stay, MADV_DONTNEED);
	m->top = m->used = 0;
	m->free = m->root = NULL;
#ifndef BUG_OVERLAY_LEAK
	m->last = NULL;
#endif
}

uint32_t overlay_map_need(const struct overlay_map *m, uint64_t blocks, bool zeros)
{
	/* A range has two ends, and all of its leaves but those at the ends are whole ones. */
	uint32_t ends = 2 * (m->levels + 1);

	return zeros ? ends : ends + (uint32_t)(blocks / OVERLAY_FAN);
}

const struct overlay_block *overlay_map_find(struct overlay_map *m, uint64_t block)
{
	static const struct overlay_block zero = {.zero = 0xff};
	struct overlay_node *n = m->root;

	if (m->last && block >> BITS == m->last_at)
		return &m->last->block[place(block, 0)];
	for (unsigned level = m->levels; n && n != &m->zeros && level; level--)
		n = n->child[place(block, level)];
	if (!n || n == &m->zeros)
		return n ? &zero : NULL;
	m->last = n;
	m->last_at = block >> BITS;
	return &n->block[place(block, 0)];
}

static struct overlay_node *new_node(struct overlay_map *m, unsigned level, bool zeros)
{
	struct overlay_node *n = m->free;

	if (n)
		m->free = n->child[0];
	else {
		VMM_BUG_ON(m->top == m->max);
		n = &m->nodes[m->top++];
	}
	m->used++;
	memset(n, 0, sizeof(*n));
	for (unsigned i = 0; zeros && i < OVERLAY_FAN; i++) {
		if (level)
			n->child[i] = &m->zeros;
		else
			n->block[i].zero = 0xff;
	}
	return n;
}

static void need_node(struct overlay_map *m, struct overlay_node **at, unsigned level)
{
	if (!*at || *at == &m->zeros)
		*at = new_node(m, level, *at);
}

struct overlay_block *overlay_map_make(struct overlay_map *m, uint64_t block)
{
	struct overlay_node **at = &m->root;

	if (m->last && block >> BITS == m->last_at)
		return &m->last->block[place(block, 0)];
	for (unsigned level = m->levels; level; level--) {
		need_node(m, at, level);
		at = &(*at)->child[place(block, level)];
	}
	need_node(m, at, 0);
	m->last = *at;
	m->last_at = block >> BITS;
	return &(*at)->block[place(block, 0)];
}

struct zeroing {
	struct overlay_map *m;
	uint64_t from, to; /* blocks */
	overlay_release_fn *fn;
	void *arg;
};

/* n, of which all goes, becomes free. */
static void let_go(const struct zeroing *z, struct overlay_node *n, unsigned level)
{
	struct overlay_map *m = z->m;

	if (!n || n == &m->zeros)
		return;
	for (unsigned i = 0; i < OVERLAY_FAN; i++) {
		if (level)
			let_go(z, n->child[i], level - 1);
		else
			z->fn(z->arg, &n->block[i]);
	}
	n->child[0] = m->free;
	m->free = n;
	m->used--;
}

static void zero_in(const struct zeroing *z, struct overlay_node **at, unsigned level,
		    uint64_t first)
{
	uint64_t each = level ? span(level - 1) : 1;

	if (*at == &z->m->zeros)
		return;
	if (z->from <= first && z->to >= first + span(level)) {
		let_go(z, *at, level);
		*at = &z->m->zeros;
		return;
	}
	need_node(z->m, at, level);
	for (unsigned i = z->from > first ? (unsigned)((z->from - first) / each) : 0;
	     i < OVERLAY_FAN && first + i * each < z->to; i++) {
		if (level) {
			zero_in(z, &(*at)->child[i], level - 1, first + i * each);
			continue;
		}
		z->fn(z->arg, &(*at)->block[i]);
		(*at)->block[i] = (struct overlay_block){.zero = 0xff};
	}
}

void overlay_map_zero(struct overlay_map *m, uint64_t first, uint64_t count, overlay_release_fn *fn,
		      void *arg)
{
	const struct zeroing z = {m, first, first + count, fn, arg};

	m->last = NULL;
	if (count)
		zero_in(&z, &m->root, m->levels, 0);
}

static bool is_empty(const struct overlay_block *b)
{
	return !(b->mem | b->spill | b->zero);
}

static bool next_of_leaf(const struct overlay_node *n, uint64_t first, uint64_t from,
			 struct overlay_part *ret)
{
	unsigned i = from > first ? (unsigned)(from - first) : 0, end = OVERLAY_FAN;

	while (i < end && is_empty(&n->block[i]))
		i++;
	while (end > i && is_empty(&n->block[end - 1]))
		end--;
	*ret = (struct overlay_part){.first = first + i, .count = end - i};
	return i < end;
}

static bool next_in(struct overlay_map *m, const struct overlay_node *n, unsigned level,
		    uint64_t first, uint64_t from, struct overlay_part *ret)
{
	uint64_t each = level ? span(level - 1) : 1;

	if (!n || first + span(level) <= from)
		return false;
	if (n == &m->zeros) {
		uint64_t at = first > from ? first : from;

		*ret = (struct overlay_part){at, first + span(level) - at, true};
		return true;
	}
	if (!level)
		return next_of_leaf(n, first, from, ret);
	for (unsigned i = from > first ? (unsigned)((from - first) / each) : 0; i < OVERLAY_FAN;
	     i++) {
		if (next_in(m, n->child[i], level - 1, first + i * each, from, ret))
			return true;
	}
	return false;
}

bool overlay_map_next(struct overlay_map *m, uint64_t from, struct overlay_part *ret)
{
	return next_in(m, m->root, m->levels, 0, from, ret);
}

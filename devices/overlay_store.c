/*
 * Where an overlay's blocks are: pages of memory, and slots of an unnamed file to which pages that
 * were filled first go when memory is short. Pages that are side by side go out as one write.
 *
 * A block that has sectors in the file and newer ones in memory keeps both: it is not written out
 * again, so that nobody has to read the file for that.
 */
#define _GNU_SOURCE
#include "devices/overlay_int.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "vmm/base/log.h"
#include "vmm/base/nodump.h"

#define SPILL_MAX (1ull << 43) /* bytes that 31 bits can count in blocks */

/* --- which are in use ------------------------------------------------------------------------- */

static int bits_init(struct overlay_bits *b, uint64_t n)
{
	b->n = (uint32_t)n;
	b->words = calloc(n / 64 + 1, sizeof(*b->words));
	return b->words ? 0 : -ENOMEM;
}

static bool bits_has(const struct overlay_bits *b, uint32_t i)
{
	return b->words[i / 64] >> i % 64 & 1;
}

static void bits_set(struct overlay_bits *b, uint32_t i)
{
	b->words[i / 64] |= 1ull << i % 64;
	b->used++;
}

static void bits_clear(struct overlay_bits *b, uint32_t i)
{
	b->words[i / 64] &= ~(1ull << i % 64);
	b->used--;
}

static void bits_reset(struct overlay_bits *b)
{
	memset(b->words, 0, (b->n / 64 + 1) * sizeof(*b->words));
	b->used = b->hint = 0;
}

/* The next one that is in use, or is not, or n. */
static uint32_t bits_next(const struct overlay_bits *b, uint32_t i, bool used)
{
	while (i < b->n) {
		uint64_t w = (used ? b->words[i / 64] : ~b->words[i / 64]) >> i % 64;

		if (w) {
			i += (uint32_t)__builtin_ctzll(w);
			return i < b->n ? i : b->n;
		}
		i = (i / 64 + 1) * 64;
	}
	return b->n;
}

/* Up to want of them side by side, by turns from all, so that what follows lies behind. 0: none. */
static uint32_t bits_take(struct overlay_bits *b, uint32_t want, uint32_t *ret_first)
{
	uint32_t i, got = 0;

	if (b->used == b->n)
		return 0;
	i = bits_next(b, b->hint, false);
	if (i == b->n)
		i = bits_next(b, 0, false);
	*ret_first = i;
	while (got < want && i < b->n && !bits_has(b, i)) {
		bits_set(b, i++);
		got++;
	}
	b->hint = i;
	return got;
}

/* --- memory ----------------------------------------------------------------------------------- */

uint64_t store_bytes(const struct overlay *ov)
{
	return (uint64_t)ov->store.pages.used * OVERLAY_BLOCK +
	       (uint64_t)ov->map.used * sizeof(struct overlay_node);
}

bool store_has_room(const struct overlay *ov, uint64_t pages, uint64_t nodes)
{
	return store_bytes(ov) + pages * OVERLAY_BLOCK + nodes * sizeof(struct overlay_node) <=
	       ov->limits.mem_bytes;
}

static void free_page(struct overlay_store *st, uint32_t page)
{
	if (st->page[page].busy)
		st->page[page].block = OVERLAY_GONE;
	else
		bits_clear(&st->pages, page);
	st->stuck = false;
}

void store_forget(struct overlay *ov, struct overlay_block *b, uint8_t mask)
{
	struct overlay_store *st = &ov->store;
	uint8_t mem = b->mem, spill = b->spill;

	b->mem &= (uint8_t)~mask;
	b->spill &= (uint8_t)~mask;
	b->zero &= (uint8_t)~mask;
	if (mem && !b->mem)
		free_page(st, b->page);
	if (spill && !b->spill) {
		bits_clear(&st->slots, b->slot);
		st->stuck = false; /* memory is all that its block has now */
	}
}

void store_put(struct overlay *ov, uint64_t block, struct overlay_block *b, uint8_t mask,
	       const uint8_t *bytes)
{
	struct overlay_store *st = &ov->store;
	unsigned first = (unsigned)__builtin_ctz(mask);

	if (!b->mem) {
		VMM_BUG_ON(!bits_take(&st->pages, 1, &b->page));
		st->page[b->page] = (struct overlay_page){.block = block};
		if (b->page >= st->touched)
			st->touched = b->page + 1;
		st->stuck = false;
	}
	st->page[b->page].again = true;
	memcpy(store_page(st, b->page) + first * OVERLAY_SECTOR, bytes,
	       (unsigned)__builtin_popcount(mask) * OVERLAY_SECTOR);
	b->mem |= mask;
	if (b->spill & mask) {
		b->spill &= (uint8_t)~mask;
		if (!b->spill)
			bits_clear(&st->slots, b->slot);
	}
	b->zero &= (uint8_t)~mask;
}

/* --- the file --------------------------------------------------------------------------------- */

static int open_unnamed(const char *dir)
{
	int fd = open(dir, O_TMPFILE | O_RDWR | O_EXCL | O_CLOEXEC, 0600);
	char path[4096];

	if (fd >= 0 || (errno != EOPNOTSUPP && errno != EISDIR && errno != EINVAL))
		return fd;
	if (snprintf(path, sizeof(path), "%s/ftvmm-overlay-XXXXXX", dir) >= (int)sizeof(path)) {
		errno = ENAMETOOLONG;
		return -1;
	}
	fd = mkostemp(path, O_CLOEXEC);
	if (fd >= 0)
		unlink(path);
	return fd;
}

static int open_spill(struct overlay *ov, struct err *e)
{
	struct statfs fs;

	ov->store.fd = open_unnamed(ov->limits.dir);
	if (ov->store.fd < 0)
		return err_sys(e, "disk %s: no file for its overlay in %s", ov->disk->id,
			       ov->limits.dir);
	if (fstatfs(ov->store.fd, &fs) == 0 &&
	    (fs.f_type == TMPFS_MAGIC || fs.f_type == RAMFS_MAGIC))
		log_warn("disk %s: %s, where its overlay is to go when memory is short, is memory, "
			 "too; name a directory of a disk",
			 ov->disk->id, ov->limits.dir);
	return 0;
}

static void give_slots(struct overlay_store *st, const struct spill_op *op)
{
	for (uint32_t i = 0; i < op->n; i++)
		bits_clear(&st->slots, op->slot + i);
}

/* The page's block is in the slot now, if nothing happened to it. */
static void moved(struct overlay *ov, uint32_t page, uint32_t slot)
{
	struct overlay_store *st = &ov->store;
	struct overlay_page *p = &st->page[page];
	struct overlay_block *b;

	p->busy = false;
	if (p->block == OVERLAY_GONE || p->again) {
		bits_clear(&st->slots, slot);
		if (p->block == OVERLAY_GONE)
			bits_clear(&st->pages, page);
		return;
	}
	b = overlay_map_make(&ov->map, p->block);
	b->slot = slot;
	b->spill = b->mem;
	b->mem = 0;
	bits_clear(&st->pages, page);
}

static void failed(struct overlay *ov, const struct spill_op *op, int res)
{
	struct overlay_store *st = &ov->store;

	if (!st->error)
		log_warn("disk %s: its overlay cannot be written to its file: %s; memory is all it "
			 "has until the next checkpoint",
			 ov->disk->id, strerror(-res));
	st->error = res;
	give_slots(st, op);
	for (uint32_t i = op->page; i < op->page + op->n; i++) {
		st->page[i].busy = false;
		if (st->page[i].block == OVERLAY_GONE)
			bits_clear(&st->pages, i);
	}
}

static void spill_step(struct overlay *ov, struct spill_op *op)
{
	/* There are far fewer than the loop has slots. */
	VMM_BUG_ON(loop_write(ov->disk->loop, &op->io, ov->store.fd,
			      store_page(&ov->store, op->page) + op->pos,
			      op->n * OVERLAY_BLOCK - op->pos,
			      (uint64_t)op->slot * OVERLAY_BLOCK + op->pos) < 0);
}

static void on_spilled(struct loop_op *io, int res)
{
	struct spill_op *op = io->arg;
	struct overlay *ov = op->ov;

	if (res == -EINTR || res == -EAGAIN)
		res = 0;
	else if (!res)
		res = -ENOSPC;
	op->pos += res > 0 ? (uint32_t)res : 0;
	if (res >= 0 && op->pos < op->n * OVERLAY_BLOCK && !op->stale) {
		spill_step(ov, op);
		return;
	}
	op->busy = false;
	ov->store.stuck = false;
	if (op->stale)
		give_slots(&ov->store, op);
	else {
		ov->store.leaving -= op->n;
		if (res < 0)
			failed(ov, op, res);
		for (uint32_t i = 0; res >= 0 && i < op->n; i++)
			moved(ov, op->page + i, op->slot + i);
	}
	overlay_go_on(ov);
}

/* Only what is all in memory. */
static bool may_leave(struct overlay *ov, uint32_t page)
{
	const struct overlay_page *p = &ov->store.page[page];

	return bits_has(&ov->store.pages, page) && !p->busy &&
	       !overlay_map_find(&ov->map, p->block)->spill;
}

/* The next pages side by side that may leave: how many. */
static uint32_t pick(struct overlay *ov, uint32_t *ret_page)
{
	struct overlay_store *st = &ov->store;
	uint32_t n = 0, i = st->hand;

	for (unsigned round = 0; round < 2; round++, i = 0) {
		while ((i = bits_next(&st->pages, i, true)) < st->touched && !may_leave(ov, i))
			i++;
		if (i < st->touched)
			break;
	}
	*ret_page = i;
	while (i < st->touched && n < SPILL_PAGES && may_leave(ov, i)) {
		i++;
		n++;
	}
	st->hand = i;
	st->stuck = !n;
	return n;
}

static bool is_short(const struct overlay *ov)
{
	uint64_t limit = ov->limits.mem_bytes,
		 spare = limit / 4 > 2 * OVERLAY_REQ_MAX ? limit / 4 : 2 * OVERLAY_REQ_MAX;

	return store_bytes(ov) - (uint64_t)ov->store.leaving * OVERLAY_BLOCK > limit - spare;
}

static bool start_one(struct overlay *ov, struct spill_op *op)
{
	struct overlay_store *st = &ov->store;
	uint32_t page, slot, n = pick(ov, &page);

	if (!n)
		return false;
	n = bits_take(&st->slots, n, &slot);
	*op = (struct spill_op){.ov = ov, .page = page, .slot = slot, .n = n, .busy = n};
	if (!n)
		return false;
	op->io = (struct loop_op){.fn = on_spilled, .arg = op};
	for (uint32_t i = page; i < page + n; i++) {
		st->page[i].busy = true;
		st->page[i].again = false;
	}
	st->hand = page + n;
	st->leaving += n;
	spill_step(ov, op);
	return true;
}

void store_spill(struct overlay *ov)
{
	struct overlay_store *st = &ov->store;

	for (unsigned i = 0; i < SPILL_OPS; i++) {
		if (st->fd < 0 || st->error || st->stuck || !is_short(ov))
			return;
		if (!st->ops[i].busy && !start_one(ov, &st->ops[i]))
			return;
	}
}

/* --- all of it -------------------------------------------------------------------------------- */

bool store_is_writing(const struct overlay_store *st)
{
	for (unsigned i = 0; i < SPILL_OPS; i++) {
		if (st->ops[i].busy)
			return true;
	}
	return false;
}

int store_init(struct overlay *ov, struct err *e)
{
	struct overlay_store *st = &ov->store;
	uint64_t pages = ov->limits.mem_bytes / OVERLAY_BLOCK;
	uint64_t slots = ov->limits.dir ? ov->limits.spill_bytes / OVERLAY_BLOCK : 0;

	st->fd = -1;
	if (slots > SPILL_MAX / OVERLAY_BLOCK)
		return err_set(e, -EINVAL,
			       "disk %s: a file of %llu bytes for its overlay; %llu at most",
			       ov->disk->id, (unsigned long long)ov->limits.spill_bytes,
			       (unsigned long long)SPILL_MAX);
	st->mem = mmap(NULL, pages * OVERLAY_BLOCK, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (st->mem == MAP_FAILED)
		st->mem = NULL;
	nodump(st->mem, pages * OVERLAY_BLOCK);
	st->page = calloc(pages, sizeof(*st->page));
	if (!st->mem || !st->page || bits_init(&st->pages, pages) || bits_init(&st->slots, slots))
		return err_set(e, -ENOMEM, "disk %s: out of memory for its overlay", ov->disk->id);
	return slots ? open_spill(ov, e) : 0;
}

void store_reset(struct overlay *ov)
{
	struct overlay_store *st = &ov->store;
	uint64_t had = (uint64_t)st->touched * OVERLAY_BLOCK,
		 keep = ov->limits.keep_bytes & ~(uint64_t)(OVERLAY_BLOCK - 1);

	if (had > keep) {
		madvise(st->mem + keep, had - keep, MADV_DONTNEED);
		st->touched = (uint32_t)(keep / OVERLAY_BLOCK);
	}
	bits_reset(&st->pages);
	bits_reset(&st->slots);
	st->hand = st->leaving = 0;
	st->stuck = false;
	st->error = 0;
	/* The kernel writes to these until it says that it does not. */
	for (unsigned i = 0; i < SPILL_OPS; i++) {
		struct spill_op *op = &st->ops[i];

		op->stale = op->busy;
		for (uint32_t s = 0; op->busy && s < op->n; s++)
			bits_set(&st->slots, op->slot + s);
	}
}

bool store_done(struct overlay *ov)
{
	struct overlay_store *st = &ov->store;
	bool busy = false;

	for (unsigned i = 0; i < SPILL_OPS; i++) {
		busy |= st->ops[i].busy;
		if (st->ops[i].busy)
			loop_io_abandon(ov->disk->loop, &st->ops[i].io);
	}
	if (st->fd >= 0)
		close(st->fd);
	if (st->mem && !busy)
		munmap(st->mem, ov->limits.mem_bytes / OVERLAY_BLOCK * OVERLAY_BLOCK);
	free(st->page);
	free(st->pages.words);
	free(st->slots.words);
	return busy;
}

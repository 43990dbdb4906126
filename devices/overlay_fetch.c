/*
 * Reading what is in an overlay: memory is copied, the spill file is read in runs as long as they
 * are there. Nobody changes the range meanwhile, but a block may move from memory to the file
 * between two steps.
 */
#include "devices/overlay_int.h"

#include <errno.h>
#include <string.h>

#include "vmm/base/log.h"

#define SECTORS (OVERLAY_BLOCK / OVERLAY_SECTOR)

const struct overlay_block *overlay_find(struct overlay *ov, uint64_t block)
{
	return block < ov->merge.at ? NULL : overlay_map_find(&ov->map, block);
}

/* The sectors of a block from a byte on that are in a range: their mask. */
static uint8_t sectors_in(uint64_t at, uint64_t end)
{
	unsigned first = at % OVERLAY_BLOCK / OVERLAY_SECTOR, last = SECTORS;

	if (end / OVERLAY_BLOCK == at / OVERLAY_BLOCK)
		last = end % OVERLAY_BLOCK / OVERLAY_SECTOR;
	return (uint8_t)((1u << last) - (1u << first));
}

uint32_t overlay_count(struct overlay *ov, uint64_t off, uint32_t len)
{
	uint64_t end = off + len;
	uint32_t n = 0;

	for (uint64_t at = off; at < end; at = (at / OVERLAY_BLOCK + 1) * OVERLAY_BLOCK) {
		const struct overlay_block *b = overlay_find(ov, at / OVERLAY_BLOCK);

		if (b)
			n += (uint32_t)__builtin_popcount((b->mem | b->spill | b->zero) &
							  sectors_in(at, end));
	}
	return n;
}

/* Sectors from a byte on that lie one behind the other in the file. */
static uint32_t run_in_file(struct overlay *ov, uint64_t at, uint64_t end)
{
	const struct overlay_block *b = overlay_find(ov, at / OVERLAY_BLOCK);
	uint32_t slot = b->slot, n = 0;

	for (; at < end; at += OVERLAY_SECTOR, n++) {
		unsigned i = at % OVERLAY_BLOCK / OVERLAY_SECTOR;

		if (!i && n) {
			b = overlay_find(ov, at / OVERLAY_BLOCK);
			slot++;
		}
		if (!b || !(b->spill >> i & 1) || b->slot != slot)
			break;
	}
	return n;
}

/* From memory, up to what is in the file or the end of the block: bytes. */
static uint32_t copy_block(const struct overlay *ov, const struct overlay_block *b, uint64_t at,
			   uint64_t end, uint8_t *buf)
{
	uint64_t stop = (at / OVERLAY_BLOCK + 1) * OVERLAY_BLOCK, begin = at;
	const uint8_t *page = b && b->mem ? store_page(&ov->store, b->page) : NULL;

	if (stop > end)
		stop = end;
	if (!b)
		return (uint32_t)(stop - begin);
	for (; at < stop; at += OVERLAY_SECTOR, buf += OVERLAY_SECTOR) {
		unsigned in = at % OVERLAY_BLOCK, bit = 1u << in / OVERLAY_SECTOR;

		if (b->spill & bit)
			break;
		if (b->mem & bit)
			memcpy(buf, page + in, OVERLAY_SECTOR);
		else if (b->zero & bit)
			memset(buf, 0, OVERLAY_SECTOR);
	}
	return (uint32_t)(at - begin);
}

int overlay_fetch(struct overlay *ov, uint64_t off, uint32_t len, uint8_t *buf, uint32_t *pos,
		  struct loop_op *op)
{
	uint64_t end = off + len;

	while (*pos < len) {
		uint64_t at = off + *pos;
		const struct overlay_block *b = overlay_find(ov, at / OVERLAY_BLOCK);
		uint32_t n = copy_block(ov, b, at, end, buf + *pos);

		*pos += n;
		if (n)
			continue;
		n = run_in_file(ov, at, end);
		VMM_BUG_ON(loop_read(ov->disk->loop, op, ov->store.fd, buf + *pos,
				     n * OVERLAY_SECTOR,
				     (uint64_t)b->slot * OVERLAY_BLOCK + at % OVERLAY_BLOCK) < 0);
		return 1;
	}
	return 0;
}

int overlay_fetched(uint32_t *pos, int res)
{
	if (res == -EINTR || res == -EAGAIN)
		return 0;
	if (res < 0)
		return res;
	if (res < (int)OVERLAY_SECTOR) /* the file is shorter than what was written to it */
		return -EIO;
	*pos += (uint32_t)res & ~(OVERLAY_SECTOR - 1);
	return 0;
}

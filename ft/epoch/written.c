#include "ft/epoch/written.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/base/hash.h"

#define BYTES (WRITTEN_BITS / 8)

int written_init(struct written *w)
{
	*w = (struct written){.bits = {calloc(1, BYTES), calloc(1, BYTES)},
			      .waits = malloc(WRITTEN_WAITS * sizeof(*w->waits))};
	if (w->bits[0] && w->bits[1] && w->waits)
		return 0;
	written_done(w);
	return -ENOMEM;
}

void written_done(struct written *w)
{
	free(w->bits[0]);
	free(w->bits[1]);
	free(w->waits);
	*w = (struct written){0};
}

uint64_t written_key(unsigned device, uint64_t off, const void *sector)
{
	return XXH3_64bits_withSeed(sector, WRITTEN_SECTOR, off << 8 | device);
}

static uint64_t bit(uint64_t key)
{
	return 1ull << key % 64;
}

static uint64_t *word(uint64_t *bits, uint64_t key)
{
	return &bits[key / 64 % (WRITTEN_BITS / 64)];
}

void written_add(struct written *w, unsigned device, uint64_t off, const void *bytes, uint32_t len)
{
	for (uint32_t at = 0; at < len; at += WRITTEN_SECTOR) {
		uint64_t key = written_key(device, off + at, (const uint8_t *)bytes + at);

		*word(w->bits[0], key) |= bit(key);
	}
	w->any[0] = true;
	w->writes++;
}

void written_seal(struct written *w)
{
	uint64_t *old = w->bits[1];

	if (w->any[1])
		memset(old, 0, BYTES);
	w->bits[1] = w->bits[0];
	w->any[1] = w->any[0];
	w->bits[0] = old;
	w->any[0] = false;
	w->writes = w->had = 0;
	w->nwaits = w->old = 0;
}

static bool is_known(const struct written *w, uint64_t key)
{
	return (*word(w->bits[0], key) | *word(w->bits[1], key)) & bit(key);
}

void written_expect(struct written *w, uint64_t key, uint64_t writes)
{
	if (w->nwaits < WRITTEN_WAITS && !is_known(w, key))
		w->waits[w->nwaits++] = (struct written_wait){key, writes};
}

bool written_missing(struct written *w)
{
	bool stands = w->writes == w->had, missing = false;
	unsigned left = 0;

	for (unsigned i = 0; i < w->nwaits; i++) {
		struct written_wait *one = &w->waits[i];

		if (is_known(w, one->key))
			continue;
		if ((stands && i < w->old) ||
		    (w->writes >= WRITTEN_SLACK && one->writes <= w->writes - WRITTEN_SLACK))
			missing = true;
		else
			w->waits[left++] = *one;
	}
	w->nwaits = w->old = left;
	w->had = w->writes;
	return missing;
}

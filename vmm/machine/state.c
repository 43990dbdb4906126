/* Size, encoding and hash of state. Runs inside the pause of a VM: no allocation, one pass. */
#include "vmm/machine/state.h"

#include <errno.h>

#include "vmm/base/hash.h"
#include "vmm/machine/state_wire.h"

struct writer {
	uint8_t *p, *end;
	int error;
};

static uint64_t bound_fields(const struct field *f, unsigned n, unsigned depth)
{
	uint64_t sum = 0;

	if (depth > STATE_MAX_DEPTH)
		return 0;
	for (const struct field *last = f + n; f < last; f++) {
		sum += STATE_FIELD_HEAD;
		if (f->type == FIELD_STRUCT)
			sum += bound_fields(f->sub, f->nsub, depth + 1);
		else if (f->type == FIELD_ARRAY)
			sum += STATE_COUNT_SIZE +
			       f->max_count * (STATE_COUNT_SIZE +
					       bound_fields(f->sub, f->nsub, depth + 1));
		else
			sum += f->size;
	}
	return sum;
}

size_t state_bound(const struct state_desc *desc)
{
	return STATE_SECTION_HEAD + bound_fields(desc->fields, desc->nfields, 1);
}

size_t state_bound_all(const struct state_item *items, unsigned n)
{
	size_t sum = 0;

	for (unsigned i = 0; i < n; i++)
		sum += state_bound(items[i].desc);
	return sum;
}

static inline bool has_room(struct writer *w, uint64_t bytes)
{
	if ((uint64_t)(w->end - w->p) >= bytes)
		return true;
	w->error = -ENOSPC;
	return false;
}

static inline void put_u32(uint8_t *p, uint32_t v)
{
	memcpy(p, &v, 4);
}

/* Fixed-size copies, so that the compiler makes one store of each. */
static inline void put_int(uint8_t *to, const uint8_t *from, uint32_t size)
{
	switch (size) {
	case 1:
		*to = *from;
		break;
	case 2:
		memcpy(to, from, 2);
		break;
	case 4:
		memcpy(to, from, 4);
		break;
	default:
		memcpy(to, from, 8);
		break;
	}
}

static void put_fields(struct writer *w, const struct field *f, unsigned n, const uint8_t *pod,
		       unsigned depth);

static void put_elements(struct writer *w, const struct field *f, const uint8_t *pod,
			 unsigned depth)
{
	uint32_t count = state_get_count(f, pod);

	if (count > f->max_count) { /* a bug in the device's save(): say so, never read past */
		w->error = -ERANGE;
		return;
	}
	if (!has_room(w, STATE_COUNT_SIZE))
		return;
	put_u32(w->p, count);
	w->p += STATE_COUNT_SIZE;
	for (uint32_t i = 0; i < count; i++) {
		uint8_t *length = w->p;

		if (!has_room(w, STATE_COUNT_SIZE))
			return;
		w->p += STATE_COUNT_SIZE;
		put_fields(w, f->sub, f->nsub, pod + f->offset + (size_t)i * f->size, depth + 1);
		if (w->error)
			return;
		put_u32(length, (uint32_t)(w->p - length - STATE_COUNT_SIZE));
	}
}

static void put_fields(struct writer *w, const struct field *f, unsigned n, const uint8_t *pod,
		       unsigned depth)
{
	if (depth > STATE_MAX_DEPTH) {
		w->error = -ERANGE;
		return;
	}
	for (const struct field *last = f + n; f < last; f++) {
		uint64_t head = f->id | (uint64_t)f->type << 16;
		uint8_t *at = w->p;
		bool nested = f->type == FIELD_STRUCT || f->type == FIELD_ARRAY;

		if (!has_room(w, STATE_FIELD_HEAD + (nested ? 0 : f->size)))
			return;
		w->p += STATE_FIELD_HEAD;
		if (state_is_int(f)) {
			put_int(w->p, pod + f->offset, f->size);
			w->p += f->size;
		} else if (f->type == FIELD_BYTES) {
			memcpy(w->p, pod + f->offset, f->size);
			w->p += f->size;
		} else if (f->type == FIELD_STRUCT) {
			put_fields(w, f->sub, f->nsub, pod + f->offset, depth + 1);
		} else {
			put_elements(w, f, pod, depth);
		}
		if (w->error)
			return;
		head |= (uint64_t)(w->p - at - STATE_FIELD_HEAD) << 32;
		memcpy(at, &head, sizeof(head));
	}
}

static void put_section(struct writer *w, const struct state_item *it)
{
	const struct state_desc *d = it->desc;
	uint8_t *at = w->p;
	uint64_t head = d->id | (uint64_t)it->instance << 16 | (uint64_t)d->version << 32;

	if (!has_room(w, STATE_SECTION_HEAD))
		return;
	memcpy(at, &head, sizeof(head));
	w->p += STATE_SECTION_HEAD;
	put_fields(w, d->fields, d->nfields, it->pod, 1);
	put_u32(at + 8, (uint32_t)(w->p - at - STATE_SECTION_HEAD));
}

int64_t state_encode_all(const struct state_item *items, unsigned n, void *buf, size_t cap)
{
	struct writer w = {.p = buf, .end = (uint8_t *)buf + cap};

	for (unsigned i = 0; i < n; i++) {
		put_section(&w, &items[i]);
		if (w.error)
			return w.error;
	}
	return w.p - (uint8_t *)buf;
}

static void hash_fields(XXH3_state_t *h, const struct field *f, unsigned n, const uint8_t *pod,
			unsigned depth)
{
	if (depth > STATE_MAX_DEPTH)
		return;
	for (const struct field *last = f + n; f < last; f++) {
		uint32_t count = 1;

		if (f->flags & FIELD_UNSTABLE)
			continue;
		XXH3_64bits_update(h, &f->id, sizeof(f->id));
		if (f->type == FIELD_ARRAY) {
			count = state_get_count(f, pod);
			XXH3_64bits_update(h, &count, sizeof(count));
			if (count > f->max_count)
				continue;
		}
		if (f->type != FIELD_ARRAY && f->type != FIELD_STRUCT) {
			XXH3_64bits_update(h, pod + f->offset, f->size);
			continue;
		}
		for (uint32_t i = 0; i < count; i++)
			hash_fields(h, f->sub, f->nsub, pod + f->offset + (size_t)i * f->size,
				    depth + 1);
	}
}

uint64_t state_hash(const struct state_item *item)
{
	uint16_t who[2] = {item->desc->id, item->instance};
	XXH3_state_t h;

	XXH3_64bits_reset(&h);
	XXH3_64bits_update(&h, who, sizeof(who));
	hash_fields(&h, item->desc->fields, item->desc->nfields, item->pod, 1);
	return XXH3_64bits_digest(&h);
}

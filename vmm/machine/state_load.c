/*
 * Decoding of state that a peer or a file sent. Every id, type, length, count and value is checked
 * against the tables before it is used; the first thing that is wrong is named with its path.
 */
#include <errno.h>
#include <stdio.h>

#include "vmm/machine/state_wire.h"

/* A table, the struct that it describes, and which of its fields were there. */
struct target {
	const struct field *table;
	unsigned n;
	uint8_t *pod;
	uint64_t seen[STATE_MAX_FIELDS / 64];
};

struct loader {
	const struct state_item *item;
	uint16_t version; /* of the section under way */
	unsigned depth;	  /* used entries of path */
	struct {
		const struct field *f;
		uint32_t index;
	} path[STATE_MAX_DEPTH];
	struct err *e;
};

static int load_fields(struct loader *l, const struct field *table, unsigned n, uint8_t *pod,
		       const uint8_t *p, const uint8_t *end);

/* "virtio-blk[0].queues[1]", without the field that is under way. */
static void path_format(const struct loader *l, char *to, size_t cap)
{
	size_t at;

	snprintf(to, cap, "%s[%u]", l->item->desc->name, l->item->instance);
	for (unsigned i = 0; i < l->depth; i++) {
		at = strlen(to);
		if (l->path[i].f->type == FIELD_ARRAY)
			snprintf(to + at, cap - at, ".%s[%u]", l->path[i].f->name,
				 l->path[i].index);
		else
			snprintf(to + at, cap - at, ".%s", l->path[i].f->name);
	}
}

#define REFUSE(l, f, fmt, ...)                                                                     \
	({                                                                                         \
		char path_[192];                                                                   \
		path_format(l, path_, sizeof(path_));                                              \
		err_set((l)->e, -EBADMSG, "%s.%s: " fmt, path_, (f)->name, ##__VA_ARGS__);         \
		-EBADMSG;                                                                          \
	})
#define REFUSE_HERE(l, fmt, ...)                                                                   \
	({                                                                                         \
		char path_[192];                                                                   \
		path_format(l, path_, sizeof(path_));                                              \
		err_set((l)->e, -EBADMSG, "%s: " fmt, path_, ##__VA_ARGS__);                       \
		-EBADMSG;                                                                          \
	})

static int load_int(struct loader *l, const struct field *f, uint8_t *pod, const uint8_t *p,
		    uint32_t length)
{
	uint64_t v, max = state_max(f);

	if (length != f->size)
		return REFUSE(l, f, "%u bytes, %u are needed", length, f->size);
	v = state_get_int(p, f->size);
	if (v < f->min || v > max)
		return REFUSE(l, f, "%llu is outside of %llu..%llu", (unsigned long long)v,
			      (unsigned long long)f->min, (unsigned long long)max);
	memcpy(pod + f->offset, p, f->size);
	return 0;
}

static int load_array(struct loader *l, const struct field *f, uint8_t *pod, const uint8_t *p,
		      const uint8_t *end)
{
	uint32_t count, length;
	int r;

	if ((size_t)(end - p) < STATE_COUNT_SIZE)
		return REFUSE(l, f, "truncated: no room for a count");
	count = (uint32_t)state_get_int(p, 4);
	p += STATE_COUNT_SIZE;
	if (count > f->max_count)
		return REFUSE(l, f, "%u elements, at most %u are allowed", count, f->max_count);
	for (uint32_t i = 0; i < count; i++) {
		if ((size_t)(end - p) < STATE_COUNT_SIZE)
			return REFUSE(l, f, "truncated: %u of %u elements", i, count);
		length = (uint32_t)state_get_int(p, 4);
		p += STATE_COUNT_SIZE;
		if (length > (size_t)(end - p))
			return REFUSE(l, f, "truncated: element %u needs %u bytes, %zu are left", i,
				      length, (size_t)(end - p));
		l->path[l->depth].f = f;
		l->path[l->depth++].index = i;
		r = load_fields(l, f->sub, f->nsub, pod + f->offset + (size_t)i * f->size, p,
				p + length);
		l->depth--;
		if (r)
			return r;
		p += length;
	}
	if (p != end)
		return REFUSE(l, f, "%zu bytes too many after %u elements", (size_t)(end - p),
			      count);
	memcpy(pod + f->count_offset, &count, 4);
	return 0;
}

static int load_value(struct loader *l, const struct field *f, uint8_t *pod, const uint8_t *p,
		      uint32_t length)
{
	int r;

	switch (f->type) {
	case FIELD_BYTES:
		if (length != f->size)
			return REFUSE(l, f, "%u bytes, %u are needed", length, f->size);
		memcpy(pod + f->offset, p, f->size);
		return 0;
	case FIELD_STRUCT:
	case FIELD_ARRAY:
		if (l->depth + 1 >= STATE_MAX_DEPTH)
			return REFUSE(l, f, "nested deeper than %u", STATE_MAX_DEPTH);
		if (f->type == FIELD_ARRAY)
			return load_array(l, f, pod, p, p + length);
		l->path[l->depth++].f = f;
		r = load_fields(l, f->sub, f->nsub, pod + f->offset, p, p + length);
		l->depth--;
		return r;
	default:
		return load_int(l, f, pod, p, length);
	}
}

/* A field that the sender's version did not know, or that it may leave out. */
static bool may_be_absent(const struct loader *l, const struct field *f)
{
	return (f->flags & FIELD_OPTIONAL) || f->since > l->version;
}

static int check_missing(struct loader *l, const struct target *t)
{
	for (unsigned i = 0; i < t->n; i++)
		if (!(t->seen[i / 64] >> (i % 64) & 1) && !may_be_absent(l, &t->table[i]))
			return REFUSE(l, &t->table[i], "is missing");
	return 0;
}

/* Position in the table; *hint is where a sender that keeps the table's order puts it. */
static unsigned find_field(const struct target *t, uint16_t id, unsigned hint)
{
	if (hint < t->n && t->table[hint].id == id)
		return hint;
	for (unsigned i = 0; i < t->n; i++)
		if (t->table[i].id == id)
			return i;
	return t->n;
}

static int load_field(struct loader *l, struct target *t, unsigned at, uint64_t head,
		      const uint8_t *p, size_t left)
{
	const struct field *f = &t->table[at];
	uint32_t length = head >> 32;

	if (at == t->n)
		return REFUSE_HERE(l, "field id %u is unknown in version %u", (uint16_t)head,
				   l->item->desc->version);
	if (t->seen[at / 64] >> (at % 64) & 1)
		return REFUSE(l, f, "appears twice");
	t->seen[at / 64] |= 1ull << (at % 64);
	if ((uint8_t)(head >> 16) != f->type || (uint8_t)(head >> 24))
		return REFUSE(l, f, "type %u, %u is needed", (unsigned)(head >> 16 & 0xffff),
			      f->type);
	if (f->since > l->version)
		return REFUSE(l, f, "exists since version %u, the section says version %u",
			      f->since, l->version);
	if (length > left)
		return REFUSE(l, f, "truncated: %u bytes announced, %zu are left", length, left);
	return load_value(l, f, t->pod, p, length);
}

static int load_fields(struct loader *l, const struct field *table, unsigned n, uint8_t *pod,
		       const uint8_t *p, const uint8_t *end)
{
	struct target t = {.table = table, .n = n, .pod = pod};
	unsigned at = 0, done = 0;
	int r;

	if (n > STATE_MAX_FIELDS)
		return REFUSE_HERE(l, "table has more than %u fields", STATE_MAX_FIELDS);
	while (p < end) {
		uint64_t head;

		if ((size_t)(end - p) < STATE_FIELD_HEAD)
			return REFUSE_HERE(l, "truncated: %zu bytes left, a field head is %u",
					   (size_t)(end - p), STATE_FIELD_HEAD);
		memcpy(&head, p, sizeof(head));
		p += STATE_FIELD_HEAD;
		at = find_field(&t, (uint16_t)head, at);
		r = load_field(l, &t, at, head, p, (size_t)(end - p));
		if (r)
			return r;
		p += head >> 32;
		at++;
		done++;
	}
	return done == n ? 0 : check_missing(l, &t);
}

static int load_section(struct loader *l, const uint8_t *p, uint32_t length)
{
	const struct state_desc *d = l->item->desc;

	if (!l->version)
		return REFUSE_HERE(l, "version 0 does not exist");
	if (l->version > d->version)
		return REFUSE_HERE(l,
				   "version %u is newer than %u, the newest known here; "
				   "use a program as new as the sender's",
				   l->version, d->version);
	memset(l->item->pod, 0, d->size);
	return load_fields(l, d->fields, d->nfields, l->item->pod, p, p + length);
}

static unsigned find_item(const struct state_item *items, unsigned n, uint16_t id,
			  uint16_t instance, unsigned hint)
{
	if (hint < n && items[hint].desc->id == id && items[hint].instance == instance)
		return hint;
	for (unsigned i = 0; i < n; i++)
		if (items[i].desc->id == id && items[i].instance == instance)
			return i;
	return n;
}

static const char *table_name(const struct state_item *items, unsigned n, uint16_t id)
{
	for (unsigned i = 0; i < n; i++)
		if (items[i].desc->id == id)
			return items[i].desc->name;
	return "unknown table";
}

static int load_sections(const struct state_item *items, unsigned n, uint64_t *seen,
			 const uint8_t *p, const uint8_t *end, struct err *e)
{
	unsigned at = 0;
	int r;

	for (; p < end; at++) {
		uint16_t head[4];
		uint32_t length;

		if ((size_t)(end - p) < STATE_SECTION_HEAD)
			return err_set(e, -EBADMSG,
				       "state: truncated: %zu bytes left, a section head is %u",
				       (size_t)(end - p), STATE_SECTION_HEAD);
		memcpy(head, p, sizeof(head));
		length = (uint32_t)state_get_int(p + 8, 4);
		p += STATE_SECTION_HEAD;
		at = find_item(items, n, head[0], head[1], at);
		if (at == n)
			return err_set(e, -EBADMSG, "state: section %u[%u] (%s) has no device here",
				       head[0], head[1], table_name(items, n, head[0]));

		struct loader l = {.item = &items[at], .version = head[2], .e = e};

		if (seen[at / 64] >> (at % 64) & 1)
			return REFUSE_HERE(&l, "appears twice");
		seen[at / 64] |= 1ull << (at % 64);
		if (head[3])
			return REFUSE_HERE(&l, "reserved word is %u, must be 0", head[3]);
		if (length > (size_t)(end - p))
			return REFUSE_HERE(&l, "truncated: %u bytes announced, %zu are left",
					   length, (size_t)(end - p));
		r = load_section(&l, p, length);
		if (r)
			return r;
		p += length;
	}
	return 0;
}

static int check_item(const struct state_item *it, struct err *e)
{
	if (!it->desc->check || !it->desc->check(it->pod, e))
		return 0;
	if (!e)
		return -EBADMSG;
	if (!e->code)
		err_set(e, -EBADMSG, "fields do not fit each other");
	err_wrap(e, "%s[%u]", it->desc->name, it->instance);
	e->code = -EBADMSG;
	return -EBADMSG;
}

int state_decode_all(const struct state_item *items, unsigned n, const void *buf, size_t len,
		     struct err *e)
{
	uint64_t seen[STATE_MAX_ITEMS / 64] = {0};
	int r;

	if (n > STATE_MAX_ITEMS)
		return err_set(e, -EBADMSG, "state: %u items, at most %u are supported", n,
			       STATE_MAX_ITEMS);
	r = load_sections(items, n, seen, buf, (const uint8_t *)buf + len, e);
	if (r)
		return r;
	for (unsigned i = 0; i < n; i++)
		if (!(seen[i / 64] >> (i % 64) & 1))
			return err_set(e, -EBADMSG, "%s[%u]: section is missing",
				       items[i].desc->name, items[i].instance);
	for (unsigned i = 0; i < n; i++) {
		r = check_item(&items[i], e);
		if (r)
			return r;
	}
	return 0;
}

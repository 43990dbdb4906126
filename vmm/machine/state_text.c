/* State for people and for tests: first difference, dump, self-check of tables. */
#include <errno.h>
#include <stdio.h>

#include "vmm/machine/state_wire.h"

#define PATH_MAX_LEN 192
#define ROW_BYTES    16u

static void path_add(char *to, size_t cap, const char *prefix, const struct field *f, int64_t index)
{
	if (index < 0)
		snprintf(to, cap, "%s.%s", prefix, f->name);
	else
		snprintf(to, cap, "%s.%s[%lld]", prefix, f->name, (long long)index);
}

struct differ {
	unsigned depth;
	char *ret_name;
	size_t cap;
};

static bool diff_fields(const struct differ *d, const struct field *f, unsigned n, const uint8_t *a,
			const uint8_t *b, const char *prefix)
{
	const struct differ sub = {d->depth + 1, d->ret_name, d->cap};
	char path[PATH_MAX_LEN];

	for (const struct field *last = f + n; f < last && d->depth < STATE_MAX_DEPTH; f++) {
		uint32_t count = 1;

		if (f->flags & FIELD_UNSTABLE)
			continue;
		if (f->type == FIELD_ARRAY) {
			count = state_get_count(f, a);
			if (count != state_get_count(f, b) || count > f->max_count) {
				snprintf(d->ret_name, d->cap, "%s.%s.count", prefix, f->name);
				return true;
			}
		}
		if (f->type != FIELD_ARRAY && f->type != FIELD_STRUCT) {
			if (!memcmp(a + f->offset, b + f->offset, f->size))
				continue;
			snprintf(d->ret_name, d->cap, "%s.%s", prefix, f->name);
			return true;
		}
		for (uint32_t i = 0; i < count; i++) {
			size_t at = f->offset + (size_t)i * f->size;

			path_add(path, sizeof(path), prefix, f,
				 f->type == FIELD_ARRAY ? (int64_t)i : -1);
			if (diff_fields(&sub, f->sub, f->nsub, a + at, b + at, path))
				return true;
		}
	}
	return false;
}

bool state_diff(const struct state_desc *desc, const void *a, const void *b, char *ret_name,
		size_t cap)
{
	const struct differ d = {.ret_name = ret_name, .cap = cap};

	return diff_fields(&d, desc->fields, desc->nfields, a, b, desc->name);
}

struct dumper {
	void (*fn)(void *arg, const char *line);
	void *arg;
};

static void dump_int(const struct dumper *d, const char *path, uint64_t v)
{
	char line[PATH_MAX_LEN + 64];

	snprintf(line, sizeof(line), v < 10 ? "%s = %llu" : "%s = %llu (0x%llx)", path,
		 (unsigned long long)v, (unsigned long long)v);
	d->fn(d->arg, line);
}

/* Rows of 16 bytes; rows of zeros are left out when there is more than one row. */
static void dump_bytes(const struct dumper *d, const char *path, const uint8_t *p, uint32_t size)
{
	static const uint8_t zero[ROW_BYTES];
	char line[PATH_MAX_LEN + 96];
	bool any = false;

	for (uint32_t at = 0; at < size; at += ROW_BYTES) {
		uint32_t n = size - at < ROW_BYTES ? size - at : ROW_BYTES;
		size_t len;

		if (size > ROW_BYTES && !memcmp(p + at, zero, n))
			continue;
		any = true;
		if (size > ROW_BYTES)
			snprintf(line, sizeof(line), "%s[0x%x..0x%x] =", path, at, at + n - 1);
		else
			snprintf(line, sizeof(line), "%s =", path);
		for (uint32_t i = 0; i < n; i++) {
			len = strlen(line);
			snprintf(line + len, sizeof(line) - len, " %02x", p[at + i]);
		}
		d->fn(d->arg, line);
	}
	if (any)
		return;
	snprintf(line, sizeof(line), "%s = %u bytes, all zero", path, size);
	d->fn(d->arg, line);
}

static void dump_fields(const struct dumper *d, const struct field *f, unsigned n,
			const uint8_t *pod, const char *prefix, unsigned depth)
{
	char path[PATH_MAX_LEN];

	for (const struct field *last = f + n; f < last && depth <= STATE_MAX_DEPTH; f++) {
		uint32_t count;

		path_add(path, sizeof(path), prefix, f, -1);
		if (state_is_int(f)) {
			dump_int(d, path, state_get_int(pod + f->offset, f->size));
			continue;
		}
		if (f->type == FIELD_BYTES) {
			dump_bytes(d, path, pod + f->offset, f->size);
			continue;
		}
		if (f->type == FIELD_STRUCT) {
			dump_fields(d, f->sub, f->nsub, pod + f->offset, path, depth + 1);
			continue;
		}
		count = state_get_count(f, pod);
		snprintf(path + strlen(path), sizeof(path) - strlen(path), ".count");
		dump_int(d, path, count);
		for (uint32_t i = 0; i < count && i < f->max_count; i++) {
			path_add(path, sizeof(path), prefix, f, i);
			dump_fields(d, f->sub, f->nsub, pod + f->offset + (size_t)i * f->size, path,
				    depth + 1);
		}
	}
}

void state_dump(const struct state_item *item, void (*fn)(void *arg, const char *line), void *arg)
{
	struct dumper d = {fn, arg};
	char prefix[PATH_MAX_LEN];

	snprintf(prefix, sizeof(prefix), "%s[%u]", item->desc->name, item->instance);
	dump_fields(&d, item->desc->fields, item->desc->nfields, item->pod, prefix, 1);
}

struct table {
	const char *name;
	const struct field *f;
	unsigned n;
	uint64_t size; /* of the struct that it describes */
	uint16_t version;
};

static int check_table(const struct table *t, unsigned depth, struct err *e);

#define BAD(t, f, fmt, ...)                                                                        \
	err_set(e, -EINVAL, "table %s, field %s: " fmt, (t)->name, (f)->name ? (f)->name : "?",    \
		##__VA_ARGS__)

static int check_int(const struct table *t, const struct field *f, struct err *e)
{
	uint32_t want = 1u << (f->type - FIELD_U8);
	uint64_t top = f->size >= 8 ? UINT64_MAX : (1ull << (8 * f->size)) - 1;

	if (f->size != want)
		return BAD(t, f, "%u bytes for an integer of %u", f->size, want);
	if (f->min > state_max(f) || f->min > top)
		return BAD(t, f, "no value is within its limits");
	return 0;
}

static int check_nested(const struct table *t, const struct field *f, unsigned depth, struct err *e)
{
	struct table sub = {f->name, f->sub, f->nsub, f->size, t->version};

	if (!f->sub || !f->nsub)
		return BAD(t, f, "has no table");
	if (f->type == FIELD_ARRAY && !f->max_count)
		return BAD(t, f, "array of at most 0 elements");
	if (f->type == FIELD_ARRAY && f->count_offset + 4ull > t->size)
		return BAD(t, f, "its count lies outside of the struct");
	return check_table(&sub, depth + 1, e);
}

static uint64_t field_end(const struct field *f)
{
	return f->offset + (uint64_t)f->size * (f->type == FIELD_ARRAY ? f->max_count : 1);
}

static int check_others(const struct table *t, unsigned i, struct err *e)
{
	const struct field *f = &t->f[i];

	for (unsigned j = 0; j < i; j++) {
		const struct field *g = &t->f[j];

		if (f->id == g->id)
			return BAD(t, f, "id %u is also that of %s", f->id, g->name);
		if (!strcmp(f->name, g->name))
			return BAD(t, f, "name is used twice");
		if (f->offset < field_end(g) && g->offset < field_end(f))
			return BAD(t, f, "lies over %s", g->name);
	}
	return 0;
}

static int check_field(const struct table *t, unsigned i, unsigned depth, struct err *e)
{
	const struct field *f = &t->f[i];

	if (!f->id || !f->name || !f->name[0])
		return BAD(t, f, "needs an id above 0 and a name");
	if (f->type < FIELD_U8 || f->type > FIELD_ARRAY)
		return BAD(t, f, "type %u does not exist", f->type);
	if (f->since > t->version)
		return BAD(t, f, "since version %u in a table of version %u", f->since, t->version);
	if (!f->size || field_end(f) > t->size)
		return BAD(t, f, "bytes %u..%llu do not lie in the struct of %llu", f->offset,
			   (unsigned long long)field_end(f), (unsigned long long)t->size);
	if (check_others(t, i, e))
		return -EINVAL;
	if (state_is_int(f))
		return check_int(t, f, e);
	return f->type == FIELD_BYTES ? 0 : check_nested(t, f, depth, e);
}

static int check_table(const struct table *t, unsigned depth, struct err *e)
{
	if (depth > STATE_MAX_DEPTH)
		return err_set(e, -EINVAL, "table %s: nested deeper than %u", t->name,
			       STATE_MAX_DEPTH);
	if (!t->f || !t->n || t->n > STATE_MAX_FIELDS)
		return err_set(e, -EINVAL, "table %s: %u fields, 1 to %u are allowed", t->name,
			       t->n, STATE_MAX_FIELDS);
	for (unsigned i = 0; i < t->n; i++)
		if (check_field(t, i, depth, e))
			return -EINVAL;
	return 0;
}

int state_desc_check(const struct state_desc *desc, struct err *e)
{
	struct table t = {desc->name, desc->fields, desc->nfields, desc->size, desc->version};

	if (!desc->name || !desc->name[0] || !desc->id || !desc->version)
		return err_set(e, -EINVAL, "table %s: needs a name, an id and a version above 0",
			       desc->name ? desc->name : "?");
	if (check_table(&t, 1, e))
		return -EINVAL;
	if (state_bound(desc) > STATE_MAX_BOUND)
		return err_set(e, -EINVAL,
			       "table %s: may encode to %zu bytes, at most %u are allowed",
			       desc->name, state_bound(desc), STATE_MAX_BOUND);
	return 0;
}

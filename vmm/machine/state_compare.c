/* Two states of one table, field by field, for people and programs. */
#include <stdio.h>

#include "vmm/machine/state_wire.h"

#define PATH_MAX_LEN 192
#define ROW_BYTES    16u

struct comparer {
	state_differ_fn *fn;
	void *arg;
	unsigned depth;
	unsigned *count;
};

/* The same struct of both sides; NULL: that side has none. */
struct pair {
	const uint8_t *a, *b;
};

static struct pair pair_at(struct pair p, size_t offset)
{
	return (struct pair){p.a ? p.a + offset : NULL, p.b ? p.b + offset : NULL};
}

static void report(const struct comparer *c, const char *path, const char *a, const char *b)
{
	++*c->count;
	c->fn(c->arg, path, a, b);
}

static void int_text(const uint8_t *p, uint32_t size, char *ret, size_t cap)
{
	if (p)
		snprintf(ret, cap, "%#llx", (unsigned long long)state_get_int(p, size));
	else
		snprintf(ret, cap, "-");
}

static void compare_int(const struct comparer *c, const char *path, struct pair p, uint32_t size)
{
	char a[24], b[24];

	if (p.a && p.b && !memcmp(p.a, p.b, size))
		return;
	int_text(p.a, size, a, sizeof(a));
	int_text(p.b, size, b, sizeof(b));
	report(c, path, a, b);
}

static void row_text(const uint8_t *p, uint32_t n, char *ret)
{
	strcpy(ret, "-");
	for (uint32_t i = 0; p && i < n; i++)
		sprintf(ret + 2 * (size_t)i, "%02x", p[i]);
}

/* Of what one side alone has, rows of zeros are left out, but for the first. */
static bool row_is_told(struct pair p, uint32_t at, uint32_t n)
{
	static const uint8_t zero[ROW_BYTES];

	if (p.a && p.b)
		return memcmp(p.a + at, p.b + at, n) != 0;
	return !at || memcmp((p.a ? p.a : p.b) + at, zero, n) != 0;
}

static void compare_bytes(const struct comparer *c, const char *path, struct pair p, uint32_t size)
{
	char row[PATH_MAX_LEN + 32], a[2 * ROW_BYTES + 1], b[2 * ROW_BYTES + 1];

	for (uint32_t at = 0; at < size; at += ROW_BYTES) {
		uint32_t n = size - at < ROW_BYTES ? size - at : ROW_BYTES;
		struct pair here = pair_at(p, at);

		if (!row_is_told(p, at, n))
			continue;
		row_text(here.a, n, a);
		row_text(here.b, n, b);
		if (size > ROW_BYTES)
			snprintf(row, sizeof(row), "%s[%#x..%#x]", path, at, at + n - 1);
		else
			snprintf(row, sizeof(row), "%s", path);
		report(c, row, a, b);
	}
}

static void compare_fields(const struct comparer *c, const struct field *f, unsigned n,
			   struct pair p, const char *prefix);

/* Elements that one side alone has are told, too. */
static void compare_array(const struct comparer *c, const struct field *f, struct pair p,
			  const char *path)
{
	uint32_t na = p.a ? state_get_count(f, p.a) : 0, nb = p.b ? state_get_count(f, p.b) : 0;
	struct comparer sub = *c;
	char name[PATH_MAX_LEN + 16];

	sub.depth++;
	snprintf(name, sizeof(name), "%s.count", path);
	compare_int(c, name, pair_at(p, f->count_offset), 4);
	for (uint32_t i = 0; (i < na || i < nb) && i < f->max_count; i++) {
		struct pair element = pair_at(p, f->offset + (size_t)i * f->size);

		element.a = i < na ? element.a : NULL;
		element.b = i < nb ? element.b : NULL;
		snprintf(name, sizeof(name), "%s[%u]", path, i);
		compare_fields(&sub, f->sub, f->nsub, element, name);
	}
}

static void compare_fields(const struct comparer *c, const struct field *f, unsigned n,
			   struct pair p, const char *prefix)
{
	struct comparer sub = *c;
	char path[PATH_MAX_LEN];

	sub.depth++;
	for (const struct field *last = f + n; f < last && c->depth < STATE_MAX_DEPTH; f++) {
		snprintf(path, sizeof(path), "%s%s%s", prefix, *prefix ? "." : "", f->name);
		if (state_is_int(f))
			compare_int(c, path, pair_at(p, f->offset), f->size);
		else if (f->type == FIELD_BYTES)
			compare_bytes(c, path, pair_at(p, f->offset), f->size);
		else if (f->type == FIELD_STRUCT)
			compare_fields(&sub, f->sub, f->nsub, pair_at(p, f->offset), path);
		else
			compare_array(c, f, p, path);
	}
}

unsigned state_compare(const struct state_desc *desc, const void *a, const void *b,
		       state_differ_fn *fn, void *arg)
{
	unsigned count = 0;
	const struct comparer c = {.fn = fn, .arg = arg, .count = &count};

	compare_fields(&c, desc->fields, desc->nfields, (struct pair){a, b}, "");
	return count;
}

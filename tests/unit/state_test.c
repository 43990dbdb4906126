/* The state engine: what it writes it reads, what it did not write it refuses by name. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/state_pod.h"
#include "tests/unit/libtree.h"

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

static uint64_t seed = 0x9e3779b97f4a7c15ull;

static uint64_t next_random(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed;
}

/* Three devices, their scratch copies, and what they encode to. */
struct rig {
	struct pod pods[2], scratch[2];
	struct leaf small, small_scratch;
	struct state_item items[3], into[3];
	uint8_t blob[4096];
	size_t len;
	struct err e;
};

static void rig_encode(struct rig *r)
{
	int64_t n = state_encode_all(r->items, 3, r->blob, sizeof(r->blob));

	assert_true(n > 0);
	r->len = (size_t)n;
}

static struct rig *rig_new(void)
{
	struct rig *r = calloc(1, sizeof(*r));

	assert_non_null(r);
	for (unsigned i = 0; i < 2; i++) {
		pod_fill(&r->pods[i], next_random);
		r->pods[i].nelems = i ? 3 : POD_ELEMS;
		r->items[i] = (struct state_item){&pod_desc, (uint16_t)i, &r->pods[i]};
		r->into[i] = (struct state_item){&pod_desc, (uint16_t)i, &r->scratch[i]};
	}
	r->small.on = 1;
	r->items[2] = (struct state_item){&small_desc, 0, &r->small};
	r->into[2] = (struct state_item){&small_desc, 0, &r->small_scratch};
	rig_encode(r);
	return r;
}

/* Decode a copy that ends exactly where its allocation ends. */
static int decode(struct rig *r, const uint8_t *buf, size_t len)
{
	uint8_t *copy = malloc(len ? len : 1);
	int res;

	assert_non_null(copy);
	memcpy(copy, buf, len);
	memset(&r->e, 0, sizeof(r->e));
	res = state_decode_all(r->into, 3, copy, len, &r->e);
	if (res) {
		assert_int_equal(res, -EBADMSG);
		assert_int_equal(r->e.code, -EBADMSG);
		assert_true(r->e.msg[0]);
	}
	free(copy);
	return res;
}

static void assert_says(const struct rig *r, const char *part)
{
	if (!strstr(r->e.msg, part))
		fail_msg("'%s' does not say '%s'", r->e.msg, part);
}

static void assert_refused(struct rig *r, const uint8_t *buf, size_t len, const char *part)
{
	if (!decode(r, buf, len))
		fail_msg("accepted; must be refused with '%s'", part);
	assert_says(r, part);
}

static void round_trip_is_exact(void **state)
{
	for (unsigned n = 0; n < 2000; n++) {
		struct rig *r = rig_new();
		uint8_t again[4096];
		char name[128];
		int64_t len;

		r->pods[0].nelems = (uint32_t)(next_random() % (POD_ELEMS + 1));
		rig_encode(r);
		assert_true(r->len <= state_bound_all(r->items, 3));
		assert_int_equal(decode(r, r->blob, r->len), 0);
		len = state_encode_all(r->into, 3, again, sizeof(again));
		assert_int_equal(len, r->len);
		assert_memory_equal(again, r->blob, r->len);
		for (unsigned i = 0; i < 2; i++) {
			assert_int_equal(r->scratch[i].clock, r->pods[i].clock);
			assert_memory_equal(r->scratch[i].raw, r->pods[i].raw, 37);
			assert_false(state_diff(&pod_desc, &r->pods[i], &r->scratch[i], name,
						sizeof(name)));
			assert_int_equal(state_hash(&r->items[i]), state_hash(&r->into[i]));
		}
		free(r);
	}
}

static void full_arrays_encode_to_the_bound(void **state)
{
	struct rig *r = rig_new();
	uint8_t *buf = malloc(state_bound(&pod_desc));
	struct state_item it = r->items[0];

	assert_non_null(buf);
	assert_int_equal(state_encode_all(&it, 1, buf, state_bound(&pod_desc)),
			 state_bound(&pod_desc));
	free(buf);
	free(r);
}

static void every_truncation_is_refused(void **state)
{
	struct rig *r = rig_new();

	for (size_t len = 0; len < r->len; len++)
		assert_int_equal(decode(r, r->blob, len), -EBADMSG);
	free(r);
}

static void trailing_bytes_are_refused(void **state)
{
	struct rig *r = rig_new();

	for (size_t more = 1; more <= 64; more++) {
		memset(r->blob + r->len, 0, more);
		assert_int_equal(decode(r, r->blob, r->len + more), -EBADMSG);
	}
	free(r);
}

/* A flip may hit a value that stays within its limits; then exactly that is what was decoded. */
static void bit_flips_are_refused_or_exact(void **state)
{
	struct rig *r = rig_new();
	unsigned refused = 0;

	for (size_t bit = 0; bit < r->len * 8; bit++) {
		uint8_t again[4096];

		r->blob[bit / 8] ^= (uint8_t)(1u << (bit % 8));
		if (decode(r, r->blob, r->len)) {
			refused++;
		} else {
			assert_int_equal(state_encode_all(r->into, 3, again, sizeof(again)),
					 r->len);
			assert_memory_equal(again, r->blob, r->len);
		}
		r->blob[bit / 8] ^= (uint8_t)(1u << (bit % 8));
	}
	assert_true(refused > r->len * 8 / 2); /* heads are more than half of the bytes */
	free(r);
}

static void random_bytes_are_refused(void **state)
{
	struct rig *r = rig_new();
	uint8_t buf[256];

	for (unsigned n = 0; n < 20000; n++) {
		size_t len = 1 + next_random() % sizeof(buf);

		for (size_t i = 0; i < len; i++)
			buf[i] = (uint8_t)next_random();
		assert_int_equal(decode(r, buf, len), -EBADMSG);
	}
	free(r);
}

/*
 * Mutations of the tree of fields, with every length around them put right: what a checksum does
 * not find. Each is applied to every field of every section at every depth.
 */
enum change { DROP, DOUBLE, RENAME, RETYPE, LONGER, SHORTER, HUGE_LENGTH, PADDING, CHANGES };

static size_t mutate(const struct rig *r, unsigned at, enum change how, uint8_t *out,
		     struct tree_node *ret_node)
{
	struct tree *t = tree_parse(r->blob, r->len);
	struct tree_node *n = tree_field(t, at);
	size_t len;

	if (!n) {
		tree_free(t);
		return 0;
	}
	*ret_node = *n;
	switch (how) {
	case DROP:
		n->copies = 0;
		break;
	case DOUBLE:
		n->copies = 2;
		break;
	case RENAME:
		n->id = 0x7777;
		break;
	case RETYPE:
		n->type_on_wire = n->type == FIELD_U8 ? FIELD_U16 : FIELD_U8;
		break;
	case LONGER:
		n->extra = 1;
		break;
	case SHORTER:
		n->extra = -1;
		break;
	case HUGE_LENGTH:
		n->lie = true;
		break;
	default:
		n->pad = 1;
		break;
	}
	len = tree_write(t, out);
	tree_free(t);
	return len;
}

static void every_field_mutation_is_refused(void **state)
{
	static const char *const says[CHANGES] = {
		[DROP] = "is missing",
		[DOUBLE] = "appears twice",
		[RENAME] = "id 30583 is unknown",
		[RETYPE] = "is needed",
		[LONGER] = "",
		[SHORTER] = "",
		[HUGE_LENGTH] = "truncated",
		[PADDING] = "is needed",
	};
	struct rig *r = rig_new();
	uint8_t out[8192];
	unsigned done = 0;

	for (unsigned how = 0; how < CHANGES; how++) {
		struct tree_node n;
		size_t len;

		for (unsigned at = 0; (len = mutate(r, at, how, out, &n)); at++) {
			bool optional = n.depth == 1 && n.section == 7 && n.id == 8;

			if (how == DROP && optional) {
				assert_int_equal(decode(r, out, len), 0);
				assert_int_equal(r->scratch[n.instance].maybe, 0);
				continue;
			}
			assert_refused(r, out, len, says[how]);
			assert_says(r, n.section == 7 ? "toy[" : "small[0]");
			done++;
		}
	}
	assert_true(done > 8 * 60);
	free(r);
}

struct limit_case {
	size_t offset, size;
	uint64_t min, max;
	const char *path;
};

#define LIMIT(f, lo, hi, name)                                                                     \
	{                                                                                          \
		offsetof(struct pod, f), sizeof(((struct pod *)0)->f), lo, hi, name                \
	}

static void every_limit_holds_at_its_edge(void **state)
{
	static const struct limit_case cases[] = {
		LIMIT(lcr, 0, 0x3f, "toy[0].lcr"), /* 0x40 is refused by check() or the limit */
		LIMIT(divisor, 1, 0xffff, "toy[0].divisor"),
		LIMIT(status, 10, 1000000, "toy[0].status"),
		LIMIT(base, 0, 1ull << 48, "toy[0].base"),
		LIMIT(one.leaf.on, 0, 1, "toy[0].one.leaf.on"),
		LIMIT(elems[2].size, 1, 1024, "toy[0].elems[2].size"),
		LIMIT(elems[4].in.leaf.on, 0, 1, "toy[0].elems[4].in.leaf.on"),
		LIMIT(newer, 0, 0x7fff, "toy[0].newer"),
	};

	for (unsigned i = 0; i < COUNT(cases); i++) {
		const struct limit_case *c = &cases[i];
		uint64_t top = c->size == 8 ? UINT64_MAX : (1ull << (8 * c->size)) - 1;
		uint64_t above = c->max == 0x3f ? 0x80 : c->max + 1;
		struct rig *r = rig_new();

		memcpy((uint8_t *)&r->pods[0] + c->offset, &c->min, c->size);
		rig_encode(r);
		assert_int_equal(decode(r, r->blob, r->len), 0);
		memcpy((uint8_t *)&r->pods[0] + c->offset, &c->max, c->size);
		rig_encode(r);
		assert_int_equal(decode(r, r->blob, r->len), 0);
		if (c->max < top) {
			memcpy((uint8_t *)&r->pods[0] + c->offset, &above, c->size);
			rig_encode(r);
			assert_refused(r, r->blob, r->len, c->path);
			assert_says(r, "is outside of");
			memcpy((uint8_t *)&r->pods[0] + c->offset, &top, c->size);
			rig_encode(r);
			assert_refused(r, r->blob, r->len, c->path);
		}
		if (c->min) {
			uint64_t below = c->min - 1;

			memcpy((uint8_t *)&r->pods[0] + c->offset, &below, c->size);
			rig_encode(r);
			assert_refused(r, r->blob, r->len, c->path);
		}
		free(r);
	}
}

static void hostile_counts_are_refused(void **state)
{
	static const uint32_t counts[] = {POD_ELEMS + 1, 4,	6,	    0,
					  255,		 65536, 0x7fffffff, 0xffffffff};
	struct rig *r = rig_new();
	uint8_t out[8192];

	for (unsigned i = 0; i < COUNT(counts); i++) {
		struct tree *t = tree_parse(r->blob, r->len);
		size_t len;

		tree_find(t, 7, 0, 7)->count_on_wire = counts[i];
		tree_find(t, 7, 0, 7)->count_lies = true;
		len = tree_write(t, out);
		assert_refused(r, out, len, "toy[0].elems");
		tree_free(t);
	}
	free(r);
}

/* A table of nothing but an array, so that its value can end where the buffer ends. */
struct row {
	uint32_t n;
	struct leaf e[2];
	uint8_t guard[64];
};

static const struct field row_fields[] = {
	F_ARRAY(struct row, e, n, 1, small_fields, "elements"),
};

static const struct state_desc row_desc = {
	.name = "row",
	.id = 3,
	.version = 1,
	.size = sizeof(struct row),
	.fields = row_fields,
	.nfields = 1,
};

#define ELEMENT 9, 0, 0, 0, 1, 0, FIELD_U8, 0, 1, 0, 0, 0, 1

static void check_row(const char *says, const uint8_t *value, size_t len)
{
	size_t total = 12 + 8 + len;
	uint8_t *buf = calloc(1, total);
	struct row row;
	struct state_item it = {&row_desc, 0, &row};
	struct err e = {0};
	int r;

	assert_non_null(buf);
	buf[0] = 3;
	buf[4] = 1;
	buf[8] = (uint8_t)(8 + len);
	buf[12] = 1;
	buf[14] = FIELD_ARRAY;
	buf[16] = (uint8_t)len;
	memcpy(buf + 20, value, len);
	r = state_decode_all(&it, 1, buf, total, &e);
	assert_int_equal(r, says ? -EBADMSG : 0);
	if (says && !strstr(e.msg, says))
		fail_msg("'%s' does not say '%s'", e.msg, says);
	for (unsigned i = 0; !r && i < sizeof(row.guard); i++)
		assert_int_equal(row.guard[i], 0);
	free(buf);
}

#define ROW(says, ...)                                                                             \
	do {                                                                                       \
		const uint8_t v_[] = {__VA_ARGS__};                                                \
		check_row(says, v_, sizeof(v_));                                                   \
	} while (0)

static void arrays_end_where_they_say(void **state)
{
	check_row("no room for a count", (const uint8_t *)"", 0);
	ROW("no room for a count", 1);
	ROW("no room for a count", 1, 0, 0);
	ROW(NULL, 0, 0, 0, 0);
	ROW(NULL, 1, 0, 0, 0, ELEMENT);
	ROW(NULL, 2, 0, 0, 0, ELEMENT, ELEMENT);
	ROW("at most 2", 3, 0, 0, 0, ELEMENT, ELEMENT, ELEMENT);
	ROW("bytes too many", 1, 0, 0, 0, ELEMENT, ELEMENT);
	ROW("bytes too many", 0, 0, 0, 0, 0);
	ROW("0 of 1 elements", 1, 0, 0, 0);
	ROW("0 of 1 elements", 1, 0, 0, 0, 9, 0, 0);
	ROW("1 of 2 elements", 2, 0, 0, 0, ELEMENT, 9, 0);
	ROW("element 0 needs 9 bytes, 8 are left", 1, 0, 0, 0, 9, 0, 0, 0, 1, 0, FIELD_U8, 0, 1, 0,
	    0, 0);
	ROW("element 0 needs 4294967295 bytes", 1, 0, 0, 0, 255, 255, 255, 255);
	ROW("row[0].e[0].on: is missing", 1, 0, 0, 0, 0, 0, 0, 0);
	ROW("row[0].e[0]: truncated: 7 bytes left", 1, 0, 0, 0, 7, 0, 0, 0, 1, 0, FIELD_U8, 0, 1, 0,
	    0);
	ROW("row[0].e[0].on: truncated: 1 bytes announced", 1, 0, 0, 0, 8, 0, 0, 0, 1, 0, FIELD_U8,
	    0, 1, 0, 0, 0);
}

static void relations_are_checked_after_limits(void **state)
{
	struct rig *r = rig_new();

	r->pods[1].lcr = 0x40;
	r->pods[1].status = 1000;
	rig_encode(r);
	assert_refused(r, r->blob, r->len, "toy[1]: status 1000 with lcr 0x40");
	r->pods[1].status = 999;
	rig_encode(r);
	assert_int_equal(decode(r, r->blob, r->len), 0);
	assert_int_equal(state_decode_all(r->into, 3, r->blob, r->len, NULL), 0);
	r->pods[1].status = 1000;
	rig_encode(r);
	assert_int_equal(state_decode_all(r->into, 3, r->blob, r->len, NULL), -EBADMSG);
	free(r);
}

/* Offset of the n-th section. */
static size_t section_at(const struct rig *r, unsigned n)
{
	size_t at = 0;
	uint32_t len;

	while (n--) {
		memcpy(&len, r->blob + at + 8, 4);
		at += 12 + len;
	}
	return at;
}

static void put16(uint8_t *p, uint16_t v)
{
	memcpy(p, &v, 2);
}

static void versions_are_compared(void **state)
{
	struct rig *r = rig_new();
	uint8_t out[8192];
	struct tree *t;
	size_t len;

	put16(r->blob + 4, 3);
	assert_refused(r, r->blob, r->len, "toy[0]: version 3 is newer than 2");
	put16(r->blob + 4, 0);
	assert_refused(r, r->blob, r->len, "version 0");
	put16(r->blob + 4, 1); /* version 1 did not have "newer", so it must not be there */
	assert_refused(r, r->blob, r->len, "toy[0].newer: exists since version 2");

	t = tree_parse(r->blob, r->len);
	tree_find(t, 7, 0, 9)->copies = 0;
	len = tree_write(t, out);
	tree_free(t);
	memset(&r->scratch[0], 0xff, sizeof(r->scratch[0]));
	assert_int_equal(decode(r, out, len), 0);
	assert_int_equal(r->scratch[0].newer, 0);
	assert_int_equal(r->scratch[0].maybe, r->pods[0].maybe);
	assert_int_equal(r->scratch[1].newer, r->pods[1].newer);
	free(r);
}

static void sections_must_match_the_devices(void **state)
{
	struct rig *r = rig_new();
	uint8_t out[8192];
	size_t second = section_at(r, 1), third = section_at(r, 2);

	put16(r->blob + third, 99);
	assert_refused(r, r->blob, r->len, "section 99[0] (unknown table)");
	put16(r->blob + third, 9);
	put16(r->blob + third + 2, 5);
	assert_refused(r, r->blob, r->len, "section 9[5] (small)");
	put16(r->blob + third + 2, 0);
	put16(r->blob + second + 2, 0);
	assert_refused(r, r->blob, r->len, "toy[0]: appears twice");
	put16(r->blob + second + 2, 1);
	put16(r->blob + 6, 1);
	assert_refused(r, r->blob, r->len, "reserved");
	put16(r->blob + 6, 0);
	assert_refused(r, r->blob, third, "small[0]: section is missing");
	assert_refused(r, r->blob + second, r->len - second, "toy[0]: section is missing");
	assert_refused(r, r->blob, 0, "is missing");
	memcpy(out, r->blob, r->len);
	memcpy(out + r->len, r->blob + third, r->len - third);
	assert_refused(r, out, r->len + r->len - third, "small[0]: appears twice");
	/* another order is no error: nothing depends on it */
	memcpy(out, r->blob + second, r->len - second);
	memcpy(out + r->len - second, r->blob, second);
	assert_int_equal(decode(r, out, r->len), 0);
	assert_int_equal(r->scratch[0].base, r->pods[0].base);
	assert_int_equal(r->scratch[1].base, r->pods[1].base);
	free(r);
}

static void section_lengths_are_checked(void **state)
{
	static const uint32_t lengths[] = {0xffffffff, 0x80000000, 0x7fffffff, 4096, 0, 1, 7, 8, 9};
	struct rig *r = rig_new();

	for (unsigned i = 0; i < COUNT(lengths); i++) {
		memcpy(r->blob + 8, &lengths[i], 4);
		assert_int_equal(decode(r, r->blob, r->len), -EBADMSG);
	}
	free(r);
}

static void small_buffers_are_never_overrun(void **state)
{
	struct rig *r = rig_new();

	for (size_t cap = 0; cap < r->len; cap++) {
		uint8_t *buf = malloc(cap ? cap : 1); /* an overrun is the sanitizer's to find */

		assert_non_null(buf);
		assert_int_equal(state_encode_all(r->items, 3, buf, cap), -ENOSPC);
		free(buf);
	}
	r->pods[0].nelems = POD_ELEMS + 1;
	assert_int_equal(state_encode_all(r->items, 3, r->blob, sizeof(r->blob)), -ERANGE);
	state_hash(&r->items[0]);
	free(r);
}

static void hash_and_diff_see_every_stable_field(void **state)
{
	struct rig *r = rig_new();
	struct pod *p = &r->pods[0], same = *p;
	uint64_t before = state_hash(&r->items[0]);
	char name[128];
	unsigned seen = 0;

	for (size_t i = 0; i < sizeof(*p); i++) {
		bool differs;

		((uint8_t *)p)[i] ^= 0x01;
		differs = state_diff(&pod_desc, p, &same, name, sizeof(name));
		assert_int_equal(differs, state_hash(&r->items[0]) != before);
		seen += differs;
		((uint8_t *)p)[i] ^= 0x01;
	}
	/* all but padding and the clock */
	assert_int_equal(seen, 1 + 2 + 4 + 8 + 37 + 15 + 4 + POD_ELEMS * (2 + 15 + 3) + 4 + 2);
	p->elems[1].in.leaf.port ^= 1;
	assert_true(state_diff(&pod_desc, p, &same, name, sizeof(name)));
	assert_string_equal(name, "toy.elems[1].in.leaf.port");
	p->nelems--;
	assert_true(state_diff(&pod_desc, p, &same, name, sizeof(name)));
	assert_string_equal(name, "toy.elems.count");
	assert_int_not_equal(state_hash(&(struct state_item){&pod_desc, 1, &same}), before);
	free(r);
}

static void collect(void *arg, const char *line)
{
	char *all = arg;

	strcat(all, line);
	strcat(all, "\n");
}

static void dump_shows_path_and_value(void **state)
{
	struct rig *r = rig_new();
	char *all = calloc(1, 65536);

	assert_non_null(all);
	r->pods[0].status = 4660;
	memset(r->pods[0].raw, 0, sizeof(r->pods[0].raw));
	r->pods[0].raw[17] = 0xab;
	r->pods[0].elems[3].in.leaf.on = 1;
	state_dump(&r->items[0], collect, all);
	assert_non_null(strstr(all, "toy[0].status = 4660 (0x1234)\n"));
	assert_non_null(strstr(all, "toy[0].elems.count = 5\n"));
	assert_non_null(strstr(all, "toy[0].elems[3].in.leaf.on = 1\n"));
	assert_non_null(strstr(all, "toy[0].raw[0x10..0x1f] = 00 ab 00"));
	assert_null(strstr(all, "toy[0].raw[0x0.."));
	all[0] = 0;
	memset(r->pods[0].raw, 0, sizeof(r->pods[0].raw));
	state_dump(&r->items[0], collect, all);
	assert_non_null(strstr(all, "toy[0].raw = 37 bytes, all zero\n"));
	free(all);
	free(r);
}

static void check_refuses(const struct field *f, unsigned n, const char *part)
{
	struct state_desc d = pod_desc;
	struct err e = {0};

	d.fields = f;
	d.nfields = (uint16_t)n;
	assert_int_equal(state_desc_check(&d, &e), -EINVAL);
	if (!strstr(e.msg, part))
		fail_msg("'%s' does not say '%s'", e.msg, part);
}

#define FROB(member, value)                                                                        \
	&(struct frob)                                                                             \
	{                                                                                          \
		offsetof(struct field, member), sizeof(((struct field *)0)->member), value         \
	}

struct frob {
	size_t offset, size;
	uint64_t value;
};

static void check_one(const struct field *f, const char *part, const struct frob *change)
{
	struct field g = *f;

	memcpy((uint8_t *)&g + change->offset, &change->value, change->size);
	check_refuses(&g, 1, part);
}

static void check_pair(const struct field *f, const struct field *g, const char *part,
		       const struct frob *change)
{
	struct field both[2] = {*f, *g};

	memcpy((uint8_t *)&both[1] + change->offset, &change->value, change->size);
	check_refuses(both, 2, part);
}

/* Tables with one mistake: a good row is copied and changed. */
static void tables_are_checked(void **state)
{
	static const struct field a = F_U8(struct pod, lcr, 1, "");
	static const struct field b = F_U16(struct pod, divisor, 2, "");
	static const struct field raw = F_BYTES(struct pod, raw, 1, "");
	static const struct field one = F_STRUCT(struct pod, one, 1, inner_fields, "");
	static const struct field arr = F_ARRAY(struct pod, elems, nelems, 1, elem_fields, "");
	static struct field deep[5];
	struct state_desc d = pod_desc;

	assert_int_equal(state_desc_check(&pod_desc, NULL), 0);
	assert_int_equal(state_desc_check(&small_desc, NULL), 0);
	check_pair(&a, &b, "is also that of", FROB(id, 1));
	check_pair(&a, &b, "lies over", FROB(offset, 0));
	check_pair(&a, &b, "name is used twice", FROB(name, (uintptr_t) "lcr"));
	check_one(&a, "id above 0", FROB(id, 0));
	check_one(&a, "bytes for an integer", FROB(size, 4));
	check_one(&a, "no value", FROB(min, 256));
	check_one(&a, "since version 3", FROB(since, 3));
	check_one(&a, "do not lie", FROB(offset, sizeof(struct pod)));
	check_one(&raw, "do not lie", FROB(size, 1u << 30));
	check_one(&a, "type 0", FROB(type, 0));
	check_one(&a, "type 8", FROB(type, 8));
	check_one(&one, "no table", FROB(nsub, 0));
	check_one(&arr, "at most 0", FROB(max_count, 0));
	check_one(&arr, "count lies outside", FROB(count_offset, sizeof(struct pod) - 3));
	check_one(&arr, "do not lie", FROB(max_count, POD_ELEMS * 4));
	for (unsigned i = 0; i < COUNT(deep); i++)
		deep[i] = (struct field){.id = 1,
					 .type = FIELD_STRUCT,
					 .since = 1,
					 .size = 8,
					 .sub = &deep[i + 1 < COUNT(deep) ? i + 1 : i],
					 .nsub = 1,
					 .name = "d"};
	check_refuses(deep, 1, "nested deeper than 4");
	check_refuses(pod_fields, 0, "0 fields");
	d.version = 0;
	assert_int_equal(state_desc_check(&d, NULL), -EINVAL);
	d = pod_desc;
	d.id = 0;
	assert_int_equal(state_desc_check(&d, NULL), -EINVAL);
}

/* A table that contains itself must end in an error in every use. */
static void endless_tables_end(void **state)
{
	static struct field loop = {
		.id = 1, .type = FIELD_STRUCT, .since = 1, .size = 8, .nsub = 1, .name = "again"};
	struct state_desc d = {
		.name = "loop", .id = 1, .version = 1, .size = 8, .fields = &loop, .nfields = 1};
	uint8_t pod[8], buf[256];
	struct state_item it = {&d, 0, pod};
	uint8_t bytes[12 + 8 * 8] = {1, 0, 0, 0, 1, 0, 0, 0, 64};
	char name[64];

	loop.sub = &loop;
	for (unsigned i = 0; i < 8; i++) {
		bytes[12 + i * 8] = 1;
		bytes[12 + i * 8 + 2] = FIELD_STRUCT;
		bytes[12 + i * 8 + 4] = (uint8_t)(56 - i * 8);
	}
	assert_int_equal(state_decode_all(&it, 1, bytes, sizeof(bytes), NULL), -EBADMSG);
	assert_int_equal(state_encode_all(&it, 1, buf, sizeof(buf)), -ERANGE);
	assert_false(state_diff(&d, pod, pod, name, sizeof(name)));
	assert_true(state_bound(&d) < 256);
	state_hash(&it);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(round_trip_is_exact),
		cmocka_unit_test(full_arrays_encode_to_the_bound),
		cmocka_unit_test(every_truncation_is_refused),
		cmocka_unit_test(trailing_bytes_are_refused),
		cmocka_unit_test(bit_flips_are_refused_or_exact),
		cmocka_unit_test(random_bytes_are_refused),
		cmocka_unit_test(every_field_mutation_is_refused),
		cmocka_unit_test(every_limit_holds_at_its_edge),
		cmocka_unit_test(hostile_counts_are_refused),
		cmocka_unit_test(arrays_end_where_they_say),
		cmocka_unit_test(relations_are_checked_after_limits),
		cmocka_unit_test(versions_are_compared),
		cmocka_unit_test(sections_must_match_the_devices),
		cmocka_unit_test(section_lengths_are_checked),
		cmocka_unit_test(small_buffers_are_never_overrun),
		cmocka_unit_test(hash_and_diff_see_every_stable_field),
		cmocka_unit_test(dump_shows_path_and_value),
		cmocka_unit_test(tables_are_checked),
		cmocka_unit_test(endless_tables_end),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

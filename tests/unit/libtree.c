#include "tests/unit/libtree.h"

#include <stdlib.h>
#include <string.h>

static struct tree_node *tree_add(struct tree_node *to)
{
	struct tree_node *n = calloc(1, sizeof(*n));

	if (!n || to->nkids == TREE_KIDS)
		abort();
	n->copies = 1;
	n->section = to->section;
	n->instance = to->instance;
	n->depth = to->depth;
	to->kids[to->nkids++] = n;
	return n;
}

static uint32_t tree_u32(const uint8_t *p)
{
	return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static void tree_parse_fields(struct tree_node *to, const uint8_t *p, const uint8_t *end);

static void tree_parse_elements(struct tree_node *to, const uint8_t *p, const uint8_t *end)
{
	for (p += 4; p < end;) {
		uint32_t length = tree_u32(p);

		tree_parse_fields(tree_add(to), p + 4, p + 4 + length);
		p += 4 + length;
	}
}

static void tree_parse_fields(struct tree_node *to, const uint8_t *p, const uint8_t *end)
{
	while (p < end) {
		struct tree_node *n = tree_add(to);

		n->id = (uint16_t)(p[0] | p[1] << 8);
		n->type = n->type_on_wire = p[2];
		n->length = tree_u32(p + 4);
		n->value = p + 8;
		n->depth = (uint8_t)(to->depth + 1);
		if (n->type == FIELD_STRUCT)
			tree_parse_fields(n, n->value, n->value + n->length);
		else if (n->type == FIELD_ARRAY)
			tree_parse_elements(n, n->value, n->value + n->length);
		p = n->value + n->length;
	}
}

struct tree *tree_parse(const uint8_t *p, size_t len)
{
	struct tree *t = calloc(1, sizeof(*t));
	const uint8_t *end = p + len;

	if (!t)
		abort();
	while (p < end) {
		struct tree_node *s = tree_add(&t->root);

		s->section = (uint16_t)(p[0] | p[1] << 8);
		s->instance = (uint16_t)(p[2] | p[3] << 8);
		s->version = (uint16_t)(p[4] | p[5] << 8);
		s->length = tree_u32(p + 8);
		tree_parse_fields(s, p + 12, p + 12 + s->length);
		p += 12 + s->length;
	}
	return t;
}

static struct tree_node *tree_walk(struct tree_node *n, bool elements, unsigned *left)
{
	if ((n->id || elements) && !(*left)--)
		return n;
	for (unsigned i = 0; i < n->nkids; i++) {
		struct tree_node *found = tree_walk(n->kids[i], elements, left);

		if (found)
			return found;
	}
	return NULL;
}

struct tree_node *tree_field(struct tree *t, unsigned n)
{
	return tree_walk(&t->root, false, &n);
}

struct tree_node *tree_any(struct tree *t, unsigned n)
{
	return tree_walk(&t->root, true, &n);
}

struct tree_node *tree_find(struct tree *t, uint16_t section, uint16_t instance, uint16_t id)
{
	struct tree_node *n;

	for (unsigned i = 0; (n = tree_field(t, i)); i++)
		if (n->depth == 1 && n->section == section && n->instance == instance &&
		    n->id == id)
			return n;
	abort();
}

static uint8_t *tree_put(uint8_t *p, uint32_t v, unsigned bytes)
{
	for (unsigned i = 0; i < bytes; i++)
		p[i] = (uint8_t)(v >> (8 * i));
	return p + bytes;
}

static uint8_t *tree_write_kids(const struct tree_node *n, uint8_t *p);

static uint8_t *tree_write_value(const struct tree_node *n, uint8_t *p)
{
	uint8_t *start = p;

	if (n->type == FIELD_ARRAY) {
		uint32_t count = 0;

		for (unsigned i = 0; i < n->nkids; i++)
			count += n->kids[i]->copies;
		p = tree_put(p, n->count_lies ? n->count_on_wire : count, 4);
		for (unsigned i = 0; i < n->nkids; i++)
			for (unsigned c = 0; c < n->kids[i]->copies; c++) {
				uint8_t *end = tree_write_kids(n->kids[i], p + 4);

				tree_put(p, (uint32_t)(end - p - 4), 4);
				p = end;
			}
	} else if (n->type == FIELD_STRUCT) {
		p = tree_write_kids(n, p);
	} else {
		memcpy(p, n->value, n->length);
		p += n->length;
	}
	if (n->extra > 0)
		memset(p, 0, (size_t)n->extra);
	if (p + n->extra < start)
		return start;
	return p + n->extra;
}

static uint8_t *tree_write_kids(const struct tree_node *n, uint8_t *p)
{
	for (unsigned i = 0; i < n->nkids; i++) {
		const struct tree_node *k = n->kids[i];

		for (unsigned c = 0; c < k->copies; c++) {
			uint8_t *head = p;

			p = tree_write_value(k, head + 8);
			tree_put(head, k->id, 2);
			head[2] = k->type_on_wire;
			head[3] = k->pad;
			tree_put(head + 4, k->lie ? 0xffffffff : (uint32_t)(p - head - 8), 4);
		}
	}
	return p;
}

size_t tree_write(const struct tree *t, uint8_t *out)
{
	uint8_t *p = out;

	for (unsigned i = 0; i < t->root.nkids; i++) {
		const struct tree_node *s = t->root.kids[i];
		uint8_t *head = p;

		p = tree_write_kids(s, head + 12);
		tree_put(head, s->section, 2);
		tree_put(head + 2, s->instance, 2);
		tree_put(head + 4, s->version, 2);
		tree_put(head + 6, 0, 2);
		tree_put(head + 8, (uint32_t)(p - head - 12), 4);
	}
	return (size_t)(p - out);
}

static void tree_free_node(struct tree_node *n)
{
	for (unsigned i = 0; i < n->nkids; i++) {
		tree_free_node(n->kids[i]);
		free(n->kids[i]);
	}
}

void tree_free(struct tree *t)
{
	tree_free_node(&t->root);
	free(t);
}

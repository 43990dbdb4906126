/*
 * Encoded state as a tree that can be changed and written again with all lengths put right, so that
 * tests reach what lies behind the checks of lengths. Written from the description of the format in
 * vmm/machine/state_wire.h, not from its code.
 */
#ifndef TESTS_LIBTREE_H
#define TESTS_LIBTREE_H

#include <stdbool.h>
#include <stdint.h>

#include "vmm/machine/state.h"

#define TREE_KIDS 16

struct tree_node {
	uint16_t id; /* 0: a section or an array element, not a field */
	uint8_t type, type_on_wire, pad;
	uint8_t depth; /* 1: directly in its section */
	uint16_t section, instance, version;
	const uint8_t *value;
	uint32_t length;
	unsigned copies; /* 0 leaves it out */
	int extra;	 /* bytes more (or fewer) than the value has */
	bool lie;	 /* announce 4 GiB - 1 */
	uint32_t count_on_wire;
	bool count_lies;
	struct tree_node *kids[TREE_KIDS];
	unsigned nkids;
};

struct tree {
	struct tree_node root;
};

struct tree *tree_parse(const uint8_t *p, size_t len);
/* The n-th field in the order of the wire, or NULL. */
struct tree_node *tree_field(struct tree *t, unsigned n);
/* The same with sections and array elements counted too; 0 is the root. */
struct tree_node *tree_any(struct tree *t, unsigned n);
/* A field directly in a section. */
struct tree_node *tree_find(struct tree *t, uint16_t section, uint16_t instance, uint16_t id);
size_t tree_write(const struct tree *t, uint8_t *out);
void tree_free(struct tree *t);

#endif

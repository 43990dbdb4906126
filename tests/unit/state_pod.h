/* A device that uses every feature of a field table; for the tests and the fuzzer of the engine. */
#ifndef TESTS_UNIT_STATE_POD_H
#define TESTS_UNIT_STATE_POD_H

#include <errno.h>

#include "vmm/machine/state.h"

struct leaf {
	uint16_t port;
	uint8_t on;
};

struct inner {
	uint32_t index;
	uint64_t data;
	struct leaf leaf;
};

struct elem {
	uint16_t size;
	struct inner in;
	uint8_t tag[3];
};

#define POD_ELEMS 5

struct pod {
	uint8_t lcr;
	uint16_t divisor;
	uint32_t status;
	uint64_t base;
	uint8_t raw[37];
	struct inner one;
	uint32_t nelems;
	struct elem elems[POD_ELEMS];
	uint32_t maybe;
	uint16_t newer;
	uint64_t clock;
};

static const struct field leaf_fields[] = {
	F_U16(struct leaf, port, 1, "port"),
	F_U8(struct leaf, on, 2, "enabled", .max = 1),
};

static const struct field inner_fields[] = {
	F_U32(struct inner, index, 1, "index"),
	F_U64(struct inner, data, 2, "data"),
	F_STRUCT(struct inner, leaf, 3, leaf_fields, "leaf"),
};

static const struct field elem_fields[] = {
	F_U16(struct elem, size, 1, "ring size", .min = 1, .max = 1024),
	F_STRUCT(struct elem, in, 2, inner_fields, "inner"),
	F_BYTES(struct elem, tag, 3, "tag"),
};

static const struct field pod_fields[] = {
	F_U8(struct pod, lcr, 1, "line control", .max = 0x7f),
	F_U16(struct pod, divisor, 2, "divisor", .min = 1),
	F_U32(struct pod, status, 30, "status", .min = 10, .max = 1000000),
	F_U64(struct pod, base, 4, "base", .max = 1ull << 48),
	F_BYTES(struct pod, raw, 5, "raw"),
	F_STRUCT(struct pod, one, 6, inner_fields, "one"),
	F_ARRAY(struct pod, elems, nelems, 7, elem_fields, "elements"),
	F_U32(struct pod, maybe, 8, "optional", .flags = FIELD_OPTIONAL),
	F_U16(struct pod, newer, 9, "since 2", .since = 2, .max = 0x7fff),
	F_U64(struct pod, clock, 10, "host clock", .flags = FIELD_UNSTABLE),
};

/* The relation: a set top bit in lcr needs a status below 1000. */
static inline int pod_check(const void *p, struct err *e)
{
	const struct pod *pod = p;

	if ((pod->lcr & 0x40) && pod->status >= 1000)
		return err_set(e, -EINVAL, "status %u with lcr 0x%x", pod->status, pod->lcr);
	return 0;
}

static const struct state_desc pod_desc = {
	.name = "toy",
	.id = 7,
	.version = 2,
	.size = sizeof(struct pod),
	.fields = pod_fields,
	.nfields = sizeof(pod_fields) / sizeof(pod_fields[0]),
	.check = pod_check,
};

static const struct field small_fields[] = {
	F_U8(struct leaf, on, 1, "enabled", .max = 1),
};

static const struct state_desc small_desc = {
	.name = "small",
	.id = 9,
	.version = 1,
	.size = sizeof(struct leaf),
	.fields = small_fields,
	.nfields = 1,
};

/* Values within all limits, drawn from next(). */
static inline void pod_fill(struct pod *p, uint64_t (*next)(void))
{
	uint8_t *raw = (uint8_t *)p;

	for (size_t i = 0; i < sizeof(*p); i++)
		raw[i] = (uint8_t)next();
	p->lcr &= 0x3f;
	p->divisor |= 1;
	p->status = 10 + p->status % 999991;
	p->base &= (1ull << 48) - 1;
	p->one.leaf.on &= 1;
	p->nelems %= POD_ELEMS + 1;
	for (unsigned i = 0; i < POD_ELEMS; i++) {
		p->elems[i].size = 1 + p->elems[i].size % 1024;
		p->elems[i].in.leaf.on &= 1;
	}
	p->newer &= 0x7fff;
}

#endif

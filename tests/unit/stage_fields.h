/* Walks the encoded state of a whole machine: where each field's head and value lie. */
#ifndef TESTS_UNIT_STAGE_FIELDS_H
#define TESTS_UNIT_STAGE_FIELDS_H

#include "vmm/machine/state_wire.h"
#include "vmm/vm/vm.h"

typedef void fields_fn(void *arg, const struct field *f, size_t head, size_t value,
		       uint32_t length);

static void fields_table(const uint8_t *buf, size_t at, size_t end, const struct field *table,
			 unsigned n, fields_fn *fn, void *arg);

static inline void fields_array(const uint8_t *buf, size_t at, const struct field *f, fields_fn *fn,
				void *arg)
{
	uint32_t count = (uint32_t)state_get_int(buf + at, 4);

	at += STATE_COUNT_SIZE;
	for (uint32_t i = 0; i < count; i++) {
		uint32_t len = (uint32_t)state_get_int(buf + at, 4);

		at += STATE_COUNT_SIZE;
		fields_table(buf, at, at + len, f->sub, f->nsub, fn, arg);
		at += len;
	}
}

static void fields_table(const uint8_t *buf, size_t at, size_t end, const struct field *table,
			 unsigned n, fields_fn *fn, void *arg)
{
	while (at < end) {
		uint16_t id = (uint16_t)state_get_int(buf + at, 2);
		uint32_t length = (uint32_t)state_get_int(buf + at + 4, 4);
		size_t value = at + STATE_FIELD_HEAD;
		unsigned i = 0;

		while (i < n && table[i].id != id)
			i++;
		assert_true(i < n);
		fn(arg, &table[i], at, value, length);
		if (table[i].type == FIELD_ARRAY)
			fields_array(buf, value, &table[i], fn, arg);
		if (table[i].type == FIELD_STRUCT)
			fields_table(buf, value, value + length, table[i].sub, table[i].nsub, fn,
				     arg);
		at = value + length;
	}
}

/* Calls fn for every field of every section of buf, which must be a right encoding. */
static inline void fields_walk(const struct vm *vm, const uint8_t *buf, size_t len, fields_fn *fn,
			       void *arg)
{
	unsigned i = 0;

	for (size_t at = 0; at < len; i++) {
		const struct state_desc *d = vm->state.items[i].desc;
		uint32_t length = (uint32_t)state_get_int(buf + at + 8, 4);

		at += STATE_SECTION_HEAD;
		fields_table(buf, at, at + length, d->fields, d->nfields, fn, arg);
		at += length;
	}
}

#endif

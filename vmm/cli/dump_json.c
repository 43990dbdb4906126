#include "vmm/cli/dump_json.h"

#include <stdio.h>
#include <stdlib.h>

#include "vmm/machine/state_wire.h"

static json_t *fields(const struct field *f, unsigned n, const uint8_t *pod, unsigned depth);

static json_t *integer(const uint8_t *p, uint32_t size)
{
	uint64_t v = state_get_int(p, size);

	return size < 8 ? json_integer((json_int_t)v)
			: json_sprintf("0x%llx", (unsigned long long)v);
}

static json_t *bytes(const uint8_t *p, uint32_t size)
{
	char *text = malloc(2 * (size_t)size + 1);
	json_t *s;

	for (uint32_t i = 0; text && i < size; i++)
		sprintf(text + 2 * (size_t)i, "%02x", p[i]);
	s = text ? json_stringn(text, 2 * (size_t)size) : NULL;
	free(text);
	return s;
}

static json_t *array(const struct field *f, const uint8_t *pod, unsigned depth)
{
	uint32_t n = state_get_count(f, pod);
	json_t *a = json_array();

	for (uint32_t i = 0; i < n && i < f->max_count; i++)
		json_array_append_new(a, fields(f->sub, f->nsub,
						pod + f->offset + (size_t)i * f->size, depth + 1));
	return a;
}

static json_t *fields(const struct field *f, unsigned n, const uint8_t *pod, unsigned depth)
{
	json_t *o = json_object();

	for (const struct field *last = f + n; f < last && depth <= STATE_MAX_DEPTH; f++) {
		const uint8_t *p = pod + f->offset;
		json_t *v = state_is_int(f)	      ? integer(p, f->size)
			    : f->type == FIELD_BYTES  ? bytes(p, f->size)
			    : f->type == FIELD_STRUCT ? fields(f->sub, f->nsub, p, depth + 1)
						      : array(f, pod, depth);

		json_object_set_new(o, f->name, v);
	}
	return o;
}

static json_t *machine(const struct vm_view *v)
{
	const struct machine *m = &v->machine;
	json_t *ids = json_object();

	for (unsigned i = 0; i < v->nitems; i++) {
		const char *id = vm_view_id(v, &v->items[i]);
		char name[64];

		snprintf(name, sizeof(name), "%s[%u]", v->items[i].desc->name,
			 v->items[i].instance);
		if (id)
			json_object_set_new(ids, name, json_string(id));
	}
	return json_pack("{ss, sI, si, so}", "name", m->name, "mem_bytes", (json_int_t)m->mem_bytes,
			 "vcpus", (int)m->vcpus, "ids", ids);
}

json_t *dump_json(const struct vm_view *v)
{
	json_t *state = json_object();

	for (unsigned i = 0; i < v->nitems; i++) {
		const struct state_item *it = &v->items[i];
		char name[64];

		snprintf(name, sizeof(name), "%s[%u]", it->desc->name, it->instance);
		json_object_set_new(state, name,
				    fields(it->desc->fields, it->desc->nfields, it->pod, 1));
	}
	return json_pack("{so, so}", "machine", machine(v), "state", state);
}

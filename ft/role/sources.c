#include "ft/role/sources.h"

#include <stdio.h>
#include <string.h>

#define LOOK_NS 1000000000ull

struct look {
	struct sources *s;
	char last[SOURCES_NAME]; /* rows of bytes are one field */
};

static void count(struct sources *s, const char *name)
{
	for (unsigned i = 0; i < s->n; i++) {
		if (!strcmp(s->fields[i].name, name)) {
			s->fields[i].count++;
			return;
		}
	}
	if (s->n == SOURCES_MAX) {
		s->others++;
		return;
	}
	snprintf(s->fields[s->n].name, SOURCES_NAME, "%s", name);
	s->fields[s->n++].count = 1;
}

/* Of "buf[0x10..0x1f]" it is "buf". */
static int without_row(const char *path)
{
	const char *row = strrchr(path, '[');

	return row && strstr(row, "..") ? (int)(row - path) : (int)strlen(path);
}

static void differs(void *arg, const struct state_item *it, const char *path)
{
	struct look *l = arg;
	char name[SOURCES_NAME];

	snprintf(name, sizeof(name), "%s[%u].%.*s", it->desc->name, it->instance, without_row(path),
		 path);
	if (!strcmp(name, l->last))
		return;
	memcpy(l->last, name, sizeof(name));
	count(l->s, name);
}

void sources_look(struct sources *s, struct vm *vm)
{
	struct look l = {.s = s};
	uint64_t now = loop_now_ns();

	if (s->looks && now - s->looked_ns < LOOK_NS)
		return;
	s->looked_ns = now;
	s->looks++;
	vm_compare(vm, differs, &l);
}

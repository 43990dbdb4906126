/*
 * The field tables of all that has state, as docs/state.md has them, from the tables that encode
 * and check it. A table inside others is printed where it is met first.
 */
#include <stdio.h>
#include <string.h>

#include "vmm/vm/vm.h"

#define TABLES_MAX 64

/* What is printed, and where. */
static struct {
	const struct field *table;
	char place[240];
} seen[TABLES_MAX];
static unsigned nseen;

static const char *place_of(const struct field *table)
{
	for (unsigned i = 0; i < nseen; i++)
		if (seen[i].table == table)
			return seen[i].place;
	return NULL;
}

static void print_type(const struct field *f)
{
	static const char *const ints[] = {
		[FIELD_U8] = "u8", [FIELD_U16] = "u16", [FIELD_U32] = "u32", [FIELD_U64] = "u64"};

	if (f->type < FIELD_BYTES)
		printf("%s", ints[f->type]);
	else if (f->type == FIELD_BYTES)
		printf("%u bytes", f->size);
	else if (f->type == FIELD_STRUCT)
		printf("struct");
	else
		printf("up to %u structs", f->max_count);
	if (f->sub && place_of(f->sub))
		printf(", as %s", place_of(f->sub));
}

static void print_rules(const struct field *f)
{
	const char *between = "";

	if (f->max || f->min) {
		printf("%llu..", (unsigned long long)f->min);
		if (f->max)
			printf("%llu", (unsigned long long)f->max);
		between = "; ";
	}
	if (f->since > 1) {
		printf("%ssince version %u", between, f->since);
		between = "; ";
	}
	if (f->flags & FIELD_OPTIONAL) {
		printf("%smay be left out", between);
		between = "; ";
	}
	if (f->flags & FIELD_UNSTABLE)
		printf("%sunstable", between);
}

static void print_fields(const char *device, const struct field *f, unsigned n, const char *path,
			 const char *ids)
{
	for (const struct field *last = f + n; f < last; f++) {
		char name[160], id[40];

		snprintf(name, sizeof(name), "%s%s%s%s", path, *path ? "." : "", f->name,
			 f->type == FIELD_ARRAY ? "[]" : "");
		snprintf(id, sizeof(id), "%s%s%u", ids, *ids ? "." : "", f->id);
		printf("| %s | %s | ", name, id);
		print_type(f);
		printf(" | ");
		print_rules(f);
		printf(" | %s |\n", f->doc);
		if (!f->sub || place_of(f->sub) || nseen == TABLES_MAX)
			continue;
		seen[nseen].table = f->sub;
		snprintf(seen[nseen++].place, sizeof(seen[0].place), "%s %s", device, name);
		print_fields(device, f->sub, f->nsub, name, id);
	}
}

int main(void)
{
	struct machine m = {.vcpus = 1, .ndevs = MDEV_VSOCK};
	struct state_item items[VM_MAX_ITEMS];
	unsigned n;

	for (unsigned i = 0; i < m.ndevs; i++)
		m.devs[i].kind = MDEV_BLK + i;
	n = vm_state_list(&m, items);
	for (unsigned i = 0; i < n; i++) {
		const struct state_desc *d = items[i].desc;

		printf("%s### %s\n\nId %u, version %u, at most %zu bytes.\n\n", i ? "\n" : "",
		       d->name, d->id, d->version, state_bound(d));
		printf("| field | id | type | limits | |\n| --- | --- | --- | --- | --- |\n");
		print_fields(d->name, d->fields, d->nfields, "", "");
	}
	return 0;
}

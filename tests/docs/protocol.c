/*
 * The tables of the protocols as docs/protocol.md and docs/migration.md have them, from the tables
 * that the program runs: "protocol primary", "move", "secondary", "source" or "dest"; and those of
 * docs/monitoring.md, "metrics" and "trace"; and
 * docs/control.md, "control".
 */
#include <stdio.h>
#include <string.h>

#include "ft/role/primary.h"
#include "ft/role/secondary.h"
#include "postcopy/phases.h"
#include "vmm/cli/command.h"
#include "vmm/cli/ctl_schema.h"
#include "vmm/cli/metrics.h"

/* Rows one after the other that differ in their states only are one line. */
static int same_line(const struct fsm_row *a, const struct fsm_row *b)
{
	int stay = a->next == a->state && b->next == b->state;

	return a->event == b->event && (stay || a->next == b->next) && a->action == b->action &&
	       !strcmp(a->does, b->does);
}

static void print_rows(const struct fsm_desc *d)
{
	printf("| state | event | next | action |\n| --- | --- | --- | --- |\n");
	for (unsigned i = 0, n; i < d->nrows; i += n) {
		const struct fsm_row *row = &d->rows[i];

		printf("| %s", d->states[row->state]);
		for (n = 1; i + n < d->nrows && same_line(row, row + n); n++)
			printf(", %s", d->states[row[n].state]);
		printf(" | %s | %s | %s |\n", d->events[row->event],
		       row->next != row->state ? d->states[row->next] : "as before", row->does);
	}
}

static void print_states(const struct fsm_desc *d, const char *const *what)
{
	printf("| state | |\n| --- | --- |\n");
	for (unsigned i = 0; i < d->nstates; i++)
		printf("| %s | %s |\n", d->states[i], what[i]);
	printf("\n");
}

#define X(name, what) what,
static const char *const primary_states[] = {PRIMARY_STATES(X)};
static const char *const move_states[] = {MOVE_STATES(X)};
static const char *const secondary_states[] = {SECONDARY_STATES(X)};
static const char *const source_states[] = {SOURCE_STATES(X)};
static const char *const dest_states[] = {DEST_STATES(X)};
#undef X

static const struct table {
	const char *name;
	const struct fsm_desc *desc;
	const char *const *states;
} tables[] = {
	{"primary", &primary_desc, primary_states},
	{"move", &move_desc, move_states},
	{"secondary", &secondary_desc, secondary_states},
	{"source", &source_desc, source_states},
	{"dest", &dest_desc, dest_states},
};

static int print_trace(void)
{
	const struct trace_row *row;

	printf("| span | track | args | from, to |\n| --- | --- | --- | --- |\n");
	for (unsigned i = 0; (row = trace_row_at(i)); i++)
		printf("| %s | %s | %s | %s |\n", row->name, row->track, row->n, row->help);
	printf("\nWhy an epoch was sealed, in `why`:");
	for (unsigned why = FT_SEAL_NONE + 1; why < FT_SEALS; why++)
		printf("%s %s", why > FT_SEAL_NONE + 1 ? "," : "", ft_seal_name(why));
	printf(".\n");
	return 0;
}

static void print_fields(enum ctl_part part, const char *of, const char *head, const char *none)
{
	const struct ctl_field *f;
	unsigned n = 0;

	for (unsigned i = 0; (f = ctl_field_at(i)); i++) {
		if (f->part != part || strcmp(f->of, of) != 0 || !strcmp(f->type, "nothing"))
			continue;
		if (!*f->name) {
			printf("%s: a %s: %s.\n\n", head, f->type, f->help);
			return;
		}
		if (!n++)
			printf("| %s | type | |\n| --- | --- | --- |\n", head);
		printf("| %s | %s | %s |\n", f->name, f->type, f->help);
	}
	printf("%s%s", n ? "" : none, n || *none ? "\n" : "");
}

/* Of a part of the table, each name once. */
static void print_part(enum ctl_part part, const char *title, const char *head)
{
	const struct ctl_field *f, *last = NULL;

	for (unsigned i = 0; (f = ctl_field_at(i)); last = f, i++) {
		if (f->part != part || (last && !strcmp(last->of, f->of)))
			continue;
		printf("### %s %s\n\n", title, f->of);
		if (!strcmp(f->type, "nothing"))
			printf("%s.\n\n", f->help);
		print_fields(part, f->of, head, "");
	}
}

static int print_control(void)
{
	const struct command *c;

	for (unsigned i = 0; (c = command_at(i)); i++) {
		if (!c->serve)
			continue;
		printf("### %s\n\n%s.\n\n", c->name, c->help);
		print_fields(CTL_REQUEST, c->name, "request", "Request: nothing besides `cmd`.\n");
		print_fields(CTL_REPLY, c->name, "reply",
			     "Reply: an empty object, when it is done.\n");
	}
	print_part(CTL_EVENT, "event", "member");
	print_part(CTL_OBJECT, "object", "member");
	return 0;
}

static int print_metrics(void)
{
	const struct metric *m;
	char name[100];

	printf("| metric | type | labels | meaning |\n| --- | --- | --- | --- |\n");
	for (unsigned i = 0; (m = metrics_at(i)); i++) {
		metrics_sample_name(m, name, sizeof(name));
		printf("| %s | %s | vm%s%s", name, metrics_type(m->type), m->label ? ", " : "",
		       m->label ? m->label : "");
		for (unsigned v = 0; v < METRICS_VALUES && m->values[v].label; v++)
			printf("%s%s", v ? ", " : ": ", m->values[v].label);
		printf(" | %s |\n", m->help);
	}
	return 0;
}

int main(int argc, char **argv)
{
	if (argc == 2 && !strcmp(argv[1], "metrics"))
		return print_metrics();
	if (argc == 2 && !strcmp(argv[1], "trace"))
		return print_trace();
	if (argc == 2 && !strcmp(argv[1], "control"))
		return print_control();
	for (size_t i = 0; argc == 2 && i < sizeof(tables) / sizeof(tables[0]); i++)
		if (!strcmp(argv[1], tables[i].name)) {
			print_states(tables[i].desc, tables[i].states);
			print_rows(tables[i].desc);
			return 0;
		}
	fprintf(stderr,
		"usage: protocol primary|move|secondary|source|dest|metrics|trace|control\n");
	return 1;
}

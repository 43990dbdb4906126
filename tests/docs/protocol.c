/*
 * The tables of the protocol as docs/protocol.md has them, from the tables that the program runs:
 * "protocol primary" or "protocol secondary".
 */
#include <stdio.h>
#include <string.h>

#include "ft/role/primary.h"
#include "ft/role/secondary.h"

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
static const char *const secondary_states[] = {SECONDARY_STATES(X)};
#undef X

int main(int argc, char **argv)
{
	int primary = argc == 2 && !strcmp(argv[1], "primary");

	if (argc != 2 || (!primary && strcmp(argv[1], "secondary"))) {
		fprintf(stderr, "usage: protocol primary|secondary\n");
		return 1;
	}
	print_states(primary ? &primary_desc : &secondary_desc,
		     primary ? primary_states : secondary_states);
	print_rows(primary ? &primary_desc : &secondary_desc);
	return 0;
}

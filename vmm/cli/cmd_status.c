#include "vmm/cli/cmd_status.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/cli/cmd_ctl.h"
#include "vmm/cli/ctl_client.h"
#include "vmm/cli/table.h"
#include "vmm/cli/vms.h"

static int state_exit(json_t *status)
{
	static const struct {
		const char *state;
		int code;
	} codes[] = {
		{"PROTECTED", EXIT_DONE}, {"RUNNING", EXIT_DONE}, {"FENCED", EXIT_FENCED},
		{"MIGRATED", EXIT_GONE},  {"STOPPED", EXIT_GONE}, {"MIGRATING", EXIT_DONE},
	};
	const char *state = json_string_value(json_object_get(status, "state"));
	const char *role = json_string_value(json_object_get(status, "role"));

	for (size_t i = 0; state && i < sizeof(codes) / sizeof(codes[0]); i++)
		if (!strcmp(state, codes[i].state))
			return codes[i].code;
	/* A plain VM never meant to be protected. */
	if (role && state && !strcmp(role, "plain") && !strcmp(state, "PAUSED"))
		return EXIT_DONE;
	return EXIT_UNPROTECTED;
}

static void pause_text(json_t *status, char *ret, size_t cap)
{
	json_t *p99 = json_object_get(json_object_get(status, "pause_us"), "p99");

	if (json_is_number(p99))
		snprintf(ret, cap, "%.1fms", json_number_value(p99) / 1000);
	else
		snprintf(ret, cap, "-");
}

#define COLUMNS 9
static void print_table(json_t *const *status, int n)
{
	static const char *const head[COLUMNS] = {"NAME",  "ROLE",	"STATE", "MODE", "PEER",
						  "EPOCH", "PAUSE-p99", "HELD",	 "GEN"};
	static const char *const key[COLUMNS] = {"name", "role",	 "state",
						 "mode", "peer",	 "epoch",
						 NULL,	 "held_packets", "generation"};
	table_row *rows = calloc((size_t)n + 1, sizeof(*rows));

	for (int row = 0; rows && row <= n; row++)
		for (int i = 0; i < COLUMNS; i++) {
			char *cell = rows[row][i];

			if (!row)
				snprintf(cell, TABLE_CELL, "%s", head[i]);
			else if (!key[i])
				pause_text(status[row - 1], cell, TABLE_CELL);
			else
				table_cell(json_object_get(status[row - 1], key[i]), cell,
					   TABLE_CELL);
		}
	if (rows)
		table_print(rows, n + 1, COLUMNS);
	free(rows);
}

static double number(json_t *o, const char *key)
{
	return json_number_value(json_object_get(o, key));
}

static void print_progress(double done, double mib_per_s, double left_s)
{
	printf("%.0f %%, %.0f MiB/s", done < 0 ? 0 : done > 0.99 ? 99 : done * 100, mib_per_s);
	if (left_s >= 0)
		printf(", about %.0f s left", left_s);
	putchar('\n');
}

/* Disks go before memory, and what the guest changes goes again. */
static void print_sync(json_t *sync)
{
	double s = number(sync, "time_us") / 1e6, pages = number(sync, "pages"),
	       left = number(sync, "memory_pages") - pages;

	printf("first sync: ");
	if (pages <= 0 || s <= 0)
		printf("disks, %.0f MiB sent\n", number(sync, "bytes") / (1 << 20));
	else
		print_progress(pages / (pages + (left > 0 ? left : 0)),
			       number(sync, "bytes") / (1 << 20) / s,
			       left > 0 ? s * left / pages : -1);
}

/* Of the pass that is under way, as the bar of `ftvmm migrate`. */
static void print_migration(json_t *o)
{
	const char *status = json_string_value(json_object_get(o, "status"));
	const char *direction = json_string_value(json_object_get(o, "direction"));
	json_t *ram = json_object_get(o, "ram");
	double total = number(ram, "total"), left = number(ram, "remaining"),
	       rate = number(ram, "mbps") * 1e6 / 8;

	if (!status || strcmp(status, "active") || !direction || strcmp(direction, "out") ||
	    total <= 0)
		return;
	printf("migration: ");
	print_progress(1 - left / total, rate / (1 << 20), rate > 0 ? left / rate : -1);
}

/* What its epochs were sealed for, those that were. */
static void print_seals(json_t *seals)
{
	const char *before = "sealed for: ", *why;
	json_t *n;

	json_object_foreach(seals, why, n)
	{
		if (json_integer_value(n) <= 0)
			continue;
		printf("%s%s %" JSON_INTEGER_FORMAT, before, why, json_integer_value(n));
		before = ", ";
	}
	if (*before == ',')
		putchar('\n');
}

/* Of one VM, below the table: why it is so, and how far it is. */
static void print_more(json_t *status)
{
	char note[512];

	table_cell(json_object_get(status, "note"), note, sizeof(note));
	if (strcmp(note, "-"))
		printf("note: %s\n", note);
	if (json_object_get(status, "sync"))
		print_sync(json_object_get(status, "sync"));
	print_migration(json_object_get(status, "migration"));
	print_seals(json_object_get(status, "seals"));
}

static void show(const struct vms *all, bool as_json)
{
	json_t *array = as_json ? json_array() : NULL;
	json_t *status[VMS_MAX] = {0};

	for (int i = 0; i < all->n; i++) {
		status[i] = all->list[i].status;
		json_array_append(array, status[i]);
	}
	if (as_json)
		cmd_print_json(array);
	else if (all->n)
		print_table(status, all->n);
	else
		vms_say_none();
	json_decref(array);
}

static int show_all(const struct command_words *w)
{
	struct vms all = {.n = 0};
	struct err e = {0};
	int code = EXIT_DONE;

	if (vms_ask(&all, CTL_SHORT_MS, &e))
		return cmd_fail(&e);
	show(&all, w->json);
	for (int i = 0; i < all.n; i++) {
		int one = state_exit(all.list[i].status);

		code = one > code ? one : code;
	}
	vms_free(&all);
	return code;
}

int cmd_status(const struct command_words *w)
{
	struct err e = {0};
	json_t *status;
	int code;

	if (!w->name)
		return show_all(w);
	status = ctl_call(w->name, json_pack("{ss}", "cmd", "status"), CTL_SHORT_MS, &e);
	if (!status)
		return cmd_fail(&e);
	if (w->json) {
		cmd_print_json(status);
	} else {
		print_table(&status, 1);
		print_more(status);
	}
	code = state_exit(status);
	json_decref(status);
	return code;
}

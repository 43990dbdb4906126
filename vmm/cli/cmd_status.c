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
	if (w->json)
		cmd_print_json(status);
	else
		print_table(&status, 1);
	code = state_exit(status);
	json_decref(status);
	return code;
}

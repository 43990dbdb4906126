#include "vmm/cli/cmd_top.h"

#include <errno.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "vmm/base/loop.h"
#include "vmm/cli/cmd_ctl.h"
#include "vmm/cli/table.h"
#include "vmm/cli/vms.h"

#define EACH_MS	  1000
#define ANSWER_MS 300 /* one that hangs does not keep the others from being shown */
#define COLUMNS	  10

struct look {
	struct vms vms;
	uint64_t at_ns;
};

static double number(json_t *o, const char *key)
{
	return json_number_value(json_object_get(o, key));
}

/* A second of what only grows; a dash when there is none, or the process is another one. */
static void rate_text(json_t *was, json_t *is, const char *key, double seconds, char *cell)
{
	double grown = number(is, key) - number(was, key);

	if (was && seconds > 0 && grown >= 0 && number(was, "pid") == number(is, "pid"))
		snprintf(cell, TABLE_CELL, "%.0f", grown / seconds);
	else
		snprintf(cell, TABLE_CELL, "-");
}

static void ms_text(json_t *us, char *cell)
{
	if (json_is_number(us))
		snprintf(cell, TABLE_CELL, "%.1fms", json_number_value(us) / 1000);
	else
		snprintf(cell, TABLE_CELL, "-");
}

static json_t *before(const struct look *last, const char *name)
{
	for (int i = 0; i < last->vms.n; i++)
		if (last->vms.list[i].answers && !strcmp(last->vms.list[i].name, name))
			return last->vms.list[i].status;
	return NULL;
}

static void fill_row(table_row row, const struct vm_status *vm, json_t *was, double seconds)
{
	json_t *o = vm->status, *pause = json_object_get(o, "pause_us");

	table_cell(json_object_get(o, "name"), row[0], TABLE_CELL);
	if (!vm->answers) {
		snprintf(row[1], TABLE_CELL, "no answer");
		for (int i = 2; i < COLUMNS; i++)
			strcpy(row[i], "-");
		return;
	}
	table_cell(json_object_get(o, "state"), row[1], TABLE_CELL);
	table_cell(json_object_get(o, "role"), row[2], TABLE_CELL);
	table_cell(json_object_get(o, "peer"), row[3], TABLE_CELL);
	rate_text(was, o, "epochs_total", seconds, row[4]);
	ms_text(json_object_get(pause, "p50"), row[5]);
	ms_text(json_object_get(pause, "p99"), row[6]);
	table_cell(json_object_get(o, "dirty_pages"), row[7], TABLE_CELL);
	ms_text(json_object_get(o, "ack_lag_us"), row[8]);
	table_cell(json_object_get(o, "held_packets"), row[9], TABLE_CELL);
}

static void show(const struct look *last, const struct look *now)
{
	static const char *const head[COLUMNS] = {"NAME",     "STATE",	   "ROLE",	"PEER",
						  "EPOCHS/s", "PAUSE-p50", "PAUSE-p99", "DIRTY",
						  "LAG",      "HELD"};
	table_row *rows = calloc((size_t)now->vms.n + 1, sizeof(*rows));
	double seconds = (double)(now->at_ns - last->at_ns) / 1e9;

	for (int i = 0; rows && i < COLUMNS; i++)
		snprintf(rows[0][i], TABLE_CELL, "%s", head[i]);
	for (int i = 0; rows && i < now->vms.n; i++)
		fill_row(rows[i + 1], &now->vms.list[i], before(last, now->vms.list[i].name),
			 seconds);
	if (rows)
		table_print(rows, now->vms.n + 1, COLUMNS);
	free(rows);
}

/* Of one VM: why it is as it is, and what is not in a column. */
static void show_more(const struct vm_status *vm)
{
	static const char *const keys[] = {"note",
					   "cover",
					   "holder",
					   "generation",
					   "epoch",
					   "unacked_us",
					   "disklog_bytes",
					   "staging_used_pages",
					   "held_bytes",
					   "sync_bytes",
					   "images_behind_bytes",
					   "error"};
	char text[512];

	putchar('\n');
	for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
		table_cell(json_object_get(vm->status, keys[i]), text, sizeof(text));
		if (strcmp(text, "-"))
			printf("%-20s %s\n", keys[i], text);
	}
}

static int look(struct look *l, const char *name, struct err *e)
{
	l->vms.n = 0;
	l->at_ns = loop_now_ns();
	return name ? vms_ask_one(&l->vms, name, ANSWER_MS, e) : vms_ask(&l->vms, ANSWER_MS, e);
}

static int run(struct look *looks, const struct command_words *w, struct err *e)
{
	bool once = w->nargs > 0, terminal = isatty(STDOUT_FILENO);
	int r = look(&looks[0], w->name, e);

	for (unsigned n = 1; !r; n++) {
		struct look *now = &looks[n % 2], *last = &looks[(n - 1) % 2];

		poll(NULL, 0, EACH_MS);
		vms_free(&now->vms);
		r = look(now, w->name, e);
		if (r)
			break;
		if (terminal && !once)
			fputs("\033[H\033[J", stdout);
		if (!now->vms.n)
			vms_say_none();
		else
			show(last, now);
		if (w->name)
			show_more(&now->vms.list[0]);
		if (fflush(stdout) || ferror(stdout) || once)
			break; /* whoever read our output has left */
	}
	vms_free(&looks[0].vms);
	vms_free(&looks[1].vms);
	return r;
}

int cmd_top(const struct command_words *w)
{
	struct look *looks;
	struct err e = {0};

	if (w->json)
		err_set(&e, -EINVAL, "top: it is for people: ftvmm status --json has the numbers");
	else if (w->nargs && strcmp(w->args[0], "--once") != 0)
		err_set(&e, -EINVAL, "top: unknown argument '%.40s'; there is --once", w->args[0]);
	if (e.code)
		return cmd_fail(&e);
	looks = calloc(2, sizeof(*looks));
	if (!looks)
		err_set(&e, -ENOMEM, "out of memory");
	else
		run(looks, w, &e);
	free(looks);
	return e.code ? cmd_fail(&e) : EXIT_DONE;
}

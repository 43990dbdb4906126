#include "vmm/cli/cmd_migrate.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "vmm/cli/cmd_ctl.h"
#include "vmm/cli/ctl_client.h"
#include "vmm/conf/migrate_conf.h"
#include "vmm/wire/chan.h"

#define BAR_WIDTH 30
#define SILENT_MS 30000 /* progress is told ten times a second */

static double number(json_t *o, const char *key)
{
	return json_number_value(json_object_get(o, key));
}

/* What is behind the bar: how a pass gets on, or what the VM that runs there still lacks. */
static void draw_numbers(json_t *o, json_t *ram)
{
	json_t *pages = json_object_get(ram, "postcopy-pages"), *disk = json_object_get(o, "disk");

	if (disk && !pages)
		printf("disks %.0f MiB left, ", number(disk, "remaining") / (1 << 20));
	printf("%.0f MiB sent, %.0f left, ", number(ram, "transferred") / (1 << 20),
	       number(ram, "remaining") / (1 << 20));
	if (pages)
		printf("the VM runs there, %.0f pages asked for, %.0f pushed",
		       number(pages, "urgent"), number(pages, "background"));
	else
		printf("pass %.0f, %.0f Mbit/s, dirty %.0f MiB/s, downtime would be %.0f ms",
		       number(ram, "dirty-sync-count"), number(ram, "mbps"),
		       number(ram, "dirty-pages-rate") / 256, number(o, "expected-downtime"));
}

/* One line, over the last one. The bar is of the pass that is under way, or of all memory. */
static void draw(json_t *o)
{
	json_t *ram = json_object_get(o, "ram");
	double total = number(ram, "total"), left = number(ram, "remaining");
	unsigned full = total > 0 && left <= total ? (unsigned)(BAR_WIDTH * (1 - left / total)) : 0;

	printf("\r[%.*s%*s] ", (int)full, "##############################", (int)(BAR_WIDTH - full),
	       "");
	draw_numbers(o, ram);
	printf("\033[K");
}

static void show(json_t *o, bool json, bool terminal)
{
	if (terminal && !json)
		draw(o);
	else
		cmd_print_json(o);
	fflush(stdout);
}

/* The exit code of an end, or -1: it goes on. */
static int end_of(json_t *o, const char *status, bool cancel)
{
	const char *why = json_string_value(json_object_get(o, "error-desc"));
	const char *phase = json_string_value(json_object_get(o, "phase"));
	bool left = phase && !strcmp(phase, "SRC_LEFT");

	if (!status)
		return -1;
	if (!strcmp(status, "completed") && !cancel && json_object_get(o, "disk"))
		fprintf(stderr, "ftvmm: migrate: the images that went along are of the past here: "
				"the VM goes on with its copies\n");
	if (!strcmp(status, "completed"))
		return cancel ? EXIT_FAILED : EXIT_DONE;
	if (!strcmp(status, "cancelled") && cancel)
		return EXIT_DONE;
	if (!strcmp(status, "cancelled") || !strcmp(status, "failed")) {
		fprintf(stderr, "ftvmm: migrate: %s: %s; the VM %s\n", status, why ? why : "?",
			left ? "is the destination's" : "goes on here");
		return left ? EXIT_GONE : EXIT_FAILED;
	}
	if (strcmp(status, "unsure"))
		return -1;
	fprintf(stderr,
		"ftvmm: migrate: nobody knows whether the VM runs at the destination: %s; "
		"ftvmm status says what to do\n",
		why ? why : "?");
	return EXIT_FENCED;
}

/* Events up to the last one of this migration. */
static int follow(struct ctl_client *c, const struct command_words *w, bool cancel)
{
	bool terminal = isatty(STDOUT_FILENO);
	struct err e = {0};
	int code = -1;

	while (code < 0) {
		char *line = NULL;
		json_t *o;
		const char *status;

		if (ctl_client_line(c, SILENT_MS, &line, &e))
			return cmd_fail(&e);
		if (!line) {
			fprintf(stderr, "ftvmm: migrate: the VM's process here has ended; ftvmm "
					"status at the other host says whether it runs there\n");
			return EXIT_FENCED;
		}
		o = json_loads(line, 0, NULL);
		status = json_string_value(json_object_get(o, "status"));
		if (status && json_object_get(o, "event")) {
			show(o, w->json, terminal);
			if (terminal && !w->json && strcmp(status, "active"))
				putchar('\n');
			code = end_of(o, status, cancel);
		}
		json_decref(o);
	}
	return code;
}

static bool is_file(const struct migrate_conf *conf)
{
	return conf->recover[0] && !strncmp(conf->uri, "file:", 5);
}

/* Here, where nobody waits for a name server but the user. */
static int complete_uri(struct migrate_conf *conf, struct err *e)
{
	char path[sizeof(conf->uri) - 5];
	int r;

	if (conf->cancel)
		return 0;
	if (!is_file(conf))
		return chan_resolve(conf->uri, sizeof(conf->uri), e);
	r = cmd_absolute(conf->uri + 5, path, sizeof(path), e);
	if (!r)
		memcpy(conf->uri + 5, path, strlen(path) + 1);
	return r ? err_wrap(e, "migrate: --recover") : 0;
}

int cmd_migrate(const struct command_words *w)
{
	struct migrate_conf conf;
	struct ctl_client *c = NULL;
	struct err e = {0};
	int r = migrate_conf_words(&conf, w->args, w->nargs, &e), code;
	json_t *request, *ok;

	if (!r)
		r = complete_uri(&conf, &e);
	if (!r)
		r = ctl_client_open(&c, w->name, CTL_SHORT_MS, &e);
	if (r)
		return cmd_fail(&e);
	request = migrate_conf_json(&conf);
	/* A file takes its time, and is given up when its storage does not go on. */
	ok = request ? ctl_client_call(c, request, is_file(&conf) ? -1 : CTL_SHORT_MS, &e) : NULL;
	if (!request)
		err_set(&e, -EINVAL, "migrate: an argument is not valid UTF-8");
	/* It may be over already, as when nobody listens there. */
	if (!ok)
		code = cmd_fail(&e);
	else if (conf.recover[0])
		code = EXIT_DONE; /* what comes of it ftvmm status says */
	else
		code = end_of(ok, json_string_value(json_object_get(ok, "status")), conf.cancel);
	if (code < 0)
		code = follow(c, w, conf.cancel);
	json_decref(ok);
	ctl_client_close(c);
	return code;
}

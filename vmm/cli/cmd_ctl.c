#include "vmm/cli/cmd_ctl.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "ft/common/ft.h"
#include "vmm/base/loop.h"
#include "vmm/cli/cmd_console.h"
#include "vmm/conf/config.h"
#include "vmm/conf/setting.h"
#include "vmm/cli/ctl_client.h"
#include "vmm/conf/option.h"

#define BUSY_MS 60000  /* for an answer */
#define LONG_MS 600000 /* stop may have to drain to a peer */
#define SAY_MS	5000   /* and says then that it waits */

int cmd_fail(const struct err *e)
{
	fprintf(stderr, "ftvmm: %s\n", e->msg);
	if (e->code == -ENOENT || e->code == -EINVAL || e->code == -ERANGE)
		return EXIT_USAGE;
	return EXIT_FAILED;
}

void cmd_print_json(json_t *value)
{
	json_dumpf(value, stdout, JSON_COMPACT);
	putchar('\n');
}

/* --- what a VM tells -------------------------------------------------------------------------- */

void cmd_hear(struct cmd_told *t, json_t *event)
{
	const char *name = json_string_value(json_object_get(event, "event"));
	const char *state = json_string_value(json_object_get(event, "new"));
	const char *note = json_string_value(json_object_get(event, "note"));

	if (!name || strcmp(name, "ft-state") != 0 || !state)
		return;
	snprintf(t->state, sizeof(t->state), "%s", state);
	snprintf(t->note, sizeof(t->note), "%s", note ? note : "");
}

void cmd_hear_line(struct cmd_told *t, const char *line)
{
	json_t *event = json_loads(line, JSON_REJECT_DUPLICATES, NULL);

	cmd_hear(t, event);
	json_decref(event);
}

bool cmd_was_handed(const struct cmd_told *t)
{
	return !strcmp(t->state, "STOPPED") && !strcmp(t->note, FT_HANDED_OVER);
}

/* --- requests --------------------------------------------------------------------------------- */

static int report(const struct command_words *w, json_t *ok)
{
	if (w->json)
		cmd_print_json(ok);
	json_decref(ok);
	return EXIT_DONE;
}

/* Send and report: nothing on success, unless --json. */
static int call_simple(const struct command_words *w, json_t *request, int timeout_ms)
{
	struct err e = {0};
	json_t *ok;

	if (!request) {
		fprintf(stderr, "ftvmm: %s: an argument is not valid UTF-8\n", w->cmd);
		return EXIT_USAGE;
	}
	ok = ctl_call(w->name, request, timeout_ms, &e);
	return ok ? report(w, ok) : cmd_fail(&e);
}

int cmd_send(const struct command_words *w)
{
	return call_simple(w, json_pack("{ss}", "cmd", w->cmd), BUSY_MS);
}

static json_t *stop_request(const struct command_words *w, struct err *e)
{
	static const char key[] = "timeout=";
	json_t *request = json_pack("{ss}", "cmd", "stop");
	uint64_t ns;

	if (!w->nargs)
		return request;
	if (strncmp(w->args[0], key, strlen(key)))
		err_set(e, -EINVAL, "stop: unknown argument '%.40s'; there is timeout=TIME",
			w->args[0]);
	else if (config_parse_time(w->args[0] + strlen(key), &ns, e))
		err_wrap(e, "stop: timeout");
	else if (ns > CONFIG_STOP_MAX_NS)
		err_set(e, -EINVAL, "stop: timeout=%.40s is above the limit of 8 minutes",
			w->args[0] + strlen(key));
	if (e->code) {
		json_decref(request);
		return NULL;
	}
	json_object_set_new(request, "timeout_ns", json_integer(ns));
	return request;
}

/* What the VM says on its way: what there is to tell becomes a part of the answer. */
static void hear_stop(json_t *ok, const char *line)
{
	json_t *event = json_loads(line, JSON_REJECT_DUPLICATES, NULL), *why;
	const char *name = json_string_value(json_object_get(event, "event"));

	why = json_object_get(event, "why");
	if (name && !strcmp(name, "stop-forced") && json_is_string(why))
		json_object_set(ok, "forced", why);
	json_decref(event);
}

/* It may have ended before anybody heard of it. */
static void hear_end(json_t *ok, struct cmd_told *last)
{
	const char *state = json_string_value(json_object_get(ok, "ended"));
	const char *note = json_string_value(json_object_get(ok, "note"));

	if (!state)
		return;
	snprintf(last->state, sizeof(last->state), "%s", state);
	snprintf(last->note, sizeof(last->note), "%s", note ? note : "");
	json_object_del(ok, "ended");
	json_object_del(ok, "note");
}

/* Until the VM has ended. last: what it told of that. */
static int wait_stop(struct ctl_client *c, const struct command_words *w, json_t *ok,
		     struct cmd_told *last, struct err *e)
{
	uint64_t until = loop_now_ns() + LONG_MS * 1000000ull;
	char *line = NULL;
	bool said = false;

	for (;;) {
		uint64_t now = loop_now_ns(), left = until > now ? (until - now) / 1000000 : 0;
		int r = ctl_client_line(c, said ? (int)left : SAY_MS, &line, e);

		if (!r && !line)
			return 0;
		if (!r) {
			hear_stop(ok, line);
			cmd_hear_line(last, line);
		} else if (r != -ETIMEDOUT) {
			return r;
		}
		*e = (struct err){0};
		if (r && !said)
			fprintf(stderr,
				"ftvmm: stop: '%s' still runs; a guest that does not switch itself "
				"off ends at once with: ftvmm stop %s timeout=0\n",
				w->name, w->name);
		else if (!left)
			return err_set(e, -ETIMEDOUT,
				       "stop: '%s' has not ended within %d s (ftvmm status %s); "
				       "at once: ftvmm stop %s timeout=0",
				       w->name, LONG_MS / 1000, w->name, w->name);
		said |= r;
	}
}

/* It has ended here. Who asked for it must know when the VM has not. */
static int report_stop(const struct command_words *w, json_t *ok, const struct cmd_told *last)
{
	const char *forced = json_string_value(json_object_get(ok, "forced"));

	if (last->state[0]) {
		json_object_set_new(ok, "state", json_string(last->state));
		json_object_set_new(ok, "note", json_string(last->note));
	}
	if (w->json)
		cmd_print_json(ok);
	if (!strcmp(last->state, "FENCED")) {
		fprintf(stderr, "ftvmm: stop: '%s' has ended here, fenced: %s; stop it there\n",
			w->name, last->note);
		return EXIT_FENCED;
	}
	if (cmd_was_handed(last) || !strcmp(last->state, "MIGRATED")) {
		fprintf(stderr,
			"ftvmm: stop: '%s' was %s before it could be stopped: it runs at the other "
			"host; stop it there\n",
			w->name, cmd_was_handed(last) ? "handed over" : "migrated");
		return EXIT_GONE;
	}
	if (forced && !w->json)
		fprintf(stderr, "ftvmm: stop: %s, and was stopped as if its power had failed\n",
			forced);
	return EXIT_DONE;
}

int cmd_stop(const struct command_words *w)
{
	struct cmd_told last = {0};
	struct ctl_client *c;
	struct err e = {0};
	json_t *request = stop_request(w, &e), *ok;
	int code, r = request ? ctl_client_open(&c, w->name, CTL_SHORT_MS, &e) : e.code;

	if (r)
		return cmd_fail(&e);
	ok = ctl_client_call(c, request, BUSY_MS, &e);
	r = ok ? 0 : -EPROTO;
	hear_end(ok, &last);
	if (!r)
		r = wait_stop(c, w, ok, &last, &e);
	code = r ? cmd_fail(&e) : report_stop(w, ok, &last);
	json_decref(ok);
	ctl_client_close(c);
	return code;
}

static json_t *snapshot_request(const struct command_words *w, const char *path, struct err *e)
{
	static const struct option row = {"staging", .type = OPT_SIZE, .min = CONFIG_SNAPSHOT_MIN,
					  .max = INT64_MAX, .metavar = "SIZE"};
	const char *arg = w->nargs > 1 ? w->args[1] : NULL;
	json_t *request = json_pack("{ssss}", "cmd", "snapshot", "file", path);
	uint64_t bytes;

	if (!request)
		err_set(e, -EINVAL, "snapshot: the path is not valid UTF-8");
	if (!request || !arg)
		return request;
	if (!strcmp(arg, "arrived")) {
		json_object_set_new(request, "arrived", json_true());
		return request;
	}
	if (strncmp(arg, "staging=", 8))
		err_set(e, -EINVAL,
			"snapshot: unknown argument '%.40s'; there are staging=SIZE, arrived", arg);
	else if (!option_set_text(&row, &bytes, arg + 8, "staging", e)) {
		json_object_set_new(request, "staging_bytes", json_integer((json_int_t)bytes));
		return request;
	} else {
		err_wrap(e, "snapshot");
	}
	json_decref(request);
	return NULL;
}

/* As long as it takes: the VM gives up when its storage does not go on. */
static int ask_snapshot(const struct command_words *w, const char *path)
{
	struct ctl_client *c = NULL;
	struct err e = {0};
	json_t *request = snapshot_request(w, path, &e), *ok = NULL, *missing;

	if (!request)
		return cmd_fail(&e);
	if (ctl_client_open(&c, w->name, CTL_SHORT_MS, &e))
		json_decref(request);
	else
		ok = ctl_client_call(c, request, -1, &e);
	ctl_client_close(c);
	missing = json_object_get(ok, "missing_pages");
	if (missing && !w->json)
		printf("%lld pages of 4 KiB had not arrived and are not in it: it is no VM\n",
		       (long long)json_integer_value(missing));
	return ok ? report(w, ok) : cmd_fail(&e);
}

int cmd_absolute(const char *path, char *ret, size_t cap, struct err *e)
{
	char cwd[PATH_MAX] = "";

	if (path[0] != '/' && !getcwd(cwd, sizeof(cwd)))
		return err_sys(e, "the working directory");
	if (snprintf(ret, cap, "%s%s%s", cwd, *cwd ? "/" : "", path) >= (int)cap)
		return err_set(e, -EINVAL, "the path of '%.80s' is too long", path);
	return 0;
}

int cmd_snapshot(const struct command_words *w)
{
	char path[PATH_MAX];
	struct err e = {0};

	if (!cmd_absolute(w->args[0], path, sizeof(path), &e))
		return ask_snapshot(w, path);
	err_wrap(&e, "snapshot");
	return cmd_fail(&e);
}

int cmd_set(const struct command_words *w)
{
	json_t *request = json_pack("{ss}", "cmd", "set");
	struct err e = {0};

	for (int i = 0; i < w->nargs; i++)
		if (setting_add(request, w->args[i], &e)) {
			json_decref(request);
			return cmd_fail(&e);
		}
	return call_simple(w, request, BUSY_MS);
}

int cmd_events(const struct command_words *w)
{
	struct ctl_client *c;
	struct err e = {0};
	char *line = NULL;
	json_t *ok;
	int r = ctl_client_open(&c, w->name, CTL_SHORT_MS, &e);

	if (r)
		return cmd_fail(&e);
	ok = ctl_client_call(c, json_pack("{ss}", "cmd", "events"), CTL_SHORT_MS, &e);
	r = ok ? 0 : -EPROTO;
	if (ok)
		cmd_print_json(ok);
	json_decref(ok);
	/* Until whoever read our output has left. */
	while (!r && !fflush(stdout) && !ferror(stdout) &&
	       !(r = ctl_client_line(c, -1, &line, &e)) && line)
		puts(line);
	ctl_client_close(c);
	return r ? cmd_fail(&e) : EXIT_DONE;
}

int cmd_console(const struct command_words *w)
{
	struct err e = {0};
	json_t *status = ctl_call(w->name, json_pack("{ss}", "cmd", "status"), CTL_SHORT_MS, &e);
	const char *role = json_string_value(json_object_get(status, "role"));
	bool secondary = role && !strcmp(role, "secondary");

	if (!status)
		return cmd_fail(&e);
	json_decref(status);
	if (secondary) {
		fprintf(stderr, "ftvmm: console: this side does not run '%s'; ask the other one\n",
			w->name);
		return EXIT_FAILED;
	}
	return console_attach(w->name);
}

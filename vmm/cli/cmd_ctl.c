#include "vmm/cli/cmd_ctl.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "vmm/cli/cmd_console.h"
#include "vmm/conf/config.h"
#include "vmm/cli/ctl_client.h"
#include "vmm/cli/ctl_sock.h"
#include "vmm/conf/option.h"

#define SHORT_MS 5000
#define LOOK_MS	 200
#define BUSY_MS	 60000	/* for an answer: the VM may be writing a snapshot */
#define LONG_MS	 600000 /* stop may have to drain to a peer, a snapshot writes all RAM */
#define VMS_MAX	 256

enum { EXIT_DONE, EXIT_USAGE, EXIT_FAILED, EXIT_GONE, EXIT_UNPROTECTED, EXIT_FENCED };

/* The words after the subcommand, without --json. */
struct words {
	const char *cmd, *name, *args[16];
	int nargs;
	bool json;
};

struct subcommand {
	const char *name, *usage;
	int (*run)(const struct words *w);
	int min_args, max_args; /* after NAME */
	bool name_optional;
};

static int fail(const struct err *e)
{
	fprintf(stderr, "ftvmm: %s\n", e->msg);
	if (e->code == -ENOENT || e->code == -EINVAL || e->code == -ERANGE)
		return EXIT_USAGE;
	return EXIT_FAILED;
}

static int state_exit(json_t *status)
{
	static const struct {
		const char *state;
		int code;
	} codes[] = {
		{"PROTECTED", EXIT_DONE}, {"RUNNING", EXIT_DONE}, {"FENCED", EXIT_FENCED},
		{"MIGRATED", EXIT_GONE},  {"STOPPED", EXIT_GONE},
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

/* One cell: strings and numbers as they are, anything else a dash. */
static void cell_text(json_t *value, char *ret, size_t cap)
{
	const char *s = json_string_value(value);

	if (s && *s)
		snprintf(ret, cap, "%s", s);
	else if (json_is_integer(value))
		snprintf(ret, cap, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
	else
		snprintf(ret, cap, "-");
	/* Names come from another process: nothing that moves the cursor. */
	for (char *p = ret; *p; p++)
		if ((unsigned char)*p < ' ' || *p == 0x7f)
			*p = '?';
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
	char(*cells)[COLUMNS][64] = calloc(n + 1, sizeof(*cells));
	size_t width[COLUMNS] = {0};

	if (!cells)
		return;
	for (int row = 0; row <= n; row++)
		for (int i = 0; i < COLUMNS; i++) {
			char *cell = cells[row][i];

			if (!row)
				snprintf(cell, 64, "%s", head[i]);
			else if (!key[i])
				pause_text(status[row - 1], cell, 64);
			else
				cell_text(json_object_get(status[row - 1], key[i]), cell, 64);
			if (strlen(cell) > width[i])
				width[i] = strlen(cell);
		}
	for (int row = 0; row <= n; row++)
		for (int i = 0; i < COLUMNS; i++)
			printf("%-*s%s", i < COLUMNS - 1 ? (int)width[i] : 0, cells[row][i],
			       i < COLUMNS - 1 ? "  " : "\n");
	free(cells);
}

static void print_json(json_t *value)
{
	json_dumpf(value, stdout, JSON_COMPACT);
	putchar('\n');
}

/* Status of every socket in the folder; those nobody serves disappear. */
static int list_all(json_t **ret, struct err *e)
{
	char dir[192];
	struct dirent *d;
	DIR *folder;
	int n = 0, r = ctl_sock_dir(dir, sizeof(dir), e);

	if (r)
		return r;
	folder = opendir(dir);
	if (!folder)
		return errno == ENOENT ? 0 : err_sys(e, "'%s'", dir);
	while (n < VMS_MAX && (d = readdir(folder))) {
		size_t len = strlen(d->d_name);
		struct err one = {0};
		char name[NAME_MAX + 1];

		if (len < 6 || strcmp(d->d_name + len - 5, ".sock") || d->d_name[0] == '.')
			continue;
		snprintf(name, sizeof(name), "%.*s", (int)len - 5, d->d_name);
		ret[n] = ctl_call(name, json_pack("{ss}", "cmd", "status"), SHORT_MS, &one);
		if (!ret[n] && one.code != -ENOENT)
			ret[n] = json_pack("{ssss}", "name", name, "error", one.msg);
		if (ret[n])
			n++;
	}
	closedir(folder);
	return n;
}

static int run_status_all(const struct words *w)
{
	json_t *all[VMS_MAX] = {NULL}, *array;
	struct err e = {0};
	int n = list_all(all, &e), code = EXIT_DONE;
	char dir[192];

	if (n < 0)
		return fail(&e);
	if (w->json) {
		array = json_array();
		for (int i = 0; i < n; i++)
			json_array_append(array, all[i]);
		print_json(array);
		json_decref(array);
	} else if (n) {
		print_table(all, n);
	} else {
		if (ctl_sock_dir(dir, sizeof(dir), &e))
			return fail(&e);
		fprintf(stderr,
			"ftvmm: no VM runs here: none has its socket in '%s' (XDG_RUNTIME_DIR as "
			"where it was started?)\n",
			dir);
	}
	for (int i = 0; i < n; i++) {
		int one = state_exit(all[i]);

		code = one > code ? one : code;
		json_decref(all[i]);
	}
	return code;
}

static int run_status(const struct words *w)
{
	struct err e = {0};
	json_t *status;
	int code;

	if (!w->name)
		return run_status_all(w);
	status = ctl_call(w->name, json_pack("{ss}", "cmd", "status"), SHORT_MS, &e);
	if (!status)
		return fail(&e);
	if (w->json)
		print_json(status);
	else
		print_table(&status, 1);
	code = state_exit(status);
	json_decref(status);
	return code;
}

/* Send and report: nothing on success, unless --json. */
static int call_simple(const struct words *w, json_t *request, int timeout_ms)
{
	struct err e = {0};
	json_t *ok;

	if (!request) {
		fprintf(stderr, "ftvmm: %s: an argument is not valid UTF-8\n", w->cmd);
		return EXIT_USAGE;
	}
	ok = ctl_call(w->name, request, timeout_ms, &e);
	if (!ok)
		return fail(&e);
	if (w->json)
		print_json(ok);
	json_decref(ok);
	return EXIT_DONE;
}

static int run_simple(const struct words *w)
{
	return call_simple(w, json_pack("{ss}", "cmd", w->cmd), BUSY_MS);
}

static json_t *stop_request(const struct words *w, struct err *e)
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

/* Done when the VM has left, so that the next command finds its name, disks and taps free. */
static int run_stop(const struct words *w)
{
	struct ctl_client *c;
	struct err e = {0};
	char *line = NULL;
	json_t *request = stop_request(w, &e), *ok;
	int r = request ? ctl_client_open(&c, w->name, SHORT_MS, &e) : e.code;

	if (r)
		return fail(&e);
	ok = ctl_client_call(c, request, BUSY_MS, &e);
	r = ok ? 0 : -EPROTO;
	if (!r)
		r = ctl_client_line(c, LONG_MS, &line, &e);
	if (!r && w->json)
		print_json(ok);
	json_decref(ok);
	ctl_client_close(c);
	return r ? fail(&e) : EXIT_DONE;
}

/* Of a primary that was told to hand over: does it still run the VM for good? */
static bool kept(json_t *status)
{
	const char *role = json_string_value(json_object_get(status, "role"));
	const char *state = json_string_value(json_object_get(status, "state"));

	return role && state && !strcmp(role, "primary") && strcmp(state, "PROTECTED") &&
	       strcmp(state, "STOPPED");
}

/* Done when the secondary has the VM. */
static int run_failover(const struct words *w)
{
	struct ctl_client *c;
	struct err e = {0};
	char *line = NULL;
	json_t *ok, *status;
	int r = ctl_client_open(&c, w->name, SHORT_MS, &e);

	if (r)
		return fail(&e);
	ok = ctl_client_call(c, json_pack("{ss}", "cmd", "failover"), SHORT_MS, &e);
	r = ok ? -ETIMEDOUT : -EPROTO;
	/* It leaves; or it loses the secondary, and stays. */
	for (int waited = 0; r == -ETIMEDOUT && waited < LONG_MS; waited += LOOK_MS) {
		struct err ignored = {0};

		e = (struct err){0};
		r = ctl_client_line(c, LOOK_MS, &line, &e);
		if (r != -ETIMEDOUT)
			break;
		status = ctl_call(w->name, json_pack("{ss}", "cmd", "status"), SHORT_MS, &ignored);
		if (status && kept(status)) {
			e = (struct err){0};
			r = err_set(&e, -EBUSY,
				    "failover: the secondary was lost meanwhile; `ftvmm status` "
				    "says what this side does");
		}
		json_decref(status);
	}
	if (!r && w->json)
		print_json(ok);
	json_decref(ok);
	ctl_client_close(c);
	return r ? fail(&e) : EXIT_DONE;
}

static int run_snapshot(const struct words *w)
{
	char path[PATH_MAX], cwd[PATH_MAX];

	/* The VM may run in another folder. */
	if (w->args[0][0] == '/')
		snprintf(path, sizeof(path), "%s", w->args[0]);
	else if (!getcwd(cwd, sizeof(cwd)) ||
		 snprintf(path, sizeof(path), "%s/%s", cwd, w->args[0]) >= (int)sizeof(path)) {
		fprintf(stderr, "ftvmm: snapshot: the path of '%s' is too long\n", w->args[0]);
		return EXIT_USAGE;
	}
	return call_simple(w, json_pack("{ssss}", "cmd", "snapshot", "file", path), LONG_MS);
}

/* What can be changed while the VM runs; the key on the wire is the field's name. */
static int add_setting(json_t *request, const char *pair, struct err *e)
{
	static const struct option rows[] = {
		{"epoch", .type = OPT_TIME, .min = CONFIG_EPOCH_MIN_NS, .max = CONFIG_EPOCH_MAX_NS,
		 .metavar = "TIME"},
		{"balloon", .type = OPT_SIZE, .min = 0, .max = INT64_MAX, .metavar = "SIZE"},
	};
	static const char *const wire[] = {"epoch_ns", "balloon_bytes"};
	const struct option_table t = {rows, 2};
	size_t len = strcspn(pair, "=");
	const struct option *o = option_find(&t, pair, len);
	uint64_t value = 0;
	int r;

	if (!o)
		return err_set(e, -EINVAL, "set: unknown key '%.40s'; the nearest is '%s'", pair,
			       option_nearest(&t, pair));
	if (!pair[len])
		return err_set(e, -EINVAL, "set: %s needs a value: %s=%s", o->name, o->name,
			       o->metavar);
	r = option_set_text(o, &value, pair + len + 1, o->name, e);
	if (!r)
		json_object_set_new(request, wire[o - rows], json_integer(value));
	return r;
}

static int run_set(const struct words *w)
{
	json_t *request = json_pack("{ss}", "cmd", "set");
	struct err e = {0};

	for (int i = 0; i < w->nargs; i++)
		if (add_setting(request, w->args[i], &e)) {
			json_decref(request);
			return fail(&e);
		}
	return call_simple(w, request, BUSY_MS);
}

static int run_events(const struct words *w)
{
	struct ctl_client *c;
	struct err e = {0};
	char *line = NULL;
	json_t *ok;
	int r = ctl_client_open(&c, w->name, SHORT_MS, &e);

	if (r)
		return fail(&e);
	ok = ctl_client_call(c, json_pack("{ss}", "cmd", "events"), SHORT_MS, &e);
	r = ok ? 0 : -EPROTO;
	json_decref(ok);
	while (!r && !(r = ctl_client_line(c, -1, &line, &e)) && line)
		if (puts(line) == EOF || fflush(stdout) == EOF)
			break; /* whoever read our output has left */
	ctl_client_close(c);
	return r ? fail(&e) : EXIT_DONE;
}

static int run_console(const struct words *w)
{
	struct err e = {0};
	json_t *status = ctl_call(w->name, json_pack("{ss}", "cmd", "status"), SHORT_MS, &e);
	const char *role = json_string_value(json_object_get(status, "role"));
	bool secondary = role && !strcmp(role, "secondary");

	if (!status)
		return fail(&e);
	json_decref(status);
	if (secondary) {
		fprintf(stderr, "ftvmm: console: this side does not run '%s'; ask the other one\n",
			w->name);
		return EXIT_FAILED;
	}
	return console_attach(w->name);
}

static const struct subcommand subcommands[] = {
	{"status", "[NAME] [--json]", run_status, 0, 0, true},
	{"stop", "NAME [timeout=TIME] [--json]", run_stop, 0, 1, false},
	{"failover", "NAME [--json]", run_failover, 0, 0, false},
	{"console", "NAME", run_console, 0, 0, false},
	{"pause", "NAME [--json]", run_simple, 0, 0, false},
	{"resume", "NAME [--json]", run_simple, 0, 0, false},
	{"events", "NAME", run_events, 0, 0, false},
	{"set", "NAME [epoch=TIME] [balloon=SIZE] [--json]", run_set, 1, 16, false},
	{"snapshot", "NAME FILE [--json]", run_snapshot, 1, 1, false},
};

static int usage(const struct subcommand *s, const char *why, const char *word)
{
	fprintf(stderr, "ftvmm: %s: %s%.40s; usage: ftvmm %s %s\n", s->name, why, word, s->name,
		s->usage);
	return EXIT_USAGE;
}

int ctl_main(int argc, char **argv)
{
	const struct subcommand *s = NULL;
	struct words w = {.cmd = argv[0]};

	for (size_t i = 0; i < sizeof(subcommands) / sizeof(subcommands[0]); i++)
		if (!strcmp(argv[0], subcommands[i].name))
			s = &subcommands[i];
	if (!s) {
		fprintf(stderr, "ftvmm: unknown command '%.40s'\n", argv[0]);
		return EXIT_USAGE;
	}
	signal(SIGPIPE, SIG_IGN);
	for (int i = 1; i < argc; i++) {
		if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h")) {
			printf("usage: ftvmm %s %s\n", s->name, s->usage);
			return EXIT_DONE;
		}
		if (!strcmp(argv[i], "--json"))
			w.json = true;
		else if (argv[i][0] == '-')
			return usage(s, "unknown option ", argv[i]);
		else if (!w.name)
			w.name = argv[i];
		else if (w.nargs < s->max_args)
			w.args[w.nargs++] = argv[i];
		else
			return usage(s, "too many arguments", "");
	}
	if (!w.name && !s->name_optional)
		return usage(s, "the name of the VM is missing", "");
	if (w.nargs < s->min_args)
		return usage(s, "an argument is missing", "");
	return s->run(&w);
}

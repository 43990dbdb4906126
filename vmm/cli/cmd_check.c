#include "vmm/cli/cmd_check.h"

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/base/utf8.h"
#include "vmm/cli/advice.h"
#include "vmm/cli/check.h"
#include "vmm/cli/command.h"

static const char *const names[] = {"OK", "WARN", "FAILS"};

void check_say(struct check *c, enum check_is is, const char *what, const char *fmt, ...)
{
	char text[700];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	utf8_mend(text);
	c->fails |= is == CHECK_FAILS;
	json_array_append_new(c->found, json_pack("{s:s, s:s, s:s}", "is", names[is], "what", what,
						  "text", text));
}

void check_tried(struct check *c, const char *what, int code, const struct err *e, const char *text)
{
	if (code)
		check_say(c, CHECK_FAILS, what, "%s", e->msg[0] ? e->msg : strerror(-code));
	else
		check_say(c, CHECK_OK, what, "%s", text);
}

void check_warn(void *check, const char *what, const char *text)
{
	check_say(check, CHECK_WARN, what, "%s", text);
}

static const char *word(json_t *finding, const char *key)
{
	return json_string_value(json_object_get(finding, key));
}

static void print(const struct check *c)
{
	size_t i, width = 0;
	json_t *f;

	json_array_foreach(c->found, i, f)
	{
		if (strlen(word(f, "what")) > width)
			width = strlen(word(f, "what"));
	}
	json_array_foreach(c->found, i, f)
	{
		printf("%-5s  %-*s  %s\n", word(f, "is"), (int)width, word(f, "what"),
		       word(f, "text"));
	}
}

static void print_json(const struct check *c)
{
	json_t *o = json_pack("{s:s, s:b, s:O}", "name", c->cfg->name, "ok", !c->fails, "checks",
			      c->found);

	json_dumpf(o, stdout, JSON_COMPACT);
	putchar('\n');
	json_decref(o);
}

static int check(const struct config *cfg, bool json)
{
	struct check c = {.cfg = cfg, .found = json_array()};

	check_host(&c);
	check_devices(&c);
	check_peers(&c);
	advise(cfg, check_warn, &c);
	if (json)
		print_json(&c);
	else
		print(&c);
	json_decref(c.found);
	return c.fails ? EXIT_FAILED : EXIT_DONE;
}

static int help(void)
{
	printf("usage: ftvmm check [VM.json] [options of run] [--json]\n"
	       "Would `ftvmm run` with the same words run here? A line for each thing that it "
	       "needs: OK, WARN or FAILS,\nand what to do; what is in kernel and snapshot is not "
	       "looked at. Exit code 2 when something fails.\nThe options: ftvmm run --help.\n");
	return EXIT_DONE;
}

/* First or last it is not one of run's words, nor the value of one. */
static bool take_json(int *argc, char ***argv)
{
	bool first = *argc > 1 && !strcmp((*argv)[1], "--json");
	bool last = *argc > 1 && !strcmp((*argv)[*argc - 1], "--json");

	if (first)
		++*argv;
	if (first || last)
		--*argc;
	return first || last;
}

int cmd_check(int argc, char **argv)
{
	bool json = take_json(&argc, &argv);
	struct err e = {0};
	struct config *cfg;
	int code;

	if (argc == 2 && (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h")))
		return help();
	signal(SIGPIPE, SIG_IGN);
	cfg = calloc(1, sizeof(*cfg));
	code = cfg ? config_parse_run(cfg, argc - 1, argv + 1, &e)
		   : err_set(&e, -ENOMEM, "out of memory");
	if (code < 0)
		fprintf(stderr, "ftvmm: %s\n", e.msg);
	code = code < 0 ? EXIT_USAGE : code ? EXIT_DONE : check(cfg, json);
	free(cfg);
	return code;
}

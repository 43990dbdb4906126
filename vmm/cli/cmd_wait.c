#include "vmm/cli/cmd_wait.h"

#include <errno.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "ft/common/ft.h"
#include "vmm/base/loop.h"
#include "vmm/cli/cmd_ctl.h"
#include "vmm/cli/ctl_client.h"
#include "vmm/conf/option.h"

#define LOOK_MS	 50 /* for a VM that is not there yet */
#define MS	 1000000ull
#define NO_LIMIT UINT64_MAX

struct awaited {
	const struct command_words *w;
	uint64_t states; /* bits, by ft_word_at() */
	uint64_t timeout_ns, deadline_ns;
	char is[32]; /* the last state it told, "" for none */
	char note[480];
};

static const struct option timeout_row = {"timeout",
					  .type = OPT_TIME,
					  .min = 0,
					  .max = 86400000 * MS,
					  .metavar = "TIME",
					  .help = "give up after that (at most a "
						  "day; without it, never)"};

void cmd_wait_print_options(void)
{
	option_print(&timeout_row, NULL);
	printf("states:");
	for (unsigned i = 0; ft_word_at(i); i++)
		printf(" %s", ft_word_at(i));
	putchar('\n');
}

/* --- what is asked for ------------------------------------------------------------------------ */

static int add_states(struct awaited *a, const char *list, struct err *e)
{
	while (*list) {
		size_t len = strcspn(list, ",");
		unsigned i = 0;

		while (ft_word_at(i) &&
		       (strlen(ft_word_at(i)) != len || strncasecmp(ft_word_at(i), list, len) != 0))
			i++;
		if (!ft_word_at(i))
			return err_set(e, -EINVAL,
				       "wait: '%.*s' is no state; ftvmm wait --help lists them",
				       (int)(len < 40 ? len : 40), list);
		a->states |= 1ull << i;
		list += len + (list[len] == ',');
	}
	return 0;
}

static int set_timeout(struct awaited *a, const char *value, struct err *e)
{
	if (!value)
		return err_set(e, -EINVAL, "wait: --timeout needs a value: TIME");
	return option_set_text(&timeout_row, &a->timeout_ns, value, "wait: --timeout", e);
}

static int parse(struct awaited *a, struct err *e)
{
	static const char flag[] = "--timeout";
	const size_t len = strlen(flag);
	int r = 0;

	for (int i = 0; i < a->w->nargs && !r; i++) {
		const char *word = a->w->args[i];

		if (!strcmp(word, flag))
			r = set_timeout(a, ++i < a->w->nargs ? a->w->args[i] : NULL, e);
		else if (!strncmp(word, flag, len) && word[len] == '=')
			r = set_timeout(a, word + len + 1, e);
		else if (word[0] == '-')
			r = err_set(e, -EINVAL, "wait: %.40s: no such option; there is --timeout",
				    word);
		else
			r = add_states(a, word, e);
	}
	if (!r && !a->states)
		r = err_set(e, -EINVAL, "wait: for which state? ftvmm wait --help lists them");
	a->deadline_ns = a->timeout_ns == NO_LIMIT ? NO_LIMIT : loop_now_ns() + a->timeout_ns;
	return r;
}

/* --- what comes ------------------------------------------------------------------------------- */

/* -1: for ever. */
static int left_ms(const struct awaited *a)
{
	uint64_t now = loop_now_ns();

	if (a->deadline_ns == NO_LIMIT)
		return -1;
	return now < a->deadline_ns ? (int)((a->deadline_ns - now + MS - 1) / MS) : 0;
}

static bool is_awaited(const struct awaited *a)
{
	for (unsigned i = 0; ft_word_at(i); i++)
		if (!strcmp(a->is, ft_word_at(i)))
			return a->states & 1ull << i;
	return false;
}

/* An event, or the answer that says how it is: is it there? */
static bool look_at(struct awaited *a, json_t *o)
{
	const char *event = json_string_value(json_object_get(o, "event"));
	const char *to = json_string_value(json_object_get(o, "new"));
	const char *note = json_string_value(json_object_get(o, "note"));

	if (!event || strcmp(event, "ft-state") || !to)
		return false;
	snprintf(a->is, sizeof(a->is), "%s", to);
	snprintf(a->note, sizeof(a->note), "%s", note ? note : "");
	if (!is_awaited(a))
		return false;
	if (a->w->json)
		cmd_print_json(o);
	return true;
}

static int too_late(const struct awaited *a)
{
	char time[32];

	option_format_time(a->timeout_ns, time, sizeof(time));
	if (!a->is[0])
		fprintf(stderr, "ftvmm: wait: within %s no VM named '%s' has come up here\n", time,
			a->w->name);
	else
		fprintf(stderr, "ftvmm: wait: after %s '%s' is %s%s%s\n", time, a->w->name, a->is,
			a->note[0] ? ": " : "", a->note);
	return EXIT_FAILED;
}

static int has_ended(const struct awaited *a)
{
	fprintf(stderr, "ftvmm: wait: '%s' has ended; the last that it told was %s%s%s\n",
		a->w->name, a->is, a->note[0] ? ": " : "", a->note);
	return strcmp(a->is, "FENCED") ? EXIT_GONE : EXIT_FENCED;
}

static int follow(struct awaited *a, struct ctl_client *c)
{
	struct err e = {0};
	char *line;

	for (;;) {
		json_t *o;
		bool there;

		if (ctl_client_line(c, left_ms(a), &line, &e))
			return e.code == -ETIMEDOUT ? too_late(a) : cmd_fail(&e);
		if (!line)
			return has_ended(a);
		o = json_loads(line, 0, NULL);
		there = look_at(a, o);
		json_decref(o);
		if (there)
			return EXIT_DONE;
	}
}

/* An exit code, or -1: nobody is there (yet). */
static int ask(struct awaited *a)
{
	struct ctl_client *c = NULL;
	struct err e = {0};
	json_t *ok = NULL;
	int code;

	if (!ctl_client_open(&c, a->w->name, CTL_SHORT_MS, &e))
		ok = ctl_client_call(c, json_pack("{ss}", "cmd", "events"), CTL_SHORT_MS, &e);
	/* The end of a process that was on its way out is none of the VM's that is to come. */
	if (!ok)
		code = e.code == -ENOENT || e.code == -ECONNRESET ? -1 : cmd_fail(&e);
	else
		code = look_at(a, ok) ? EXIT_DONE : follow(a, c);
	json_decref(ok);
	ctl_client_close(c);
	return code;
}

int cmd_wait(const struct command_words *w)
{
	struct awaited a = {.w = w, .timeout_ns = NO_LIMIT};
	struct err e = {0};
	int code = parse(&a, &e) ? cmd_fail(&e) : ask(&a);

	while (code < 0) {
		int left = left_ms(&a);

		if (!left)
			return too_late(&a);
		poll(NULL, 0, left < 0 || left > LOOK_MS ? LOOK_MS : left);
		code = ask(&a);
	}
	return code;
}

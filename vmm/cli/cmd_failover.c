#include "vmm/cli/cmd_failover.h"

#include <errno.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "vmm/base/loop.h"
#include "vmm/cli/cmd_ctl.h"
#include "vmm/cli/ctl_client.h"
#include "vmm/conf/option.h"

#define AGAIN_MS 50 /* for a secondary that is not there yet */
#define MS	 1000000ull
#define LOOK_NS	 (200 * MS)
#define LONG_NS	 (600000 * MS) /* the last epoch may have to drain */

struct drill {
	const struct command_words *w;
	bool test;
	uint64_t timeout_ns; /* until it is protected again */
	int64_t generation;  /* before */
	uint64_t begun_ns, handed_ns;
	char is[640]; /* what this host's side said last, "" when there was none */
};

static const struct option timeout_row = {
	"timeout",	   .type = OPT_TIME,
	.min = 0,	   .max = 86400000 * MS,
	.metavar = "TIME", .help = "until it is protected again (60s)"};

static const struct option test_row = {
	"test", .type = OPT_FLAG, .help = "wait until this host stands by, in step, and report"};

void cmd_failover_print_options(void)
{
	option_print(&test_row, NULL);
	option_print(&timeout_row, NULL);
}

static int parse(struct drill *d, struct err *e)
{
	const struct command_words *w = d->w;
	bool timed = false;
	int r = 0;

	for (int i = 0; i < w->nargs && !r; i++) {
		const char *word = w->args[i], *value = NULL;

		if (!strncmp(word, "--timeout=", 10))
			value = word + 10;
		else if (!strcmp(word, "--timeout") && i + 1 < w->nargs)
			value = w->args[++i];
		if (value)
			r = option_set_text(&timeout_row, &d->timeout_ns, value,
					    "failover: --timeout", e);
		else if (!strcmp(word, "--test"))
			d->test = true;
		else
			r = err_set(e, -EINVAL,
				    "failover: %.40s: there are --test and --timeout TIME", word);
		timed |= value != NULL;
	}
	if (!r && timed && !d->test)
		r = err_set(e, -EINVAL, "failover: --timeout is of --test");
	return r;
}

/* --- the hand-over ---------------------------------------------------------------------------- */

static json_t *ask_status(const struct drill *d, struct err *e)
{
	return ctl_call(d->w->name, json_pack("{ss}", "cmd", "status"), CTL_SHORT_MS, e);
}

static const char *text(json_t *status, const char *key)
{
	const char *s = json_string_value(json_object_get(status, key));

	return s ? s : "";
}

/* Of a primary that was told to hand over: does it still run the VM for good? */
static bool kept(json_t *status)
{
	return !strcmp(text(status, "role"), "primary") &&
	       strcmp(text(status, "state"), "PROTECTED") != 0 &&
	       strcmp(text(status, "state"), "STOPPED") != 0;
}

/* It has ended: because the other side has the VM? */
static int look_back(const struct drill *d, const struct cmd_told *last, struct err *e)
{
	*e = (struct err){0};
	if (cmd_was_handed(last))
		return 0;
	if (!strcmp(last->state, "STOPPED"))
		return err_set(e, -ECANCELED,
			       "failover: '%s' was not handed over: it was stopped, or ended, "
			       "before that%s%.400s",
			       d->w->name, *last->note ? ": " : "", last->note);
	return err_set(e, -ECANCELED,
		       "failover: '%s' has ended and did not say that it was handed over; the last "
		       "that it told was %s%s%.400s. `ftvmm status` at the other host says whether "
		       "it runs there",
		       d->w->name, last->state, *last->note ? ": " : "", last->note);
}

/* It leaves; or it loses the secondary, and stays. last: what it has told so far. */
static int follow(const struct drill *d, struct ctl_client *c, struct cmd_told *last, struct err *e)
{
	uint64_t begun = loop_now_ns(), look = begun + LOOK_NS;
	char *line = NULL;

	while (loop_now_ns() < begun + LONG_NS) {
		struct err ignored = {0};
		json_t *status;
		bool stays;
		int r;

		*e = (struct err){0};
		r = ctl_client_line(c, (int)(LOOK_NS / MS), &line, e);
		if (!r && line)
			cmd_hear_line(last, line);
		else if (r != -ETIMEDOUT)
			return r ? r : look_back(d, last, e);
		if (loop_now_ns() < look)
			continue;
		look = loop_now_ns() + LOOK_NS;
		status = ask_status(d, &ignored);
		stays = status && kept(status);
		json_decref(status);
		if (stays) {
			*e = (struct err){0};
			return err_set(e, -EBUSY,
				       "failover: the secondary was lost meanwhile; `ftvmm "
				       "status` says what this side does");
		}
	}
	*e = (struct err){0};
	return err_set(
		e, -ETIMEDOUT,
		"failover: '%s' has neither left nor kept the VM within %llu s; `ftvmm status` "
		"says what it does",
		d->w->name, LONG_NS / 1000000000);
}

/* Its events come over the same connection: the last one says what came of it. */
static json_t *ask(struct ctl_client *c, struct cmd_told *last, struct err *e)
{
	json_t *is = ctl_client_call(c, json_pack("{ss}", "cmd", "events"), CTL_SHORT_MS, e);

	if (!is)
		return NULL;
	cmd_hear(last, is);
	json_decref(is);
	return ctl_client_call(c, json_pack("{ss}", "cmd", "failover"), CTL_SHORT_MS, e);
}

static int hand_over(struct drill *d, struct err *e)
{
	struct cmd_told last = {0};
	struct ctl_client *c;
	json_t *ok;
	int r = ctl_client_open(&c, d->w->name, CTL_SHORT_MS, e);

	if (r)
		return r;
	d->begun_ns = loop_now_ns();
	ok = ask(c, &last, e);
	r = ok ? follow(d, c, &last, e) : -EPROTO;
	d->handed_ns = loop_now_ns();
	if (!r && d->w->json && !d->test)
		cmd_print_json(ok);
	json_decref(ok);
	ctl_client_close(c);
	return r;
}

/* --- and back in step ------------------------------------------------------------------------- */

/* Does this host stand by for who runs it now? */
static bool stands_by(struct drill *d)
{
	struct err e = {0};
	json_t *s = ask_status(d, &e);
	int64_t generation = json_integer_value(json_object_get(s, "generation"));
	bool is_there = s && !strcmp(text(s, "role"), "secondary") &&
			!strcmp(text(s, "state"), "PROTECTED") && generation > d->generation;

	if (s)
		snprintf(d->is, sizeof(d->is), "%s %s%s%.400s", text(s, "role"), text(s, "state"),
			 *text(s, "note") ? ": " : "", text(s, "note"));
	if (is_there)
		d->generation = generation;
	json_decref(s);
	return is_there;
}

static void report(const struct drill *d)
{
	uint64_t handed_us = (d->handed_ns - d->begun_ns) / 1000;
	uint64_t again_us = (loop_now_ns() - d->handed_ns) / 1000;

	if (d->w->json) {
		json_t *o = json_pack("{s:I, s:I, s:I}", "handed_over_us", (json_int_t)handed_us,
				      "protected_us", (json_int_t)again_us, "generation",
				      (json_int_t)d->generation);

		cmd_print_json(o);
		json_decref(o);
		return;
	}
	printf("handed over in %.3f s\n", (double)handed_us / 1e6);
	printf("protected again %.3f s later: this host stands by, generation %lld\n",
	       (double)again_us / 1e6, (long long)d->generation);
}

static int protect_again(struct drill *d)
{
	char time[32];

	while (!stands_by(d)) {
		if (loop_now_ns() - d->handed_ns < d->timeout_ns) {
			poll(NULL, 0, AGAIN_MS);
			continue;
		}
		option_format_time(d->timeout_ns, time, sizeof(time));
		fprintf(stderr,
			"ftvmm: failover: handed over, but after %s '%s' is not protected again: "
			"here is %s\n",
			time, d->w->name,
			d->is[0] ? d->is
				 : "nobody who stands by; start ftvmm run --secondary, or have "
				   "the unit ftvmm-standby do it");
		return EXIT_FAILED;
	}
	report(d);
	return EXIT_DONE;
}

int cmd_failover(const struct command_words *w)
{
	struct drill d = {.w = w, .timeout_ns = 60000 * MS};
	struct err e = {0};
	json_t *s;
	int r = parse(&d, &e);

	s = !r && d.test ? ask_status(&d, &e) : NULL;
	d.generation = json_integer_value(json_object_get(s, "generation"));
	json_decref(s);
	if (!r && d.test && !s)
		return cmd_fail(&e);
	r = r ? r : hand_over(&d, &e);
	if (r)
		return cmd_fail(&e);
	return d.test ? protect_again(&d) : EXIT_DONE;
}

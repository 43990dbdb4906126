#define _GNU_SOURCE /* sigtimedwait */
#include "vmm/cli/cmd_trace.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "ft/common/ft.h"
#include "vmm/base/loop.h"
#include "vmm/cli/cmd_ctl.h"
#include "vmm/cli/ctl_client.h"
#include "vmm/conf/option.h"

#define LAST_BYTES 4096 /* room for what ends the file */

struct tracing {
	const struct command_words *w;
	const char *path;
	uint32_t seconds;
	FILE *f;
	uint64_t begun_ns; /* what began before is cut there */
	uint64_t bytes, spans, lost, unknown;
	json_int_t epochs_begun, epochs_total;
	const char *ended; /* why; NULL: not yet */
};

static const struct option seconds_row = {
	"seconds",   .type = OPT_NUMBER, .min = 1,
	.max = 3600, .metavar = "N",	 .help = "so long (default 10, at most an hour)"};

void cmd_trace_print_options(void)
{
	option_print(&seconds_row, NULL);
}

static int parse(struct tracing *t, struct err *e)
{
	static const char flag[] = "--seconds";
	const size_t len = strlen(flag);
	int r = 0;

	for (int i = 0; i < t->w->nargs && !r; i++) {
		const char *word = t->w->args[i], *value = NULL;

		if (!strncmp(word, flag, len) && word[len] == '=')
			value = word + len + 1;
		else if (!strcmp(word, flag) && i + 1 < t->w->nargs)
			value = t->w->args[++i];
		if (value)
			r = option_set_text(&seconds_row, &t->seconds, value, "trace: --seconds",
					    e);
		else if (word[0] == '-')
			r = err_set(e, -EINVAL, "trace: %.40s: there is --seconds N", word);
		else if (t->path)
			r = err_set(e, -EINVAL, "trace: one file, not '%.40s' too", word);
		else
			t->path = word;
	}
	if (!r && !t->path)
		r = err_set(e, -EINVAL, "trace: which file?");
	return r;
}

/* --- the file --------------------------------------------------------------------------------- */

__attribute__((format(printf, 2, 3))) static void put(struct tracing *t, const char *fmt, ...)
{
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vfprintf(t->f, fmt, ap);
	va_end(ap);
	t->bytes += n > 0 ? (uint64_t)n : 0;
}

/* The first row of the same track gives its number. */
static unsigned track_of(const char *track)
{
	unsigned i = 0;

	while (strcmp(trace_row_at(i)->track, track) != 0)
		i++;
	return i;
}

static void put_name(struct tracing *t, const char *what, unsigned track, const char *name)
{
	put(t, "{\"ph\":\"M\",\"pid\":1,\"tid\":%u,\"name\":\"%s\",\"args\":{\"name\":\"%s\"}},\n",
	    track, what, name);
}

static void put_head(struct tracing *t)
{
	put(t, "{\"traceEvents\":[\n");
	for (unsigned i = 0; i < TRACE_WHATS; i++)
		if (track_of(trace_row_at(i)->track) == i)
			put_name(t, "thread_name", i, trace_row_at(i)->track);
}

static json_t *summary(const struct tracing *t)
{
	return json_pack("{s:s, s:s, s:I, s:I, s:I, s:I, s:I}", "name", t->w->name, "ended",
			 t->ended, "spans", (json_int_t)t->spans, "lost", (json_int_t)t->lost,
			 "unknown", (json_int_t)t->unknown, "epochs",
			 t->epochs_total - t->epochs_begun, "time_ms",
			 (json_int_t)((loop_now_ns() - t->begun_ns) / 1000000));
}

/* The viewer shows the name of the process; JSON takes no comma behind the last. */
static void put_tail(struct tracing *t)
{
	json_t *about = summary(t);
	char *text = json_dumps(about, JSON_COMPACT), *name;
	json_t *label = json_sprintf("ftvmm %s", t->w->name);

	name = json_dumps(label, JSON_ENCODE_ANY);
	put(t,
	    "{\"ph\":\"M\",\"pid\":1,\"name\":\"process_name\",\"args\":{\"name\":%s}}\n],"
	    "\"displayTimeUnit\":\"ms\",\"otherData\":%s}\n",
	    name ? name : "\"ftvmm\"", text ? text : "{}");
	free(text);
	free(name);
	json_decref(label);
	json_decref(about);
}

/* --- a span ----------------------------------------------------------------------------------- */

static const struct trace_row *row_of(const char *name)
{
	for (unsigned i = 0; name && i < TRACE_WHATS; i++)
		if (!strcmp(trace_row_at(i)->name, name))
			return trace_row_at(i);
	return NULL;
}

static double us(uint64_t ns)
{
	return (double)ns / 1000;
}

static void put_args(struct tracing *t, const struct trace_row *row, json_t *span)
{
	uint64_t epoch = (uint64_t)json_integer_value(json_array_get(span, 3));
	uint64_t n = (uint64_t)json_integer_value(json_array_get(span, 4));
	json_t *why = json_array_get(span, 5);
	const char *between = "";

	put(t, "\"args\":{");
	if (epoch) {
		put(t, "\"epoch\":%" PRIu64, epoch);
		between = ",";
	}
	if (*row->n) {
		put(t, "%s\"%s\":%" PRIu64, between, row->n, n);
		between = ",";
	}
	for (unsigned i = 1; why && i < FT_SEALS; i++)
		if (!strcmp(ft_seal_name(i), json_string_value(why)))
			put(t, "%s\"why\":\"%s\"", between, ft_seal_name(i));
	put(t, "}},\n");
}

/* A word of a state is one that there is: nothing else gets into the file. */
static const char *word_of(json_t *span)
{
	const char *word = json_string_value(json_array_get(span, 4));

	return word && strspn(word, "ABCDEFGHIJKLMNOPQRSTUVWXYZ-") == strlen(word) ? word : NULL;
}

static bool is_whole(json_t *span)
{
	for (size_t i = 1; i < 4; i++)
		if (!json_is_integer(json_array_get(span, i)) ||
		    json_integer_value(json_array_get(span, i)) < 0)
			return false;
	return !json_array_get(span, 5) || json_is_string(json_array_get(span, 5));
}

static void put_span(struct tracing *t, json_t *span)
{
	const struct trace_row *row = row_of(json_string_value(json_array_get(span, 0)));
	uint64_t begin, end;

	if (!row || !is_whole(span) || (row == trace_row_at(TRACE_WORD) && !word_of(span))) {
		t->unknown++;
		return;
	}
	begin = (uint64_t)json_integer_value(json_array_get(span, 1));
	end = (uint64_t)json_integer_value(json_array_get(span, 2));
	begin = begin < t->begun_ns ? 0 : begin - t->begun_ns;
	end = end < t->begun_ns ? 0 : end - t->begun_ns;
	t->spans++;
	put(t, "{\"name\":\"%s\",\"pid\":1,\"tid\":%u,\"ts\":%.3f,",
	    row == trace_row_at(TRACE_WORD) ? word_of(span) : row->name, track_of(row->track),
	    us(begin));
	if (row == trace_row_at(TRACE_WORD)) {
		put(t, "\"ph\":\"i\",\"s\":\"p\"},\n");
		return;
	}
	put(t, "\"ph\":\"X\",\"dur\":%.3f,", end > begin ? us(end - begin) : 0);
	put_args(t, row, span);
}

/* --- until it ends ---------------------------------------------------------------------------- */

static void hear(struct tracing *t, json_t *ok)
{
	json_t *spans = json_object_get(ok, "spans"), *span;
	json_t *begun = json_object_get(ok, "epochs_begun");
	size_t i;

	json_array_foreach(spans, i, span)
	{
		if (t->bytes + LAST_BYTES >= CMD_TRACE_FILE_MAX) {
			t->ended = "size";
			t->lost += json_array_size(spans) - i;
			break;
		}
		put_span(t, span);
	}
	t->lost += (uint64_t)json_integer_value(json_object_get(ok, "lost"));
	t->epochs_begun = json_integer_value(begun);
	t->epochs_total = json_integer_value(json_object_get(ok, "epochs_total"));
}

static void to_interrupt(sigset_t *set)
{
	sigemptyset(set);
	sigaddset(set, SIGINT);
	sigaddset(set, SIGTERM);
}

static bool is_interrupted(void)
{
	struct timespec now = {0};
	sigset_t set;

	to_interrupt(&set);
	return sigtimedwait(&set, NULL, &now) > 0;
}

static void look_at_the_time(struct tracing *t)
{
	if (!t->ended && loop_now_ns() - t->begun_ns >= t->seconds * 1000000000ull)
		t->ended = "time";
	if (!t->ended && is_interrupted())
		t->ended = "user";
	if (!t->ended && ferror(t->f))
		t->ended = "file";
}

/* What happened since the last question. NULL: e says why there is no answer. */
static json_t *ask(const struct tracing *t, struct ctl_client *c, struct err *e)
{
	json_t *request =
		json_pack("{s:s, s:I}", "cmd", "trace", "session", (json_int_t)t->begun_ns);

	if (t->ended)
		json_object_set_new(request, "end", json_true());
	return ctl_client_call(c, request, CTL_SHORT_MS, e);
}

/* Asked again and again; the last time it answers at once, and keeps no more. */
static void follow(struct tracing *t, struct ctl_client *c, json_t *ok)
{
	struct err e = {0};
	bool more = true;

	while (more) {
		bool last = t->ended != NULL;

		if (!ok)
			ok = ask(t, c, &e);
		if (!ok) {
			t->ended = t->ended ? t->ended : "VM";
			return;
		}
		hear(t, ok);
		more = !last || json_is_true(json_object_get(ok, "more"));
		json_decref(ok);
		ok = NULL;
		fflush(t->f);
		look_at_the_time(t);
	}
}

static int report(struct tracing *t, int failed)
{
	json_t *about = summary(t);

	if (failed)
		fprintf(stderr, "ftvmm: trace: '%s': %s\n", t->path, strerror(failed));
	else if (t->w->json)
		cmd_print_json(about);
	else
		printf("%s: %" PRIu64 " spans of %.1f s, %" PRIu64
		       " lost; ended by: %s. To look at it: ui.perfetto.dev\n",
		       t->path, t->spans, (double)(loop_now_ns() - t->begun_ns) / 1e9, t->lost,
		       t->ended);
	json_decref(about);
	return failed ? EXIT_FAILED : EXIT_DONE;
}

/* What the file had is gone only when there is something to put into it. */
static int trace(struct tracing *t, struct ctl_client *c, struct err *e)
{
	sigset_t set;
	json_t *ok;
	int failed;

	to_interrupt(&set);
	sigprocmask(SIG_BLOCK, &set, NULL); /* looked at between two questions: the file is whole */
	t->begun_ns = loop_now_ns();
	ok = ask(t, c, e);
	if (!ok)
		return e->code;
	t->f = fopen(t->path, "we");
	if (!t->f) {
		json_decref(ok);
		return err_sys(e, "trace: '%s'", t->path);
	}
	put_head(t);
	follow(t, c, ok);
	put_tail(t);
	failed = ferror(t->f) ? EIO : 0;
	if (fclose(t->f) && !failed)
		failed = errno;
	return report(t, failed);
}

int cmd_trace(const struct command_words *w)
{
	struct tracing t = {.w = w, .seconds = 10};
	struct ctl_client *c = NULL;
	struct err e = {0};
	int r = parse(&t, &e);

	if (!r)
		r = ctl_client_open(&c, w->name, CTL_SHORT_MS, &e);
	if (!r)
		r = trace(&t, c, &e);
	ctl_client_close(c);
	return e.code ? cmd_fail(&e) : r;
}

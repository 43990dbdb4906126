/* What is said over the control socket is what docs/control.md says; `ftvmm trace` at the VM. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/unit/librig.h"
#include "tests/unit/libtime.h"
#include "vmm/cli/command.h"
#include "vmm/cli/ctl_client.h"
#include "vmm/cli/ctl_schema.h"

/* --- the version -------------------------------------------------------------------------------
 */

/* Both sides say which version they speak, and neither goes on with another one. */
static void version_is_checked(void **state)
{
	static const char refused[] = "{\"id\":\"\",\"error\":\"this VM's control socket speaks "
				      "version 1, and the request "
				      "is of another: use the ftvmm that started the VM\"}\n";
	struct rig *rig = *state;

	assert_non_null(strstr(rig_ask(rig, "status\",\"version\":1,\"id\":\""), "\"ok\":{"));
	assert_string_equal(rig_ask(rig, "stop\",\"version\":2,\"id\":\""), refused);
	assert_string_equal(rig_ask(rig, "stop\",\"version\":\"1\",\"id\":\""), refused);
	assert_false(rig->r->over || rig->r->stopping);
}

/* What a VM of another version says first, and what comes of a request then. */
static void server_says(const char *lines, struct err *e)
{
	struct ctl_client *c = calloc(1, sizeof(*c));
	int sv[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, sv), 0);
	c->fd = sv[0];
	c->name = "web1";
	assert_int_equal(send(sv[1], lines, strlen(lines), 0), strlen(lines));
	*e = (struct err){0};
	json_decref(ctl_client_call(c, json_pack("{ss}", "cmd", "status"), 20000, e));
	ctl_client_close(c);
	close(sv[1]);
}

static void client_checks_the_greeting(void **state)
{
	struct err e;

	server_says("{\"greeting\":{\"control\":1}}\n{\"id\":1,\"ok\":{}}\n", &e);
	assert_string_equal(e.msg, "");
	server_says("{\"greeting\":{\"control\":2}}\n{\"id\":1,\"ok\":{}}\n", &e);
	assert_string_equal(e.msg, "VM 'web1': its control socket speaks version 2, and this ftvmm "
				   "version 1: use the ftvmm that started it");
	assert_int_equal(e.code, -EPROTONOSUPPORT);
	server_says("{\"error\":\"16 clients\"}\n", &e);
	assert_string_equal(e.msg, "16 clients");
	/* One is enough. */
	server_says("{\"greeting\":{}}\n{\"greeting\":{}}\n{\"id\":1,\"ok\":{}}\n", &e);
	assert_int_equal(e.code, -EPROTO);
}

/* --- the schema -------------------------------------------------------------------------------
 */

static bool is_of_type(json_t *v, const char *type)
{
	size_t n = strcspn(type, "?");

	return !strncmp(type,
			json_is_string(v)    ? "text"
			: json_is_boolean(v) ? "bool"
			: json_is_number(v)  ? "number"
			: json_is_array(v)   ? "list"
					     : "none of these",
			n);
}

static const struct ctl_field *field(enum ctl_part part, const char *of, const char *name)
{
	const struct ctl_field *f;

	for (unsigned i = 0; (f = ctl_field_at(i)); i++) {
		const char *star = strchr(f->name, '*');

		if (f->part == part && !strcmp(f->of, of) &&
		    (!strcmp(f->name, name) ||
		     (star && !strncmp(f->name, name, (size_t)(star - f->name)))))
			return f;
	}
	return NULL;
}

/* Each member is in the table, with its type. */
static unsigned check_members(const char *of, json_t *o, const char *path)
{
	unsigned n = 0;
	const char *key;
	json_t *v;

	json_object_foreach(o, key, v)
	{
		const struct ctl_field *f;
		char name[200];

		snprintf(name, sizeof(name), "%s%s%s", path, *path ? "." : "", key);
		if (json_is_object(v)) {
			n += check_members(of, v, name);
			continue;
		}
		f = field(CTL_REPLY, of, name);
		if (!f || !is_of_type(v, f->type))
			fail_msg("%s: %s: %s", of, name, f ? f->type : "not in the table");
		n++;
	}
	return n;
}

static void answers_are_what_the_table_says(void **state)
{
	struct rig *rig = *state;
	const struct ctl_field *f;
	json_t *reply, *ok;

	rig->r->role = ROLE_PRIMARY;
	rig->r->primary.engine.sync = &rig->r->primary.engine.syncs[0];
	reply = json_loads(rig_ask(rig, "status"), 0, NULL);
	ok = json_object_get(reply, "ok");
	assert_true(check_members("status", ok, "") > 70);
	/* And what is always there is. */
	for (unsigned i = 0; (f = ctl_field_at(i)); i++) {
		json_t *at = ok;
		char name[100], *save;

		if (f->part != CTL_REPLY || strcmp(f->of, "status") || strchr(f->type, '?'))
			continue;
		snprintf(name, sizeof(name), "%s", f->name);
		for (char *part = strtok_r(name, ".", &save); part;
		     part = strtok_r(NULL, ".", &save))
			at = json_object_get(at, part);
		if (!at)
			fail_msg("status has no %s", f->name);
	}
	json_decref(reply);
	reply = json_loads(rig_ask(rig, "events"), 0, NULL);
	assert_int_equal(check_members("events", json_object_get(reply, "ok"), ""), 6);
	json_decref(reply);
}

/* Of a command, or of what is named elsewhere in it; in the order of the page. */
static void the_table_is_in_order(void **state)
{
	const struct ctl_field *f, *last = NULL;

	for (unsigned i = 0; (f = ctl_field_at(i)); last = f, i++) {
		const struct command *c = command_find(f->of);

		assert_true(f->part > CTL_REPLY || (c && c->serve));
		assert_true(!last || last->part <= f->part);
		for (unsigned k = 0; k < i; k++) {
			const struct ctl_field *other = ctl_field_at(k);

			assert_true(other->part != f->part || strcmp(other->of, f->of) != 0 ||
				    strcmp(other->name, f->name) != 0);
		}
	}
}

static void unknown_members_are_refused(void **state)
{
	struct rig *rig = *state;

	assert_string_equal(rig_ask(rig, "pause\",\"hard\":\"y"),
			    "{\"error\":\"pause: a request has no member 'hard'; docs/control.md "
			    "lists them\"}\n");
	assert_non_null(strstr(rig_ask(rig, "stop\",\"timeout\":\"0"), "no member 'timeout'"));
	/* Of each setting and each option there is one. */
	assert_non_null(strstr(rig_ask(rig, "set\",\"epoch_ns\":1,\"output_limit_bytes\":1,"
					    "\"balloon_bytes\":1,\"peer\":[],\"ft\":\"x"),
			       "{\"error\":\"set: ft"));
	assert_non_null(strstr(rig_ask(rig, "migrate\",\"copy-disks\":true,\"insecure\":true,"
					    "\"passes\":3,\"auto\":\"x"),
			       "{\"error\":\"migrate: "));
	assert_null(strstr(rig_out, "no member"));
}

/* --- a trace -----------------------------------------------------------------------------------
 */

static const char *ask_trace(struct rig *rig, int session, const char *more)
{
	char words[100];

	snprintf(words, sizeof(words), "trace\",\"session\":%d%s,\"id\":\"", session, more);
	return rig_ask(rig, words);
}

static void a_trace_is_answered_when_it_has_some(void **state)
{
	struct rig *rig = *state;
	struct run *r = rig->r;
	struct ft *ft = &r->ft;

	trace_span(&ft->trace, &(struct trace_span){1, 2, .what = TRACE_PAUSE}); /* nobody asks */
	assert_string_equal(ask_trace(rig, 7, ""), "");
	assert_int_equal(r->trace.state, RUN_TRACE_ASKED);
	trace_span(&ft->trace, &(struct trace_span){5, 9, 3, 4, TRACE_PAUSE, FT_SEAL_NET});
	trace_span(&ft->trace, &(struct trace_span){9, 9, .n = 4, .what = TRACE_WORD});
	ft->stats.epochs = 2;
	time_fire(&r->trace.timer);
	assert_string_equal(rig_hear(rig),
			    "{\"id\":\"\",\"ok\":{\"spans\":[[\"pause\",5,9,3,4,\"net\"],"
			    "[\"state changed\",9,9,0,\"PROTECTED\"]],\"more\":false,\"lost\":0,"
			    "\"epochs_begun\":0,\"epochs_total\":2}}\n");
	/* Another's session has to wait; the end is told at once, and nothing is kept any more. */
	assert_non_null(strstr(ask_trace(rig, 8, ""), "another one is under way"));
	assert_non_null(strstr(ask_trace(rig, 7, ",\"end\":true"), "{\"spans\":[],"));
	assert_int_equal(r->trace.state, RUN_TRACE_OFF);
	assert_null(ft->trace.ring);
	assert_non_null(strstr(rig_ask(rig, "trace"), "'session' must be"));
}

static void a_trace_ends_with_who_asked(void **state)
{
	struct rig *rig = *state;
	struct run *r = rig->r;

	/* It stays away. */
	ask_trace(rig, 7, "");
	time_fire(&r->trace.timer);
	assert_int_equal(r->trace.state, RUN_TRACE_ANSWERED);
	assert_non_null(r->ft.trace.ring);
	time_fire(&r->trace.timer);
	assert_int_equal(r->trace.state, RUN_TRACE_OFF);
	assert_null(r->ft.trace.ring);
	rig_hear(rig);
	/* The process ends: who waits hears the rest. */
	ask_trace(rig, 7, "");
	trace_span(&r->ft.trace, &(struct trace_span){5, 9, .what = TRACE_MIGRATION});
	run_trace_stop(r);
	assert_non_null(strstr(rig_hear(rig), "\"migration\",5,9,0,0"));
	/* It leaves. */
	ask_trace(rig, 7, "");
	shutdown(rig->client, SHUT_RDWR);
	rig_hear(rig);
	assert_int_equal(r->trace.state, RUN_TRACE_OFF);
	assert_null(r->ft.trace.ring);
}

/* What finds no room in an answer comes in the next one; what found none in the ring is counted. */
static void a_trace_has_limits(void **state)
{
	static char answer[CTL_CLIENT_MAX];
	struct rig *rig = *state;
	struct run *r = rig->r;
	json_t *reply, *ok;
	uint64_t most = INT64_MAX;

	ask_trace(rig, 7, "");
	for (unsigned i = 0; i < TRACE_RING + 5; i++)
		trace_span(&r->ft.trace,
			   &(struct trace_span){most, most, most, most, TRACE_COPY, FT_SEAL_NET});
	time_fire(&r->trace.timer);
	for (size_t n = 0; !n || answer[n - 1] != '\n';) {
		ssize_t got = recv(rig->client, answer + n, sizeof(answer) - n, MSG_DONTWAIT);

		n += got > 0 ? (size_t)got : 0;
		assert_true(n < sizeof(answer));
		loop_run_once(&r->loop, 1000000);
	}
	reply = json_loads(answer, JSON_DISABLE_EOF_CHECK, NULL);
	ok = json_object_get(reply, "ok");
	assert_int_equal(json_array_size(json_object_get(ok, "spans")), RUN_TRACE_SPANS);
	assert_true(json_is_true(json_object_get(ok, "more")));
	assert_int_equal(json_integer_value(json_object_get(ok, "lost")), 5);
	json_decref(reply);
	run_trace_stop(r);
}

/* Time stands still but where a test says so. */
static int setup(void **state)
{
	time_reset();
	return rig_setup(state);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, rig_teardown)
	const struct CMUnitTest tests[] = {
		T(version_is_checked),
		cmocka_unit_test(client_checks_the_greeting),
		T(answers_are_what_the_table_says),
		cmocka_unit_test(the_table_is_in_order),
		T(unknown_members_are_refused),
		T(a_trace_is_answered_when_it_has_some),
		T(a_trace_ends_with_who_asked),
		T(a_trace_has_limits),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

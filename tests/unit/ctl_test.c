/* The control socket: a server with a fake VM behind it, clients that behave, and others. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "tests/unit/libcommand.h"
#include "vmm/cli/command.h"
#include "vmm/cli/ctl.h"
#include "vmm/cli/ctl_client.h"
#include "vmm/cli/ctl_sock.h"
#include "vmm/base/log.h"

#define WAIT_MS 20000 /* nothing here takes this long; a hang is to fail, not to hang */

struct world {
	char dir[64];
	pthread_t thread;
	int ready[2];
	int open_result;
	struct err open_err;
	struct loop loop;
	struct ctl *ctl;
	_Atomic(const char *) state, role;
	char snapshot[600];
	uint64_t epoch_ns;
};

static json_t *status_of(struct world *w)
{
	return json_pack("{sssssssssIsisis{sisi}}", "name", "web1", "role", atomic_load(&w->role),
			 "state", atomic_load(&w->state), "mode", "mc", "epoch", (json_int_t)4711,
			 "generation", 3, "held_packets", 14, "pause_us", "p50", 200, "p99", 3400);
}

static json_t *fake_vm(void *arg, const char *cmd, json_t *args, struct err *e)
{
	struct world *w = arg;

	if (!strcmp(cmd, "status"))
		return status_of(w);
	if (!strcmp(cmd, "events"))
		ctl_follow(w->ctl);
	if (!strcmp(cmd, "echo") || !strcmp(cmd, "pause"))
		return json_incref(args);
	if (!strcmp(cmd, "flood"))
		for (int i = 0; i < 2000; i++)
			ctl_event(w->ctl, json_pack("{sssiss}", "event", "flood", "i", i, "pad",
						    "0123456789012345678901234567890123456789"
						    "0123456789012345678901234567890123456789"));
	if (!strcmp(cmd, "event"))
		ctl_event(w->ctl, json_pack("{ss}", "event", "hello"));
	if (!strcmp(cmd, "stop"))
		loop_stop(&w->loop);
	if (!strcmp(cmd, "snapshot"))
		snprintf(w->snapshot, sizeof(w->snapshot), "%s",
			 json_string_value(json_object_get(args, "file")));
	if (!strcmp(cmd, "set"))
		w->epoch_ns = json_integer_value(json_object_get(args, "epoch_ns"));
	if (!strcmp(cmd, "garble")) {
		err_set(e, -EIO, "file '\xff\xfe' failed");
		return NULL;
	}
	if (!strcmp(cmd, "fail")) {
		err_set(e, -EIO, "disk 'root': no space");
		return NULL;
	}
	if (!strcmp(cmd, "silent"))
		return NULL;
	return json_object();
}

static void *server_main(void *arg)
{
	struct world *w = arg;

	assert_int_equal(loop_init(&w->loop, &w->open_err), 0);
	w->open_result = ctl_open(&w->ctl, &w->loop, "web1", fake_vm, w, &w->open_err);
	if (write(w->ready[1], "x", 1) != 1)
		abort();
	if (!w->open_result)
		loop_run(&w->loop);
	ctl_close(w->ctl);
	loop_done(&w->loop);
	return NULL;
}

static void start_server(struct world *w)
{
	char byte;

	w->ctl = NULL;
	w->open_err.code = 0;
	assert_int_equal(pthread_create(&w->thread, NULL, server_main, w), 0);
	assert_int_equal(read(w->ready[0], &byte, 1), 1);
}

static void stop_server(struct world *w)
{
	struct err e = {0};

	json_decref(ctl_call("web1", json_pack("{ss}", "cmd", "stop"), WAIT_MS, &e));
	assert_string_equal(e.msg, "");
	pthread_join(w->thread, NULL);
}

static int setup_folder(void **state)
{
	struct world *w = calloc(1, sizeof(*w));

	log_init(LOG_ERROR, "test");
	umask(0);
	strcpy(w->dir, "/tmp/ftvmm-ctl-XXXXXX");
	assert_non_null(mkdtemp(w->dir));
	setenv("XDG_RUNTIME_DIR", w->dir, 1);
	assert_int_equal(pipe(w->ready), 0);
	w->state = "PROTECTED";
	w->role = "primary";
	*state = w;
	return 0;
}

static int teardown_folder(void **state)
{
	struct world *w = *state;
	char cmd[100];

	close(w->ready[0]);
	close(w->ready[1]);
	snprintf(cmd, sizeof(cmd), "rm -rf %s", w->dir);
	free(w);
	return system(cmd);
}

static int setup(void **state)
{
	setup_folder(state);
	start_server(*state);
	return ((struct world *)*state)->open_result;
}

static int teardown(void **state)
{
	stop_server(*state);
	return teardown_folder(state);
}

/* A client by hand. */

static int dial(void)
{
	struct timeval tv = {.tv_sec = WAIT_MS / 1000};
	struct sockaddr_un sa;
	struct err e = {0};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_int_equal(ctl_sock_addr("web1", &sa, &e), 0);
	assert_int_equal(connect(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv));
	return fd;
}

static void say(int fd, const char *text)
{
	assert_int_equal(send(fd, text, strlen(text), MSG_NOSIGNAL), strlen(text));
}

/* One line without its newline, behind the greeting; false at the end. */
static bool hear(int fd, char *line, size_t cap)
{
	size_t n = 0;
	ssize_t r = 0;

	while (n < cap - 1 && (r = recv(fd, line + n, 1, 0)) == 1 && line[n] != '\n')
		n++;
	line[n] = 0;
	if (r < 0 && errno != ECONNRESET)
		fail_msg("nothing came: %s", strerror(errno));
	if (!strncmp(line, "{\"greeting\":", 12))
		return hear(fd, line, cap);
	return r == 1;
}

static void expect(int fd, const char *want)
{
	char line[1000];

	assert_true(hear(fd, line, sizeof(line)));
	assert_string_equal(line, want);
}

/* An event, and when it was. */
static void expect_hello(int fd)
{
	char line[1000], when[40], rest[4] = "";

	assert_true(hear(fd, line, sizeof(line)));
	assert_int_equal(
		sscanf(line, "{\"event\":\"hello\",\"time\":\"%27[0-9T:.Z-]\"%3s", when, rest), 2);
	assert_string_equal(rest, "}");
	assert_int_equal(strlen(when), 27);
}

static void expect_end(int fd)
{
	char line[1000];

	if (hear(fd, line, sizeof(line)))
		fail_msg("expected the end, got %s", line);
	close(fd);
}

static void answers_and_echoes_the_id(void **state)
{
	int fd = dial();

	say(fd, "{\"id\":7,\"cmd\":\"nothing\"}\n");
	expect(fd, "{\"id\":7,\"ok\":{}}");
	say(fd, "{\"id\":\"a\",\"cmd\":\"fail\"}\n");
	expect(fd, "{\"id\":\"a\",\"error\":\"disk 'root': no space\"}");
	say(fd, "{\"cmd\":\"nothing\"}\n");
	expect(fd, "{\"ok\":{}}");
	say(fd, "{\"cmd\":\"silent\"}\n");
	expect(fd, "{\"error\":\"failed\"}");
	say(fd, "{\"cmd\":\"garble\"}\n");
	expect(fd, "{\"error\":\"file '?\?' failed\"}");
	say(fd, "\n\n{\"cmd\":\"nothing\"}\r\n");
	expect(fd, "{\"ok\":{}}");
	close(fd);
}

static void lines_come_in_any_pieces(void **state)
{
	const char *text = "{\"id\":1,\"cmd\":\"nothing\"}\n";
	int fd = dial(), other = dial();

	say(fd, "{\"id\":1,\"cmd\":\"no");
	say(other, text);
	expect(other, "{\"id\":1,\"ok\":{}}");
	say(fd, "thing\"}\n{\"id\":2,\"cmd\":\"nothing\"}\n{\"id\":3,");
	expect(fd, "{\"id\":1,\"ok\":{}}");
	expect(fd, "{\"id\":2,\"ok\":{}}");
	say(fd, "\"cmd\":\"nothing\"}\n");
	expect(fd, "{\"id\":3,\"ok\":{}}");
	for (const char *p = text; *p; p++) {
		char one[2] = {*p, 0};

		say(fd, one);
	}
	expect(fd, "{\"id\":1,\"ok\":{}}");
	/* A request in one shot, as with printf | nc. */
	say(fd, text);
	shutdown(fd, SHUT_WR);
	expect(fd, "{\"id\":1,\"ok\":{}}");
	expect_end(fd);
	/* Half a line and gone. */
	say(other, "{\"cmd\":");
	close(other);
}

static void malformed_lines_get_an_error_reply(void **state)
{
	static const struct {
		const char *line, *reply;
	} cases[] = {
		{"hello", "{\"error\":\"not JSON (column 5)\"}"},
		{"[]", "{\"error\":\"a request is a JSON object\"}"},
		{"7", NULL},
		{"{", NULL},
		{"{}", "{\"error\":\"cmd is missing or no string\"}"},
		{"{\"id\":5}", "{\"id\":5,\"error\":\"cmd is missing or no string\"}"},
		{"{\"cmd\":7}", NULL},
		{"{\"cmd\":\"a\",\"cmd\":\"b\"}", NULL},
		{"{\"id\":{},\"cmd\":\"nothing\"}",
		 "{\"error\":\"id must be a whole number or a string\"}"},
		{"{\"cmd\":\"a\\u0000\"}", NULL},
		{"{\"cmd\":\"\xc3\x28\"}", NULL},
		{"\x01\x02\x03", NULL},
		{"{\"cmd\":\"echo\",\"x\":[[[[[[[[1]]]]]]]]}",
		 "{\"error\":\"nested more than 8 deep\"}"},
		{"{\"cmd\":\"echo\",\"x\":\"[[[[[[[[[[[[{{{{\\\"[[[[\"}",
		 "{\"ok\":{\"cmd\":\"echo\",\"x\":\"[[[[[[[[[[[[{{{{\\\"[[[[\"}}"},
		{"\"unfinished", NULL},
		{"{\"cmd\":\"x\\", NULL},
	};
	char line[1000];
	int fd = dial();

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		say(fd, cases[i].line);
		say(fd, "\n");
		assert_true(hear(fd, line, sizeof(line)));
		if (cases[i].reply)
			assert_string_equal(line, cases[i].reply);
		else if (!strstr(line, "\"error\":"))
			fail_msg("%s: %s", cases[i].line, line);
	}
	say(fd, "{\"id\":1,\"cmd\":\"nothing\"}\n");
	expect(fd, "{\"id\":1,\"ok\":{}}");
	close(fd);
}

static char *filled(size_t n, char with)
{
	char *text = malloc(n + 1);

	memset(text, with, n);
	text[n] = 0;
	return text;
}

static void long_and_deep_lines_are_bounded(void **state)
{
	const char *head = "{\"cmd\":\"nothing\",\"x\":\"", *tail = "\"}\n";
	char *deep = filled(60000, '['), *endless = filled(CTL_LINE_MAX, 'x');
	char *most = filled(CTL_LINE_MAX, 'x');
	int fd = dial();

	say(fd, deep);
	say(fd, "\n");
	expect(fd, "{\"error\":\"nested more than 8 deep\"}");
	/* The longest line that is allowed, newline included. */
	memcpy(most, head, strlen(head));
	memcpy(most + CTL_LINE_MAX - strlen(tail), tail, strlen(tail));
	say(fd, most);
	expect(fd, "{\"ok\":{}}");
	/* One byte more: there is no newline within the bound. */
	say(fd, endless);
	expect(fd, "{\"error\":\"line longer than 65536 bytes\"}");
	expect_end(fd);
	free(deep);
	free(endless);
	free(most);
}

static void seventeenth_client_is_told(void **state)
{
	int fd[16], last;

	for (int i = 0; i < 16; i++) {
		fd[i] = dial();
		say(fd[i], "{\"cmd\":\"nothing\"}\n");
		expect(fd[i], "{\"ok\":{}}");
	}
	last = dial();
	expect(last, "{\"error\":\"16 clients are connected already; close one\"}");
	expect_end(last);
	shutdown(fd[3], SHUT_WR);
	expect_end(fd[3]);
	fd[3] = dial();
	say(fd[3], "{\"cmd\":\"nothing\"}\n");
	expect(fd[3], "{\"ok\":{}}");
	for (int i = 0; i < 16; i++) {
		shutdown(fd[i], SHUT_WR);
		expect_end(fd[i]);
	}
}

static void events_go_to_who_asked(void **state)
{
	int fd = dial(), other = dial();

	say(fd, "{\"id\":1,\"cmd\":\"events\"}\n");
	expect(fd, "{\"id\":1,\"ok\":{}}");
	say(other, "{\"id\":2,\"cmd\":\"event\"}\n");
	expect(other, "{\"id\":2,\"ok\":{}}");
	expect_hello(fd);
	say(fd, "{\"id\":3,\"cmd\":\"event\"}\n");
	expect_hello(fd);
	expect(fd, "{\"id\":3,\"ok\":{}}");
	close(fd);
	close(other);
}

static void slow_reader_is_dropped_alone(void **state)
{
	char line[1000];
	unsigned heard = 0;
	int slow = dial(), flooder = dial(), other = dial();

	say(slow, "{\"cmd\":\"events\"}\n");
	expect(slow, "{\"ok\":{}}");
	for (int i = 0; i < 20; i++) {
		say(flooder, "{\"cmd\":\"flood\"}\n");
		expect(flooder, "{\"ok\":{}}");
	}
	while (hear(slow, line, sizeof(line)))
		heard++;
	assert_true(heard < 20 * 2000);
	close(slow);
	/* Overrun by the events of its own commands, while the server is at work for it. */
	say(flooder, "{\"cmd\":\"events\"}\n");
	for (int i = 0; i < 20; i++)
		if (send(flooder, "{\"cmd\":\"flood\"}\n", 16, MSG_NOSIGNAL) != 16)
			break;
	shutdown(flooder, SHUT_WR);
	while (hear(flooder, line, sizeof(line)))
		;
	close(flooder);
	say(other, "{\"cmd\":\"nothing\"}\n");
	expect(other, "{\"ok\":{}}");
	close(other);
}

/* A client that asks and asks but never reads stops being read, and costs nobody else anything. */
static void asker_that_does_not_read_is_paused(void **state)
{
	const char *ask = "{\"cmd\":\"echo\",\"x\":\"0123456789012345678901234567890123456789\"}\n";
	int fd = dial(), other = dial();
	size_t sent = 0, n = strlen(ask);
	char line[1000];

	while (sent < 64u << 20 && send(fd, ask, n, MSG_DONTWAIT | MSG_NOSIGNAL) == (ssize_t)n)
		sent += n;
	assert_true(sent < 64u << 20);
	say(other, "{\"cmd\":\"nothing\"}\n");
	expect(other, "{\"ok\":{}}");
	assert_true(hear(fd, line, sizeof(line)));
	close(fd);
	close(other);
}

static uint64_t stepped_ns; /* a request takes 1.5 ms */
static uint64_t stepped(void)
{
	return stepped_ns;
}

static json_t *count(void *arg, const char *cmd, json_t *args, struct err *e)
{
	++*(unsigned *)arg;
	stepped_ns += 1500000;
	return json_object();
}

static unsigned answers(int fd)
{
	char got[4096];
	ssize_t n = recv(fd, got, sizeof(got), MSG_DONTWAIT);
	unsigned lines = 0;

	while (n-- > 0)
		lines += got[n] == '\n';
	return lines;
}

/* Whoever asks much at once is answered, but nobody else waits for that. */
static void much_is_answered_in_turns(void **state)
{
	unsigned asked = 0, most = 0, got[2] = {0};
	char text[300 * 40] = "\n\n";
	struct loop l;
	struct ctl *c;
	int fd[2];

	assert_int_equal(loop_init(&l, NULL) | ctl_open(&c, &l, "web1", count, &asked, NULL), 0);
	l.clock = stepped;
	for (unsigned i = 0; i < 300; i++)
		strcat(text, "{\"cmd\":\"nothing\"}\n\n\n");
	for (unsigned i = 0; i < 2; i++) {
		fd[i] = dial();
		say(fd[i], text);
		shutdown(fd[i], SHUT_WR); /* as with printf | nc */
	}
	for (unsigned i = 0; i < 700; i++) {
		unsigned was = asked;

		loop_run_once(&l, 1000000);
		most = asked - was > most ? asked - was : most;
		for (unsigned k = 0; k < 2; k++)
			got[k] += answers(fd[k]);
		if (asked == 300)
			assert_in_range(got[0], 149, 153); /* in turn */
	}
	assert_int_equal(most, 2); /* after 2 ms it is another one's turn */
	assert_true(asked == 600 && got[0] == 301 && got[1] == 301); /* greeting and all */
	expect_end(fd[0]);
	expect_end(fd[1]);
	ctl_close(c);
	loop_done(&l);
}

static void socket_is_private(void **state)
{
	char path[200];
	struct err e = {0};
	struct stat st;

	assert_int_equal(ctl_sock_path("web1", path, sizeof(path), &e), 0);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0600);
	*strrchr(path, '/') = 0;
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0700);
}

static void name_in_use_is_refused(void **state)
{
	struct loop l;
	struct ctl *c;
	struct err e = {0};

	assert_int_equal(loop_init(&l, &e), 0);
	assert_int_equal(ctl_open(&c, &l, "web1", fake_vm, NULL, &e), -EADDRINUSE);
	assert_string_equal(e.msg,
			    "a VM named 'web1' is running already; choose another --name, or "
			    "ftvmm stop web1");
	loop_done(&l);
	/* The first one is still there. */
	json_decref(ctl_call("web1", json_pack("{ss}", "cmd", "status"), WAIT_MS, &e));
}

static void names_and_folders_are_checked(void **state)
{
	char path[100], *big = filled(300, 'x');
	struct err e = {0};

	assert_int_equal(ctl_sock_path("", path, sizeof(path), NULL), -EINVAL);
	assert_int_equal(ctl_sock_path("../x", path, sizeof(path), NULL), -EINVAL);
	assert_int_equal(ctl_sock_path(".x", path, sizeof(path), NULL), -EINVAL);
	assert_int_equal(ctl_sock_path(big, path, sizeof(path), NULL), -EINVAL);
	setenv("XDG_RUNTIME_DIR", big, 1);
	assert_int_equal(ctl_sock_path("a", path, sizeof(path), NULL), -ENAMETOOLONG);
	unsetenv("XDG_RUNTIME_DIR");
	if (geteuid() == 0) {
		assert_int_equal(ctl_sock_path("a", path, sizeof(path), &e), 0);
		assert_string_equal(path, "/run/ftvmm/a.sock");
	}
	free(big);
}

/* A socket file whose owner is gone. */
static void leave_stale(const char *name, char *path, size_t cap)
{
	struct sockaddr_un sa;
	struct err e = {0};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), lock = ctl_sock_lock(&e);

	assert_true(lock >= 0);
	assert_int_equal(ctl_sock_addr(name, &sa, &e), 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
	snprintf(path, cap, "%s", sa.sun_path);
	close(fd);
	ctl_sock_unlock(lock);
}

static void stale_sockets_are_replaced(void **state)
{
	struct world *w = *state;
	struct err e = {0};
	char path[200], want[400];
	int fd;

	leave_stale("web1", path, sizeof(path));
	assert_null(ctl_call("web1", json_pack("{ss}", "cmd", "status"), WAIT_MS, &e));
	assert_int_equal(e.code, -ENOENT);
	snprintf(want, sizeof(want),
		 "no VM named 'web1' runs here: nobody listens on '%s' "
		 "(XDG_RUNTIME_DIR as where it was started?)",
		 path);
	assert_string_equal(e.msg, want);
	assert_int_equal(access(path, F_OK), -1);
	leave_stale("web1", path, sizeof(path));
	/* Somebody who may read the folder has locked it. */
	assert_int_equal(ctl_sock_dir(want, sizeof(want), NULL), 0);
	fd = open(want, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_int_equal(flock(fd, LOCK_EX), 0);
	start_server(w);
	close(fd);
	assert_int_equal(w->open_result, 0);
	stop_server(w);
	assert_int_equal(access(path, F_OK), -1);
}

/* Whoever answers the client is not trusted either. */
static void client_has_deadlines(void **state)
{
	static const char *const replies[] = {"garbage\n", "[]\n", "{}\n", "{\"ok\":1,\"ok\":2}\n"};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), lock, conn;
	struct sockaddr_un sa;
	struct err e = {0};
	char line[100];

	lock = ctl_sock_lock(&e);
	assert_int_equal(ctl_sock_addr("web1", &sa, &e), 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&sa, sizeof(sa)) | listen(fd, 4), 0);
	ctl_sock_unlock(lock);
	assert_null(ctl_call("web1", json_pack("{ss}", "cmd", "status"), 30, &e));
	assert_int_equal(e.code, -ETIMEDOUT);
	assert_string_equal(e.msg, "VM 'web1' did not answer within 30 ms");
	close(accept(fd, NULL, NULL));
	for (size_t i = 0; i < sizeof(replies) / sizeof(replies[0]); i++) {
		/* Answered before it is asked: the reply lies in the socket already. */
		pid_t pid = fork();

		if (!pid) {
			conn = accept(fd, NULL, NULL);
			say(conn, replies[i]);
			hear(conn, line, sizeof(line));
			_exit(0);
		}
		e.code = 0;
		assert_null(ctl_call("web1", json_pack("{ss}", "cmd", "status"), WAIT_MS, &e));
		assert_int_equal(e.code, -EPROTO);
	}
	close(fd);
}

/* The subcommands, with their output in out. */
static char out[8192];

static int command(const char *line)
{
	return command_says(line, out, sizeof(out));
}

static void status_prints_a_table(void **state)
{
	assert_int_equal(command("status web1"), 0);
	assert_string_equal(out,
			    "NAME  ROLE     STATE      MODE  PEER  EPOCH  PAUSE-p99  HELD  GEN\n"
			    "web1  primary  PROTECTED  mc    -     4711   3.4ms      14    3\n");
	assert_int_equal(command("status"), 0);
	assert_non_null(strstr(out, "\nweb1  primary"));
	assert_int_equal(command("status web1 --json"), 0);
	assert_non_null(strstr(out, "\"state\":\"PROTECTED\""));
	assert_int_equal(command("status --json"), 0);
	assert_int_equal(out[0], '[');
}

static void exit_code_of_status_is_the_state(void **state)
{
	static const struct {
		const char *role, *name;
		int code;
	} cases[] = {
		{"primary", "PROTECTED", 0},	 {"secondary", "PROTECTED", 0},
		{"plain", "RUNNING", 0},	 {"plain", "PAUSED", 0},
		{"plain", "INCOMPLETE", 4},	 {"primary", "UNPROTECTED", 4},
		{"primary", "SYNCING", 4},	 {"primary", "DEGRADED", 4},
		{"primary", "PAUSED", 4},	 {"secondary", "STARTING", 4},
		{"secondary", "TAKING-OVER", 4}, {"primary", "FENCED", 5},
		{"plain", "STOPPED", 3},	 {"primary", "NEW-STATE", 4},
	};
	struct world *w = *state;

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		w->role = cases[i].role;
		w->state = cases[i].name;
		assert_int_equal(command("status web1"), cases[i].code);
		assert_int_equal(command("status"), cases[i].code);
	}
}

static void commands_reach_the_vm(void **state)
{
	struct world *w = *state;
	char want[700], cwd[500];

	assert_int_equal(command("set web1 epoch=10ms"), 0);
	assert_int_equal(w->epoch_ns, 10000000);
	assert_string_equal(out, "");
	assert_int_equal(command("snapshot web1 /x/y.snap"), 0);
	assert_string_equal(w->snapshot, "/x/y.snap");
	assert_int_equal(command("snapshot web1 y.snap --json"), 0);
	assert_non_null(getcwd(cwd, sizeof(cwd)));
	snprintf(want, sizeof(want), "%s/y.snap", cwd);
	assert_string_equal(w->snapshot, want);
	assert_string_equal(out, "{}\n");
	assert_int_equal(command("pause web1 --json"), 0);
	assert_string_equal(out, "{\"cmd\":\"pause\",\"id\":1,\"version\":1}\n");
	assert_int_equal(command("resume web1"), 0);
}

static void wrong_usage_says_how(void **state)
{
	static const struct {
		const char *line;
		int code;
		const char *message;
	} cases[] = {
		{"status none", 1, "ftvmm: no VM named 'none' runs here"},
		{"stop", 1, "the name of the VM is missing; usage: ftvmm stop NAME"},
		{"stop web1 now", 1, "unknown argument 'now'; there is timeout=TIME"},
		{"stop web1 timeout=1h", 1, "stop: timeout: '1h' is not a time"},
		{"stop web1 timeout=9000s", 1, "above the limit of 8 minutes"},
		{"stop web1 timeout=1s now", 1, "too many arguments; usage:"},
		{"pause --force web1", 1, "unknown option --force; usage:"},
		{"snapshot web1", 1, "an argument is missing; usage: ftvmm snapshot NAME FILE"},
		{"set web1", 1, "an argument is missing"},
		{"set web1 epok=1ms", 1, "set: unknown key 'epok=1ms'; the nearest is 'epoch'"},
		{"set web1 epoch", 1, "set: epoch needs a value: epoch=TIME"},
		{"set web1 balloon", 1, "set: balloon needs a value: balloon=SIZE"},
		{"set web1 epoch=1us", 1, "epoch: 1us is outside 100us..10s"},
		{"frobnicate", 1, "no command 'frobnicate'; `ftvmm --help` lists them"},
		{"status ../x", 1, "'../x' is not a name of a VM"},
		{"status xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx", 1,
		 "64 characters, at most 63"},
		{"events --help", 0, "usage: ftvmm events NAME"},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		assert_int_equal(command(cases[i].line), cases[i].code);
		if (!strstr(out, cases[i].message))
			fail_msg("%s: %s", cases[i].line, out);
	}
}

static void *emit_and_stop(void *arg)
{
	struct world *w = arg;
	int fd = dial();

	/* Until the other client listens, events go nowhere. */
	for (int i = 0; i < 200; i++) {
		say(fd, "{\"cmd\":\"event\"}\n");
		expect(fd, "{\"ok\":{}}");
		poll(NULL, 0, 2);
	}
	close(fd);
	stop_server(w);
	return NULL;
}

static void events_stream_to_the_end(void **state)
{
	pthread_t thread;

	assert_int_equal(pthread_create(&thread, NULL, emit_and_stop, *state), 0);
	assert_int_equal(command("events web1"), 0);
	pthread_join(thread, NULL);
	/* What the VM answered is the first of them. */
	assert_true(strstr(out, "{}\n{\"event\":\"hello\",\"time\":\"2") == out);
}

static void stop_waits_for_the_end(void **state)
{
	struct world *w = *state;
	char path[200];
	struct err e = {0};

	start_server(w);
	assert_int_equal(command("stop web1"), 0);
	assert_string_equal(out, "");
	assert_int_equal(ctl_sock_path("web1", path, sizeof(path), &e), 0);
	pthread_join(w->thread, NULL);
	assert_int_equal(access(path, F_OK), -1);
	assert_int_equal(command("status"), 0);
	assert_true(strstr(out, "ftvmm: no VM runs here: none has its socket in '/") == out);
	leave_stale("old", path, sizeof(path));
	assert_int_equal(command("status"), 0);
	assert_true(strstr(out, "ftvmm: no VM runs here: none has its socket in '/") == out);
	assert_int_equal(access(path, F_OK), -1);
}

#define SERVED(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
#define ALONE(f)  cmocka_unit_test_setup_teardown(f, setup_folder, teardown_folder)

int main(void)
{
	const struct CMUnitTest tests[] = {
		SERVED(answers_and_echoes_the_id),
		SERVED(lines_come_in_any_pieces),
		SERVED(malformed_lines_get_an_error_reply),
		SERVED(long_and_deep_lines_are_bounded),
		SERVED(seventeenth_client_is_told),
		SERVED(events_go_to_who_asked),
		SERVED(slow_reader_is_dropped_alone),
		SERVED(asker_that_does_not_read_is_paused),
		SERVED(socket_is_private),
		SERVED(name_in_use_is_refused),
		ALONE(much_is_answered_in_turns),
		ALONE(names_and_folders_are_checked),
		ALONE(stale_sockets_are_replaced),
		ALONE(client_has_deadlines),
		SERVED(status_prints_a_table),
		SERVED(exit_code_of_status_is_the_state),
		SERVED(commands_reach_the_vm),
		SERVED(wrong_usage_says_how),
		cmocka_unit_test_setup_teardown(events_stream_to_the_end, setup, teardown_folder),
		ALONE(stop_waits_for_the_end),
	};

	return cmocka_run_group_tests_name("ctl", tests, NULL, NULL);
}

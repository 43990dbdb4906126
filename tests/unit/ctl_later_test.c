/* The control socket: answers that take their time. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "vmm/base/log.h"
#include "vmm/cli/ctl.h"
#include "vmm/cli/ctl_client.h"
#include "vmm/cli/ctl_sock.h"

static char folder[64];
static struct loop loop;
static struct ctl *ctl;
static struct ctl_later later;
static unsigned left;
static bool dials;   /* another client, as soon as the one that asks has left */
static int follower; /* which that is */

static void client_left(void *arg)
{
	assert_ptr_equal(arg, &later);
	left++;
}

static void turn(void);

/* Whoever asked closed its end, which an event shows. */
static void tell(void)
{
	struct sockaddr_un sa;

	ctl_event(ctl, json_pack("{ss}", "event", "first"));
	if (!dials)
		return;
	assert_int_equal(ctl_sock_addr("vm", &sa, NULL), 0);
	follower = ctl_sock_connect(&sa, 1000);
	assert_true(follower >= 0);
	turn();
}

static json_t *serve(void *arg, const char *cmd, json_t *request, struct err *e)
{
	if (!strcmp(cmd, "echo"))
		return json_incref(request);
	if (!strcmp(cmd, "tell-follow"))
		tell();
	if (strstr(cmd, "follow")) {
		ctl_follow(ctl);
		return json_object();
	}
	assert_null(later.client);
	if (!strcmp(cmd, "tell-later"))
		tell();
	ctl_later(ctl, &later);
	if (!strcmp(cmd, "at-once"))
		ctl_answer(&later, json_pack("{ss}", "at", "once"), NULL);
	return NULL;
}

static int setup(void **state)
{
	log_init(LOG_ERROR, "test");
	strcpy(folder, "/tmp/ftvmm-later-XXXXXX");
	assert_non_null(mkdtemp(folder));
	setenv("XDG_RUNTIME_DIR", folder, 1);
	assert_int_equal(loop_init(&loop, NULL), 0);
	assert_int_equal(ctl_open(&ctl, &loop, "vm", serve, NULL, NULL), 0);
	later = (struct ctl_later){.left = client_left, .arg = &later};
	left = 0;
	dials = false;
	return 0;
}

static int teardown(void **state)
{
	char path[80];

	ctl_close(ctl);
	loop_done(&loop);
	snprintf(path, sizeof(path), "%s/ftvmm/lock", folder);
	unlink(path);
	snprintf(path, sizeof(path), "%s/ftvmm", folder);
	rmdir(path);
	rmdir(folder);
	return 0;
}

/* Whatever has come is served. */
static void turn(void)
{
	for (int i = 0; i < 20; i++)
		assert_int_equal(loop_run_once(&loop, 1000000ull), 0);
}

/* Exactly that has come. */
static void expect(int fd, const char *want)
{
	char got[1000] = "";
	ssize_t n = recv(fd, got, sizeof(got) - 1, MSG_DONTWAIT);

	assert_true(n >= 0 || !*want);
	assert_string_equal(got, want);
}

static int dial(void)
{
	struct sockaddr_un sa;
	int fd;

	assert_int_equal(ctl_sock_addr("vm", &sa, NULL), 0);
	fd = ctl_sock_connect(&sa, 1000);
	assert_true(fd >= 0);
	turn();
	expect(fd, "{\"greeting\":{\"control\":1,\"name\":\"vm\"}}\n");
	return fd;
}

static void say(int fd, const char *text)
{
	assert_int_equal(send(fd, text, strlen(text), MSG_NOSIGNAL), strlen(text));
	turn();
}

static void nothing_overtakes_it(void **state)
{
	int fd = dial(), other = dial();

	say(fd, "{\"id\":\"a\",\"cmd\":\"later\"}\n{\"id\":2,\"cmd\":\"echo\"}\n");
	say(fd, "{\"id\":3,\"cmd\":\"at-once\"}\n");
	expect(fd, "");
	/* Others do not wait. */
	say(other, "{\"id\":1,\"cmd\":\"echo\"}\n");
	expect(other, "{\"id\":1,\"ok\":{\"id\":1,\"cmd\":\"echo\"}}\n");
	ctl_answer(&later, json_pack("{ss}", "it", "is"), NULL);
	turn();
	expect(fd, "{\"id\":\"a\",\"ok\":{\"it\":\"is\"}}\n"
		   "{\"id\":2,\"ok\":{\"id\":2,\"cmd\":\"echo\"}}\n"
		   "{\"id\":3,\"ok\":{\"at\":\"once\"}}\n");
	say(fd, "{\"cmd\":\"later\"}\n");
	ctl_answer(&later, NULL, &(struct err){-EIO, "it came to nothing"});
	expect(fd, "{\"error\":\"it came to nothing\"}\n");
	assert_int_equal(left, 0);
	close(fd);
	close(other);
	turn();
}

static void who_leaves_is_not_answered(void **state)
{
	int fd = dial();

	say(fd, "{\"id\":1,\"cmd\":\"later\"}\n");
	close(fd);
	turn();
	assert_int_equal(left, 1);
	ctl_answer(&later, json_object(), NULL);
	/* The slot is another's. */
	fd = dial();
	expect(fd, "");
	say(fd, "{\"id\":2,\"cmd\":\"later\"}\n");
	ctl_answer(&later, json_object(), NULL);
	expect(fd, "{\"id\":2,\"ok\":{}}\n");
	/* The socket is closed first. */
	say(fd, "{\"id\":3,\"cmd\":\"later\"}\n");
	ctl_close(ctl);
	ctl = NULL;
	assert_int_equal(left, 2);
	close(fd);
}

/* It follows events, asks for this, and leaves at once. */
static void asks_and_leaves(const char *text)
{
	int fd = dial();

	say(fd, "{\"cmd\":\"follow\"}\n");
	expect(fd, "{\"ok\":{}}\n");
	assert_int_equal(send(fd, text, strlen(text), MSG_NOSIGNAL), strlen(text));
	close(fd);
	turn();
}

/* Seen while it is served: the answer has nobody to go to. */
static void who_has_left_already(void **state)
{
	int fd;

	asks_and_leaves("{\"id\":1,\"cmd\":\"tell-later\"}\n");
	assert_null(later.client);
	assert_null(later.id);
	ctl_answer(&later, json_object(), NULL);
	asks_and_leaves("{\"id\":2,\"cmd\":\"tell-follow\"}\n");
	/* It was not bound, nor is it told so. */
	assert_int_equal(left, 0);
	fd = dial();
	say(fd, "{\"id\":3,\"cmd\":\"later\"}\n");
	ctl_answer(&later, json_object(), NULL);
	expect(fd, "{\"id\":3,\"ok\":{}}\n");
	close(fd);
	turn();
}

/* The next one in its place is not answered, nor told, what it did not ask for. */
static void whose_place_is_taken(void **state)
{
	static const char greeting[] = "{\"greeting\":{\"control\":1,\"name\":\"vm\"}}\n";

	dials = true;
	asks_and_leaves("{\"id\":1,\"cmd\":\"tell-later\"}\n");
	expect(follower, greeting);
	ctl_answer(&later, json_object(), NULL);
	expect(follower, "");
	close(follower);
	turn();
	asks_and_leaves("{\"id\":2,\"cmd\":\"tell-follow\"}\n");
	ctl_event(ctl, json_pack("{ss}", "event", "second"));
	expect(follower, greeting);
	close(follower);
	turn();
}

static void who_leaves_unheard(void **state)
{
	int fd = dial();

	later.left = NULL;
	say(fd, "{\"id\":1,\"cmd\":\"later\"}\n");
	close(fd);
	turn();
	ctl_answer(&later, json_object(), NULL);
	assert_int_equal(left, 0);
}

/* What is asked for behind it is read as far as there is room, and answered in the end. */
static void much_behind_it(void **state)
{
	static const char echo[] = "{\"cmd\":\"echo\"}\n", want[] = "{\"ok\":{\"cmd\":\"echo\"}}\n";
	unsigned sent = 0, lines = CTL_LINE_MAX / (sizeof(echo) - 1) + 9;
	int fd = dial();
	char got[64];

	say(fd, "{\"id\":1,\"cmd\":\"later\"}\n");
	for (; sent < lines; sent++) {
		assert_int_equal(send(fd, echo, strlen(echo), MSG_NOSIGNAL), strlen(echo));
		if (sent % 100 == 0)
			turn();
	}
	turn();
	expect(fd, "");
	ctl_answer(&later, json_object(), NULL);
	assert_int_equal(recv(fd, got, 17, MSG_WAITALL), 17);
	assert_memory_equal(got, "{\"id\":1,\"ok\":{}}\n", 17);
	for (unsigned have = 0; have < lines * strlen(want);) {
		struct pollfd p = {.fd = fd, .events = POLLIN};

		while (poll(&p, 1, 0) < 1)
			assert_int_equal(loop_run_once(&loop, 1000000ull), 0);
		assert_int_equal(recv(fd, got, 1, 0), 1);
		assert_int_equal(got[0], want[have++ % strlen(want)]);
	}
	assert_int_equal(left, 0);
	close(fd);
	turn();
}

/* A dump's, of the largest VM. */
static void the_longest_answer_arrives(void **state)
{
	static char text[CTL_CLIENT_MAX - 256], got[CTL_CLIENT_MAX];
	int fd = dial();
	size_t have = 0;

	memset(text, 'x', sizeof(text) - 1);
	say(fd, "{\"id\":1,\"cmd\":\"later\"}\n");
	ctl_answer(&later, json_pack("{ss}", "is", text), NULL);
	for (unsigned i = 0; i < 1000 && !memchr(got, '\n', have); i++) {
		ssize_t n = recv(fd, got + have, sizeof(got) - have, MSG_DONTWAIT);

		have += n > 0 ? (size_t)n : 0;
		turn();
	}
	assert_memory_equal(got, "{\"id\":1,\"ok\":{\"is\":\"x", 21);
	assert_int_equal(have, sizeof(text) - 1 + 24);
	close(fd);
	turn();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
		T(nothing_overtakes_it),       T(who_leaves_is_not_answered), T(who_leaves_unheard),
		T(who_has_left_already),       T(whose_place_is_taken),	      T(much_behind_it),
		T(the_longest_answer_arrives),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* The steps at which end-to-end tests have a process killed: this program again, told so. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "ft/common/steps.h"

#define ARG "reach"

/* What a child reaches, after which it exits with how many it has survived. */
static const enum step way[] = {STEP_HELLO_SENT, STEP_SYNC_DISK, STEP_SYNC_DISK, STEP_SYNC_DISK,
				STEP_SYNC_END};
#define STEPS ((int)(sizeof(way) / sizeof(way[0])))

/* How the child ended: -1, killed; or its exit code. NULL: it is told nothing. */
static int child(const char *die_at)
{
	pid_t pid = fork();
	int status;

	if (!pid) {
		if (die_at)
			setenv("FTVMM_DIE_AT", die_at, 1);
		else
			unsetenv("FTVMM_DIE_AT");
		execl("/proc/self/exe", "steps_test", ARG, NULL);
		_exit(100);
	}
	assert_true(pid > 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (WIFSIGNALED(status)) {
		assert_int_equal(WTERMSIG(status), SIGKILL);
		return -1;
	}
	return WEXITSTATUS(status);
}

static void killed_where_it_was_told(void **state)
{
	assert_int_equal(child(NULL), STEPS);
	assert_int_equal(child("hello-sent"), -1);
	assert_int_equal(child("sync-disk"), -1);
	assert_int_equal(child("sync-end:1"), -1);
	assert_int_equal(child("sync-ram"), STEPS); /* not on its way */
}

static void killed_the_nth_time(void **state)
{
	assert_int_equal(child("sync-disk:3"), -1);
	assert_int_equal(child("sync-disk:4"), STEPS);
	assert_int_equal(child("hello-sent:2"), STEPS);
}

/* It stays where it was told to until somebody says go on, or has gone. */
static void held_where_it_was_told(void **state)
{
	struct sockaddr_un at = {.sun_family = AF_UNIX};
	struct pollfd p;
	char word;

	snprintf(at.sun_path, sizeof(at.sun_path), "/tmp/steps_test-%d", getpid());
	for (int says = 0; says < 2; says++) {
		int listener = socket(AF_UNIX, SOCK_STREAM, 0), status;
		pid_t pid;

		unlink(at.sun_path);
		assert_int_equal(bind(listener, (struct sockaddr *)&at, sizeof(at)), 0);
		assert_int_equal(listen(listener, 1), 0);
		pid = fork();
		if (!pid) {
			setenv("FTVMM_HOLD_AT", "sync-disk:2", 1);
			setenv("FTVMM_HOLD", at.sun_path, 1);
			_exit(child(NULL));
		}
		p = (struct pollfd){accept(listener, NULL, NULL), POLLIN, 0};
		assert_int_equal(read(p.fd, &word, 1), 1);
		assert_int_equal(poll(&p, 1, 100), 0);
		assert_int_equal(waitpid(pid, &status, WNOHANG), 0);
		if (says)
			assert_int_equal(write(p.fd, "", 1), 1);
		else
			close(p.fd);
		assert_int_equal(waitpid(pid, &status, 0), pid);
		assert_int_equal(WEXITSTATUS(status), STEPS);
		if (says)
			close(p.fd);
		close(listener);
		unlink(at.sun_path);
	}
}

/* A test that names no step must not seem to have killed anybody. */
static void a_name_that_is_none(void **state)
{
	static const char *const bad[] = {"sync", "sync-disks", "",
					  ":1",	  "sync-disk-", "SYNC-DISK"};

	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_int_not_equal(child(bad[i]), -1);
}

static void each_has_a_name_of_its_own(void **state)
{
	for (unsigned i = 0; i < STEP_MAX; i++)
		for (unsigned k = 0; k < i; k++)
			assert_string_not_equal(step_name(i), step_name(k));
	assert_string_equal(step_name(STEP_DONE_SAID), "done-said");
	assert_string_equal(step_name(STEP_MAX), "?");
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(killed_where_it_was_told),   cmocka_unit_test(killed_the_nth_time),
		cmocka_unit_test(held_where_it_was_told),     cmocka_unit_test(a_name_that_is_none),
		cmocka_unit_test(each_has_a_name_of_its_own),
	};

	if (argc > 1 && !strcmp(argv[1], ARG)) {
		for (int i = 0; i < STEPS; i++)
			step_reached(way[i]);
		return STEPS;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}

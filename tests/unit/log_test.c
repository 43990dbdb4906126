/* What a guest can do all day, and readers of the log that do not read. */
#define _GNU_SOURCE /* F_SETPIPE_SZ */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <pty.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "vmm/base/log.h"

#define LINES	4000
#define PATIENT 20 /* seconds until a child that hangs is killed */

static void once_a_second(void **state)
{
	uint64_t last = 0, first;

	assert_true(log_may(&last));
	first = last;
	for (unsigned i = 0; i < 3; i++)
		if (log_may(&last))
			assert_true(last - first >= 1000000000);
	last -= 1000000000;
	assert_true(log_may(&last));
}

/* A process of its own, as there is one log for each; its standard error is fd. */
struct child {
	pid_t pid;
	int err;      /* its standard error, to read */
	int says[2];  /* it says that it is so far */
	int hears[2]; /* and goes on when told */
};

static void start(struct child *c, void (*fn)(struct child *c), int err, int fd)
{
	assert_int_equal(pipe(c->says) | pipe(c->hears), 0);
	c->err = err;
	fflush(NULL);
	c->pid = fork();
	if (!c->pid) {
		alarm(PATIENT);
		dup2(fd, STDERR_FILENO);
		close(err);
		close(c->says[0]);
		close(c->hears[1]);
		log_init(LOG_INFO, "test");
		fn(c);
		_exit(0);
	}
	assert_true(c->pid > 0);
	close(fd);
	close(c->says[1]);
	close(c->hears[0]);
}

static void start_at_pipe(struct child *c, void (*fn)(struct child *c))
{
	int p[2];

	assert_int_equal(pipe(p), 0);
	fcntl(p[1], F_SETPIPE_SZ, 4096);
	start(c, fn, p[0], p[1]);
}

static int end(struct child *c)
{
	int status;

	assert_int_equal(waitpid(c->pid, &status, 0), c->pid);
	close(c->err);
	close(c->says[0]);
	close(c->hears[1]);
	return status;
}

static void so_far(struct child *c)
{
	char x = 'x';

	if (write(c->says[1], &x, 1) != 1 || read(c->hears[0], &x, 1) != 1)
		_exit(1);
}

static void wait_for(struct child *c)
{
	char x;

	assert_int_equal(read(c->says[0], &x, 1), 1);
}

static void go_on(struct child *c)
{
	assert_int_equal(write(c->hears[1], "x", 1), 1);
}

/* Read lines until one has `last` in it, or to the end; text is terminated. */
static void read_log(struct child *c, char *text, size_t cap, const char *last)
{
	size_t n = 0;
	ssize_t r;

	text[0] = 0;
	while ((!last || !strstr(text, last)) && n + 1 < cap &&
	       (r = read(c->err, text + n, cap - n - 1)) > 0) {
		n += (size_t)r;
		text[n] = 0;
	}
	if (last)
		assert_non_null(strstr(text, last));
}

/* Lines "info: N" in order from `from`; returns the number after the last. */
static unsigned check_lines(const char *text, unsigned from)
{
	const char *at = text;

	while ((at = strstr(at, "info: ")))
		assert_int_equal(strtoul(at += 6, NULL, 10), from++);
	return from;
}

static void floods(struct child *c)
{
	if (log_start())
		_exit(1);
	for (unsigned i = 0; i < LINES; i++)
		log_info("%u %0*d", i, i % 2 ? 50 : 500, 0); /* one may fit where another did not */
	so_far(c);
	log_info("%u", LINES);
	log_flush();
}

/* More than ring and pipe hold: nobody waits, and what is missing is said where it is missing. */
static void nobody_reads(struct child *c)
{
	static char text[1 << 20];
	char *lost;
	unsigned kept, n;

	wait_for(c); /* it got through with it */
	read_log(c, text, sizeof(text), " lines lost");
	go_on(c);
	kept = check_lines(text, 0);
	assert_in_range(kept, 100, LINES - 1);
	lost = strstr(text, " lines lost");
	while (lost > text && lost[-1] != ' ')
		lost--;
	n = (unsigned)strtoul(lost, NULL, 10);
	assert_int_equal(kept + n, LINES);
	read_log(c, text, sizeof(text), NULL);
	assert_int_equal(check_lines(text, LINES), LINES + 1);
	assert_int_equal(end(c), 0);
}

static void full_pipe(void **state)
{
	struct child c;

	start_at_pipe(&c, floods);
	nobody_reads(&c);
}

static void stopped_terminal(void **state)
{
	static char text[1 << 20];
	struct child c;
	struct termios t;
	int master, slave;

	assert_int_equal(openpty(&master, &slave, NULL, NULL, NULL), 0);
	tcgetattr(slave, &t);
	cfmakeraw(&t);
	t.c_iflag |= IXON;
	tcsetattr(slave, TCSANOW, &t);
	assert_int_equal(write(master, "\x13", 1), 1); /* Ctrl-S */
	start(&c, floods, master, slave);
	wait_for(&c);
	assert_int_equal(write(master, "\x11", 1), 1);
	read_log(&c, text, sizeof(text), " lines lost");
	assert_in_range(check_lines(text, 0), 100, LINES - 1);
	go_on(&c);
	read_log(&c, text, sizeof(text), NULL);
	assert_int_equal(check_lines(text, LINES), LINES + 1);
	assert_int_equal(end(&c), 0);
}

static void floods_without_blocking(struct child *c)
{
	fcntl(STDERR_FILENO, F_SETFL, O_NONBLOCK);
	floods(c);
}

/* Somebody else made it non-blocking: no line is torn. */
static void pipe_that_does_not_block(void **state)
{
	struct child c;

	start_at_pipe(&c, floods_without_blocking);
	nobody_reads(&c);
}

static void ends(struct child *c)
{
	struct timespec a, b;

	floods(c);
	clock_gettime(CLOCK_MONOTONIC, &a);
	log_flush();
	clock_gettime(CLOCK_MONOTONIC, &b);
	if (b.tv_sec - a.tv_sec > 5)
		_exit(2);
}

/* The end does not wait for a reader either, not for long. */
static void end_with_a_full_pipe(void **state)
{
	struct child c;

	start_at_pipe(&c, ends);
	wait_for(&c);
	go_on(&c);
	assert_int_equal(end(&c), 0);
}

static void has_a_bug(struct child *c)
{
	if (log_start())
		_exit(1);
	for (unsigned i = 0; i < 300; i++)
		log_info("%u", i);
	VMM_BUG_ON(c->pid == 0);
}

/* A bug of ours is said, behind all that was said before. */
static void bug_is_said(void **state)
{
	static char text[1 << 16];
	struct child c;
	int status;

	start_at_pipe(&c, has_a_bug);
	read_log(&c, text, sizeof(text), NULL);
	assert_int_equal(check_lines(text, 0), 300);
	assert_non_null(strstr(text, "bug in ftvmm at tests/unit/log_test.c:"));
	status = end(&c);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
}

static void *talk(void *arg)
{
	for (unsigned i = 0; i < 150; i++)
		log_info("%s%s%s", (char *)arg, (char *)arg, (char *)arg);
	return NULL;
}

static void talks(struct child *c)
{
	static char *const words[] = {"aaaaaaaaaaaaaaaaaaaaaaaa", "bbbbbbbbbbbb", "cccccc"};
	pthread_t t[3];

	if (log_start())
		_exit(1);
	for (unsigned i = 0; i < 3; i++)
		pthread_create(&t[i], NULL, talk, words[i]);
	for (unsigned i = 0; i < 3; i++)
		pthread_join(t[i], NULL);
	log_flush();
}

/* Whole lines, all of them, to a reader that reads. */
static void threads_do_not_mix(void **state)
{
	static char text[1 << 20];
	unsigned n[3] = {0};
	struct child c;

	start_at_pipe(&c, talks);
	read_log(&c, text, sizeof(text), NULL);
	for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
		char kind = line[strlen("ftvmm[test] info: ")];

		assert_in_range(kind, 'a', 'c');
		n[kind - 'a']++;
		assert_int_equal(strspn(line + strlen("ftvmm[test] info: "), (char[]){kind, 0}),
				 kind == 'a'   ? 72
				 : kind == 'b' ? 36
					       : 18);
	}
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(n[i], 150);
	assert_int_equal(end(&c), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(once_a_second),	cmocka_unit_test(full_pipe),
		cmocka_unit_test(stopped_terminal),	cmocka_unit_test(pipe_that_does_not_block),
		cmocka_unit_test(end_with_a_full_pipe), cmocka_unit_test(bug_is_said),
		cmocka_unit_test(threads_do_not_mix),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* An arbiter that is a program: what it says, how it ends, and when it does not. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ft/common/arbiter_exec.h"
#include "tests/unit/libarbiter.h"

#define RECORD "{\"vm\":\"web1\",\"generation\":5,\"holder\":\"h\",\"time\":1,\"released\":false}"

/* The program is `text`, a script; the world's folder is where it starts. */
static struct arbiter *with_program(struct world *w, const char *text)
{
	char script[4096], path[128];

	snprintf(script, sizeof(script), "#!/bin/sh\ncd %s\n%s\n", w->folder, text);
	plant(w, "program", script);
	snprintf(path, sizeof(path), "%s/program", w->folder);
	assert_int_equal(chmod(path, 0700), 0);
	snprintf(w->uri, sizeof(w->uri), "exec:%s/program", w->folder);
	return open_as(w, "hostA");
}

/* The example that comes with the program, on the world's folder; a disk that is slow to sync is
 * no matter here. */
static struct arbiter *with_flock(struct world *w, const char *holder)
{
	char path[256];

	snprintf(path, sizeof(path), "%s/sync", w->folder);
	plant(w, "sync", "#!/bin/sh\n");
	assert_int_equal(chmod(path, 0700), 0);
	snprintf(path, sizeof(path), "%s:/usr/bin:/bin", w->folder);
	setenv("PATH", path, 1);
	setenv("FTVMM_ARBITER_DIR", w->folder, 1);
	strcpy(w->uri, "exec:configs/arbiter-flock");
	return open_as(w, holder);
}

static void the_example_is_an_arbiter(void **state)
{
	struct arbiter *a = with_flock(*state, "hostA"),
		       *b = with_flock(*state, "it's $HOME \\ \"B\"");
	struct arbiter_record rec;
	struct err e = {0};
	uint64_t gen = 0;

	assert_int_equal(arbiter_read(a, &rec, &e), 0);
	assert_int_equal(rec.generation, 0);
	if (arbiter_claim(a, 0, ARBITER_START, &gen, &e))
		fail_msg("%s", e.msg);
	assert_int_equal(arbiter_claim(b, 0, ARBITER_START, &gen, &e), -ESTALE);
	assert_string_equal(e.msg, "generation 1 of VM 'web1' is held by 'hostA'");
	assert_int_equal(arbiter_claim(b, 1, ARBITER_GO_ON, &gen, NULL), 0);
	assert_int_equal(arbiter_end(b, 2, ARBITER_STOPPED, NULL), 0);
	assert_int_equal(arbiter_read(a, &rec, NULL), 0);
	assert_int_equal(rec.generation, 2);
	assert_string_equal(rec.holder, "it's $HOME \\ \"B\"");
	assert_int_equal(rec.end, ARBITER_STOPPED);
	assert_int_equal(arbiter_claim(a, 2, ARBITER_GO_ON, &gen, NULL), -ECANCELED);
	assert_int_equal(count_files(*state, "web1.record"), 1);
	arbiter_close(a);
	arbiter_close(b);
}

static void without_its_folder_the_example_is_no_answer(void **state)
{
	struct world *w = *state;
	struct arbiter *a = with_flock(w, "hostA");
	struct arbiter_record rec;
	struct err e = {0};

	setenv("FTVMM_ARBITER_DIR", "/nonexistent", 1);
	assert_int_equal(arbiter_read(a, &rec, &e), -EIO);
	assert_non_null(strstr(e.msg, "exit code 2"));
	assert_non_null(strstr(e.msg, "nonexistent"));
	arbiter_close(a);
}

static void it_is_asked_as_the_manual_says(void **state)
{
	struct arbiter *a =
		with_program(*state, "printf '%s|' \"$#\" \"$@\" >> asked; wc -c >> asked");
	struct world *w = *state;
	uint64_t gen;
	char path[128], text[2048] = "";
	FILE *f;

	assert_int_equal(arbiter_claim(a, 0, ARBITER_START, &gen, NULL), 0);
	snprintf(path, sizeof(path), "%s/asked", w->folder);
	f = fopen(path, "r");
	assert_non_null(f);
	assert_true(fread(text, 1, sizeof(text) - 1, f) > 0);
	fclose(f);
	assert_ptr_equal(strstr(text, "2|read|web1|0\n4|swap|web1||{\"vm\":\"web1\","), text);
	assert_non_null(strstr(text, "}|0\n"));
	arbiter_close(a);
}

/* Another record than was read: it is read again, and judged anew. */
static void another_record_is_looked_at(void **state)
{
	struct arbiter *a =
		with_program(*state, "case $1 in read) cat record 2> /dev/null; exit 0;; "
				     "swap) echo '" RECORD "' > record; exit 10;; esac");
	struct err e = {0};
	uint64_t gen;

	assert_int_equal(arbiter_claim(a, 0, ARBITER_START, &gen, &e), -ESTALE);
	assert_string_equal(e.msg, "generation 5 of VM 'web1' is held by 'h'");
	arbiter_close(a);
}

static void exit_codes_that_say_nothing(void **state)
{
	static const struct {
		const char *text, *said;
	} cases[] = {
		{"echo '" RECORD "'; echo 'no quorum' >&2; echo more >&2; exit 3",
		 "read web1: exit code 3: no quorum"},
		{"exit 10", "exit code 10: no word on standard error"},
		{"exit 1", "exit code 1: no word"},
		{"kill -9 $$", "exit code 137"},
		{"printf '\\033[31mred\\n' >&2; exit 1", "exit code 1: ?[31mred"},
	};

	for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct arbiter *a = with_program(*state, cases[i].text);
		struct arbiter_record rec;
		struct err e = {0};

		assert_int_equal(arbiter_read(a, &rec, &e), -EIO);
		assert_non_null(strstr(e.msg, cases[i].said));
		arbiter_close(a);
	}
}

static void what_it_says_is_bounded_and_checked(void **state)
{
	static const struct {
		const char *text;
		int code;
	} cases[] = {
		{"head -c 4095 /dev/zero | tr '\\0' ' '", -EBADMSG},
		{"head -c 4096 /dev/zero | tr '\\0' ' '", -EMSGSIZE},
		{"cat /dev/zero", -EMSGSIZE},
		{"head -c 1000000 /dev/zero >&2; echo '" RECORD "'", 0},
		{"printf '" RECORD "'", 0},
		{"printf '{\\0'", -EBADMSG},
		{"echo hello", -EBADMSG},
		{"echo; echo", -EBADMSG},
	};

	for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct arbiter *a = with_program(*state, cases[i].text);
		struct arbiter_record rec;

		assert_int_equal(arbiter_read(a, &rec, NULL), cases[i].code);
		arbiter_close(a);
	}
}

static void a_program_that_cannot_be_run(void **state)
{
	struct world *w = *state;
	struct arbiter *a = with_program(w, "");
	struct arbiter_record rec;
	struct err e = {0};

	unplant(w, "program");
	assert_int_equal(arbiter_read(a, &rec, &e), -ENOENT);
	assert_non_null(strstr(e.msg, "arbiter: program '/tmp/"));
	assert_non_null(strstr(e.msg, "No such file"));
	plant(w, "program", "");
	e.code = 0;
	assert_int_equal(arbiter_read(a, &rec, &e), -EACCES);
	arbiter_close(a);
}

/* All that it has started has the pipe open; when nobody has, the read end hears of it. */
static void expect_all_gone(int fd)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};
	char byte;

	assert_int_equal(poll(&p, 1, 20000), 1);
	while (read(fd, &byte, 1) == 1)
		;
	assert_int_equal(poll(&p, 1, 20000), 1);
	assert_true(p.revents & POLLHUP);
	close(fd);
}

static int open_pipe(const struct world *w)
{
	char path[128];
	int fd;

	snprintf(path, sizeof(path), "%s/pipe", w->folder);
	assert_int_equal(mkfifo(path, 0600), 0);
	fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	assert_true(fd >= 0);
	return fd;
}

static void one_that_hangs_is_killed_with_all_it_has_started(void **state)
{
	struct arbiter *a =
		with_program(*state, "exec 8> pipe; echo x >&8; sleep 1000 & sleep 1000");
	int fd = open_pipe(*state);
	struct err e = {0};
	uint64_t gen = 0;

	assert_int_equal(arbiter_claim(a, 0, ARBITER_START, &gen, &e), -EIO);
	assert_non_null(strstr(e.msg, "did not end in time; it was killed"));
	assert_int_equal(gen, 0);
	expect_all_gone(fd);
	arbiter_close(a);
}

/* It is another's group that it is in: nobody of that is killed. */
static void one_that_hangs_in_another_group_is_killed(void **state)
{
	struct arbiter *a =
		with_program(*state, "exec 8> pipe; echo x >&8; exec python3 -c 'import os, time;"
				     "os.setpgid(0, os.getpgid(os.getppid())); time.sleep(1000)'");
	int fd = open_pipe(*state);
	struct arbiter_record rec;
	struct err e = {0};

	assert_int_equal(arbiter_read(a, &rec, &e), -EIO);
	assert_non_null(strstr(e.msg, "did not end in time; it was killed"));
	expect_all_gone(fd);
	arbiter_close(a);
}

static void what_it_leaves_behind_is_killed(void **state)
{
	struct arbiter *a =
		with_program(*state, "exec 8> pipe; echo x >&8; sleep 1000 & echo '" RECORD "'");
	int fd = open_pipe(*state);
	struct arbiter_record rec;

	assert_int_equal(arbiter_read(a, &rec, NULL), 0);
	assert_int_equal(rec.generation, 5);
	expect_all_gone(fd);
	arbiter_close(a);
}

/* It has set the record, and is killed before it says so. */
static void a_claim_whose_answer_was_lost_is_won_when_asked_again(void **state)
{
	struct arbiter *a = with_program(
		*state,
		"case $1 in read) cat record 2> /dev/null; exit 0;; "
		"swap) echo \"$4\" > record; [ -e again ] || { : > again; exit 7; };; esac");
	struct err e = {0};
	uint64_t gen = 0;

	assert_int_equal(arbiter_claim(a, 0, ARBITER_START, &gen, &e), -EIO);
	assert_int_equal(gen, 0);
	assert_int_equal(arbiter_claim(a, 0, ARBITER_START, &gen, NULL), 0);
	assert_int_equal(gen, 1);
	arbiter_close(a);
}

/* No descriptor of ours, no blocked or ignored signal. */
static void it_starts_as_from_a_shell(void **state)
{
	struct arbiter *a = with_program(
		*state, "[ ! -e /proc/$$/fd/77 ] || echo descriptor >&2; "
			"grep -E 'Sig(Blk|Ign)' /proc/self/status | tr -d '\\n\\t' >&2; exit 5");
	struct arbiter_record rec;
	struct err e = {0};
	const char *said;

	signal(SIGPIPE, SIG_IGN);
	assert_int_equal(dup2(0, 77), 77); /* not close-on-exec */
	assert_int_equal(arbiter_read(a, &rec, &e), -EIO);
	close(77);
	signal(SIGPIPE, SIG_DFL);
	said = strstr(e.msg, "code 5: SigBlk:0000000000000000SigIgn:");
	assert_non_null(said);
	/* The C library ignores two of its own, above these. */
	assert_int_equal(strtoull(strrchr(said, ':') + 1, NULL, 16) & 0x7fffffff, 0);
	arbiter_close(a);
}

static void questions_leave_nothing_open(void **state)
{
	struct arbiter *a = with_program(*state, "exit 3");
	struct arbiter_record rec;
	int before = dup(0), after;

	close(before);
	for (int i = 0; i < 3; i++)
		assert_int_equal(arbiter_read(a, &rec, NULL), -EIO);
	after = dup(0);
	close(after);
	assert_int_equal(after, before);
	arbiter_close(a);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, world_setup, world_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(the_example_is_an_arbiter),
		TEST(without_its_folder_the_example_is_no_answer),
		TEST(it_is_asked_as_the_manual_says),
		TEST(another_record_is_looked_at),
		TEST(exit_codes_that_say_nothing),
		TEST(what_it_says_is_bounded_and_checked),
		TEST(a_program_that_cannot_be_run),
		TEST(one_that_hangs_is_killed_with_all_it_has_started),
		TEST(one_that_hangs_in_another_group_is_killed),
		TEST(what_it_leaves_behind_is_killed),
		TEST(a_claim_whose_answer_was_lost_is_won_when_asked_again),
		TEST(it_starts_as_from_a_shell),
		TEST(questions_leave_nothing_open),
	};

	return cmocka_run_group_tests_name("arbiter_exec", tests, NULL, NULL);
}

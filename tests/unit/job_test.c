/* Jobs on threads of their own: in time, late, given up; waited for, and told of on the loop. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vmm/base/job.h"
#include "vmm/boot/boot_reader.h"

#define LONG_NS 60000000000ull

/* Sleeps until a byte comes. */
struct sleeper {
	struct job job;
	int wait_fd, dropped_fd;
	unsigned told, late;
	int result;
};

static int wake[2], dropped[2];
static struct loop loop;

static int run(struct job *job)
{
	struct sleeper *s = (struct sleeper *)job;
	char byte;

	if (s->wait_fd < 0)
		return 42;
	return read(s->wait_fd, &byte, 1) == 1 ? 7 : -EIO;
}

static void drop(struct job *job)
{
	struct sleeper *s = (struct sleeper *)job;

	if (write(s->dropped_fd, "d", 1) != 1)
		abort();
	free(s);
}

static void told(struct job *job, int result)
{
	struct sleeper *s = (struct sleeper *)job;

	s->told++;
	s->late += result == -ETIMEDOUT;
	s->result = result;
}

static unsigned count_in(const char *folder)
{
	DIR *d = opendir(folder);
	unsigned n = 0;

	assert_non_null(d);
	for (struct dirent *de; (de = readdir(d));)
		n += de->d_name[0] != '.';
	closedir(d);
	return n;
}

static unsigned own_threads; /* a sanitizer has one, too */

/* Of jobs. */
static unsigned threads(void)
{
	return count_in("/proc/self/task") - own_threads;
}

static unsigned descriptors(void)
{
	return count_in("/proc/self/fd");
}

static int setup(void **state)
{
	struct sleeper *s = calloc(1, sizeof(*s));

	assert_int_equal(pipe(wake) | pipe(dropped) | loop_init(&loop, NULL), 0);
	s->job = (struct job){.run = run, .drop = drop, .told = told};
	s->wait_fd = wake[0];
	s->dropped_fd = dropped[1];
	own_threads = 0;
	own_threads = threads();
	*state = s;
	return 0;
}

static int teardown(void **state)
{
	for (int i = 0; i < 2; i++) {
		close(wake[i]);
		close(dropped[i]);
	}
	loop_done(&loop);
	return 0;
}

static void let_go(void)
{
	assert_int_equal(write(wake[1], "x", 1), 1);
}

static void wait_dropped(void)
{
	char byte;

	assert_int_equal(read(dropped[0], &byte, 1), 1);
}

static void turn_until(const unsigned *count, unsigned n)
{
	for (int left = 6000; *count < n && left; left--)
		loop_run_once(&loop, 10000000);
	assert_int_equal(*count, n);
}

static void waited_for(void **state)
{
	struct sleeper *s = *state;

	s->wait_fd = -1;
	assert_int_equal(job_start(&s->job), 0);
	assert_int_equal(job_wait(&s->job, 60000), 42);
	s->wait_fd = wake[0];
	assert_int_equal(job_start(&s->job), 0);
	assert_int_equal(job_wait(&s->job, 20), -ETIMEDOUT);
	assert_int_equal(job_wait(&s->job, 0), -ETIMEDOUT);
	let_go();
	assert_int_equal(job_wait(&s->job, 60000), 7);
	assert_int_equal(job_start(&s->job), 0);
	assert_int_equal(job_wait(&s->job, 20), -ETIMEDOUT);
	assert_false(atomic_load(&s->job.abandoned));
	job_abandon(&s->job);
	let_go();
	wait_dropped();
}

static void told_on_the_loop(void **state)
{
	struct sleeper *s = *state;

	s->wait_fd = -1;
	assert_int_equal(job_start_on(&s->job, &loop, LONG_NS), 0);
	assert_int_equal(s->told, 0);
	turn_until(&s->told, 1);
	assert_int_equal(s->result, 42);
	/* Its deadline is gone with it; the same again. */
	assert_int_equal(job_start_on(&s->job, &loop, LONG_NS), 0);
	turn_until(&s->told, 2);
	assert_int_equal(s->late, 0);
	free(s);
}

static void late_and_told_all_the_same(void **state)
{
	struct sleeper *s = *state;

	assert_int_equal(job_start_on(&s->job, &loop, 20000000), 0);
	assert_int_equal(job_expect(&s->job, 1), 0); /* not late: nothing */
	turn_until(&s->late, 1);
	for (int i = 0; i < 5; i++) /* once is enough */
		loop_run_once(&loop, 10000000);
	assert_int_equal(s->told, 1);
	assert_int_equal(job_expect(&s->job, 20000000), 0);
	turn_until(&s->late, 2);
	let_go();
	turn_until(&s->told, 3);
	assert_int_equal(s->result, 7);
	free(s);
}

static void given_up_on_the_loop(void **state)
{
	struct sleeper *s = *state;
	unsigned had = descriptors();

	assert_int_equal(job_start_on(&s->job, &loop, 20000000), 0);
	turn_until(&s->late, 1);
	job_abandon(&s->job);
	let_go();
	wait_dropped();
	/* One that has ended, but was not told of yet. */
	s = calloc(1, sizeof(*s));
	*s = (struct sleeper){{.run = run, .drop = drop, .told = told}, -1, dropped[1], 0, 0, 0};
	assert_int_equal(job_start_on(&s->job, &loop, LONG_NS), 0);
	while (threads())
		usleep(1000);
	job_abandon(&s->job);
	wait_dropped();
	for (int i = 0; i < 3; i++)
		loop_run_once(&loop, 1000000);
	assert_int_equal(descriptors(), had);
}

/* --- a kernel on storage that hangs ------------------------------------------------------------
 */

struct reboot {
	struct boot_reader *reader;
	unsigned told, late;
	int code;
	uint64_t len;
	char why[480];
};

static void read_done(void *arg, int code, struct boot_files *files, const struct err *e)
{
	struct reboot *r = arg;

	r->told++;
	r->late += code == -ETIMEDOUT;
	r->code = code;
	r->len = files->kernel.len;
	snprintf(r->why, sizeof(r->why), "%s", e->msg);
	if (code != -ETIMEDOUT)
		r->reader = NULL;
	boot_files_free(files);
}

/* A FIFO that nobody writes to is never opened. However often it is asked for: one thread. */
static void a_kernel_that_never_comes(void **state)
{
	char dir[] = "/tmp/job-test-XXXXXX", path[64];
	struct reboot r = {0};
	struct boot_read what = {path, "", 20000000, read_done, &r};
	int fd;

	free(*state);
	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/k", dir);
	assert_int_equal(mkfifo(path, 0600), 0);
	for (unsigned i = 1; i <= 5; i++) {
		assert_int_equal(boot_reader_start(&r.reader, &loop, &what, NULL), 0);
		turn_until(&r.late, i);
		assert_non_null(r.reader);
		assert_non_null(strstr(r.why, "is its storage away?"));
		assert_int_equal(threads(), 1);
	}
	fd = open(path, O_WRONLY);
	turn_until(&r.told, 6);
	assert_int_equal(r.code, -EINVAL); /* no regular file */
	assert_null(r.reader);
	close(fd);
	/* Dropped when it is late, and when it is not. */
	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(boot_reader_start(&r.reader, &loop, &what, NULL), 0);
		if (!i)
			turn_until(&r.late, 6);
		boot_reader_drop(r.reader);
		r.reader = NULL;
		fd = open(path, O_WRONLY);
		while (threads())
			usleep(1000);
		close(fd);
	}
	assert_int_equal(r.told, 7);
	unlink(path);
	rmdir(dir);
}

static void a_kernel_that_is_there(void **state)
{
	struct reboot r = {0};
	struct boot_read what = {"/proc/self/exe", "", LONG_NS, read_done, &r};

	free(*state);
	assert_int_equal(boot_reader_start(&r.reader, &loop, &what, NULL), 0);
	turn_until(&r.told, 1);
	assert_int_equal(r.code, 0);
	assert_true(r.len > 1000);
	boot_reader_drop(NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
		T(waited_for),
		T(told_on_the_loop),
		T(late_and_told_all_the_same),
		T(given_up_on_the_loop),
		T(a_kernel_that_never_comes),
		T(a_kernel_that_is_there),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

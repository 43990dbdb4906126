/* A lock file: one holder at a time, who is nobody else's, and nothing left of it. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vmm/base/lockfile.h"

static char folder[64], path[80];

static int setup(void **state)
{
	strcpy(folder, "/tmp/ftvmm-lockfile-XXXXXX");
	assert_non_null(mkdtemp(folder));
	snprintf(path, sizeof(path), "%s/lock", folder);
	return 0;
}

static int teardown(void **state)
{
	unlink(path);
	return rmdir(folder);
}

static void one_at_a_time(void **state)
{
	struct err e = {0};
	struct stat st;
	mode_t was = umask(0);
	int fd = lockfile_take(path, geteuid(), 0, &e);

	umask(was);
	assert_true(fd >= 0);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	assert_int_equal(lockfile_take(path, geteuid(), 20, &e), -EBUSY);
	assert_non_null(strstr(e.msg, "stays locked by another process"));
	lockfile_drop(fd, path);
	assert_int_equal(access(path, F_OK), -1);
	fd = lockfile_take(path, geteuid(), 0, NULL);
	assert_true(fd >= 0);
	close(fd); /* killed: the file stays */
	fd = lockfile_take(path, geteuid(), 0, NULL);
	assert_true(fd >= 0);
	lockfile_drop(fd, path);
}

/* Whoever may read the folder may lock that. */
static void the_folder_is_anybodys(void **state)
{
	int other = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC), fd;

	assert_int_equal(flock(other, LOCK_EX), 0);
	fd = lockfile_take(path, geteuid(), 0, NULL);
	assert_true(fd >= 0);
	lockfile_drop(fd, path);
	close(other);
}

static void files_of_others_are_refused(void **state)
{
	struct err e = {0};
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);

	assert_int_equal(fchmod(fd, 0640), 0);
	assert_int_equal(lockfile_take(path, geteuid(), 20, &e), -EPERM);
	assert_non_null(strstr(e.msg, "is not this user's alone"));
	assert_int_equal(fchmod(fd, 0600), 0);
	if (!fchown(fd, 65534, 65534)) { /* as root */
		assert_int_equal(lockfile_take(path, geteuid(), 20, NULL), -EPERM);
		close(fd);
		fd = lockfile_take(path, 65534, 20, NULL); /* whose folder it is */
		assert_true(fd >= 0);
		lockfile_drop(fd, path);
	} else {
		close(fd);
		unlink(path);
	}
	assert_int_equal(symlink("/tmp/ftvmm-nothing", path), 0);
	assert_int_equal(lockfile_take(path, geteuid(), 20, NULL), -ELOOP);
	unlink(path);
	assert_int_equal(lockfile_take("/nonexistent/lock", geteuid(), 20, NULL), -ENOENT);
}

static atomic_int inside, most;

static void *taker(void *arg)
{
	for (int i = 0; i < 200; i++) {
		int fd = lockfile_take(path, geteuid(), 60000, NULL), n;

		if (fd < 0)
			abort();
		n = atomic_fetch_add(&inside, 1) + 1;
		if (n > most)
			most = n;
		sched_yield();
		atomic_fetch_sub(&inside, 1);
		lockfile_drop(fd, path);
	}
	return NULL;
}

/* Who waits has perhaps opened the file that the holder removes. */
static void nobody_holds_a_file_that_is_gone(void **state)
{
	pthread_t threads[4];

	for (unsigned i = 0; i < 4; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, taker, NULL), 0);
	for (unsigned i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	assert_int_equal(most, 1);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(one_at_a_time),
		T(the_folder_is_anybodys),
		T(files_of_others_are_refused),
		T(nobody_holds_a_file_that_is_gone),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

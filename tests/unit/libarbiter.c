#define _GNU_SOURCE
#include "tests/unit/libarbiter.h"

#include <errno.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cmocka.h>

struct storage storage;

static void note(char what)
{
	unsigned i = atomic_fetch_add(&storage.ncalls, 1);

	if (i + 1 < sizeof(storage.calls))
		storage.calls[i] = what;
}

static void step(void (*_Atomic *hook)(void))
{
	void (*f)(void) = atomic_exchange(hook, NULL);

	if (f)
		f();
}

int fsync(int fd)
{
	struct stat st;
	int r;

	if (storage.slow_ms)
		poll(NULL, 0, storage.slow_ms);
	if (storage.fail_sync) {
		errno = storage.error ? storage.error : EIO;
		return -1;
	}
	if (fstat(fd, &st))
		return -1;
	if (S_ISDIR(st.st_mode))
		step(&storage.before_folder_sync);
	r = (int)syscall(SYS_fsync, fd);
	if (!r)
		note(S_ISDIR(st.st_mode) ? 'd' : 's');
	return r;
}

int linkat(int ofd, const char *old, int nfd, const char *new, int flags)
{
	char byte;
	int r;

	if (storage.fail_link) {
		errno = storage.error ? storage.error : EIO;
		return -1;
	}
	if (storage.wait_fd && read(storage.wait_fd, &byte, 1) != 1)
		abort();
	step(&storage.before_link);
	r = (int)syscall(SYS_linkat, ofd, old, nfd, new, flags);
	if (!r)
		note('l');
	if (storage.break_after)
		storage.fail_sync = true;
	if (storage.lose_answer) {
		errno = EEXIST;
		return -1;
	}
	return r;
}

int renameat(int ofd, const char *old, int nfd, const char *new)
{
	int r;

	step(&storage.before_rename);
	if (storage.fail_rename) {
		errno = EIO;
		return -1;
	}
	r = (int)syscall(SYS_renameat2, ofd, old, nfd, new, 0);
	if (!r)
		note('r');
	return r;
}

int world_setup(void **state)
{
	struct world *w = calloc(1, sizeof(*w));

	strcpy(w->folder, "/tmp/ftvmm-arbiter-XXXXXX");
	assert_non_null(mkdtemp(w->folder));
	snprintf(w->uri, sizeof(w->uri), "file:%s/vm", w->folder);
	memset(&storage, 0, sizeof(storage));
	*state = w;
	return 0;
}

int world_teardown(void **state)
{
	struct world *w = *state;
	char cmd[128];

	snprintf(cmd, sizeof(cmd), "rm -rf %s", w->folder);
	assert_int_equal(system(cmd), 0);
	free(w);
	return 0;
}

struct arbiter *open_as(const struct world *w, const char *holder)
{
	struct arbiter *a = NULL;
	struct err e = {0};

	assert_int_equal(arbiter_open(&a, NULL, w->uri, "web1", holder, &e), 0);
	return a;
}

void plant(const struct world *w, const char *name, const char *text)
{
	char path[128];
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s", w->folder, name);
	f = fopen(path, "w");
	assert_non_null(f);
	fputs(text, f);
	fclose(f);
}

void unplant(const struct world *w, const char *name)
{
	char path[128];

	snprintf(path, sizeof(path), "%s/%s", w->folder, name);
	assert_int_equal(unlink(path), 0);
}

unsigned count_files(const struct world *w, const char *pattern)
{
	char cmd[160], line[16] = "";
	FILE *p;

	snprintf(cmd, sizeof(cmd), "find %s -mindepth 1 -name '%s' | wc -l", w->folder, pattern);
	p = popen(cmd, "r");
	assert_non_null(p);
	assert_non_null(fgets(line, sizeof(line), p));
	pclose(p);
	return atoi(line);
}

unsigned count_threads(void)
{
	char line[128];
	unsigned n = 0;
	FILE *f = fopen("/proc/self/status", "r");

	assert_non_null(f);
	while (fgets(line, sizeof(line), f))
		if (sscanf(line, "Threads: %u", &n) == 1)
			break;
	fclose(f);
	return n;
}

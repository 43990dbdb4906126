/* The arbiter: at most one wins a generation, whatever lies in the folder and however late it is.
 */
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
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "ft/common/arbiter_file.h"
#include "tests/unit/libarbiter.h"

static void one_claim_wins_and_the_other_is_told(void **state)
{
	struct arbiter *a = open_as(*state, "hostA"), *b = open_as(*state, "hostB");
	struct arbiter_record rec;
	struct err e = {0};
	uint64_t gen = 0;

	assert_int_equal(arbiter_read(a, &rec, &e), 0);
	assert_int_equal(rec.generation, 0);
	assert_string_equal(rec.holder, "");
	assert_int_equal(arbiter_claim(a, 0, ARBITER_START, &gen, &e), 0);
	assert_int_equal(gen, 1);
	gen = 99;
	assert_int_equal(arbiter_claim(b, 0, ARBITER_START, &gen, &e), -ESTALE);
	assert_int_equal(gen, 99);
	assert_string_equal(e.msg, "generation 1 of VM 'web1' is held by 'hostA'");
	assert_int_equal(arbiter_last(b)->generation, 1);
	assert_string_equal(arbiter_last(b)->holder, "hostA");
	assert_int_equal(arbiter_last(b)->end, ARBITER_HELD);
	/* Losing once takes nothing away from the next generation. */
	assert_int_equal(arbiter_claim(b, 1, ARBITER_START, &gen, &e), 0);
	assert_int_equal(gen, 2);
	assert_int_equal(count_files(*state, "*tmp*"), 0);
	arbiter_close(a);
	arbiter_close(b);
	arbiter_close(NULL);
}

static void an_end_is_seen_and_only_by_its_holder(void **state)
{
	struct arbiter *a = open_as(*state, "hostA"), *b = open_as(*state, "hostB");
	struct arbiter_record rec;
	struct err e = {0};
	uint64_t gen;

	assert_int_equal(arbiter_claim(a, 0, ARBITER_START, &gen, &e), 0);
	assert_int_equal(arbiter_end(b, 1, ARBITER_RELEASED, &e), -ESTALE);
	e.code = 0;
	assert_int_equal(arbiter_read(b, &rec, &e), 0);
	assert_int_equal(rec.end, ARBITER_HELD);
	assert_true(rec.time > 0);
	assert_int_equal(arbiter_end(a, 1, ARBITER_RELEASED, &e), 0);
	assert_int_equal(arbiter_read(b, &rec, &e), 0);
	assert_int_equal(rec.end, ARBITER_RELEASED);
	assert_int_equal(rec.generation, 1);
	assert_string_equal(rec.holder, "hostA");
	assert_true(rec.time > 0);
	assert_int_equal(arbiter_claim(b, 1, ARBITER_START, &gen, &e), 0);
	assert_int_equal(arbiter_end(a, 1, ARBITER_RELEASED, &e), -ESTALE);
	assert_string_equal(e.msg, "generation 2 of VM 'web1' is held by 'hostB'");
	arbiter_close(a);
	arbiter_close(b);
}

/* Rounds are counted so that both sides start each claim together. */
struct race {
	atomic_uint arrived[1001];
	atomic_uint winners[1001];
	atomic_bool broken;
};

static void race_side(const struct world *w, struct race *race, const char *holder, unsigned rounds)
{
	struct arbiter *a = open_as(w, holder);
	uint64_t gen;

	for (unsigned i = 0; i < rounds; i++) {
		struct err e = {0};
		int r;

		atomic_fetch_add(&race->arrived[i], 1);
		while (atomic_load(&race->arrived[i]) < 2 && !atomic_load(&race->broken))
			sched_yield();
		r = arbiter_claim(a, i, ARBITER_START, &gen, &e);
		if (!r)
			atomic_fetch_add(&race->winners[i], 1);
		else if (r != -ESTALE)
			atomic_store(&race->broken, true);
	}
	arbiter_close(a);
}

static void two_processes_race(void **state)
{
	const unsigned rounds = 1000;
	struct race *race = mmap(NULL, sizeof(*race), PROT_READ | PROT_WRITE,
				 MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	int status;
	pid_t pid;

	assert_ptr_not_equal(race, MAP_FAILED);
	pid = fork();
	assert_true(pid >= 0);
	if (!pid) {
		race_side(*state, race, "hostB", rounds);
		_exit(0);
	}
	race_side(*state, race, "hostA", rounds);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	assert_false(atomic_load(&race->broken));
	for (unsigned i = 0; i < rounds; i++)
		assert_int_equal(atomic_load(&race->winners[i]), 1);
	/* Old records go, the current one and a few before it stay. */
	assert_int_equal(count_files(*state, "vm.*"), ARBITER_FILE_KEEP + 1);
	assert_int_equal(count_files(*state, "vm.1000"), 1);
	munmap(race, sizeof(*race));
}

static void foreign_files_do_not_count(void **state)
{
	static const char *const names[] = {"vm.tmp-0123", "vm.",
					    "vm.01",	   "vm.x",
					    "vm.2x",	   "vm.-3",
					    "vm.0",	   "vm2.9",
					    "vm.+4",	   "vm.3.4",
					    "xvm.5",	   "vm. 6",
					    "vm",	   "vm.99999999999999999999"};
	struct arbiter *a = open_as(*state, "hostA");
	struct arbiter_record rec;
	struct err e = {0};
	uint64_t gen;

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		plant(*state, names[i], "{}");
	assert_int_equal(arbiter_read(a, &rec, &e), 0);
	assert_int_equal(rec.generation, 0);
	assert_int_equal(arbiter_claim(a, 0, ARBITER_START, &gen, &e), 0);
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		assert_int_equal(count_files(*state, names[i]), 1);
	arbiter_close(a);
}

static void damaged_records_stop_everybody(void **state)
{
	static const char *const texts[] = {
		"",
		"{",
		"[]",
		"null",
		"{\"vm\":\"web1\"}",
		"{\"vm\":\"web1\",\"generation\":4,\"holder\":\"h\",\"time\":1,\"released\":false}",
		"{\"vm\":\"web1\",\"generation\":5,\"holder\":7,\"time\":1,\"released\":false}",
		"{\"vm\":\"web1\",\"generation\":5,\"holder\":\"h\\n\",\"time\":1,\"released\":"
		"false}",
		"{\"vm\":\"web1\",\"generation\":5,\"holder\":\"h\",\"time\":1,\"released\":"
		"\"no\"}",
		"{\"vm\":\"web1\",\"vm\":\"web1\",\"generation\":5,\"holder\":\"h\",\"time\":1,"
		"\"released\":false}",
		"{\"vm\":\"web1\",\"generation\":5,\"holder\":\"h\",\"time\":1,\"released\":false,"
		"\"claim\":7}",
		"{\"vm\":\"web1\",\"generation\":5,\"holder\":\"h\",\"time\":1,\"released\":false,"
		"\"side\":\"0123\"}",
		"{\"vm\":\"web1\",\"generation\":5,\"holder\":\"h\",\"time\":1,\"released\":false,"
		"\"stopped\":1}",
	};
	struct arbiter *a = open_as(*state, "hostA");
	struct arbiter_record rec;
	uint64_t gen;

	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
		struct err e = {0};

		plant(*state, "vm.5", texts[i]);
		assert_int_equal(arbiter_read(a, &rec, &e), -EBADMSG);
		assert_non_null(strstr(e.msg, "vm.5' is damaged"));
		assert_int_equal(arbiter_claim(a, 5, ARBITER_START, &gen, &e), -EBADMSG);
		assert_int_equal(count_files(*state, "vm.6"), 0);
	}
	arbiter_close(a);
}

static void record_of_another_vm_is_refused(void **state)
{
	struct arbiter *a = open_as(*state, "hostA");
	struct arbiter_record rec;
	struct err e = {0};

	plant(*state, "vm.5",
	      "{\"vm\":\"db\",\"generation\":5,\"holder\":\"h\",\"time\":1,\"released\":false}");
	assert_int_equal(arbiter_read(a, &rec, &e), -EBADMSG);
	assert_non_null(strstr(e.msg, "is of VM 'db', not 'web1'"));
	arbiter_close(a);
}

static void not_a_regular_file_is_damage(void **state)
{
	struct world *w = *state;
	struct arbiter *a = open_as(w, "hostA");
	struct arbiter_record rec;
	struct err e = {0};
	char path[128];

	snprintf(path, sizeof(path), "%s/vm.5", w->folder);
	assert_int_equal(mkfifo(path, 0600), 0);
	assert_int_equal(arbiter_read(a, &rec, &e), -EBADMSG);
	assert_int_equal(unlink(path), 0);
	assert_int_equal(symlink("/etc/passwd", path), 0);
	e.code = 0;
	assert_int_equal(arbiter_read(a, &rec, &e), -ELOOP);
	arbiter_close(a);
}

/* An unmounted share looks like an empty folder: on both hosts every claim would win. */
static void lost_records_stop_everybody(void **state)
{
	struct arbiter *a = open_as(*state, "hostA");
	struct err e = {0};
	uint64_t gen;

	assert_int_equal(arbiter_claim(a, 3, ARBITER_START, &gen, &e), -ENODATA);
	assert_non_null(strstr(e.msg, "is the shared storage mounted?"));
	assert_int_equal(count_files(*state, "vm*"), 0);
	arbiter_close(a);
}

/* Also a share that shows a little of the past. */
static void a_folder_that_is_one_generation_behind_stops_everybody(void **state)
{
	struct arbiter *a = open_as(*state, "hostA");
	struct err e = {0};
	uint64_t gen = 0;

	plant(*state, "vm.5",
	      "{\"vm\":\"web1\",\"generation\":5,\"holder\":\"h\",\"time\":1,\"released\":false}");
	assert_int_equal(arbiter_claim(a, 6, ARBITER_GO_ON, &gen, &e), -ENODATA);
	e.code = 0;
	assert_int_equal(arbiter_claim(a, 6, ARBITER_START, &gen, &e), -ENODATA);
	assert_int_equal(count_files(*state, "vm.7"), 0);
	assert_int_equal(arbiter_claim(a, 5, ARBITER_GO_ON, &gen, &e), 0);
	assert_int_equal(gen, 6);
	arbiter_close(a);
}

/* What was said to be won or ended is so after a power cut: synced before it has its name, too. */
static void nothing_is_said_before_it_is_on_the_disk(void **state)
{
	struct arbiter *a = open_as(*state, "hostA");
	struct err e = {0};
	uint64_t gen;

	assert_int_equal(arbiter_claim(a, 0, ARBITER_START, &gen, &e), 0);
	assert_string_equal(storage.calls, "sld");
	assert_int_equal(arbiter_end(a, 1, ARBITER_STOPPED, &e), 0);
	assert_string_equal(storage.calls, "sldsrd");
	arbiter_close(a);
}

static void a_failing_sync_is_no_end(void **state)
{
	struct arbiter *a = open_as(*state, "hostA");
	struct err e = {0};
	uint64_t gen;

	assert_int_equal(arbiter_claim(a, 0, ARBITER_START, &gen, &e), 0);
	storage.fail_sync = true;
	assert_int_equal(arbiter_end(a, 1, ARBITER_STOPPED, &e), -EIO);
	assert_int_equal(count_files(*state, "*tmp*"), 0);
	assert_int_equal(arbiter_last(a)->end, ARBITER_HELD);
	arbiter_close(a);
}

static void break_syncs(void)
{
	storage.fail_sync = true;
}

/* The record is as it was; or it is not known to be on the disk. */
static void a_failing_rename_is_no_end(void **state)
{
	struct arbiter *a = open_as(*state, "hostA");
	struct err e = {0};
	uint64_t gen;

	assert_int_equal(arbiter_claim(a, 0, ARBITER_START, &gen, &e), 0);
	storage.fail_rename = true;
	assert_int_equal(arbiter_end(a, 1, ARBITER_STOPPED, &e), -EIO);
	assert_non_null(strstr(e.msg, "arbiter record"));
	assert_int_equal(count_files(*state, "*tmp*"), 0);
	assert_int_equal(arbiter_last(a)->end, ARBITER_HELD);
	storage.fail_rename = false;
	storage.before_rename = break_syncs;
	e.code = 0;
	assert_int_equal(arbiter_end(a, 1, ARBITER_STOPPED, &e), -EIO);
	assert_non_null(strstr(e.msg, "arbiter folder"));
	assert_int_equal(arbiter_last(a)->end, ARBITER_HELD);
	arbiter_close(a);
}

/* Whoever reads the record could not read the name. */
static void a_name_that_is_not_text_is_refused(void **state)
{
	struct arbiter *a = open_as(*state, "host\xff"), *b = open_as(*state, "hostB");
	struct err e = {0};
	uint64_t gen = 0;

	assert_int_equal(arbiter_claim(a, 0, ARBITER_START, &gen, &e), -EINVAL);
	assert_non_null(strstr(e.msg, "UTF-8"));
	assert_int_equal(gen, 0);
	assert_int_equal(count_files(*state, "*"), 0);
	assert_int_equal(arbiter_claim(b, 0, ARBITER_START, &gen, &e), 0);
	arbiter_close(a);
	arbiter_close(b);
}

static int lowest_free_fd(void)
{
	int fd = dup(0);

	assert_true(fd >= 0);
	close(fd);
	return fd;
}

/* A side may ask for years. */
static void questions_leave_nothing_open(void **state)
{
	struct arbiter *a = open_as(*state, "hostA");
	struct arbiter_record rec;
	struct err e = {0};
	int before = lowest_free_fd();
	uint64_t gen;

	assert_int_equal(arbiter_claim(a, 0, ARBITER_START, &gen, &e), 0);
	assert_int_equal(arbiter_read(a, &rec, &e), 0);
	assert_int_equal(arbiter_claim(a, 7, ARBITER_START, &gen, &e), -ENODATA);
	assert_int_equal(arbiter_end(a, 1, ARBITER_STOPPED, &e), 0);
	assert_int_equal(lowest_free_fd(), before);
	arbiter_close(a);
}

static void missing_or_closed_folder(void **state)
{
	struct world *w = *state;
	struct arbiter_record rec;
	struct arbiter *a;
	struct err e = {0};
	uint64_t gen;
	int status;
	pid_t pid;

	snprintf(w->uri, sizeof(w->uri), "file:%s/none/vm", w->folder);
	a = open_as(w, "hostA");
	assert_int_equal(arbiter_read(a, &rec, &e), -ENOENT);
	e.code = 0;
	assert_int_equal(arbiter_claim(a, 0, ARBITER_START, &gen, &e), -ENOENT);
	arbiter_close(a);

	snprintf(w->uri, sizeof(w->uri), "file:%s/vm", w->folder);
	assert_int_equal(chmod(w->folder, 0700), 0);
	pid = fork();
	if (!pid) {
		e.code = 0;
		if (geteuid() == 0 &&
		    (setresgid(65534, 65534, 65534) || setresuid(65534, 65534, 65534)))
			_exit(2);
		if (geteuid() != 65534 && chmod(w->folder, 0))
			_exit(3);
		a = open_as(w, "hostA");
		_exit(arbiter_claim(a, 0, ARBITER_START, &gen, &e) == -EACCES &&
				      strstr(e.msg, w->folder)
			      ? 0
			      : 1);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	assert_int_equal(chmod(w->folder, 0700), 0);
}

static void bad_uris(void **state)
{
	static const char *const uris[] = {"", "file:", "file:/tmp/", "exec:", "nfs:/x"};
	struct arbiter *a;

	for (size_t i = 0; i < sizeof(uris) / sizeof(uris[0]); i++) {
		struct err e = {0};

		assert_int_equal(arbiter_open(&a, NULL, uris[i], "web1", "h", &e), -EINVAL);
		assert_true(e.msg[0]);
	}
}

static void relative_path_and_root(void **state)
{
	static const char *const paths[][3] = {
		{"vm", ".", "vm"}, {"/vm", "/", "vm"}, {"a/b/vm", "a/b", "vm"}};

	for (unsigned i = 0; i < 3; i++) {
		struct arbiter_backend b;
		const struct arbiter_file *f;

		assert_int_equal(arbiter_file_open(&b, paths[i][0], "v", NULL), 0);
		f = b.self;
		assert_string_equal(f->folder, paths[i][1]);
		assert_string_equal(f->prefix, paths[i][2]);
		b.ops->close(b.self);
	}
}

static void none_always_wins(void **state)
{
	struct arbiter_record rec;
	struct arbiter *a;
	struct err e = {0};
	uint64_t gen;

	assert_int_equal(arbiter_open(&a, NULL, "none", "web1", "hostA", &e), 0);
	assert_int_equal(arbiter_read(a, &rec, &e), 0);
	assert_int_equal(rec.generation, 0);
	assert_int_equal(arbiter_claim(a, 7, ARBITER_START, &gen, &e), 0);
	assert_int_equal(gen, 8);
	assert_int_equal(arbiter_read(a, &rec, &e), 0);
	assert_int_equal(rec.generation, 8);
	assert_string_equal(rec.holder, "hostA");
	assert_int_equal(arbiter_end(a, 8, ARBITER_RELEASED, &e), 0);
	assert_int_equal(arbiter_read(a, &rec, &e), 0);
	assert_int_equal(rec.end, ARBITER_RELEASED);
	assert_int_equal(arbiter_end(a, 7, ARBITER_RELEASED, &e), -ESTALE);
	arbiter_close(a);
}

static void lost_answer_of_a_link_counts_as_won(void **state)
{
	struct arbiter *a = open_as(*state, "hostA");
	struct err e = {0};
	uint64_t gen;

	storage.lose_answer = true;
	assert_int_equal(arbiter_claim(a, 0, ARBITER_START, &gen, &e), 0);
	assert_int_equal(gen, 1);
	arbiter_close(a);
}

static void failing_storage_is_no_win(void **state)
{
	struct arbiter *a = open_as(*state, "hostA");
	struct err e = {0};
	uint64_t gen = 0;

	storage.fail_link = true;
	assert_int_equal(arbiter_claim(a, 0, ARBITER_START, &gen, &e), -EIO);
	assert_int_equal(gen, 0);
	assert_int_equal(count_files(*state, "vm*"), 0);
	storage.fail_link = false;
	storage.fail_sync = true;
	assert_int_equal(arbiter_claim(a, 0, ARBITER_START, &gen, &e), -EIO);
	assert_int_equal(gen, 0);
	assert_int_equal(count_files(*state, "vm*"), 0);
	arbiter_close(a);
}

/* NFS says so of a folder that its server has forgotten; nobody else has won. */
static void a_stale_handle_is_not_a_lost_claim(void **state)
{
	static const int errors[] = {ESTALE, ECANCELED};
	struct arbiter *a = open_as(*state, "hostA");
	uint64_t gen = 0;

	for (unsigned i = 0; i < 2; i++) {
		storage.error = errors[i];
		storage.fail_link = true;
		assert_int_equal(arbiter_claim(a, 0, ARBITER_START, &gen, NULL), -EIO);
		storage.fail_link = false;
		storage.fail_sync = true;
		assert_int_equal(arbiter_claim(a, 0, ARBITER_START, &gen, NULL), -EIO);
		storage.fail_sync = false;
	}
	assert_int_equal(arbiter_claim(a, 0, ARBITER_START, &gen, NULL), 0);
	arbiter_close(a);
}

struct slow_claim {
	struct arbiter_backend file;
	int result;
};

static void *slow_claim_main(void *arg)
{
	struct slow_claim *c = arg;
	struct arbiter_question q = {.what = ARBITER_CLAIM,
				     .why = ARBITER_START,
				     .record = {.generation = 1, .holder = "hostA", .claim = 3}};
	struct arbiter_record rec;

	c->result = c->file.ops->answer(c->file.self, &q, &rec, NULL);
	return NULL;
}

/* Its own number has long been given, used and removed when the sleeper's link gets through. */
static void claimer_that_slept_too_long_loses(void **state)
{
	struct world *w = *state;
	struct slow_claim slow = {.result = 1};
	pthread_t thread;
	int pipes[2], go[2], status;
	char byte;
	pid_t pid;

	assert_int_equal(pipe(pipes) | pipe(go), 0);
	pid = fork();
	if (!pid) {
		struct arbiter *b = open_as(w, "hostB");
		uint64_t gen;

		if (read(go[0], &byte, 1) != 1)
			_exit(2);
		for (unsigned i = 0; i < 2 * ARBITER_FILE_KEEP + 2; i++)
			if (arbiter_claim(b, i, ARBITER_START, &gen, NULL))
				_exit(1);
		_exit(0);
	}
	assert_int_equal(arbiter_file_open(&slow.file, w->uri + 5, "web1", NULL), 0);
	storage.wait_fd = pipes[0];
	assert_int_equal(pthread_create(&thread, NULL, slow_claim_main, &slow), 0);
	/* Its record is written under another name: it has seen generation 0 and goes for 1. */
	while (!count_files(w, "*.tmp-*"))
		poll(NULL, 0, 5);
	assert_int_equal(write(go[1], "x", 1), 1);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	assert_int_equal(count_files(w, "vm.1"), 0);
	assert_int_equal(write(pipes[1], "x", 1), 1);
	pthread_join(thread, NULL);
	slow.file.ops->close(slow.file.self);
	assert_int_equal(slow.result, -ESTALE);
	assert_int_equal(count_files(w, "vm.1"), 0);
	assert_int_equal(count_files(w, "vm.18"), 1);
	for (int i = 0; i < 2; i++) {
		close(pipes[i]);
		close(go[i]);
	}
}

/* Whichever of the two lands, its owner wins when it asks again, and the other one has lost. */
static void late_claim_is_won_when_asked_again(void **state)
{
	struct arbiter *a = open_as(*state, "hostA"), *b = open_as(*state, "hostB");
	struct err e = {0};
	uint64_t gen = 0;
	unsigned others;
	int pipes[2], r;

	assert_int_equal(arbiter_claim(a, 0, ARBITER_START, &gen, &e), 0);
	assert_int_equal(pipe(pipes), 0);
	others = count_threads();
	storage.wait_fd = pipes[0];
	for (unsigned i = 0; i < 3; i++) {
		assert_int_equal(arbiter_claim(a, 1, ARBITER_GO_ON, &gen, &e), -ETIMEDOUT);
		assert_non_null(strstr(e.msg, "nobody goes on without it"));
		assert_int_equal(arbiter_claim(b, 1, ARBITER_GO_ON, &gen, &e), -ETIMEDOUT);
		/* However often: one thread for each of them. */
		assert_int_equal(count_threads(), others + 2);
	}
	assert_int_equal(count_files(*state, "vm.2"), 0);
	assert_int_equal(write(pipes[1], "xx", 2), 2);
	storage.wait_fd = 0;
	e.code = 0;
	r = arbiter_claim(a, 1, ARBITER_GO_ON, &gen, &e);
	assert_true(r == 0 || r == -ESTALE);
	assert_int_equal(arbiter_claim(b, 1, ARBITER_GO_ON, &gen, &e), r ? 0 : -ESTALE);
	/* Also when the answer comes between two questions. */
	assert_int_equal(arbiter_claim(r ? b : a, 1, ARBITER_GO_ON, &gen, &e), 0);
	assert_int_equal(gen, 2);
	assert_int_equal(arbiter_claim(r ? a : b, 1, ARBITER_GO_ON, &gen, &e), -ESTALE);
	arbiter_close(a);
	arbiter_close(b);
	close(pipes[0]);
	close(pipes[1]);
}

/* The record is there, but not known to last: not won, not anybody else's, and won with the retry.
 */
static void claim_without_its_confirmation(void **state)
{
	struct arbiter *a = open_as(*state, "hostA"), *b = open_as(*state, "hostB");
	struct err e = {0};
	uint64_t gen = 0;

	storage.break_after = true;
	assert_int_equal(arbiter_claim(a, 0, ARBITER_START, &gen, &e), -EIO);
	assert_int_equal(gen, 0);
	storage.break_after = storage.fail_sync = false;
	assert_int_equal(count_files(*state, "vm.1"), 1);
	assert_int_equal(arbiter_claim(b, 0, ARBITER_START, &gen, &e), -ESTALE);
	assert_int_equal(arbiter_last(b)->end, ARBITER_HELD);
	assert_int_equal(arbiter_claim(a, 0, ARBITER_START, &gen, &e), 0);
	assert_int_equal(arbiter_claim(b, 1, ARBITER_GO_ON, &gen, &e), 0);
	assert_int_equal(arbiter_claim(a, 0, ARBITER_START, &gen, &e), -ESTALE);
	arbiter_close(a);
	arbiter_close(b);
}

static void what_was_stopped_is_started_and_does_not_go_on(void **state)
{
	static const enum arbiter_end ends[] = {ARBITER_STOPPED, ARBITER_RELEASED};
	struct arbiter *a = open_as(*state, "hostA"), *b = open_as(*state, "hostB");
	struct arbiter_record rec;
	struct err e = {0};
	uint64_t gen;

	arbiter_set_side(a, 0xabcdef0123456789);
	for (unsigned i = 0; i < 2; i++) {
		e.code = 0;
		assert_int_equal(arbiter_claim(a, i, ARBITER_START, &gen, &e), 0);
		assert_int_equal(arbiter_end(a, gen, ends[i], &e), 0);
		assert_int_equal(arbiter_read(b, &rec, &e), 0);
		assert_int_equal(rec.end, ends[i]);
		assert_true(rec.side == 0xabcdef0123456789);
		assert_string_equal(rec.holder, "hostA");
		assert_int_equal(arbiter_claim(b, gen, ARBITER_GO_ON, &gen, &e), -ECANCELED);
		assert_string_equal(e.msg, "VM 'web1' was stopped in order by 'hostA'");
		/* Its own claim does not come to life again either. */
		assert_int_equal(arbiter_claim(a, i, ARBITER_GO_ON, &gen, &e), -ECANCELED);
	}
	arbiter_close(a);
	arbiter_close(b);
}

static void a_start_that_failed_leaves_the_record_as_it_was(void **state)
{
	struct arbiter *a = open_as(*state, "hostA"), *b = open_as(*state, "hostB");
	struct arbiter_record was, now;
	struct err e = {0};
	uint64_t gen;

	assert_int_equal(arbiter_read(a, &was, &e), 0);
	assert_int_equal(arbiter_claim(a, 0, ARBITER_START, &gen, &e), 0);
	assert_int_equal(arbiter_put_back(b, 1, &was, &e), -ESTALE);
	e.code = 0;
	assert_int_equal(arbiter_put_back(a, 1, &was, &e), 0);
	assert_int_equal(arbiter_read(b, &now, &e), 0);
	assert_int_equal(now.end, ARBITER_RELEASED);
	arbiter_set_side(a, 5);
	arbiter_set_peer(a, 6);
	for (int end = ARBITER_HELD; end <= ARBITER_RELEASED; end++) {
		assert_int_equal(arbiter_read(a, &was, &e), 0);
		assert_int_equal(arbiter_claim(a, was.generation, ARBITER_START, &gen, &e), 0);
		if (end)
			assert_int_equal(arbiter_end(a, gen, end, &e), 0);
		assert_int_equal(arbiter_read(b, &was, &e), 0);
		assert_int_equal(arbiter_claim(b, gen, ARBITER_START, &gen, &e), 0);
		assert_int_equal(arbiter_put_back(b, gen, &was, &e), 0);
		assert_int_equal(arbiter_read(a, &now, &e), 0);
		assert_int_equal(now.generation, was.generation + 1);
		assert_int_equal(now.end, end);
		assert_int_equal(now.side, 5);
		assert_int_equal(now.peer, 6);
		assert_string_equal(now.holder, "hostA");
	}
	arbiter_close(a);
	arbiter_close(b);
}

/* A hand-over's claim is known by its token, which is none of a later claim's. */
static void a_token_is_in_the_record_of_its_claim(void **state)
{
	struct arbiter *a = open_as(*state, "hostA"), *b = open_as(*state, "hostB");
	struct err e = {0};
	uint64_t gen;

	assert_int_equal(arbiter_claim(a, 0, ARBITER_START, &gen, &e), 0);
	arbiter_set_token(b, 77);
	assert_int_equal(arbiter_claim(b, 1, ARBITER_GO_ON, &gen, &e), 0);
	assert_int_equal(arbiter_claim(a, 1, ARBITER_GO_ON, &gen, &e), -ESTALE);
	assert_int_equal(arbiter_last(a)->token, 77);
	arbiter_set_token(b, 0);
	assert_int_equal(arbiter_claim(b, 2, ARBITER_GO_ON, &gen, &e), 0);
	assert_int_equal(arbiter_claim(a, 2, ARBITER_GO_ON, &gen, &e), -ESTALE);
	assert_int_equal(arbiter_last(a)->token, 0);
	arbiter_close(a);
	arbiter_close(b);
}

static void records_of_old_versions_count(void **state)
{
	struct arbiter *a = open_as(*state, "hostA");
	struct arbiter_record rec;
	struct err e = {0};

	plant(*state, "vm.5",
	      "{\"vm\":\"web1\",\"generation\":5,\"holder\":\"h\",\"time\":1,\"released\":true}");
	assert_int_equal(arbiter_read(a, &rec, &e), 0);
	assert_int_equal(rec.end, ARBITER_RELEASED);
	assert_int_equal(rec.claim, 0);
	assert_int_equal(rec.side, 0);
	plant(*state, "vm.6",
	      "{\"vm\":\"web1\",\"generation\":6,\"holder\":\"h\",\"time\":1,\"released\":false}");
	assert_int_equal(arbiter_read(a, &rec, &e), 0);
	assert_int_equal(rec.end, ARBITER_HELD);
	arbiter_close(a);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, world_setup, world_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(one_claim_wins_and_the_other_is_told),
		TEST(an_end_is_seen_and_only_by_its_holder),
		TEST(two_processes_race),
		TEST(foreign_files_do_not_count),
		TEST(damaged_records_stop_everybody),
		TEST(record_of_another_vm_is_refused),
		TEST(not_a_regular_file_is_damage),
		TEST(lost_records_stop_everybody),
		TEST(a_folder_that_is_one_generation_behind_stops_everybody),
		TEST(nothing_is_said_before_it_is_on_the_disk),
		TEST(a_failing_sync_is_no_end),
		TEST(a_failing_rename_is_no_end),
		TEST(a_name_that_is_not_text_is_refused),
		TEST(questions_leave_nothing_open),
		TEST(missing_or_closed_folder),
		TEST(bad_uris),
		TEST(relative_path_and_root),
		TEST(none_always_wins),
		TEST(lost_answer_of_a_link_counts_as_won),
		TEST(failing_storage_is_no_win),
		TEST(a_stale_handle_is_not_a_lost_claim),
		TEST(claimer_that_slept_too_long_loses),
		TEST(late_claim_is_won_when_asked_again),
		TEST(claim_without_its_confirmation),
		TEST(what_was_stopped_is_started_and_does_not_go_on),
		TEST(a_start_that_failed_leaves_the_record_as_it_was),
		TEST(a_token_is_in_the_record_of_its_claim),
		TEST(records_of_old_versions_count),
	};

	return cmocka_run_group_tests_name("arbiter", tests, NULL, NULL);
}

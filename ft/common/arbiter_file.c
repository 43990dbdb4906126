#define _GNU_SOURCE
#include "ft/common/arbiter_file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "vmm/base/loop.h"

#define NAME_CAP (NAME_MAX + 1)
/* Leaves room for the longest suffix: ".tmp-" and 16 digits, or "." and 19. */
#define PREFIX_MAX 230
#define LOOK_NS	   500000000ull /* well within the deadline */
#define LOOK_MS	   20

/* errno, but for what would be a judgement: a network file system has an ESTALE of its own. */
#define no_answer(e, ...) arbiter_no_answer(err_sys(e, __VA_ARGS__))

/* The generation in a file name, 0 when it is not a record of ours. */
static uint64_t name_generation(const struct arbiter_file *f, const char *name)
{
	size_t n = strlen(f->prefix);
	uint64_t v = 0;
	const char *p;

	if (strncmp(name, f->prefix, n) || name[n] != '.' || name[n + 1] < '1' || name[n + 1] > '9')
		return 0;
	for (p = name + n + 1; *p >= '0' && *p <= '9'; p++)
		if (__builtin_mul_overflow(v, 10u, &v) ||
		    __builtin_add_overflow(v, (unsigned)(*p - '0'), &v))
			return 0;
	/* Room for the next one, and what JSON integers can say. */
	return *p || v >= INT64_MAX ? 0 : v;
}

static void generation_name(const struct arbiter_file *f, uint64_t generation, char name[NAME_CAP])
{
	snprintf(name, NAME_CAP, "%.*s.%" PRIu64, PREFIX_MAX, f->prefix, generation);
}

/* Highest generation in the folder; with below > 0 also removes records lower than that. */
static int scan(const struct arbiter_file *f, DIR *d, uint64_t below, uint64_t *ret_highest,
		struct err *e)
{
	struct dirent *ent;

	*ret_highest = 0;
	rewinddir(d);
	for (errno = 0; (ent = readdir(d)); errno = 0) {
		uint64_t g = name_generation(f, ent->d_name);

		if (g > *ret_highest)
			*ret_highest = g;
		if (g && g < below)
			unlinkat(dirfd(d), ent->d_name, 0);
	}
	return errno ? no_answer(e, "arbiter folder '%s'", f->folder) : 0;
}

static int parse(const struct arbiter_file *f, const char *name, const char *text, size_t len,
		 struct arbiter_record *r, struct err *e)
{
	char where[sizeof(f->folder) + NAME_CAP + 1];
	uint64_t generation = r->generation;
	int code;

	snprintf(where, sizeof(where), "%s/%s", f->folder, name);
	code = arbiter_record_parse(text, len, f->vm, where, r, e);
	if (!code && r->generation != generation)
		code = arbiter_record_damaged(where, e);
	return code;
}

static int read_record(const struct arbiter_file *f, DIR *d, struct arbiter_record *r,
		       struct err *e)
{
	char name[NAME_CAP], text[ARBITER_RECORD_MAX];
	struct stat st;
	ssize_t n = -1;
	int fd, code = 0;

	generation_name(f, r->generation, name);
	/* Not blocking on, nor following, something planted in its place. */
	fd = openat(dirfd(d), name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	if (fd < 0)
		return no_answer(e, "arbiter record '%s/%s'", f->folder, name);
	if (fstat(fd, &st) < 0 || (S_ISREG(st.st_mode) && (n = read(fd, text, sizeof(text))) < 0))
		code = no_answer(e, "arbiter record '%s/%s'", f->folder, name);
	close(fd);
	return code ? code : parse(f, name, text, n < 0 ? 0 : n, r, e);
}

static int read_current(const struct arbiter_file *f, DIR *d, struct arbiter_record *ret,
			struct err *e)
{
	int r;

	memset(ret, 0, sizeof(*ret));
	r = scan(f, d, 0, &ret->generation, e);
	if (r || !ret->generation)
		return r;
	return read_record(f, d, ret, e);
}

static int write_all(int fd, const char *text, size_t len)
{
	while (len) {
		ssize_t n = write(fd, text, len);

		if (n < 0 && errno != EINTR)
			return -1;
		if (n > 0) {
			text += n;
			len -= n;
		}
	}
	return fsync(fd);
}

/* A whole record under a name of its own. Returns its fd; name is filled in. */
static int write_temp(const struct arbiter_file *f, DIR *d, const struct arbiter_record *r,
		      char name[NAME_CAP], struct err *e)
{
	char *text = arbiter_record_text(r, f->vm, e);
	uint64_t random;
	int fd = -1, code = 0;

	if (!text)
		return -EINVAL;
	if (getrandom(&random, sizeof(random), 0) != sizeof(random))
		code = no_answer(e, "arbiter: random number");
	snprintf(name, NAME_CAP, "%.*s.tmp-%016" PRIx64, PREFIX_MAX, f->prefix, random);
	if (!code)
		fd = openat(dirfd(d), name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW,
			    0644);
	if (!code && (fd < 0 || write_all(fd, text, strlen(text)) < 0))
		code = no_answer(e, "arbiter file '%s/%s'", f->folder, name);
	if (code && fd >= 0) {
		close(fd);
		unlinkat(dirfd(d), name, 0);
	}
	free(text);
	return code ? code : fd;
}

/*
 * Give the record its number. A network file system may carry out a link and lose the answer; then
 * the count of links tells the truth (open(2), O_EXCL).
 */
static int link_record(const struct arbiter_file *f, DIR *d, int fd, const char *temp,
		       uint64_t generation, struct err *e)
{
	char name[NAME_CAP];
	struct stat st;
	int saved;

	generation_name(f, generation, name);
	if (linkat(dirfd(d), temp, dirfd(d), name, 0) == 0)
		return 0;
	saved = errno;
	if (fstat(fd, &st) == 0 && st.st_nlink == 2)
		return 0;
	if (saved == EEXIST)
		return -ESTALE;
	errno = saved;
	return no_answer(e, "arbiter record '%s/%s'", f->folder, name);
}

/* Who won is only for the message; that we did not is certain. */
static int lost(const struct arbiter_file *f, DIR *d, struct arbiter_record *ret, struct err *e)
{
	read_current(f, d, ret, NULL);
	return arbiter_lost(ret, &f->place, e);
}

/*
 * After our link: still the highest? A claimer that was stopped for long enough could find its
 * number free again because old records are removed; then newer ones exist. And whoever has gone
 * on from our number meanwhile did so by force, and wins. A link that a restart of the storage took
 * back before the sync is lost to nobody: it may be asked for again. But somebody else may have
 * that number by then: it is ours if the record that has it is.
 */
static int confirm(const struct arbiter_file *f, DIR *d, const struct arbiter_record *mine,
		   struct arbiter_record *ret, struct err *e)
{
	uint64_t generation = mine->generation;
	struct arbiter_record is = {.generation = generation};
	char name[NAME_CAP];
	uint64_t highest;
	int r;

	if (fsync(dirfd(d)) < 0)
		return no_answer(e, "arbiter folder '%s'", f->folder);
	r = scan(f, d, 0, &highest, e);
	if (!r && highest == generation)
		r = read_record(f, d, &is, e);
	if (r || is.claim == mine->claim)
		return r;
	if (highest < generation)
		return err_set(e, -ENODATA,
			       "arbiter folder '%s' lost generation %" PRIu64
			       " of VM '%s', which was just written; does its storage keep what "
			       "it has answered?",
			       f->folder, generation, f->vm);
	if (highest > generation + ARBITER_FILE_KEEP) {
		generation_name(f, generation, name);
		unlinkat(dirfd(d), name, 0);
	}
	return lost(f, d, ret, e);
}

static void remove_old(const struct arbiter_file *f, DIR *d, uint64_t generation)
{
	uint64_t highest;

	/* What stays for want of rights does no harm. */
	if (generation > ARBITER_FILE_KEEP)
		scan(f, d, generation - ARBITER_FILE_KEEP, &highest, NULL);
}

/*
 * A claim that follows the record whose end has just been made. Who claims looks back, see
 * look_back(): either before the end was there, and runs; or after it, and ends in the same way. It
 * is given the time to.
 */
static int claimed_beside(const struct arbiter_file *f, DIR *d, const struct arbiter_record *ended,
			  struct arbiter_record *ret, struct err *e)
{
	uint64_t until = loop_now_ns() + LOOK_NS;
	int r;

	while (!(r = read_current(f, d, ret, NULL)) && ret->generation == ended->generation + 1 &&
	       ret->end == ARBITER_HELD && loop_now_ns() < until)
		poll(NULL, 0, LOOK_MS);
	if (!r && ret->generation == ended->generation + 1 && ret->end != ARBITER_HELD &&
	    ret->end == ended->end && ret->side == ended->side)
		return 0;
	return arbiter_lost(ret, &f->place, e);
}

static int end_in(const struct arbiter_file *f, DIR *d, const struct arbiter_record *as,
		  struct arbiter_record *ret, struct err *e)
{
	struct arbiter_record now = *as, is = {.generation = as->generation};
	char temp[NAME_CAP], name[NAME_CAP];
	uint64_t highest;
	int fd, r = read_current(f, d, ret, e);

	if (!r)
		r = arbiter_check_end(&(struct arbiter_question){.record = now}, ret, &f->place, e);
	if (r)
		return r;
	now.time = time(NULL);
	fd = write_temp(f, d, &now, temp, e);
	if (fd < 0)
		return fd;
	close(fd);
	generation_name(f, now.generation, name);
	if (renameat(dirfd(d), temp, dirfd(d), name) < 0) {
		r = no_answer(e, "arbiter record '%s/%s'", f->folder, name);
		unlinkat(dirfd(d), temp, 0);
		return r;
	}
	if (fsync(dirfd(d)) < 0)
		return no_answer(e, "arbiter folder '%s'", f->folder);
	/* Somebody may have gone on since we looked. */
	r = scan(f, d, 0, &highest, e);
	if (!r && highest > now.generation)
		return claimed_beside(f, d, &now, ret, e);
	if (!r)
		r = read_record(f, d, &is, e);
	if (!r && is.claim != now.claim)
		return lost(f, d, ret, e);
	if (!r && is.end != now.end) /* a restart of the storage took it back before the sync */
		r = arbiter_no_answer(
			err_set(e, -EIO,
				"arbiter record '%s/%s' is not as it was just "
				"written; does its storage keep what it has answered?",
				f->folder, name));
	if (!r)
		*ret = now;
	return r;
}

/*
 * An end and a claim that follows the same record are made first, and looked at then: one of the
 * two sides sees the other. A claim that sees an end ends in the same way.
 */
static int look_back(const struct arbiter_file *f, DIR *d, const struct arbiter_record *mine,
		     struct arbiter_record *ret, struct err *e)
{
	struct arbiter_record before = {.generation = mine->generation - 1};
	int r = read_record(f, d, &before, e);

	if (r || before.end == ARBITER_HELD)
		return r;
	before.generation = mine->generation;
	before.claim = mine->claim;
	r = end_in(f, d, &before, ret, e);
	return r ? r : arbiter_was_stopped(&before, &f->place, e);
}

static int make_record(const struct arbiter_file *f, DIR *d, const struct arbiter_record *mine,
		       const atomic_bool *abandoned, struct arbiter_record *ret, struct err *e)
{
	char temp[NAME_CAP];
	int r, fd = write_temp(f, d, mine, temp, e);

	if (fd < 0)
		return fd;
	if (abandoned && atomic_load(abandoned))
		r = err_set(e, -EINTR, "arbiter: the claim was given up");
	else
		r = link_record(f, d, fd, temp, mine->generation, e);
	close(fd);
	unlinkat(dirfd(d), temp, 0);
	return r == -ESTALE ? lost(f, d, ret, e) : r;
}

/*
 * When the link or the step after it fails, the record may be there all the same. It stays: asked
 * again, it is known by its identity; and nobody else may take it for one that was given back.
 */
static int claim_in(const struct arbiter_file *f, DIR *d, const struct arbiter_question *q,
		    struct arbiter_record *ret, struct err *e)
{
	struct arbiter_record mine = q->record;
	int r = read_current(f, d, ret, e);
	bool landed = !r && arbiter_claim_landed(q, ret);

	mine.time = time(NULL);
	if (!r && !landed)
		r = arbiter_check_claim(q, ret, &f->place, e);
	if (!r && !landed)
		r = make_record(f, d, &mine, q->abandoned, ret, e);
	if (!r)
		r = confirm(f, d, &mine, ret, e);
	if (!r && mine.generation > 1 && q->why == ARBITER_GO_ON)
		r = look_back(f, d, &mine, ret, e);
	if (r)
		return r;
	remove_old(f, d, mine.generation);
	*ret = mine;
	return 0;
}

/* --- the back end ----------------------------------------------------------------------------- */

/*
 * Somebody else has it. Whoever hears that may go on from there, as after a hand-over; but that one
 * may have died before it was on the medium, and a restart of the storage would take it back.
 */
static int keep_theirs(const struct arbiter_file *f, DIR *d, const struct arbiter_record *theirs,
		       struct err *e)
{
	struct arbiter_record is = {.generation = theirs->generation};
	struct err why = {0};
	int r = 0;

	if (fsync(dirfd(d)) < 0)
		r = no_answer(&why, "arbiter folder '%s'", f->folder);
	if (!r && is.generation)
		r = read_record(f, d, &is, &why);
	if (!r && (is.claim != theirs->claim || is.end != theirs->end))
		r = arbiter_no_answer(err_set(
			&why, -EAGAIN, "arbiter folder '%s' changed while it was read", f->folder));
	if (!r)
		return -ESTALE;
	if (e)
		*e = why;
	return r;
}

static int answer(void *self, const struct arbiter_question *q, struct arbiter_record *ret,
		  struct err *e)
{
	const struct arbiter_file *f = self;
	/* Opened anew each time: a cached listing could miss the other host's record. */
	DIR *d = opendir(f->folder);
	int r;

	if (!d)
		return no_answer(e, "arbiter folder '%s'", f->folder);
	if (q->what == ARBITER_READ)
		r = read_current(f, d, ret, e);
	else if (q->what == ARBITER_CLAIM)
		r = claim_in(f, d, q, ret, e);
	else
		r = end_in(f, d, &q->record, ret, e);
	if (r == -ESTALE && q->what == ARBITER_CLAIM) /* from an end nobody goes on */
		r = keep_theirs(f, d, ret, e);
	closedir(d);
	return r;
}

static const struct arbiter_ops ops = {
	.answer = answer, .close = free, .deadline_ms = ARBITER_DEADLINE_MS, .shared = true};

static int split(struct arbiter_file *f, const char *path, struct err *e)
{
	const char *slash = strrchr(path, '/'), *base = slash ? slash + 1 : path;
	int folder = slash ? (int)(slash - path) : 0;

	if (!*base || strlen(base) > PREFIX_MAX || folder >= (int)sizeof(f->folder))
		return err_set(
			e, -EINVAL,
			"arbiter 'file:%.80s': must be file:FOLDER/NAME, NAME of 1..%d characters",
			path, PREFIX_MAX);
	snprintf(f->folder, sizeof(f->folder), "%.*s", folder, path);
	if (!slash)
		snprintf(f->folder, sizeof(f->folder), ".");
	else if (!folder)
		snprintf(f->folder, sizeof(f->folder), "/");
	snprintf(f->prefix, sizeof(f->prefix), "%s", base);
	return 0;
}

int arbiter_file_open(struct arbiter_backend *ret, const char *path, const char *vm, struct err *e)
{
	struct arbiter_file *f = calloc(1, sizeof(*f));
	int r;

	if (!f)
		return err_set(e, -ENOMEM, "arbiter: out of memory");
	snprintf(f->vm, sizeof(f->vm), "%s", vm);
	r = split(f, path, e);
	snprintf(f->name, sizeof(f->name), "arbiter folder '%s'", f->folder);
	f->place = (struct arbiter_place){f->vm, f->name, "is the shared storage mounted?"};
	if (r) {
		free(f);
		return r;
	}
	*ret = (struct arbiter_backend){&ops, f};
	return 0;
}

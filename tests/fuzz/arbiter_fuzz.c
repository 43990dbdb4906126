/*
 * Records of an arbiter that somebody else wrote: a folder of files with all kinds of names and
 * contents, then a read, a claim or an end. Only a whole record is believed, a claim is won only
 * from the highest generation, or if it is there as our own, and what is won is there to read.
 *
 * Input: what is asked and of which generation, then files {name, content...} (see add_file()).
 */
#include <errno.h>
#include <fcntl.h>

#include "tests/fuzz/fuzz.h"

#include "ft/common/arbiter_file.h"
#include "vmm/base/log.h"

#define FILES 6

#define MINE 0x11

static struct arbiter_backend file;
static char names[FILES][300];
static unsigned nfiles;

static void start(void)
{
	char path[96];

	log_init(LOG_ERROR, "fuzz");
	snprintf(path, sizeof(path), "%s/r", fuzz_make_folder());
	require(!arbiter_file_open(&file, path, "vm", NULL));
}

/* Small generations, so that they meet, and the ends of the range. */
static uint64_t generation(unsigned c)
{
	static const uint64_t ends[] = {0, 1, INT64_MAX - 1, INT64_MAX, UINT64_MAX, 1ull << 62};

	return c < 240 ? c % 24 : ends[c % 6];
}

static void name_file(struct input *in, uint64_t g, char *ret, size_t cap)
{
	unsigned c = (unsigned)take(in, 1);
	char odd[16] = "";
	size_t n = c % 12;

	if (c < 200) {
		snprintf(ret, cap, "%s/r.%llu", fuzz_folder, (unsigned long long)g);
		return;
	}
	memcpy(odd, take_bytes(in, &n), n);
	for (size_t i = 0; i < n; i++)
		if (!odd[i] || odd[i] == '/')
			odd[i] = '.';
	snprintf(ret, cap, "%s/r.%s", fuzz_folder, odd);
}

static size_t record(struct input *in, uint64_t g, char *text, size_t cap)
{
	static const char *const vms[] = {"vm", "vm", "vm", "other", "v\\n", "\\u0000", "vmm", ""};
	static const char *const holders[] = {"me", "you", "me\\u001b", "m\xc3\xa9"};
	static const char *const times[] = {"1", "-1", "1e9", "9223372036854775808"};
	static const char *const truths[] = {"true", "false", "1", "null"};
	static const char *const more[] = {"",
					   ",\"stopped\":true",
					   ",\"stopped\":1",
					   ",\"claim\":\"0000000000000011\"",
					   ",\"claim\":\"0000000000000011\",\"stopped\":true",
					   ",\"claim\":\"00000000000000g1\"",
					   ",\"side\":\"0000000000000022\",\"token\":\"1\"",
					   ",\"token\":\"fffffffffffffffe\""};
	unsigned c = (unsigned)take(in, 2), m = (unsigned)take(in, 1);

	return (size_t)snprintf(text, cap,
				"{\"vm\":\"%s\",\"generation\":%llu,\"holder\":\"%s\",\"time\":%s,"
				"\"released\":%s%s%s}",
				vms[c & 7], (unsigned long long)g + (c >> 8 == 255),
				holders[c >> 3 & 3], times[c >> 5 & 1 ? c >> 8 & 3 : 0],
				truths[c >> 6 & 3], more[m & 7],
				c >> 8 == 254 ? ",\"vm\":\"vm\"" : "");
}

/* A record with edits, one that is cut, or bytes as they come; or no file at all. */
static void add_file(struct input *in)
{
	unsigned c = (unsigned)take(in, 1);
	uint64_t g = generation((unsigned)take(in, 1));
	char *name = names[nfiles], text[6000];
	size_t n = take(in, 2) % 6000;
	int fd;

	name_file(in, g, name, sizeof(names[0]));
	if (c % 4 == 3) {
		memset(text, ' ', sizeof(text));
		memcpy(text, take_bytes(in, &n), n);
	} else {
		size_t len = record(in, g, text, sizeof(text)), edits = c % 4 == 1 ? 1 + c / 64 : 0;

		while (edits--)
			text[take(in, 1) % len] = (char)take(in, 1);
		n = c % 4 == 2 ? n % len : len;
	}
	if (c == 63 && !mkdir(name, 0700)) {
		nfiles++;
		return;
	}
	if (c == 127 && !symlink(name, name)) {
		nfiles++;
		return;
	}
	fd = open(name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0)
		return;
	require(write(fd, text, n) == (ssize_t)n);
	close(fd);
	nfiles++;
}

static void remove_files(uint64_t won)
{
	char name[96];

	for (; nfiles; nfiles--)
		if (unlink(names[nfiles - 1]))
			rmdir(names[nfiles - 1]);
	snprintf(name, sizeof(name), "%s/r.%llu", fuzz_folder, (unsigned long long)won);
	unlink(name);
}

static void check_record(const struct arbiter_record *r)
{
	require(r->generation < INT64_MAX && memchr(r->holder, 0, sizeof(r->holder)));
	for (const char *p = r->holder; *p; p++)
		require((unsigned char)*p >= ' ' && *p != 0x7f);
}

static int answer(enum arbiter_what what, enum arbiter_why why, uint64_t generation,
		  struct arbiter_record *ret, struct err *e)
{
	struct arbiter_question q = {
		.what = what,
		.why = why,
		.record = {.generation = generation,
			   .end = what == ARBITER_END ? ARBITER_STOPPED : ARBITER_HELD,
			   .holder = "me",
			   .claim = MINE,
			   .side = 0x22}};

	return file.ops->answer(file.self, &q, ret, e);
}

static void ask(unsigned what, uint64_t from)
{
	struct arbiter_record before = {0}, after = {0}, rec = {0};
	enum arbiter_why why = what & 64 ? ARBITER_START : ARBITER_GO_ON;
	struct err e = {0};
	int was = answer(ARBITER_READ, why, 0, &before, &e), r;
	bool landed =
		before.generation == from + 1 && before.claim == MINE && before.end == ARBITER_HELD;

	require(was ? was < 0 && e.msg[0] : 1);
	if (!was)
		check_record(&before);
	if (what % 3 == 0)
		return;
	r = what % 3 == 1 ? answer(ARBITER_CLAIM, why, from + 1, &rec, &e)
			  : answer(ARBITER_END, why, from, &rec, &e);
	require(r ? r < 0 && e.msg[0] : 1);
	if (r)
		return;
	require(!was && !answer(ARBITER_READ, why, 0, &after, &e) && after.claim == MINE);
	if (what % 3 == 1) {
		require(landed || before.generation == from);
		require(landed || why == ARBITER_START || before.end == ARBITER_HELD);
		require(after.generation == from + 1 && after.end == ARBITER_HELD);
	} else {
		require(before.generation == from && before.claim == MINE);
		require(after.generation == from && after.end == ARBITER_STOPPED);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = {data, size};
	unsigned what;
	uint64_t from;

	if (!file.ops)
		start();
	what = (unsigned)take(&in, 1);
	from = generation((unsigned)take(&in, 1));
	while (in.left && nfiles < FILES)
		add_file(&in);
	ask(what, from);
	remove_files(from + 1);
	return 0;
}

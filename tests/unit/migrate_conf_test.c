/* The options of `ftvmm migrate`: what belongs together, and what each bad combination is told. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/conf/migrate_conf.h"

#define URI   "unix:/x"
#define MS    1000000ull
#define WORDS 8

static unsigned count(const char *const *words)
{
	unsigned n = 0;

	while (n < WORDS && words[n])
		n++;
	return n;
}

static json_t *value_of(const char *key, const char *text)
{
	if (!strcmp(key, "passes"))
		return json_integer(atoi(text));
	return json_string(text);
}

/* The same as a request of the control socket. */
static json_t *request(const char *const *words)
{
	json_t *o = json_object();

	for (unsigned i = 0; i < count(words); i++) {
		const char *key = words[i] + 2;

		if (!strcmp(key, "cancel") || !strcmp(key, "force") ||
		    !strcmp(key, "no-background") || !strcmp(key, "copy-disks") ||
		    !strcmp(key, "insecure"))
			json_object_set_new(o, key, json_true());
		else
			json_object_set_new(o, key, value_of(key, words[++i]));
	}
	return o;
}

static const struct {
	const char *words[WORDS];
	const char *why;
	bool words_only; /* cannot be said in a request */
} bad[] = {
	{{NULL}, "where to?", false},
	{{"--downtime", "1s"}, "where to?", false},
	{{"--no-background"}, "where to?", false},
	{{"--passes", "3", "--bandwidth", "1M"}, "where to?", false},
	{{"--precopy", ""}, "empty; give URI", false},

	{{"--precopy", URI, "--postcopy", URI}, "--precopy and --postcopy exclude", false},
	{{"--precopy", URI, "--auto", URI}, "--precopy and --auto exclude", false},
	{{"--postcopy", URI, "--auto", URI}, "--postcopy and --auto exclude", false},
	{{"--cancel", "--precopy", URI}, "--cancel and --precopy exclude", false},
	{{"--cancel", "--postcopy", URI}, "--cancel and --postcopy exclude", false},
	{{"--cancel", "--auto", URI}, "--cancel and --auto exclude", false},
	{{"--cancel", "--downtime", "1s"}, "--cancel and --downtime exclude", false},
	{{"--cancel", "--timeout", "1s"}, "--cancel and --timeout exclude", false},
	{{"--cancel", "--passes", "0"}, "--cancel and --passes exclude", false},
	{{"--cancel", "--bandwidth", "1M"}, "--cancel and --bandwidth exclude", false},
	{{"--cancel", "--no-background"}, "--cancel and --no-background exclude", false},
	{{"--cancel", "--force", "--passes", "2"}, "--cancel and --passes exclude", false},
	{{"--cancel", "--copy-disks"}, "--cancel and --copy-disks exclude", false},
	{{"--copy-disks"}, "where to?", false},
	{{"--recover", URI, "--cancel"}, "goes alone, without --cancel", false},
	{{"--recover", URI, "--force"}, "goes alone, without --force", false},
	{{"--recover", URI, "--precopy", URI}, "goes alone, without --precopy", false},
	{{"--recover", URI, "--postcopy", URI}, "goes alone, without --postcopy", false},
	{{"--recover", URI, "--passes", "2"}, "goes alone, without --passes", false},
	{{"--recover", URI, "--copy-disks"}, "goes alone, without --copy-disks", false},
	{{"--recover", "fd:3"}, "connected to again", false},
	{{"--force"}, "--force goes with --cancel", false},
	{{"--force", "--precopy", URI}, "--force goes with --cancel", false},
	{{"--force", "--postcopy", URI}, "--force goes with --cancel", false},

	{{"--precopy", URI, "--passes", "0"}, "--passes 0 goes with --postcopy", false},
	{{"--auto", URI, "--passes", "0"}, "--passes 0 goes with --postcopy", false},
	{{"--precopy", URI, "--no-background"}, "--no-background goes with --postcopy", false},

	{{"--precopy", "tls:host"}, "write tls:HOST:PORT", false},
	{{"--precopy", "fd:3"}, "connected to again", false},
	{{"--postcopy", "fd:3"}, "connected to again", false},
	{{"--auto", "exec:cat"}, "exec:cat", false},
	{{"--precopy", "file:/x"}, "file:/x", false},
	{{"--precopy", "tcp:host"}, "tcp:host", false},
	{{"--precopy", "tcp:host:65536"}, "tcp:host:65536", false},
	{{"--precopy", "unix:"}, "unix:", false},
	{{"--precopy", "host:1"}, "host:1", false},

	{{"--precopy", URI, "--downtime", "0"}, "--downtime", true},
	{{"--precopy", URI, "--downtime", "61s"}, "downtime", false},
	{{"--precopy", URI, "--downtime", "soon"}, "downtime", false},
	{{"--precopy", URI, "--timeout", "99ms"}, "timeout", false},
	{{"--precopy", URI, "--timeout", "-1s"}, "timeout", false},
	{{"--precopy", URI, "--passes", "1001"}, "passes", false},
	{{"--precopy", URI, "--passes", "-1"}, "passes", true},
	{{"--precopy", URI, "--bandwidth", "1K"}, "bandwidth", false},
	{{"--precopy", URI, "--bandwidth", "2T"}, "bandwidth", false},

	{{"--precopy"}, "needs a value", true},
	{{"--precopy", URI, "--passes"}, "needs a value", true},
	{{"--precopi", URI}, "nearest is --precopy", true},
	{{URI}, "unknown argument", true},
	{{"--precopy", URI, "now"}, "unknown argument", true},
};

static void each_bad_one_is_told_why(void **state)
{
	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct migrate_conf c;
		struct err e = {0};
		int r = migrate_conf_words(&c, bad[i].words, (int)count(bad[i].words), &e);

		if (r >= 0 || !strstr(e.msg, bad[i].why))
			fail_msg("%u: '%s' is not '%s'", i, e.msg, bad[i].why);
		if (!bad[i].words_only) {
			json_t *o = request(bad[i].words);

			e = (struct err){0};
			r = migrate_conf_request(&c, o, &e);
			if (r >= 0 || !strstr(e.msg, bad[i].why))
				fail_msg("%u, as a request: '%s' is not '%s'", i, e.msg,
					 bad[i].why);
			json_decref(o);
		}
	}
}

static const struct {
	const char *words[WORDS];
	struct migrate_conf want;
} good[] = {
	{{"--precopy", URI},
	 {.how = MIGRATE_HOW_PRECOPY, .downtime_ns = 50 * MS, .passes = MIGRATE_PASSES_ANY}},
	{{"--precopy", URI, "--passes", "3", "--downtime", "7ms"},
	 {.how = MIGRATE_HOW_PRECOPY, .downtime_ns = 7 * MS, .passes = 3}},
	{{"--postcopy", URI}, {.how = MIGRATE_HOW_POSTCOPY, .downtime_ns = 50 * MS, .passes = 0}},
	{{"--postcopy", URI, "--passes", "2", "--no-background"},
	 {.how = MIGRATE_HOW_POSTCOPY, .downtime_ns = 50 * MS, .passes = 2, .no_background = true}},
	{{"--auto", URI, "--bandwidth", "1M"},
	 {.how = MIGRATE_HOW_AUTO,
	  .downtime_ns = 50 * MS,
	  .passes = MIGRATE_PASSES_ANY,
	  .bandwidth = 1 << 20}},
	{{"--precopy", URI, "--insecure"},
	 {.how = MIGRATE_HOW_PRECOPY,
	  .downtime_ns = 50 * MS,
	  .passes = MIGRATE_PASSES_ANY,
	  .insecure = true}},
	{{"--recover", URI, "--insecure"},
	 {.recover = URI, .downtime_ns = 50 * MS, .passes = MIGRATE_PASSES_ANY, .insecure = true}},
	{{"--cancel"}, {.cancel = true, .downtime_ns = 50 * MS, .passes = MIGRATE_PASSES_ANY}},
	{{"--cancel", "--force"},
	 {.cancel = true, .force = true, .downtime_ns = 50 * MS, .passes = MIGRATE_PASSES_ANY}},
};

static void same(const struct migrate_conf *c, const struct migrate_conf *want)
{
	assert_int_equal(c->how, want->how);
	assert_string_equal(c->uri, want->cancel ? "" : URI);
	assert_int_equal(c->downtime_ns, want->downtime_ns);
	assert_int_equal(c->timeout_ns, want->cancel || want->recover[0] ? 0 : 60000 * MS);
	assert_int_equal(c->passes, want->passes);
	assert_int_equal(c->bandwidth, want->bandwidth);
	assert_int_equal(c->no_background, want->no_background);
	assert_int_equal(c->insecure, want->insecure);
	assert_int_equal(c->cancel, want->cancel);
	assert_int_equal(c->force, want->force);
}

/* As words, as a request, and as the request that the command makes of the words. */
static void each_good_one_is_taken(void **state)
{
	for (unsigned i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
		json_t *o = request(good[i].words);
		struct migrate_conf c;

		assert_int_equal(migrate_conf_request(&c, o, NULL), 0);
		same(&c, &good[i].want);
		json_decref(o);
		assert_int_equal(
			migrate_conf_words(&c, good[i].words, (int)count(good[i].words), NULL), 0);
		same(&c, &good[i].want);
		o = migrate_conf_json(&c);
		assert_int_equal(migrate_conf_request(&c, o, NULL), 0);
		same(&c, &good[i].want);
		json_decref(o);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(each_bad_one_is_told_why),
		cmocka_unit_test(each_good_one_is_taken),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* What `ftvmm set` takes, and what a request may say. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "ft/role/policy.h"
#include "vmm/conf/config.h"
#include "vmm/conf/setting.h"

static void words_become_a_request(void **state)
{
	static const char *const pairs[] = {"ft=kemari", "epoch=10ms", "output-limit=1M",
					    "peer=tcp:127.0.0.2:7,unix:/b", "balloon=0"};
	static const uint64_t want[] = {FT_MODE_KEMARI, 10000000, 1 << 20, 0, 0};
	json_t *request = json_object();
	struct err e = {0};
	struct setting_value value;

	for (unsigned i = 0; i < SETTING_MAX; i++) {
		assert_int_equal(setting_get((enum setting)i, request, &value, &e), -ENOENT);
		assert_int_equal(setting_add(request, pairs[i], &e), 0);
		assert_int_equal(setting_get((enum setting)i, request, &value, &e), 0);
		assert_int_equal(value.number, want[i]);
		assert_int_equal(value.npeers, i == SETTING_PEER ? 2 : 0);
	}
	assert_int_equal(setting_get(SETTING_PEER, request, &value, &e), 0);
	assert_string_equal(value.peers[0], "tcp:127.0.0.2:7");
	assert_string_equal(value.peers[1], "unix:/b");
	assert_int_equal(json_object_size(request), SETTING_MAX);
	json_decref(request);
}

/* Each of --ft, and what only a VM that runs can be. */
static void modes(void **state)
{
	static const char *const names[] = {"mc", "kemari", "auto", "colo", "off"};

	for (unsigned i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		json_t *request = json_pack("{s:s}", "ft", names[i]);
		struct setting_value value;

		assert_int_equal(setting_get(SETTING_FT, request, &value, NULL), 0);
		assert_string_equal(policy_of((enum ft_mode)value.number)->name, names[i]);
		json_decref(request);
	}
}

static void wrong_words(void **state)
{
	static const char *const wrong[][2] = {
		{"epok=1", "the nearest is 'epoch'"},
		{"ft", "ft needs a value: ft=MODE"},
		{"epoch=1us", "outside 100us..10s"},
		{"output-limit=1K", "outside 128K..4G"},
		{"balloon=x", "balloon"},
		{"peer=", "peer"},
		{"peer=udp:1", "is not an address"},
		{"peer=unix:/1,unix:/2,unix:/3,unix:/4,unix:/5", "4"},
	};
	json_t *request = json_object();

	for (unsigned i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		struct err e = {0};

		assert_true(setting_add(request, wrong[i][0], &e) < 0);
		if (!strstr(e.msg, wrong[i][1]))
			fail_msg("%s: %s", wrong[i][0], e.msg);
	}
	assert_int_equal(json_object_size(request), 0);
	json_decref(request);
}

/* From a socket: nothing that was checked before. */
static void wrong_requests(void **state)
{
	static const struct {
		enum setting s;
		const char *json, *why;
	} wrong[] = {
		{SETTING_FT, "{\"ft\":7}", "must be a string"},
		{SETTING_FT, "{\"ft\":\"magic\"}", "is not one of: mc, kemari, auto"},
		{SETTING_EPOCH, "{\"epoch_ns\":99999}", "nanoseconds, 100us to 10s"},
		{SETTING_EPOCH, "{\"epoch_ns\":-1}", "nanoseconds, 100us to 10s"},
		{SETTING_EPOCH, "{\"epoch_ns\":\"10ms\"}", "whole number"},
		{SETTING_EPOCH, "{\"epoch_ns\":1e7}", "whole number"},
		{SETTING_OUTPUT_LIMIT, "{\"output_limit_bytes\":131071}", "bytes, 128K to 4G"},
		{SETTING_OUTPUT_LIMIT, "{\"output_limit_bytes\":4294967297}", "bytes, 128K to 4G"},
		{SETTING_BALLOON, "{\"balloon_bytes\":-4096}", "bytes"},
		{SETTING_BALLOON, "{\"balloon_bytes\":null}", "bytes"},
		{SETTING_PEER, "{\"peer\":7}", "a string or an array of strings"},
		{SETTING_PEER, "{\"peer\":[\"unix:/1\",7]}", "peer"},
		{SETTING_PEER, "{\"peer\":[\"1\",\"2\",\"3\",\"4\",\"5\"]}", "4"},
	};

	for (unsigned i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		json_t *request = json_loads(wrong[i].json, 0, NULL);
		struct err e = {0};
		struct setting_value value;

		assert_non_null(request);
		assert_true(setting_get(wrong[i].s, request, &value, &e) < 0);
		if (!strstr(e.msg, wrong[i].why))
			fail_msg("%s: %s", wrong[i].json, e.msg);
		json_decref(request);
	}
}

static void all_names(void **state)
{
	char names[80], cut[6];

	setting_names(names, sizeof(names));
	assert_string_equal(names, "ft, epoch, output-limit, peer, balloon");
	setting_names(cut, sizeof(cut));
	assert_string_equal(cut, "ft, e");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(words_become_a_request),
		cmocka_unit_test(modes),
		cmocka_unit_test(wrong_words),
		cmocka_unit_test(wrong_requests),
		cmocka_unit_test(all_names),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

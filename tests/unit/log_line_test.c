/* A line of the log, as text, as JSON and for the journal, whatever the message is made of. */
#define _GNU_SOURCE /* strptime, timegm */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "vmm/base/log_line.h"

static char line[LOG_LINE_MAX + 1];

static const char *line_of(enum log_form form, bool journal, enum log_level level, const char *text)
{
	struct log_style s = {.form = form, .journal = journal, .name = "web"};
	char copy[LOG_LINE_MAX];
	size_t n;

	snprintf(copy, sizeof(copy), "%s", text);
	memset(line, '~', sizeof(line));
	n = log_line(&s, level, copy, line);
	assert_in_range(n, 1, LOG_LINE_MAX);
	assert_int_equal(line[n], '~');
	assert_int_equal(line[n - 1], '\n');
	line[n - 1] = 0;
	assert_null(strchr(line, '\n'));
	return line;
}

static void check_time(const char *text)
{
	struct tm utc = {0};
	const char *end = strptime(text, "%Y-%m-%dT%H:%M:%S", &utc);
	time_t then;

	assert_non_null(end);
	assert_int_equal(end[0], '.');
	assert_int_equal(strspn(end + 1, "0123456789"), 6);
	assert_int_equal(end[7], 'Z');
	then = timegm(&utc);
	assert_in_range(time(NULL) - then, 0, 3600);
}

static void text(void **state)
{
	assert_string_equal(line_of(LOG_BARE, false, LOG_WARN, "x"), "ftvmm[web] warning: x");
	line_of(LOG_TEXT, false, LOG_INFO, "RUNNING");
	check_time(line);
	assert_string_equal(line + strlen("2026-11-01T10:00:00.000000Z"),
			    " ftvmm[web] info: RUNNING");
}

/* It has the time, and takes the priority off. */
static void journal(void **state)
{
	assert_string_equal(line_of(LOG_TEXT, true, LOG_ERROR, "x"), "<3>ftvmm[web] error: x");
	assert_string_equal(line_of(LOG_TEXT, true, LOG_WARN, "x"), "<4>ftvmm[web] warning: x");
	assert_string_equal(line_of(LOG_TEXT, true, LOG_INFO, "x"), "<6>ftvmm[web] info: x");
	assert_string_equal(line_of(LOG_TEXT, true, LOG_DEBUG, "x"), "<7>ftvmm[web] debug: x");
	line_of(LOG_JSON, true, LOG_ERROR, "x");
	assert_memory_equal(line, "<3>{\"time\":", 11);
}

static void check_json(const char *level, const char *text)
{
	json_t *o = json_loads(line, JSON_REJECT_DUPLICATES, NULL);

	assert_non_null(o);
	assert_int_equal(json_object_size(o), 4);
	check_time(json_string_value(json_object_get(o, "time")));
	assert_string_equal(json_string_value(json_object_get(o, "level")), level);
	assert_string_equal(json_string_value(json_object_get(o, "name")), "web");
	assert_string_equal(json_string_value(json_object_get(o, "text")), text);
	json_decref(o);
}

static void json(void **state)
{
	line_of(LOG_JSON, false, LOG_INFO, "disk 'a\"b\\c': \xc3\xa4 \xe2\x82\xac");
	check_json("info", "disk 'a\"b\\c': \xc3\xa4 \xe2\x82\xac");
	line_of(LOG_JSON, false, LOG_ERROR, "");
	check_json("error", "");
	line_of(LOG_JSON, false, LOG_DEBUG, "a\nb\tc\x1b[31m\x7f \xff\xc3");
	check_json("debug", "a b c [31m  ??");
}

/* One line, no commands to a terminal. */
static void what_a_peer_says(void **state)
{
	assert_string_equal(line_of(LOG_BARE, false, LOG_INFO, "a\nftvmm error: b\x1b[2J\r"),
			    "ftvmm[web] info: a ftvmm error: b [2J ");
}

/* Of every length and of characters that need two bytes or more: it is cut, and stays whole. */
static void long_ones(void **state)
{
	static const char *const of[] = {"x", "\"", "\\", "\xc3\xa4", "\xf0\x9f\x90\xa7", "\xff"};

	for (size_t kind = 0; kind < sizeof(of) / sizeof(of[0]); kind++) {
		char text[LOG_LINE_MAX] = "", *at = text;

		while (at + strlen(of[kind]) < text + sizeof(text) - 1)
			at = stpcpy(at, of[kind]);
		for (size_t cut = 0; cut < 130; cut++) {
			json_t *o;

			line_of(LOG_TEXT, false, LOG_WARN, text + cut);
			line_of(LOG_JSON, true, LOG_WARN, text + cut);
			o = json_loads(line + 3, 0, NULL);
			assert_non_null(o);
			assert_true(json_string_length(json_object_get(o, "text")) > 400);
			json_decref(o);
		}
	}
}

static void which_file(void **state)
{
	char is[64], other[64];
	struct stat st;
	int fd = open("/dev/null", O_WRONLY);

	assert_int_equal(fstat(fd, &st), 0);
	snprintf(is, sizeof(is), "%llu:%llu", (unsigned long long)st.st_dev,
		 (unsigned long long)st.st_ino);
	snprintf(other, sizeof(other), "%llu:%llu", (unsigned long long)st.st_dev,
		 (unsigned long long)st.st_ino + 1);
	assert_true(log_line_is_journal(is, fd));
	assert_false(log_line_is_journal(other, fd));
	assert_false(log_line_is_journal(NULL, fd));
	assert_false(log_line_is_journal("", fd));
	assert_false(log_line_is_journal("garbage", fd));
	assert_false(log_line_is_journal(is, -1));
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(text),	     cmocka_unit_test(journal),
		cmocka_unit_test(json),	     cmocka_unit_test(what_a_peer_says),
		cmocka_unit_test(long_ones), cmocka_unit_test(which_file),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

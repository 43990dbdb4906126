/* Text that must be UTF-8: as the library that makes JSON of it sees it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/base/utf8.h"

static void is(const char *text, const char *mended)
{
	char s[64];

	strcpy(s, text);
	utf8_mend(s);
	assert_string_equal(s, mended);
}

static void whole_text_stays(void **state)
{
	is("", "");
	is("plain", "plain");
	is("\xc2\x80 \xdf\xbf \xe0\xa0\x80 \xed\x9f\xbf \xee\x80\x80 \xef\xbf\xbf",
	   "\xc2\x80 \xdf\xbf \xe0\xa0\x80 \xed\x9f\xbf \xee\x80\x80 \xef\xbf\xbf");
	is("\xf0\x90\x80\x80 \xf4\x8f\xbf\xbf", "\xf0\x90\x80\x80 \xf4\x8f\xbf\xbf");
}

static void what_is_no_character_is_marked(void **state)
{
	is("a\xff", "a?");
	is("\x80x", "?x");
	is("\xc0\xaf", "??");
	is("\xc3", "?"); /* cut off */
	is("\xe2\x82", "??");
	is("\xf0\x9f\x98", "???");
	is("\xe0\x9f\xbf", "???");
	is("\xed\xa0\x80", "???");
	is("\xf0\x8f\xbf\xbf", "????");
	is("\xf4\x90\x80\x80", "????");
	is("\xe2\x82\xc3\xa4", "??\xc3\xa4");
}

/* Any bytes: jansson takes the result, and what it took before is as it was. */
static void as_json_has_it(void **state)
{
	unsigned seed = 1;

	for (unsigned round = 0; round < 200000; round++) {
		char s[9] = "", was[9];
		json_t *before, *after;

		for (unsigned i = 0; i < 8; i++)
			s[i] = (char)("\x01\x7f\x80\x8f\x90\x9f\xa0\xbf\xc1\xc2\xdf\xe0\xed\xef\xf0"
				      "\xf4"
				      "\xf5\xff"[rand_r(&seed) % 18]);
		strcpy(was, s);
		utf8_mend(s);
		before = json_string(was);
		after = json_string(s);
		assert_non_null(after);
		assert_int_equal(before != NULL, !strcmp(was, s));
		json_decref(before);
		json_decref(after);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(whole_text_stays),
		cmocka_unit_test(what_is_no_character_is_marked),
		cmocka_unit_test(as_json_has_it),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

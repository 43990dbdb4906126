/* Which fields differ: named, counted once a look, and so many of them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "ft/role/sources.h"
#include "tests/unit/libtime.h"

struct pod {
	uint8_t rows[64];
	uint32_t n;
	struct {
		uint16_t index;
	} queues[60];
};

static const struct field queue_fields[] = {
	{.id = 1, .type = FIELD_U16, .size = 2, .name = "index", .doc = ""},
};

static const struct field fields[] = {
	F_BYTES(struct pod, rows, 1, "some rows"),
	F_ARRAY(struct pod, queues, n, 2, queue_fields, "queues"),
};

static const struct state_desc desc = {.name = "thing",
				       .id = 77,
				       .version = 1,
				       .size = sizeof(struct pod),
				       .fields = fields,
				       .nfields = 2};

static struct vm vm;
static struct pod here, sent;
static struct sources s;

static int setup(void **state)
{
	time_reset();
	memset(&vm, 0, sizeof(vm));
	memset(&here, 0, sizeof(here));
	memset(&s, 0, sizeof(s));
	here.n = 60;
	sent = here;
	vm.state.nitems = 1;
	vm.state.items[0] = (struct state_item){&desc, 3, &here};
	vm.state.scratch[0] = (struct state_item){&desc, 3, &sent};
	return 0;
}

static void look(void)
{
	time_jump(S);
	sources_look(&s, &vm);
}

static void rows_are_one_field(void **state)
{
	memset(here.rows, 1, sizeof(here.rows));
	look();
	look();
	assert_int_equal(s.n, 1);
	assert_string_equal(s.fields[0].name, "thing[3].rows");
	assert_int_equal(s.fields[0].count, 2);
	assert_int_equal(s.looks, 2);
}

static void elements_are_many(void **state)
{
	here.queues[7].index = 1;
	look();
	here.queues[7].index = 0;
	here.queues[8].index = 1;
	look();
	look();
	assert_int_equal(s.n, 2);
	assert_string_equal(s.fields[0].name, "thing[3].queues[7].index");
	assert_int_equal(s.fields[0].count, 1);
	assert_int_equal(s.fields[1].count, 2);
}

static void what_is_too_much_is_counted_together(void **state)
{
	for (unsigned i = 0; i < 60; i++)
		here.queues[i].index = 1;
	look();
	look();
	assert_int_equal(s.n, SOURCES_MAX);
	assert_int_equal(s.others, 2 * (60 - SOURCES_MAX));
	assert_int_equal(s.fields[SOURCES_MAX - 1].count, 2);
}

static void once_a_second(void **state)
{
	here.rows[0] = 1;
	for (unsigned i = 0; i < 100; i++) {
		sources_look(&s, &vm);
		time_jump(100 * MS);
	}
	assert_int_equal(s.looks, 10);
	assert_int_equal(s.fields[0].count, 10);
}

#define SOURCES_TEST(f) cmocka_unit_test_setup(f, setup)

int main(void)
{
	const struct CMUnitTest tests[] = {
		SOURCES_TEST(rows_are_one_field),
		SOURCES_TEST(elements_are_many),
		SOURCES_TEST(what_is_too_much_is_counted_together),
		SOURCES_TEST(once_a_second),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* An arbiter over a text with compare-and-set: one order of claims and ends, whatever gets lost. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ft/common/arbiter_cell.h"

struct stored {
	char text[ARBITER_RECORD_MAX];
	int64_t revision;
	unsigned swaps;
	/* Of the next steps. */
	int fail_read, fail_swap;
	bool lands; /* a swap that fails was carried out */
	bool keeps; /* it is carried out later */
	char later[ARBITER_RECORD_MAX];
	int64_t later_revision;
	void (*before_swap)(struct stored *s);
};

struct fake {
	struct arbiter_cell cell;
	struct stored *s;
};

static int read_fake(struct arbiter_cell *c, uint64_t until, struct arbiter_text *ret,
		     struct err *e)
{
	struct stored *s = ((struct fake *)c)->s;
	int r = s->fail_read;

	s->fail_read = 0;
	if (r)
		return err_set(e, r, "the cell is away");
	ret->revision = s->revision;
	return arbiter_text_set(c, ret, s->text, strlen(s->text), e);
}

static int swap_fake(struct arbiter_cell *c, uint64_t until, struct arbiter_text *is,
		     const char *text, struct err *e)
{
	struct stored *s = ((struct fake *)c)->s;
	void (*before)(struct stored *) = s->before_swap;
	int r = s->fail_swap;

	s->before_swap = NULL;
	s->fail_swap = 0;
	if (before)
		before(s);
	if (r && s->keeps) {
		snprintf(s->later, sizeof(s->later), "%s", text);
		s->later_revision = is->revision;
	}
	if (is->revision != s->revision)
		return read_fake(c, until, is, e) ? -EIO : -ESTALE;
	if (!r || s->lands) {
		snprintf(s->text, sizeof(s->text), "%s", text);
		s->revision++;
		s->swaps++;
	}
	return r ? err_set(e, r, "the answer is lost") : 0;
}

static void close_fake(struct arbiter_cell *c)
{
	free(c);
}

static struct arbiter *open_on(struct stored *s, const char *holder)
{
	struct fake *f = calloc(1, sizeof(*f));
	struct arbiter_backend b;
	struct arbiter *a = NULL;

	f->s = s;
	strcpy(f->cell.vm, "web1");
	strcpy(f->cell.name, "cell 'x'");
	f->cell.place = (struct arbiter_place){f->cell.vm, f->cell.name, "is it the same cell?"};
	f->cell.read = read_fake;
	f->cell.swap = swap_fake;
	f->cell.close = close_fake;
	arbiter_cell_backend(&b, &f->cell);
	assert_int_equal(arbiter_open_on(&a, NULL, &b, "cell:x", holder, NULL), 0);
	return a;
}

struct two {
	struct stored s;
	struct arbiter *a, *b;
};

static int setup(void **state)
{
	struct two *t = calloc(1, sizeof(*t));

	t->a = open_on(&t->s, "hostA");
	t->b = open_on(&t->s, "hostB");
	*state = t;
	return 0;
}

static int teardown(void **state)
{
	struct two *t = *state;

	arbiter_close(t->a);
	arbiter_close(t->b);
	free(t);
	return 0;
}

static void one_claim_wins_and_the_other_is_told(void **state)
{
	struct two *t = *state;
	struct arbiter_record rec;
	struct err e = {0};
	uint64_t gen = 0;

	assert_int_equal(arbiter_read(t->a, &rec, &e), 0);
	assert_int_equal(rec.generation, 0);
	assert_int_equal(arbiter_claim(t->a, 0, ARBITER_START, &gen, &e), 0);
	assert_int_equal(gen, 1);
	assert_int_equal(arbiter_last(t->a)->generation, 1);
	assert_string_equal(arbiter_last(t->a)->holder, "hostA");
	gen = 99;
	assert_int_equal(arbiter_claim(t->b, 0, ARBITER_START, &gen, &e), -ESTALE);
	assert_int_equal(gen, 99);
	assert_string_equal(e.msg, "generation 1 of VM 'web1' is held by 'hostA'");
	assert_int_equal(arbiter_last(t->b)->generation, 1);
	assert_int_equal(arbiter_claim(t->b, 1, ARBITER_GO_ON, &gen, &e), 0);
	assert_int_equal(gen, 2);
	assert_true(arbiter_is_shared(t->a));
}

static struct arbiter *other;

static void other_claims(struct stored *s)
{
	uint64_t gen;

	assert_int_equal(arbiter_claim(other, 1, ARBITER_GO_ON, &gen, NULL), 0);
}

/* Both have read the same: the text decides. */
static void who_is_second_between_reading_and_writing_has_lost(void **state)
{
	struct two *t = *state;
	struct err e = {0};
	uint64_t gen = 0;

	assert_int_equal(arbiter_claim(t->a, 0, ARBITER_START, &gen, &e), 0);
	other = t->b;
	t->s.before_swap = other_claims;
	assert_int_equal(arbiter_claim(t->a, 1, ARBITER_GO_ON, &gen, &e), -ESTALE);
	assert_string_equal(e.msg, "generation 2 of VM 'web1' is held by 'hostB'");
	assert_int_equal(t->s.swaps, 2);
	/* An end that comes too late is none either. */
	assert_int_equal(arbiter_end(t->a, 1, ARBITER_STOPPED, NULL), -ESTALE);
	assert_int_equal(arbiter_last(t->a)->end, ARBITER_HELD);
}

static void other_ends(struct stored *s)
{
	assert_int_equal(arbiter_end(other, 1, ARBITER_STOPPED, NULL), 0);
}

static void a_claim_to_go_on_sees_the_end_just_before_it(void **state)
{
	struct two *t = *state;
	struct err e = {0};
	uint64_t gen = 0;

	assert_int_equal(arbiter_claim(t->a, 0, ARBITER_START, &gen, &e), 0);
	other = t->a;
	t->s.before_swap = other_ends;
	gen = 99;
	assert_int_equal(arbiter_claim(t->b, 1, ARBITER_GO_ON, &gen, &e), -ECANCELED);
	assert_string_equal(e.msg, "VM 'web1' was stopped in order by 'hostA'");
	assert_int_equal(gen, 99);
	/* To start it is another matter. */
	assert_int_equal(arbiter_claim(t->b, 1, ARBITER_START, &gen, NULL), 0);
}

static void a_claim_whose_answer_was_lost_is_won_when_asked_again(void **state)
{
	struct two *t = *state;
	struct err e = {0};
	uint64_t gen = 0;

	t->s.fail_swap = -EIO;
	t->s.lands = true;
	assert_int_equal(arbiter_claim(t->a, 0, ARBITER_START, &gen, &e), -EIO);
	assert_string_equal(e.msg, "the answer is lost");
	assert_int_equal(gen, 0);
	assert_int_equal(arbiter_claim(t->a, 0, ARBITER_START, &gen, NULL), 0);
	assert_int_equal(gen, 1);
	assert_int_equal(t->s.swaps, 1);
	/* Nobody else's. */
	assert_int_equal(arbiter_claim(t->b, 0, ARBITER_START, &gen, NULL), -ESTALE);
}

/* The host's EAGAIN, not the cell's word for another text. */
static void a_host_that_cannot_ask_is_no_record_that_changes(void **state)
{
	struct two *t = *state;
	struct err e = {0};
	uint64_t gen = 0;

	t->s.fail_swap = -EAGAIN;
	assert_int_equal(arbiter_claim(t->a, 0, ARBITER_START, &gen, &e), -EIO);
	assert_string_equal(e.msg, "the answer is lost");
	assert_int_equal(gen, 0);
	assert_int_equal(t->s.swaps, 0);
}

static void an_end_whose_answer_was_lost_is_made_again(void **state)
{
	struct two *t = *state;
	struct arbiter_record rec;
	uint64_t gen;

	assert_int_equal(arbiter_claim(t->a, 0, ARBITER_START, &gen, NULL), 0);
	t->s.fail_swap = -EIO;
	t->s.lands = true;
	assert_int_equal(arbiter_end(t->a, 1, ARBITER_RELEASED, NULL), -EIO);
	assert_int_equal(arbiter_end(t->a, 1, ARBITER_RELEASED, NULL), 0);
	assert_int_equal(arbiter_read(t->b, &rec, NULL), 0);
	assert_int_equal(rec.end, ARBITER_RELEASED);
	assert_true(rec.time > 0);
}

static void carry_out_what_was_kept(struct stored *s)
{
	if (s->later_revision == s->revision) {
		strcpy(s->text, s->later);
		s->revision++;
	}
}

/* Nobody would run under it: whose side gives it back must not leave it behind. */
static void a_claim_that_was_given_back_does_not_come_later(void **state)
{
	struct two *t = *state;
	struct arbiter_record was, now;
	struct err e = {0};
	uint64_t gen = 0;

	arbiter_set_side(t->a, 5);
	assert_int_equal(arbiter_claim(t->a, 0, ARBITER_START, &gen, NULL), 0);
	assert_int_equal(arbiter_read(t->b, &was, NULL), 0);
	t->s.fail_swap = -EIO;
	t->s.keeps = true;
	assert_int_equal(arbiter_claim(t->b, 1, ARBITER_GO_ON, &gen, NULL), -EIO);
	/* That is as unsure: the record is not known to stay. */
	t->s.keeps = false;
	t->s.fail_swap = -EIO;
	assert_int_equal(arbiter_put_back(t->b, 2, &was, &e), -EIO);
	assert_string_equal(e.msg, "the answer is lost");
	e.code = 0;
	assert_int_equal(arbiter_put_back(t->b, 2, &was, &e), -ESTALE);
	assert_string_equal(e.msg, "generation 1 of VM 'web1' is held by 'hostA'");
	carry_out_what_was_kept(&t->s);
	assert_int_equal(arbiter_read(t->b, &now, NULL), 0);
	assert_int_equal(now.generation, 1);
	assert_true(now.time > was.time);
	was.time = now.time;
	assert_memory_equal(&now, &was, sizeof(now));
	/* Once. */
	assert_int_equal(arbiter_put_back(t->b, 2, &was, NULL), -ESTALE);
	assert_int_equal(t->s.swaps, 2);
	assert_int_equal(arbiter_end(t->a, 1, ARBITER_RELEASED, NULL), 0);
}

static void what_was_put_back_is_as_before(void **state)
{
	struct two *t = *state;
	struct arbiter_record was, now;
	uint64_t gen;

	arbiter_set_side(t->a, 5);
	assert_int_equal(arbiter_claim(t->a, 0, ARBITER_START, &gen, NULL), 0);
	assert_int_equal(arbiter_end(t->a, 1, ARBITER_STOPPED, NULL), 0);
	assert_int_equal(arbiter_read(t->b, &was, NULL), 0);
	assert_int_equal(arbiter_claim(t->b, 1, ARBITER_START, &gen, NULL), 0);
	assert_int_equal(arbiter_put_back(t->a, 2, &was, NULL), -ESTALE);
	assert_int_equal(arbiter_put_back(t->b, 2, &was, NULL), 0);
	assert_int_equal(arbiter_read(t->a, &now, NULL), 0);
	assert_int_equal(now.generation, 2);
	assert_int_equal(now.end, ARBITER_STOPPED);
	assert_int_equal(now.side, 5);
	assert_string_equal(now.holder, "hostA");
}

static void a_cell_that_is_away_lets_nobody_go_on(void **state)
{
	struct two *t = *state;
	struct arbiter_record rec;
	struct err e = {0};
	uint64_t gen = 0;

	t->s.fail_read = -EHOSTUNREACH;
	assert_int_equal(arbiter_read(t->a, &rec, &e), -EHOSTUNREACH);
	assert_string_equal(e.msg, "the cell is away");
	t->s.fail_read = -EHOSTUNREACH;
	assert_int_equal(arbiter_claim(t->a, 0, ARBITER_START, &gen, NULL), -EHOSTUNREACH);
	assert_int_equal(gen, 0);
	assert_int_equal(t->s.swaps, 0);
}

static void a_cell_of_the_past_lets_nobody_go_on(void **state)
{
	struct two *t = *state;
	struct err e = {0};
	uint64_t gen = 0;

	assert_int_equal(arbiter_claim(t->a, 3, ARBITER_GO_ON, &gen, &e), -ENODATA);
	assert_string_equal(e.msg, "cell 'x' has generation 0 of VM 'web1', 3 was expected; is it "
				   "the same cell?");
	assert_int_equal(t->s.swaps, 0);
}

static void damage_is_named(void **state)
{
	static const char *const texts[] = {
		"{",
		"null",
		"{\"vm\":\"web1\"}",
		"{\"vm\":\"web1\",\"generation\":0,\"holder\":\"h\",\"time\":1,\"released\":false}",
		"{\"vm\":\"web1\",\"generation\":-1,\"holder\":\"h\",\"time\":1,\"released\":"
		"false}",
		"{\"vm\":\"web1\",\"generation\":9223372036854775807,\"holder\":\"h\",\"time\":1,"
		"\"released\":false}"};
	struct two *t = *state;
	struct arbiter_record rec;
	struct err e = {0};
	uint64_t gen;

	for (unsigned i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
		e.code = 0;
		strcpy(t->s.text, texts[i]);
		assert_int_equal(arbiter_read(t->a, &rec, &e), -EBADMSG);
		assert_non_null(strstr(e.msg, "'cell 'x'' is damaged"));
		assert_int_equal(arbiter_claim(t->a, 0, ARBITER_START, &gen, NULL), -EBADMSG);
	}
	memset(t->s.text, ' ', sizeof(t->s.text) - 1);
	assert_int_equal(arbiter_read(t->a, &rec, NULL), -EBADMSG);
	assert_int_equal(t->s.swaps, 0);
	strcpy(t->s.text, "{\"vm\":\"db\",\"generation\":5,\"holder\":\"h\",\"time\":1,"
			  "\"released\":false}");
	e.code = 0;
	assert_int_equal(arbiter_read(t->a, &rec, &e), -EBADMSG);
	assert_non_null(strstr(e.msg, "is of VM 'db', not 'web1'"));
}

static void busy(struct stored *s)
{
	s->revision++;
	s->before_swap = busy;
}

static void a_record_that_never_rests_is_no_answer(void **state)
{
	struct two *t = *state;
	struct err e = {0};
	uint64_t gen;

	t->s.before_swap = busy;
	assert_int_equal(arbiter_claim(t->a, 0, ARBITER_START, &gen, &e), -EBUSY);
	assert_non_null(strstr(e.msg, "changes all the time"));
}

/* Nobody waits any more: what is not claimed yet is not to be. */
static void a_question_that_was_given_up_claims_nothing(void **state)
{
	struct two *t = *state;
	const atomic_bool abandoned = true;
	struct arbiter_question q = {.what = ARBITER_CLAIM,
				     .why = ARBITER_START,
				     .record = {.generation = 1, .claim = 3},
				     .abandoned = &abandoned};
	struct arbiter_backend b;
	struct arbiter_record rec;
	struct fake f = {.s = &t->s, .cell = {.read = read_fake, .swap = swap_fake, .vm = "web1"}};

	arbiter_cell_backend(&b, &f.cell);
	assert_int_equal(b.ops->answer(b.self, &q, &rec, NULL), -EINTR);
	assert_int_equal(t->s.swaps, 0);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(one_claim_wins_and_the_other_is_told),
		TEST(who_is_second_between_reading_and_writing_has_lost),
		TEST(a_claim_to_go_on_sees_the_end_just_before_it),
		TEST(a_claim_whose_answer_was_lost_is_won_when_asked_again),
		TEST(a_host_that_cannot_ask_is_no_record_that_changes),
		TEST(an_end_whose_answer_was_lost_is_made_again),
		TEST(a_claim_that_was_given_back_does_not_come_later),
		TEST(what_was_put_back_is_as_before),
		TEST(a_cell_that_is_away_lets_nobody_go_on),
		TEST(a_cell_of_the_past_lets_nobody_go_on),
		TEST(damage_is_named),
		TEST(a_record_that_never_rests_is_no_answer),
		TEST(a_question_that_was_given_up_claims_nothing),
	};

	return cmocka_run_group_tests_name("arbiter_cell", tests, NULL, NULL);
}

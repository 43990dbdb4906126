#include "ft/common/arbiter_cell.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* So often may others be faster. */
#define TRIES 8

int arbiter_text_set(struct arbiter_cell *c, struct arbiter_text *t, const char *text, size_t len,
		     struct err *e)
{
	if (len >= sizeof(t->text))
		return arbiter_record_damaged(c->name, e);
	memcpy(t->text, text, len);
	t->text[len] = 0;
	t->len = len;
	return 0;
}

static int parse(const struct arbiter_cell *c, const struct arbiter_text *t,
		 struct arbiter_record *ret, struct err *e)
{
	memset(ret, 0, sizeof(*ret));
	return t->len ? arbiter_record_parse(t->text, t->len, c->vm, c->name, ret, e) : 0;
}

static int judge(const struct arbiter_cell *c, const struct arbiter_question *q,
		 const struct arbiter_record *now, struct err *e)
{
	return q->what == ARBITER_CLAIM ? arbiter_check_claim(q, now, &c->place, e)
					: arbiter_check_end(q, now, &c->place, e);
}

static bool has_it(const struct arbiter_question *q, const struct arbiter_record *now)
{
	return q->what == ARBITER_READ ||
	       (q->what == ARBITER_CLAIM && arbiter_claim_landed(q, now));
}

/* Once: 0, -EAGAIN (it was changed meanwhile: look again), or why not. */
static int replace(struct arbiter_cell *c, const struct arbiter_question *q,
		   const struct arbiter_record *by, uint64_t until, struct arbiter_text *is,
		   struct err *e)
{
	char *text;
	int r;

	if (q->abandoned && atomic_load(q->abandoned))
		return err_set(e, -EINTR, "arbiter: the question was given up");
	text = arbiter_record_text(by, c->vm, e);
	if (!text)
		return -EINVAL;
	r = c->swap(c, until, is, text, e);
	free(text);
	/* What came too late so far follows a text that is gone. */
	c->unsure = r && r != -ESTALE;
	if (r == -EAGAIN) /* the host's: no process, no memory */
		return -EIO;
	return r == -ESTALE ? -EAGAIN : r;
}

static int set(struct arbiter_cell *c, const struct arbiter_question *q, uint64_t until,
	       struct arbiter_text *is, struct arbiter_record *ret, struct err *e)
{
	struct arbiter_record mine = q->record;
	int r;

	mine.time = time(NULL);
	r = replace(c, q, &mine, until, is, e);
	if (!r)
		*ret = mine;
	return r;
}

/*
 * A claim of ours that is to be ended has not come; that is an answer when it cannot come any more.
 * The record stays what it is, but for its time: what follows the text of before is void.
 */
static int close_door(struct arbiter_cell *c, const struct arbiter_question *q, uint64_t until,
		      struct arbiter_text *is, struct arbiter_record *ret, struct err *e)
{
	struct arbiter_record same = *ret;
	int64_t now = time(NULL);
	int r;

	if (q->what == ARBITER_CLAIM || !c->unsure || !is->len)
		return 0;
	same.time = now > same.time || same.time == INT64_MAX ? now : same.time + 1;
	r = replace(c, q, &same, until, is, e);
	if (!r)
		*ret = same;
	return r;
}

static int answer(void *self, const struct arbiter_question *q, struct arbiter_record *ret,
		  struct err *e)
{
	struct arbiter_cell *c = self;
	uint64_t until = loop_now_ns() + ARBITER_CELL_MS * 1000000ull;
	struct arbiter_text is = {0};
	struct err why;
	int verdict, r = c->read(c, until, &is, e);

	for (int i = 0; i < TRIES; i++) {
		if (!r)
			r = parse(c, &is, ret, e);
		if (r || has_it(q, ret))
			return r;
		why = (struct err){0};
		verdict = judge(c, q, ret, &why);
		r = verdict ? close_door(c, q, until, &is, ret, e) : set(c, q, until, &is, ret, e);
		if (!r && verdict)
			return err_set(e, verdict, "%s", why.msg);
		if (r != -EAGAIN)
			return r;
		r = 0;
	}
	return err_set(e, -EBUSY,
		       "%s: the record of VM '%s' changes all the time; who else uses it?", c->name,
		       c->vm);
}

static void close_cell(void *self)
{
	struct arbiter_cell *c = self;

	c->close(c);
}

void arbiter_cell_backend(struct arbiter_backend *ret, struct arbiter_cell *c)
{
	static const struct arbiter_ops ops = {.answer = answer,
					       .close = close_cell,
					       .deadline_ms = ARBITER_DEADLINE_MS,
					       .shared = true};

	*ret = (struct arbiter_backend){&ops, c};
}

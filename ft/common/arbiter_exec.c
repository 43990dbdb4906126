#include "ft/common/arbiter_exec.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ft/common/arbiter_cell.h"
#include "vmm/base/program.h"

#define IS_ANOTHER 10

struct arbiter_exec {
	struct arbiter_cell cell;
	char program[512];
};

/* 0, IS_ANOTHER, or why there is no answer. */
static int ask(struct arbiter_exec *x, char *const argv[], uint64_t until, struct program_end *ret,
	       struct err *e)
{
	int r = program_run(argv, until, ret, e);

	if (r) {
		err_wrap(e, "arbiter");
		return arbiter_no_answer(r);
	}
	if (ret->code == 0 || (argv[3] && ret->code == IS_ANOTHER))
		return ret->code;
	return err_set(e, -EIO, "arbiter program '%s' %s %s: exit code %d: %s", x->program, argv[1],
		       argv[2], ret->code,
		       ret->complaint[0] ? ret->complaint : "no word on standard error");
}

static int read_cell(struct arbiter_cell *c, uint64_t until, struct arbiter_text *ret,
		     struct err *e)
{
	struct arbiter_exec *x = (struct arbiter_exec *)c;
	char *argv[] = {x->program, "read", c->vm, NULL, NULL};
	struct program_end end;
	int r = ask(x, argv, until, &end, e);

	if (r)
		return r;
	if (end.len && end.out[end.len - 1] == '\n')
		end.len--;
	return arbiter_text_set(c, ret, end.out, end.len, e);
}

static int swap_cell(struct arbiter_cell *c, uint64_t until, struct arbiter_text *is,
		     const char *text, struct err *e)
{
	struct arbiter_exec *x = (struct arbiter_exec *)c;
	char *argv[] = {x->program, "swap", c->vm, is->text, (char *)text, NULL};
	struct program_end end;
	int r = ask(x, argv, until, &end, e);

	if (r != IS_ANOTHER)
		return r;
	r = read_cell(c, until, is, e);
	return r ? r : -ESTALE;
}

static void close_cell(struct arbiter_cell *c)
{
	free(c);
}

int arbiter_exec_open(struct arbiter_backend *ret, const char *program, const char *vm,
		      struct err *e)
{
	struct arbiter_exec *x;

	if (!*program || strlen(program) >= sizeof(x->program))
		return err_set(e, -EINVAL,
			       "arbiter 'exec:%.80s': must be exec:PROGRAM, a path of 1..%zu "
			       "characters",
			       program, sizeof(x->program) - 1);
	x = calloc(1, sizeof(*x));
	if (!x)
		return err_set(e, -ENOMEM, "arbiter: out of memory");
	snprintf(x->program, sizeof(x->program), "%s", program);
	snprintf(x->cell.vm, sizeof(x->cell.vm), "%s", vm);
	snprintf(x->cell.name, sizeof(x->cell.name), "arbiter program '%s'", program);
	x->cell.place = (struct arbiter_place){x->cell.vm, x->cell.name,
					       "does it have the records of before?"};
	x->cell.read = read_cell;
	x->cell.swap = swap_cell;
	x->cell.close = close_cell;
	arbiter_cell_backend(ret, &x->cell);
	return 0;
}

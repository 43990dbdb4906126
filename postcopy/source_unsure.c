/*
 * GO is said and no answer came: nobody knows yet whether the VM runs there. It stands here, and
 * the destination is asked until it answers. One that was started anew does not know.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "ft/common/steps.h"
#include "postcopy/source_do.h"
#include "vmm/base/log.h"

#define RETRY_NS     500000000ull
#define RETRY_SHIFTS 3 /* 4 s: a destination waits for 30 s before it takes the source for dead */
#define ANSWER_NS    2000000000ull

static void note(struct source *s)
{
	char text[480];

	snprintf(text, sizeof(text),
		 "the destination was told to run the VM, and did not answer (%.160s): it is asked "
		 "again and again. Over another address: ftvmm migrate NAME --recover URI. If "
		 "you are sure that it does not run there, and will not: --cancel --force",
		 s->why);
	if (strcmp(s->ft->note, text))
		ft_set(s->ft, FT_HERE, FT_NONE, text);
}

void source_back_off(struct source *s)
{
	source_timer(s, RETRY_NS << s->tries);
	if (s->tries < RETRY_SHIFTS)
		s->tries++;
}

void source_unsure(void *arg)
{
	struct source *s = arg;

	source_no_timers(s);
	source_close_link(s);
	log_error("migrate: unsure: %s", s->why);
	note(s);
	s->tries = 0;
	s->lacked = UINT64_MAX;
	source_back_off(s);
	source_set_result(s, SOURCE_UNSURE);
}

void source_unsure_late(void *arg)
{
	struct source *s = arg;

	snprintf(s->why, sizeof(s->why), "no answer in time");
	source_unsure(s);
}

void source_unsure_again(void *arg)
{
	struct source *s = arg;

	source_close_link(s);
	note(s);
	source_back_off(s);
}

void source_connect_again(void *arg)
{
	struct source *s = arg;

	source_timer(s, ANSWER_NS);
	source_dial(s);
}

void source_ask(void *arg)
{
	struct source *s = arg;

	s->have_word = 0;
	source_timer(s, ANSWER_NS);
	source_open_link(s, FRAME_ASK, NULL, 0);
	step_reached(STEP_MIG_ASKS);
}

/* By hand, to where the user says. */
void source_recover_by(void *arg)
{
	struct source *s = arg;

	log_info("migrate: by hand: connecting to %s", s->conf.uri);
	snprintf(s->ft->peer, sizeof(s->ft->peer), "%s", s->conf.uri);
	s->tries = 0;
	source_close_link(s);
	source_connect_again(s);
}

void source_leave_unsure(void *arg)
{
	struct source *s = arg;

	source_no_timers(s);
	source_close_link(s);
	log_error("migrate: stopped while nobody knows whether the VM runs at %s", s->conf.uri);
	ft_set(s->ft, FT_OVER, FT_FENCED, s->why);
	s->ft->on_exit(s->ft->arg, 5);
}

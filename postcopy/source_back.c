/* It comes to nothing: the VM goes on here. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "postcopy/source_do.h"
#include "vmm/base/log.h"
#include "vmm/vm/vm_net.h"

#define QUIT_NS	 200000000ull
#define AGAIN_NS 10000000ull
#define BYE_NS	 100000000ull

/* So that the destination need not wait for the link's end. */
static void say_bye(struct source *s)
{
	struct iovec iov = {s->why, strlen(s->why)};

	if (s->link.fd >= 0 && !s->link.send_error)
		stream_send(&s->link, FRAME_BYE, 0, &iov, 1, loop_now_ns() + BYE_NS);
	source_close_link(s);
}

static void end_logging(struct source *s)
{
	passes_done(&s->passes);
	dirty_stop(&s->dirty);
	copies_forget(&s->copies);
	unsent_done(&s->unsent);
	free(s->maps);
	s->maps = NULL;
}

void source_give_up(void *arg)
{
	struct source *s = arg;
	bool cancelled = s->result == SOURCE_CANCELLING;
	bool stood = s->ft->stands & FT_STAND_SWITCH;

	source_no_timers(s);
	source_end_serving(s);
	say_bye(s);
	end_logging(s);
	log_warn("migrate: %s: %s", cancelled ? "cancelled" : "failed", s->why);
	s->ft->peer[0] = 0;
	images_go_on(&s->images);
	if (stood)
		ft_go(s->ft, s->vm, FT_STAND_SWITCH);
	ft_set(s->ft, FT_HERE, FT_NONE, s->why);
	source_set_result(s, cancelled ? SOURCE_CANCELLED : SOURCE_FAILED);
}

void source_late(void *arg)
{
	struct source *s = arg;

	snprintf(s->why, sizeof(s->why), "no answer in time%s",
		 s->link.fd < 0 ? "" : "; is that an --incoming?");
	source_give_up(s);
}

static void note_timeout(struct source *s)
{
	const struct passes_stats *st = &s->passes.stats;
	unsigned long long timeout_ms = s->conf.timeout_ns / 1000000;
	char images[64] = "";

	if (st->disk_total)
		snprintf(images, sizeof(images), "; %llu MiB of images are left",
			 (unsigned long long)(st->disk_left >> 20));
	if (!st->page_rate) {
		snprintf(s->why, sizeof(s->why),
			 "not switched within --timeout %llu ms: not even one pass over memory was "
			 "over%s",
			 timeout_ms, images);
		return;
	}
	snprintf(s->why, sizeof(s->why),
		 "not switched within --timeout %llu ms: the guest writes %llu MiB/s, %llu MiB/s "
		 "get through%s",
		 timeout_ms, (unsigned long long)(st->dirty_rate >> 8),
		 (unsigned long long)(st->page_rate >> 8), images);
}

void source_timeout(void *arg)
{
	note_timeout(arg);
	source_give_up(arg);
}

/* --- while the guest runs --------------------------------------------------------------------- */

void source_quit(void *arg)
{
	struct source *s = arg;

	source_no_timers(s);
	if (!passes_running(&s->passes)) {
		source_post(s, SRC_EV_ENDED);
		return;
	}
	passes_stop(&s->passes);
	source_timer(s, QUIT_NS);
}

void source_quit_late(void *arg)
{
	note_timeout(arg);
	source_quit(arg);
}

void source_shut(void *arg)
{
	struct source *s = arg;

	/* That it ends now says nothing. */
	loop_poll_del(s->ft->loop, &s->read_op);
	chan_shut(&s->link.chan);
}

/* --- after the stop --------------------------------------------------------------------------- */

/* It may hang at an image, and the loop does not wait for that. */
void source_halt(void *arg)
{
	struct source *s = arg;
	char note[400];

	source_no_timers(s);
	source_end_serving(s);
	if (!passes_running(&s->passes)) {
		source_post(s, SRC_EV_ENDED);
		return;
	}
	passes_stop(&s->passes);
	source_shut(s);
	snprintf(note, sizeof(note), "%.300s; the VM stands until what reads an image here ends",
		 s->why);
	ft_set(s->ft, FT_HERE, FT_NONE, note);
}

void source_halt_late(void *arg)
{
	struct source *s = arg;

	snprintf(s->why, sizeof(s->why), "no answer in time after the stop");
	source_halt(s);
}

void source_halt_timeout(void *arg)
{
	note_timeout(arg);
	source_halt(arg);
}

void source_try_locks(void *arg)
{
	struct source *s = arg;
	struct err e = {0};

	if (!images_lock(s->vm, s->copies.which, &e)) {
		if (vm_link(s->vm, true, &e))
			log_error("%s", e.msg);
		source_post(s, SRC_EV_LOCKED);
		return;
	}
	if (strcmp(s->ft->note, e.msg)) /* once */
		ft_set(s->ft, FT_HERE, FT_NONE, e.msg);
	source_timer(s, AGAIN_NS);
}

/* The destination may have the images until it sees the end of the link. */
void source_back(void *arg)
{
	struct source *s = arg;

	source_no_timers(s);
	source_end_serving(s);
	carry_out_give_up(s->carry, "the VM goes on here");
	say_bye(s);
	source_try_locks(s);
}

void source_back_late(void *arg)
{
	struct source *s = arg;

	snprintf(s->why, sizeof(s->why), "no answer in time after the stop");
	source_back(s);
}

void source_back_timeout(void *arg)
{
	note_timeout(arg);
	source_back(arg);
}

void source_back_forced(void *arg)
{
	log_warn("migrate: --force: the VM goes on here");
	source_back(arg);
}

void source_back_never(void *arg)
{
	struct source *s = arg;

	log_info("migrate: it never ran at the destination");
	source_back(s);
}

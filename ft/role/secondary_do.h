/* The actions of the secondary's table (ft/role/secondary.c), by what they are about. */
#ifndef FT_SECONDARY_DO_H
#define FT_SECONDARY_DO_H

#include "ft/role/secondary.h"

#define REPLY_NS 1000000000ull	/* a small frame is in the socket's buffer by then */
#define DRAIN_NS 30000000000ull /* the images take what waits for them within this time */

/* ft/role/door.c: who connects */
int secondary_open_door(struct secondary *s, struct err *e);

/* ft/role/welcome.c: become the primary's machine */
void secondary_hello(void *arg);
void secondary_build(void *arg);
void secondary_refuse(void *arg);
void secondary_welcome(void *arg);
void secondary_begin_heart(void *arg);
void secondary_no_heart(void *arg);

/* ft/role/receiving.c: epochs, and what waits for the images */
/* What has come, as long as the loop's budget lets it; true: there is more. */
bool secondary_read(struct secondary *s);
/* What has come before an end that is to be judged. */
void secondary_read_last(struct secondary *s);
void secondary_disks_moved(void *arg);
/* Of disk_compare. */
void secondary_compared(void *arg, const struct wire_differ *w, const struct wire_blocks *pieces,
			int error);
void secondary_take_part(void *arg);
void secondary_try_first(void *arg);
void secondary_take_first(void *arg);
void secondary_take_epoch(void *arg);
void secondary_unequal(void *arg);
void secondary_drain(void *arg);
void secondary_drained(void *arg);
void secondary_not_drained(void *arg);
void secondary_dismissed(void *arg);	  /* what it has is not to be run, */
void secondary_rests(void *arg);	  /* and its images are whole, and behind */
void secondary_new_generation(void *arg); /* this side has the place of another one now, */
void secondary_let_go(void *arg);	  /* or another one its */
void secondary_early(void *arg);	  /* lost before there was anything to take over with */
void secondary_image_failed(void *arg);

/* ft/role/takeover.c */
void takeover_lost(void *arg);
/* Of a HAND_OVER, which is one only with a token; 0: it has none. */
uint64_t takeover_token(const struct frame *f);
void takeover_accept(void *arg);
void takeover_ask(void *arg);	/* with shared images locked first, */
void takeover_claim(void *arg); /* or without, as the primary lives */
void takeover_wait(void *arg);
void takeover_other_side(void *arg);
void takeover_load(void *arg);
void takeover_load_held(void *arg);
void takeover_start(void *arg);
void takeover_start_held(void *arg);
void takeover_cannot(void *arg);
void takeover_cannot_accept(void *arg);
void takeover_gone(void *arg);
void takeover_lock(void *arg);
void takeover_locked(void *arg);
void takeover_own(void *arg);
void takeover_silent(void *arg); /* no GONE in time */
void takeover_alone(void *arg);
void takeover_confirmed(void *arg);
void takeover_let_disks_go(void *arg);
void takeover_lacks(void *arg);
/* The guest's requests wait until the disk log is in the images. */
void takeover_hold_disks(struct secondary *s);

/* ft/role/twinning.c: the guest runs here, too */
void twinning_run(void *arg);
void twinning_suspend(void *arg);
void twinning_lost(void *arg);
void twinning_take_over(void *arg);

/* ft/role/yielding.c: an image failed, or the end, while the VM was being claimed */
void yield_begin(void *arg);
void yield_ask(void *arg);
/* Waits, no longer than an answer may take. whole: this side's images have all that was
 * acknowledged. */
void yield_at_end(struct secondary *s, bool whole);

/* Shared by them. */
void secondary_post(struct secondary *s, enum secondary_event ev);
void secondary_timer(struct secondary *s, uint64_t delay_ns);
bool secondary_has_link(const struct secondary *s);
int secondary_reply(struct secondary *s, enum frame_type type, uint64_t epoch, const char *text);
int secondary_say_welcome(struct secondary *s);
void secondary_lose(struct secondary *s, const char *why);
/* A rule was broken, or this side cannot go on: tell the primary why, and drop the link. */
void secondary_reject(struct secondary *s, const char *why);
void secondary_close_link(struct secondary *s);
/* Give all of it up, and wait for a primary. State SEC_LISTEN. */
void secondary_listen_again(struct secondary *s, const char *why);

#endif

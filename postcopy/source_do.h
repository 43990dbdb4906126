/* The actions of the source's table (postcopy/phases.c), by what they are about. */
#ifndef POSTCOPY_SOURCE_DO_H
#define POSTCOPY_SOURCE_DO_H

#include "postcopy/source.h"

/* postcopy/source_begin.c */
void source_connect(void *arg);
void source_offer(void *arg);
void source_pair(void *arg);
void source_open_urgent(void *arg);
void source_begin_passes(void *arg);
/* The answer to the offer. False: it makes no sense. */
bool source_take_welcome(struct source *s, const struct frame *f);

/* postcopy/source_switch.c */
void source_stand(void *arg);
void source_send_last(void *arg);
void source_wait_ready(void *arg);
void source_go(void *arg);
void source_go_early(void *arg);
void source_leave(void *arg);
void source_log_downtime(const struct source *s); /* it runs there: at.runs */

/* postcopy/source_back.c: it comes to nothing, and the VM goes on here */
void source_give_up(void *arg);
void source_late(void *arg);
void source_timeout(void *arg);
void source_quit(void *arg);
void source_quit_late(void *arg);
void source_shut(void *arg);
void source_halt(void *arg);
void source_halt_late(void *arg);
void source_halt_timeout(void *arg);
void source_back(void *arg);
void source_back_late(void *arg);
void source_back_timeout(void *arg);
void source_back_forced(void *arg);
void source_back_never(void *arg);
void source_try_locks(void *arg);

/* postcopy/source_unsure.c: GO is said, and nobody answers */
void source_unsure(void *arg);
void source_unsure_late(void *arg);
void source_unsure_again(void *arg);
/* Connect again in a while: the longer, the more often that came to nothing. */
void source_back_off(struct source *s);
void source_connect_again(void *arg);
void source_ask(void *arg);
void source_leave_unsure(void *arg);
void source_recover_by(void *arg);

/* postcopy/source_serve.c: the VM runs there, and its memory is here */
int source_prepare_serving(struct source *s, struct err *e); /* the VM stands */
void source_serve(void *arg);
void source_serve_again(void *arg);
void source_urgent_lost(void *arg); /* and the main link has said nothing since */
void source_stays(void *arg);
void source_cut(void *arg);
void source_cut_again(void *arg);
void source_let_go(void *arg);
/* A part of what the destination has, of a FRAME_HAVE. 1: the last part, 0: more, or -EBADMSG. */
int source_take_have(struct source *s, const struct frame *f);
void source_known(void *arg); /* it was not known that it runs there */
void source_mend(void *arg);
void source_end_serving(struct source *s); /* its threads; the urgent link */

/* Shared by them: postcopy/source.c */
void source_stray(void *arg);
void source_post(struct source *s, enum source_event ev);
void source_timer(struct source *s, uint64_t delay_ns);
void source_no_timers(struct source *s);
/* Start to connect; CONNECTED or LOST. */
void source_dial(struct source *s);
/* What is connected becomes the link, and says its preface and this frame, or is LOST. */
void source_open_link(struct source *s, enum frame_type type, const struct iovec *iov, int niov);
void source_say(struct source *s, enum frame_type type, const void *data, size_t len);
void source_lose(struct source *s, const char *why);
void source_close_link(struct source *s);
/* The sender is made to end: no thread is left. It may hang at an image, and this with it. */
void source_end_sender(struct source *s);
void source_set_result(struct source *s, enum source_result result);

#endif

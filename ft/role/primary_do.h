/* The actions of the primary's table (ft/role/primary.c), by what they are about. */
#ifndef FT_PRIMARY_DO_H
#define FT_PRIMARY_DO_H

#include "ft/role/primary.h"

#define PRIMARY_RETRY_NS     500000000ull /* to find a peer, or an arbiter that answers */
#define PRIMARY_EXIT_FENCED  5
#define PRIMARY_CONNECT_NS   1000000000ull
#define PRIMARY_HANDSHAKE_NS 5000000000ull /* the peer builds a VM in this time */

/* ft/role/joining.c: the way to a peer */
void primary_look(void *arg); /* may a peer be tried now? */
void primary_try_peer(void *arg);
void primary_say_hello(void *arg);
void primary_hello_on(const struct primary *p, struct link *l, uint64_t token);
void primary_welcomed(void *arg);
void primary_begin_sync(void *arg);
void primary_too_late(void *arg); /* the timer of a state in which the peer is to answer */
void primary_unreached(void *arg);
void primary_missed(void *arg);
void primary_unsynced(void *arg);

/* ft/role/protecting.c: epochs */
void primary_seal(void *arg); /* the timer's */
void primary_first_seal(void *arg);
void primary_acked(void *arg);
void primary_output_held(void *arg);
void primary_differs(void *arg); /* from the twin, or there may be one now */
void primary_next_seal(struct primary *p);
void primary_seal_for(struct primary *p, enum ft_seal why);
/* An epoch is acknowledged: the first one's ack is what protects. */
void primary_in_step(struct primary *p);
void primary_resumed(struct primary *p); /* by the user */

/* ft/role/dismissing.c: ft=off, and back */
void primary_last_epoch(void *arg); /* before the secondary is dismissed; the VM goes on */
void primary_dismiss(void *arg);
void primary_off(void *arg);
void primary_dismissed(void *arg);
void primary_dismissed_to_stop(void *arg);
void primary_on(void *arg);

/* ft/role/claiming.c: the peer is lost, whose is the VM? */
void primary_lost(void *arg);
void primary_ask(void *arg);
void primary_wait_for_answer(void *arg);
void primary_go_on(void *arg);
void primary_won_to_stop(void *arg);
void primary_fence(void *arg);
void primary_fence_unanswered(void *arg);
void primary_leave_handed(void *arg);

/* ft/role/handing.c: before a hand-over begins, and what keeps it from that */
int primary_ask_for_hand_over(struct primary *p, primary_handing *done, void *arg, struct err *e);
void primary_hand_over_due(void *arg); /* an epoch is in flight */
void primary_hand_over_now(void *arg);
void primary_not_handed(void *arg); /* the arbiter does not answer */
void primary_lost_asking(void *arg);
void primary_stop_due_asking(void *arg);
void primary_stop_asking(void *arg);
void primary_give_up_asking(void *arg);

/* ft/role/swapping.c: another secondary takes the place of the one in step */
void primary_move_seal(void *arg);
void primary_move_seal_again(void *arg);
void primary_move_acked(void *arg); /* by the old one */
void primary_move_off(void *arg);   /* an epoch is in flight to the old one */
void primary_move_off_steady(void *arg);
void primary_move_stop(void *arg); /* before it has begun */
void primary_swap_acked(void *arg);
void primary_swap_ask(void *arg);
void primary_swap_wait(void *arg);
void primary_swapped(void *arg);
void primary_lost_moving(void *arg); /* the old one */
void primary_lost_keeping(void *arg);
void primary_keep_due(void *arg);
void primary_keep_acked(void *arg);
void primary_keep(void *arg); /* the old one stays: the new one is lost, and may claim */
void primary_kept(void *arg);

/* ft/role/ending.c: the VM is over, or handed over */
void primary_stand(void *arg); /* an epoch is in flight, the last comes after it */
void primary_last_seal(void *arg);
void primary_seal_again(void *arg); /* that came back: now the last one */
void primary_say_bye(void *arg);
void primary_done(void *arg);
void primary_not_done(void *arg);
void primary_hand(void *arg);
void primary_gone(void *arg);
void primary_stop_wins(void *arg);  /* a stop before HAND_OVER was said */
void primary_stop_after(void *arg); /* a stop after that */
void primary_rest(void *arg);
void primary_look_at_images(void *arg);
void primary_images_ready(void *arg);
void primary_images_late(void *arg);
void primary_leave(void *arg);
void primary_leave_unsure(void *arg);
void primary_give_up(void *arg); /* the other side is to run the VM, as this one cannot */

/* Shared by them. */
void primary_post(struct primary *p, enum primary_event ev);
void primary_timer(struct primary *p, uint64_t delay_ns);
void primary_close(struct primary *p); /* link and engine */
void primary_exit(struct primary *p, int code, enum ft_cover cover, const char *why);
/* What the images here are from now on. */
void primary_mark(struct primary *p, enum mark_word word);

#endif

/* The actions of the move's table (ft/role/moving.c). */
#ifndef FT_MOVE_DO_H
#define FT_MOVE_DO_H

#include "ft/role/moving.h"

void move_connect(void *arg);
void move_say_hello(void *arg);
void move_welcomed(void *arg);
void move_begin_sync(void *arg);
void move_ask(void *arg);
void move_unanswered(void *arg);
void move_hold_disks(void *arg);
void move_last(void *arg);
void move_fed(void *arg);
void move_same(void *arg);
void move_too_late(void *arg); /* the timer of a state in which it is to do something */
void move_lost(void *arg);
void move_lost_asking(void *arg);
void move_lost_late(void *arg); /* the primary is in the middle of it, too */
void move_cancelled(void *arg);
void move_cancelled_asking(void *arg);
void move_dropped(void *arg);
void move_dropped_asking(void *arg);
void move_done(void *arg);

#endif

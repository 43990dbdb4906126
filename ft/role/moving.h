/*
 * Another secondary is to take the place of the one in step: the way to it, until it has what the
 * old one has. Epochs go on meanwhile. What is done then is the primary's (ft/role/swapping.c).
 *
 * The token that HELLO tells it is that of the claim by which the primary makes it the secondary:
 * until it is told so, it may claim from that, too.
 *
 * Owner: the loop.
 */
#ifndef FT_MOVING_H
#define FT_MOVING_H

#include <stdbool.h>
#include <stdint.h>

#include "ft/common/fsm.h"
#include "ft/epoch/engine.h"
#include "ft/role/link.h"

#define MOVE_STATES(X)                                                                             \
	X(NONE, "no move")                                                                         \
	X(CONNECTING, "connecting to the new secondary")                                           \
	X(HELLO, "HELLO said")                                                                     \
	X(HEART, "welcome; connecting the heartbeat link")                                         \
	X(PASSES, "it is brought into step, while epochs go to the old one")                       \
	X(ASKED, "it lacks little: does the arbiter answer?")                                      \
	X(HOLD, "requests to the disks wait, until none is in flight")                             \
	X(LAST, "the rest goes with the next epoch")                                               \
	X(FED, "all is out: its ACK is awaited")                                                   \
	X(SAME, "it has what the old one has")

#define MOVE_EVENTS(X)                                                                             \
	X(START, "a move is asked for")                                                            \
	X(CANCEL, "cancelled")                                                                     \
	X(DROP, "the old secondary is lost, or the end")                                           \
	X(TIMER, "timer")                                                                          \
	X(ANSWERED, "the arbiter answers")                                                         \
	X(NO_ANSWER, "no answer")                                                                  \
	X(STILL, "no request is in flight")                                                        \
	X(SWAPPED, "claim won")                                                                    \
	X(NEAR, "little is left")                                                                  \
	X(FED, "the rest is out")                                                                  \
	X(CONNECTED, "connected")                                                                  \
	X(LOST, "link lost")                                                                       \
	X(WELCOME, "WELCOME")                                                                      \
	X(COMPARED, "DIFFER")                                                                      \
	X(ACK, "ACK of the common epoch")

enum move_state {
#define X(name, what) MOV_##name,
	MOVE_STATES(X)
#undef X
		MOV_STATE_MAX
};

enum move_event {
#define X(name, what) MOV_EV_##name,
	MOVE_EVENTS(X)
#undef X
		MOV_EV_MAX
};

enum move_result { MOVE_NEVER, MOVE_ACTIVE, MOVE_DONE, MOVE_FAILED, MOVE_CANCELLED };

struct primary;

struct move {
	struct primary *primary;
	struct fsm fsm;
	struct loop_op timer_op;
	uint64_t token;
	uint64_t begun_ns, ended_ns;
	uint64_t bytes; /* sent to it, once it is over */
	enum move_result result;
	char uri[300];
	char why[480];		 /* it did not come to be */
	void (*news)(void *arg); /* the result has changed; or NULL */
	void *arg;
};

extern const struct fsm_desc move_desc;

void move_init(struct move *m, struct primary *p);
void move_start(struct move *m, const char *uri);
bool move_is_active(const struct move *m);
/* False: there is none, or it has gone too far. */
bool move_cancel(struct move *m, const char *why);
void move_drop(struct move *m);
void move_swapped(struct move *m);
void move_engine_news(struct move *m, enum engine_news what);
/* The link to the new one, while there is a move. */
struct link *move_link(struct move *m);

#endif

/*
 * A protocol as a table: rows of {state, event, next, action}, one state, one step. The next state
 * is set before its action runs; an action that learns what comes of it posts that as an event,
 * which is taken when the action has returned, never in the middle of it.
 *
 * A pair without a row: of an event of our own it is our bug, and ends the process with a dump; of
 * a message from the peer it is the peer's fault, and desc->stray() drops the link.
 *
 * Owner: the loop.
 */
#ifndef FT_FSM_H
#define FT_FSM_H

#include <stdbool.h>
#include <stdint.h>

#define FSM_QUEUE 16
#define FSM_TRACE 32

typedef void fsm_action(void *arg);

struct fsm_row {
	uint8_t state, event, next;
	fsm_action *action; /* NULL: nothing to do */
	const char *does;   /* as docs/protocol.md says it */
};

struct fsm_desc {
	const char *name;
	const struct fsm_row *rows;
	unsigned nrows, nstates, nevents;
	const char *const *states, *const *events; /* names, and what an event is in words */
	unsigned first_message;			   /* events from here on come from the peer */
	unsigned end;				   /* the state in which nothing matters any more */
	fsm_action *stray;
};

struct fsm {
	const struct fsm_desc *desc;
	void *arg;
	uint8_t state;
	uint8_t queue[FSM_QUEUE], nqueued;
	uint8_t depth; /* 1: an action is under way */
	struct {
		uint8_t state, event;
	} trace[FSM_TRACE]; /* the last steps, for a dump */
	uint64_t steps;
};

void fsm_init(struct fsm *f, const struct fsm_desc *desc, void *arg, unsigned state);
/* Take the event now, or after the action that is under way. */
void fsm_post(struct fsm *f, unsigned event);
/* Forget what was posted and not taken: the events first to last are about something that is gone.
 */
void fsm_forget(struct fsm *f, unsigned first, unsigned last);
/* The row of a pair, or NULL. */
const struct fsm_row *fsm_find(const struct fsm_desc *desc, unsigned state, unsigned event);
bool fsm_expects(const struct fsm *f, unsigned event);

#endif

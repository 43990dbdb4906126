/*
 * The primary's two connections to a secondary: sockets, frames in, heartbeats. It tells what came
 * and drops nothing by itself: whoever owns it closes it.
 *
 * Two rules are kept here. An ack is told only when nothing, and no end of the stream, is behind
 * it: then the peer may have taken over. And it is told only by a side that was not away; else it
 * waits until the peer has shown that it is still there.
 *
 * Owner: the loop.
 */
#ifndef FT_LINK_H
#define FT_LINK_H

#include <stdbool.h>
#include <stdint.h>

#include "ft/common/dial.h"
#include "ft/common/ft.h"
#include "ft/common/heart.h"
#include "vmm/wire/stream.h"

#define LINK_SEND_NS 1000000000ull /* a small frame is in the socket's buffer by then */

enum link_news {
	LINK_CONNECTED, /* the connection that was asked for */
	LINK_LOST,	/* error, silence, end, refusal: link->why; told once */
	LINK_WELCOME,
	LINK_ACK, /* of the epoch link->acked */
	LINK_DONE,
	LINK_RUNS,
	LINK_COMPARED, /* the answer to sums: link->frame, now only */
};

#define LINK_OTHER CONFIG_MAX_PEERS

enum link_state { LINK_DOWN, LINK_UP, LINK_BROKEN };

struct link {
	struct ft *ft;
	enum link_state state;
	unsigned next;	 /* peer to try */
	unsigned at;	 /* that is in use, LINK_OTHER for one that is none of the list */
	char peer[300];	 /* its address, "" for nobody */
	char extra[300]; /* of LINK_OTHER, which is tried in turn with the list */
	struct dial dial;
	struct loop_op main_op;
	struct stream main;
	struct heart heart;
	uint64_t acked;
	bool ack_waits;	  /* it came while we were suspect */
	bool refused;	  /* broken by the peer's word */
	bool may_dismiss; /* the peer knows that word */
	uint32_t kept;	  /* bit i: the peer has an image for device i that may have data */
	const struct frame *frame;
	uint64_t side; /* whose images the peer writes; 0: nobody's, or it did not say */
	char why[480];
	char trouble[CONFIG_MAX_PEERS + 1][480]; /* of each peer: said once */
	void (*news)(void *arg, enum link_news what);
	void *arg;
};

void link_init(struct link *l, struct ft *ft, void (*news)(void *arg, enum link_news what),
	       void *arg);
/* The list of peers is another one now. The one that is connected stays. */
void link_forget_peers(struct link *l);
/* Begin to connect to the next peer: LINK_CONNECTED or LINK_LOST follows. */
void link_try_next(struct link *l);
/* Which one that will be, as link.at. */
unsigned link_next(const struct link *l);
/* Likewise to this one. */
void link_try(struct link *l, const char *uri);
/* Connected: this is the main link, a frame is sent on it, answers are read. */
void link_begin_main(struct link *l, const struct iovec *hello, int niov);
/* Welcome: connect the heartbeat link to the same peer. */
void link_try_heart(struct link *l);
void link_begin_heart(struct link *l);
/* What the primary says itself. False: LINK_LOST was told. */
bool link_say(struct link *l, enum frame_type type, const void *data, size_t len);
/* Give it up, for this reason: LINK_LOST, unless it was told. */
void link_break(struct link *l, const char *why);
/* The word that ends a stop may have come without having been read: take it, then give up. */
void link_break_after_reading(struct link *l, const char *why);
void link_close(struct link *l);
/*
 * Why it was lost, with the peer's name. What keeps a peer away is logged once, not at every try,
 * until both of its links were up.
 * A host that is off is silent and unreachable in turns: that is one trouble.
 */
void link_note_trouble(struct link *l, bool connecting, char *note, size_t cap);

#endif

/*
 * Connections: a stream of bytes whose places are sequence numbers; SYN and FIN are bytes of it.
 * Positions here count from the initial sequence number of each side, or, of a connection that was
 * there before, are the sequence numbers. A byte stream without frames is a connection without
 * acknowledgements. For net/compare*.c only. Owner: the loop thread.
 */
#ifndef NET_COMPARE_TCP_H
#define NET_COMPARE_TCP_H

#include "net/compare.h"
#include "net/window.h"

struct compare_flow;
struct packet;

/* What theirs must have said before this of ours may leave. */
struct compare_segment {
	uint32_t from, to; /* these bytes, */
	uint32_t ack;	   /* and that it has received up to here */
	bool has_ack, rst;
	bool never; /* bytes that are not known any more: a checkpoint decides */
};

struct compare_tcp_side {
	uint32_t zero;	 /* its sequence number of position 0 */
	uint32_t ack;	 /* the highest that it said */
	uint32_t fin;	 /* position of its FIN */
	uint32_t tsval;	 /* of its SYN */
	uint32_t last;	 /* `zero` of its connection before, with these ends */
	uint8_t syn;	 /* its SYN's flags; 0: none was seen */
	uint8_t options; /* and what it had: PACKET_TSVAL... */
	bool has_ack, has_fin, has_last, rst;
	bool has_bytes; /* it put some into the window */
};

struct compare_tcp {
	struct compare_tcp_side side[2]; /* WINDOW_OURS, WINDOW_THEIRS */
	struct window w;
	bool placed;	/* w is at the right place */
	bool has_acked; /* the client has all before position acked */
	bool client_fin, client_rst;
	uint32_t acked, first; /* first: where w was placed */
	uint32_t sent;	       /* ours had put out all before that at the last checkpoint */
};

/* Bytes of a side. */
struct compare_piece {
	uint32_t pos;
	const uint8_t *data;
	uint32_t len;
};

void compare_tcp_ours(struct compare *c, struct compare_flow *f, const struct packet *p,
		      void *cookie, uint64_t now);
void compare_tcp_theirs(struct compare *c, struct compare_flow *f, const struct packet *p,
			uint64_t now);
/* p: from outside. */
void compare_tcp_input(struct compare *c, struct compare_flow *f, const struct packet *p);
/* A checkpoint. false: nothing of ours is known, the flow may be forgotten. */
bool compare_tcp_reset(struct compare_flow *f);
/* What waits longest, of ours or of theirs, waited too long. */
void compare_tcp_late(struct compare *c, const struct compare_flow *f, bool ours);
/* May it be forgotten without harm, when nothing waits? */
bool compare_tcp_idle(const struct compare_flow *f);
/* A piece of a byte stream, where its side has arrived. */
void compare_stream_place(const struct compare_flow *f, int side, struct packet *p);
/* What both have said is not needed. */
void compare_stream_skip(struct compare_flow *f);

/* net/compare_wait.c */
bool compare_tcp_may_leave(const struct compare_tcp *t, const struct compare_segment *s);
/* Theirs said what ours did not. */
bool compare_tcp_is_ahead(const struct compare_tcp *t);
/* Both sides and the client ended it. */
bool compare_tcp_is_over(const struct compare_tcp *t);

/* net/compare_room.c. x: on a difference, from where on. */
enum compare_why compare_room_put(struct compare *c, struct compare_flow *f, int side,
				  struct compare_piece *x);
/* Bytes of ours, whatever was known, as far as they can be kept. */
void compare_room_write(struct compare *c, struct compare_flow *f, struct compare_piece x);
void compare_room_free(struct compare *c, struct compare_flow *f);

#endif

/*
 * Numbers of TCP connections as the clients know them, where the guest has others. Under COLO a
 * connection that began since the last checkpoint may have another initial sequence number, and
 * another offset of its timestamps, at the secondary than at the primary, whose numbers the client
 * has seen. The secondary translates them: what the guest sends, and what is sent to it, for as
 * long as the connection lives, also after a takeover.
 *
 *   out  sequence number -= delta, TSval += ts_delta
 *   in   acknowledgment and the edges of SACK += delta, TSecr -= ts_delta, and the sequence number
 *        in what an ICMP error quotes of the guest += delta
 *
 * One map is of all networks of a guest: a connection may come in by one and go out by another. Not
 * for connections that bear no other numbers (net/packet.h, PACKET_FIXED).
 *
 * Owner: the loop. Its memory comes with the first connection. A map without one costs a comparison
 * a frame.
 */
#ifndef NET_SEQMAP_H
#define NET_SEQMAP_H

#include <stdbool.h>
#include <stdint.h>

#define SEQMAP_MAX	 256u			 /* connections */
#define SEQMAP_LINGER_NS 120000000000ull	 /* quiet for so long behind its end: forgotten */
#define SEQMAP_IDLE_NS	 (5 * 86400000000000ull) /* the same without one, as Linux's conntrack */

/* A connection, from the guest's side. No holes: it is hashed, ordered and sent as bytes. */
struct seqmap_flow {
	uint16_t version; /* of IP: 4 or 6 */
	uint16_t guest_port, peer_port;
	uint16_t vlan[2];	     /* numbers, outer first; 0, and a tag that says 0: none */
	uint8_t guest[16], peer[16]; /* IPv4: four bytes, then zeros */
};

/* What was seen of its end. */
enum {
	SEQMAP_ACKED = 1, /* the guest acknowledged something: `acked` */
	SEQMAP_FIN_OUT = 2,
	SEQMAP_FIN_OUT_ACKED = 4,
	SEQMAP_FIN_IN = 8,
	SEQMAP_FIN_IN_ACKED = 16,
	SEQMAP_RESET = 32, /* by either side, and the guest sent nothing else since */
	SEQMAP_SEEN = 63,
};

struct seqmap_conn {
	struct seqmap_flow flow;
	uint8_t seen;
	uint32_t delta, ts_delta;
	uint32_t acked;		  /* what the guest acknowledged last */
	uint32_t fin_out, fin_in; /* the numbers behind each FIN, as the client has them */
	uint32_t next;		  /* in its chain: index + 1, or 0 */
	uint64_t quiet_ns;	  /* since when; 0: a frame came after the last seqmap_tick() */
};

struct seqmap {
	struct seqmap_conn *conns; /* NULL: there was none yet */
	uint32_t *buckets;	   /* heads of chains: index + 1, 0 at the end */
	uint32_t nbuckets;	   /* a power of two */
	uint32_t limit, count;
	uint32_t unused;    /* chain of them, */
	uint32_t fresh;	    /* and from here on: nobody touched these yet */
	uint64_t seed;	    /* of the hash: a client chooses addresses and ports */
	const void *keeper; /* the device whose state has it, which says so; NULL: none */
};

/* At most limit connections, 1 to SEQMAP_MAX. */
void seqmap_init(struct seqmap *m, uint32_t limit);
/* All zero: nothing happens. */
void seqmap_done(struct seqmap *m);
/*
 * The guest's numbers here less those that the client knows; for timestamps the other way round:
 * those of the client less those here. In place of what the map has of that flow; 0 and 0: the
 * connection needs none. 0; -ENOSPC: at the limit, and none has ended, -ENOMEM, -EIO: a
 * checkpoint is what helps.
 */
int seqmap_set(struct seqmap *m, const struct seqmap_flow *flow, uint32_t delta, uint32_t ts_delta);
/*
 * As its client is somebody's with a map himself: on top of what m has, all that `by` has, and what
 * `by` has seen of the end of each, as it is the last one with these ends. The first error, behind
 * which it goes on.
 */
int seqmap_add_all(struct seqmap *m, const struct seqmap *by);
/* The same connection as it was elsewhere; as seqmap_set(), with its end. */
int seqmap_put(struct seqmap *m, const struct seqmap_conn *c);
/* All that it has, ascending by flow, into room for m->count. Returns how many. */
uint32_t seqmap_list(const struct seqmap *m, struct seqmap_conn *ret);
/* How many more it would take. */
uint32_t seqmap_room(const struct seqmap *m);
/* NULL: it has the client's numbers. Until the next call that is not seqmap_find(). */
struct seqmap_conn *seqmap_find(const struct seqmap *m, const struct seqmap_flow *flow);
/* None needs it any more. */
void seqmap_clear(struct seqmap *m);
/*
 * A frame (as in segment.h) from the guest, and one to it, changed in place. Returns whether it
 * was. They also learn how a connection ends.
 */
bool seqmap_out(struct seqmap *m, uint8_t *frame, uint32_t len);
bool seqmap_in(struct seqmap *m, uint8_t *frame, uint32_t len);
/* A frame from the guest that somebody else translates: learned from as seqmap_out() does. */
void seqmap_see(struct seqmap *m, const uint8_t *frame, uint32_t len);
/*
 * Time goes on: forget connections that ended, or are idle. About every second while m->count; one
 * is quiet from the first call after its last frame. Returns how many were forgotten.
 */
uint32_t seqmap_tick(struct seqmap *m, uint64_t now_ns);

#endif

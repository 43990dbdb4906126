/*
 * Do two machines that run the same guest on the same inputs put out the same? Ours (the primary's)
 * output is told here when it is put, theirs (the secondary's) when it arrives; ours may leave when
 * theirs has said the same, whatever way either was cut into packets.
 *
 *   TCP           the stream of each connection: bytes, SYN, FIN, RST, and how far it acknowledges
 *   other frames  each flow's payloads, one after the other
 *   byte streams  a console
 *   messages      each whole, in order
 *   orders        of a vsock (net/vsock_host.h): the stream of each connection, and what is ordered
 *                 besides in its place among the bytes
 *
 * What differs, comes from one side only or is more than may be kept is a difference: told once,
 * and from then on nothing is released until compare_reset(), at a checkpoint, after which both
 * sides are one again. Not compared: what each is free to choose, as IP ids, TCP windows and
 * options, MAC addresses below IP, and how soon it says something.
 *
 * Owner: the loop thread. No callback may call into here.
 */
#ifndef NET_COMPARE_H
#define NET_COMPARE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>

#define COMPARE_MAX_SINKS 16
#define COMPARE_SHOWN	  16u /* bytes of each side in a verdict */

enum compare_kind {
	COMPARE_NONE,
	COMPARE_FRAMES,
	COMPARE_STREAM,
	COMPARE_MESSAGES,
	COMPARE_ORDERS,
};

enum compare_why {
	COMPARE_EQUAL,
	COMPARE_BYTES,	 /* a byte, or a length */
	COMPARE_FLAGS,	 /* one begins, ends, answers where the other does not */
	COMPARE_EXTRA,	 /* theirs put out what ours did not, for too long */
	COMPARE_OVERDUE, /* ours waits for theirs, for too long */
	COMPARE_FULL,	 /* a limit: more is outstanding than may be kept */
};

struct compare_verdict {
	enum compare_why why;
	int sink;
	char flow[128];	 /* for people */
	uint64_t offset; /* of the first byte: in a stream since it was first seen (2^32 is 0
			    again), else in the packet */
	uint32_t nours, ntheirs; /* what each has from there, as far as it is at hand */
	uint8_t ours[COMPARE_SHOWN], theirs[COMPARE_SHOWN];
};

struct compare_limits {
	uint64_t bytes;	     /* in all: what is kept, with what it takes to keep it */
	uint32_t flow_bytes; /* of one flow, and as much again of what keeps it; a power of two, 128
				KiB to 1 GiB */
	uint32_t history_bytes; /* of one connection, of what both said; a power of two, at most
				   flow_bytes */
	uint32_t flows;
	uint64_t overdue_ns; /* that one side may be without the other */
	uint64_t idle_ns;    /* until a flow is forgotten in which nothing happens */
};

struct packet_key;

/* How the numbers of a connection of theirs are others than ours, modulo 2^32. */
struct compare_mapping {
	uint32_t delta;	   /* theirs counts so much more than ours */
	uint32_t ts_delta; /* ours has timestamps by so much higher than theirs */
	bool fixed;	   /* nobody can translate it: net/packet.h */
};

struct compare_ops {
	/* This output of ours may leave; in order within a flow. */
	void (*release)(void *arg, void *cookie);
	void (*differ)(void *arg, const struct compare_verdict *v);
	/*
	 * A connection born since the reset, before anything of it is released. May be told anew
	 * for the same flow; void after a reset. NULL: nobody wants to know.
	 */
	void (*mapped)(void *arg, const struct packet_key *flow, const struct compare_mapping *m);
};

struct compare_flow;
struct compare_held;
TAILQ_HEAD(compare_flows, compare_flow);
TAILQ_HEAD(compare_waiting, compare_held);

struct compare {
	struct compare_limits limits;
	const struct compare_ops *ops;
	void *arg;
	uint8_t kinds[COMPARE_MAX_SINKS]; /* enum compare_kind */
	bool differs;			  /* told, or nobody compares; until the reset */
	uint64_t resets;
	uint64_t seed; /* of the table: who sends cannot know which flows meet in it */
	struct compare_flow **table;
	uint32_t mask, nflows;
	struct compare_flows flows;	/* the one used last comes last */
	struct compare_flows ahead;	/* where theirs is ahead, longest first */
	struct compare_waiting waiting; /* all of ours, oldest first */
	struct compare_held *spare;
	uint64_t bytes;			/* of limits.bytes */
	uint64_t released, differences; /* since the start */
};

/* ops stays the caller's. 0, -EINVAL for limits that cannot be, -ENOMEM, -EIO: no random seed. */
int compare_init(struct compare *c, const struct compare_limits *l, const struct compare_ops *ops,
		 void *arg);
/* Releases nothing. All zero: nothing happens. */
void compare_done(struct compare *c);
/* sink: below COMPARE_MAX_SINKS. Before its first output. */
void compare_add_sink(struct compare *c, int sink, enum compare_kind kind);
/*
 * Ours put this out. It stays where it is, unchanged, until the cookie is released, which may be
 * before this returns, or compare_reset().
 */
void compare_ours(struct compare *c, int sink, const void *data, uint32_t len, void *cookie,
		  uint64_t now_ns);
/*
 * Ours put this out while nobody compares: nothing is released or told until the reset, as after a
 * difference. Whatever is not told to compare_ours() is to be told here, or a connection that takes
 * the place of another would be taken for that.
 */
void compare_learn(struct compare *c, int sink, const void *data, uint32_t len, uint64_t now_ns);
/* A peer says that it put this out; copied. -EBADMSG: no such sink, or no output of one. */
int compare_theirs(struct compare *c, int sink, const void *data, uint32_t len, uint64_t now_ns);
/*
 * A frame that came from outside, before the guest has it, in our numbers: what its sender has
 * acknowledged is not needed any more, nor are connections that ended.
 */
void compare_input(struct compare *c, int sink, const void *frame, uint32_t len);
/*
 * A checkpoint: theirs is now what ours is. All that waits is forgotten, without a word (whoever
 * holds it knows that it may leave); what ours said on connections that live is kept.
 */
void compare_reset(struct compare *c);
/* When compare_overdue() has something to say; UINT64_MAX: nothing waits. */
uint64_t compare_due(const struct compare *c);
/* If something waited too long, that is a difference. Forgets idle flows. */
void compare_overdue(struct compare *c, uint64_t now_ns);
/* One line, cut to the size. */
void compare_describe(const struct compare_verdict *v, char *buf, size_t size);

#endif

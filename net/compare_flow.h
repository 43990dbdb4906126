/*
 * The flows that are compared: found by what packets say, least used first out, and what is kept
 * for them is counted. For net/compare*.c only. Owner: the loop thread.
 */
#ifndef NET_COMPARE_FLOW_H
#define NET_COMPARE_FLOW_H

#include "net/compare.h"
#include "net/compare_fifo.h"
#include "net/compare_tcp.h"
#include "net/packet.h"

/* Output of ours that waits. Its bytes are the caller's. */
struct compare_held {
	TAILQ_ENTRY(compare_held) of_all, of_flow;
	struct compare_held *spare;
	struct compare_flow *flow;
	void *cookie;
	uint64_t since_ns;
	union {
		struct compare_segment segment;
		struct compare_view view;
	};
};

struct compare_flow {
	struct packet_key key;
	struct compare_flow *next; /* in its place in the table */
	TAILQ_ENTRY(compare_flow) by_use, by_ahead;
	uint64_t used_ns, ahead_ns;
	uint64_t resets; /* that there were when it was used last */
	bool ahead;	 /* theirs has put out what ours has not */
	uint64_t bytes;	 /* kept for it: twice limits.flow_bytes at most */
	struct compare_waiting waiting;
	union {
		struct compare_tcp tcp; /* connections and streams */
		struct compare_fifo fifo;
	};
};

static inline bool compare_flow_is_stream(const struct compare_flow *f)
{
	return f->key.kind == PACKET_TCP || f->key.kind == PACKET_STREAM;
}

int compare_flows_init(struct compare *c);
void compare_flows_done(struct compare *c);
/* NULL: never seen, or forgotten. */
struct compare_flow *compare_flow_find(const struct compare *c, const struct packet_key *k);
/* Found or made, and used now. NULL: no room, nor a flow that can be forgotten. */
struct compare_flow *compare_flow_get(struct compare *c, const struct packet_key *k, uint64_t now);
void compare_flow_forget(struct compare *c, struct compare_flow *f);
/* Forget those that nothing happened in since then, some each time. */
void compare_flows_expire(struct compare *c, uint64_t before_ns);
/* Count bytes that are kept for it; makes room if it can. false: over a limit. */
bool compare_flow_charge(struct compare *c, struct compare_flow *f, uint64_t bytes);
void compare_flow_uncharge(struct compare *c, struct compare_flow *f, uint64_t bytes);
/* Ours waits, behind what waits. NULL: over a limit. */
struct compare_held *compare_flow_hold(struct compare *c, struct compare_flow *f, void *cookie,
				       uint64_t now);
/* What did not have to wait may leave. */
void compare_flow_pass(struct compare *c, void *cookie);
/* The first of it that waits may leave. */
void compare_flow_let(struct compare *c, struct compare_flow *f);
/* Nothing of it waits any more, and nothing of that leaves here. */
void compare_flow_drop_held(struct compare *c, struct compare_flow *f);
/* Is theirs ahead? moved: ours came nearer, and it counts from now. */
void compare_flow_set_ahead(struct compare *c, struct compare_flow *f, bool ahead, bool moved,
			    uint64_t now);

/* What differs where; the bytes are the caller's. */
struct compare_place {
	enum compare_why why;
	uint64_t offset;
	const uint8_t *ours, *theirs;
	uint32_t nours, ntheirs;
};

/* Tell it, if nothing was told since the reset. */
void compare_tell(struct compare *c, const struct packet_key *k, const struct compare_place *at);

#endif

/*
 * The guest's side of vsock connections: which there are, in what state, and who may send how much
 * (virtio 1.2 section 5.10.6.3). Pure bookkeeping: virtio_vsock.c does what comes of it.
 *
 * Under the device's lock.
 */
#ifndef DEVICES_VSOCK_CONN_H
#define DEVICES_VSOCK_CONN_H

#include <linux/virtio_vsock.h>
#include <stdbool.h>
#include <stdint.h>

#include "net/vsock_host.h"

enum vsock_state {
	VSOCK_HOST_ASKS,  /* a program waits for the guest's answer */
	VSOCK_GUEST_ASKS, /* the guest waits for a program */
	VSOCK_ESTABLISHED,
	VSOCK_ENDED, /* nothing is left of it but a RST for the guest */
};

/* Packets owed to the guest, in the order in which they leave. */
enum vsock_owed {
	VSOCK_OWE_RST = 1,
	VSOCK_OWE_REQUEST = 2,
	VSOCK_OWE_RESPONSE = 4,
	VSOCK_OWE_CREDIT = 8,
	VSOCK_OWE_CREDIT_REQUEST = 16,
	VSOCK_OWE_SHUTDOWN = 32,
};

struct vsock_conn {
	uint64_t id; /* at the host's side; 0: this place is free */
	uint32_t host_port, guest_port;
	enum vsock_state state;
	uint64_t deadline_ns; /* for the answer, before it is established */
	uint32_t owed;
	uint32_t shut_guest; /* VSOCK_SHUT_* it told us */
	uint32_t shut_host;  /* VSOCK_SHUT_* told or owed to it */
	bool readable;	     /* the program may have bytes */
	bool asked;	     /* for credit, since it ran out */
	/* To the guest: sent, and what it said last. Free-running. */
	uint32_t tx_cnt, peer_fwd_cnt, peer_buf_alloc;
	/* From the guest: received, of that written to the program, of that told to the guest. */
	uint32_t rx_cnt, fwd_cnt, fwd_told;
};

struct vsock_conns {
	struct vsock_conn at[VSOCK_MAX_CONNS];
	unsigned n;
	unsigned turn; /* where the search for something to send begins */
	uint32_t next_port;
};

/* What a packet of the guest asks for. */
enum vsock_action {
	VSOCK_DO_NOTHING,
	VSOCK_DO_ACCEPT,
	VSOCK_DO_DATA,
	VSOCK_DO_SHUTDOWN,
	VSOCK_DO_CLOSE, /* the guest ended it */
	VSOCK_DO_ABORT, /* it broke a rule: end it on both sides */
};

/* All forgotten. port: where host ports begin, so that those of a former life are not used soon. */
void vsock_conns_reset(struct vsock_conns *cs, uint32_t port);
struct vsock_conn *vsock_conn_find(struct vsock_conns *cs, uint32_t host_port, uint32_t guest_port);
struct vsock_conn *vsock_conn_by_id(struct vsock_conns *cs, uint64_t id);
/* NULL when there are VSOCK_MAX_CONNS. */
struct vsock_conn *vsock_conn_new(struct vsock_conns *cs, uint64_t id, uint32_t host_port,
				  uint32_t guest_port, enum vsock_state state);
void vsock_conn_free(struct vsock_conns *cs, struct vsock_conn *c);
/* A host port that no connection to guest_port has. */
uint32_t vsock_conns_port(struct vsock_conns *cs, uint32_t guest_port);

/* What waits for the program has a bound: a peer's counters may say otherwise. */
static inline bool vsock_counts_fit(uint32_t rx_cnt, uint32_t fwd_cnt)
{
	return rx_cnt - fwd_cnt <= VSOCK_BUF_BYTES;
}

/* Judge a packet; nothing changes. Then take it in, once what it asks for was done. */
enum vsock_action vsock_conn_judge(const struct vsock_conn *c, const struct virtio_vsock_hdr *h);
void vsock_conn_take(struct vsock_conn *c, const struct virtio_vsock_hdr *h, enum vsock_action a);
/* What the header of every packet says about the guest's buffer. */
void vsock_conn_credit(struct vsock_conn *c, const struct virtio_vsock_hdr *h);
/* n more bytes are at the program: tell the guest when it may need to know. */
void vsock_conn_written(struct vsock_conn *c, uint32_t n);
/* Bytes the guest has room for. */
uint32_t vsock_conn_room(const struct vsock_conn *c);
/* The program will send no more (VSOCK_SHUT_SEND), or nothing at all any more (BOTH). */
void vsock_conn_host_ends(struct vsock_conn *c, uint32_t shut);
/* Only a RST is left. */
void vsock_conn_end(struct vsock_conn *c);
/* Has it something for the guest? May come to owe a request for credit. */
bool vsock_conn_has_output(struct vsock_conn *c, bool may_ask);

#endif

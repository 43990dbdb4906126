/* What the files of TCP share: segments, sequence arithmetic, and who does what. */
#ifndef GUESTS_LIB_TCP_INT_H
#define GUESTS_LIB_TCP_INT_H

#include "guests/lib/net.h"
#include "guests/lib/tcp.h"

#define TCP_HDR_LEN 20

#define TCP_RTO_MIN	(100 * NET_NS_PER_MS)
#define TCP_RTO_INIT	(1 * NET_NS_PER_S)
#define TCP_RTO_MAX	(3 * NET_NS_PER_S) /* so that a moved guest resumes soon */
#define TCP_WAIT_TIME	(1 * NET_NS_PER_S)
#define TCP_ORPHAN_TIME (10 * NET_NS_PER_S) /* FIN_WAIT_2 of a forgotten connection */
#define TCP_TRIES_OPEN	6
#define TCP_TRIES_CLOSE 10
#define TCP_TRIES_DATA	200

enum tcp_flag { TCP_FIN = 1, TCP_SYN = 2, TCP_RST = 4, TCP_PSH = 8, TCP_ACK = 16 };

/* A received segment, parsed and bounds-checked. */
struct tcp_seg {
	uint32_t src;
	uint16_t sport;
	uint16_t dport;
	uint32_t seq;
	uint32_t ack;
	uint32_t wnd; /* unscaled */
	uint32_t flags;
	const uint8_t *data;
	uint32_t len;
	uint16_t mss; /* 0: no option */
	int8_t shift; /* -1: no option */
};

static inline int32_t tcp_cmp(uint32_t a, uint32_t b)
{
	return (int32_t)(a - b);
}

static inline uint32_t tcp_min(uint32_t a, uint32_t b)
{
	return a < b ? a : b;
}

static inline uint32_t tcp_max(uint32_t a, uint32_t b)
{
	return a > b ? a : b;
}

/* tcp_buf.c: the rings. Offsets of the send ring count from snd_una. */
void tcp_buf_peek_snd(const struct tcp_conn *c, uint32_t off, uint8_t *dst, uint32_t len);
void tcp_buf_drop_snd(struct tcp_conn *c, uint32_t len);
/* Free space of the receive ring: bytes from rcv_nxt on that can be stored. */
uint32_t tcp_buf_space(const struct tcp_conn *c);
/* Stores data at seq, within [rcv_nxt, rcv_nxt + space]; advances rcv_nxt over what is contiguous.
 */
void tcp_buf_store(struct tcp_conn *c, uint32_t seq, const uint8_t *data, uint32_t len);

/* Throws away what could be read. */
void tcp_buf_discard(struct tcp_conn *c);

/* tcp_out.c */
int tcp_out_segment(struct tcp_conn *c, uint32_t seq, uint32_t off, uint32_t len, uint32_t flags);
void tcp_out_syn(struct tcp_conn *c);
void tcp_out_reset(struct tcp_stack *s, const struct tcp_seg *seg);
/* Sends what windows allow, and a due ACK. */
void tcp_out_flush(struct tcp_conn *c);
/* Sends the first segment that was not acknowledged again. */
void tcp_out_rexmit(struct tcp_conn *c);
void tcp_out_timeout(struct tcp_conn *c);
/* Restarts the retransmission timer, or stops it when nothing is outstanding. */
void tcp_out_rearm(struct tcp_conn *c);

/* tcp.c */
struct tcp_conn *tcp_alloc(struct tcp_stack *s, const struct tcp_seg *peer);
/* Frees c and tells the application. */
void tcp_free(struct tcp_conn *c);
void tcp_enter_time_wait(struct tcp_conn *c);
/* Frees c after an orderly end, once the application has read everything. */
void tcp_finish(struct tcp_conn *c);

#endif

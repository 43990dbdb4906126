/*
 * TCP (RFC 9293): passive and active open, MSS and window scale options, RFC 6298 timer, RFC 6582
 * recovery, zero-window probes, out-of-order data kept. Idle connections are kept for ever.
 *
 * An application gets one event function per connection, called when there is something new to
 * read, to write or to know. It may call everything below from there and from the main loop.
 * Written data leaves in the next net_poll(), or at the end of the packet being handled.
 */
#ifndef GUESTS_LIB_TCP_H
#define GUESTS_LIB_TCP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TCP_CONNS     32
#define TCP_LISTENERS 8
#define TCP_SND_BUF   (128u * 1024) /* powers of two */
#define TCP_RCV_BUF   (32u * 1024)
#define TCP_OOO	      8 /* ranges kept beyond the first gap */
#define TCP_MSS	      1460

struct ip_packet;
struct net_if;
struct tcp_conn;
struct tcp_stack;

enum tcp_state {
	TCP_FREE,
	TCP_SYN_SENT,
	TCP_SYN_RCVD,
	TCP_ESTABLISHED,
	TCP_FIN_WAIT_1,
	TCP_FIN_WAIT_2,
	TCP_CLOSING,
	TCP_TIME_WAIT,
	TCP_CLOSE_WAIT,
	TCP_LAST_ACK,
};

/*
 * Something happened to c. The last call for a connection that was not given up with tcp_close()
 * or tcp_abort() comes with c->state == TCP_FREE: it was reset, timed out, or closed by both.
 */
typedef void tcp_event_fn(void *ctx, struct tcp_conn *c);

struct tcp_range {
	uint32_t start;
	uint32_t end;
};

struct tcp_conn {
	struct tcp_stack *stack;
	enum tcp_state state;
	uint16_t index;	 /* of the slot, below TCP_CONNS */
	uint64_t serial; /* of the connection: never used twice */
	tcp_event_fn *event;
	void *ctx;
	uint32_t rip;
	uint16_t rport;
	uint16_t lport;
	bool nodelay; /* default true: a partial segment does not wait for an ACK (Nagle) */

	/* sending: sequence numbers una <= nxt <= max; the ring holds the bytes from una on */
	uint32_t iss;
	uint32_t snd_una;
	uint32_t snd_nxt;
	uint32_t snd_max; /* highest ever sent; nxt goes back to una after a timeout */
	uint32_t snd_wnd;
	uint32_t snd_wl1;
	uint32_t snd_wl2;
	uint32_t snd_head;
	uint32_t snd_len;
	uint16_t mss;
	uint8_t snd_shift; /* window scale of the peer */
	bool scale_ok;	   /* both sides sent the option */
	bool fin_queued;
	bool fin_acked;

	/* receiving: the ring holds rcv_len bytes before nxt, and the ranges of ooo after it */
	uint32_t irs;
	uint32_t rcv_nxt;
	uint32_t rcv_edge; /* right edge of the window as advertised: never goes back */
	uint32_t rcv_head;
	uint32_t rcv_len;
	struct tcp_range ooo[TCP_OOO];
	uint8_t ooo_count;
	bool fin_seen; /* rcv_nxt is after the peer's FIN */

	bool ack_now;
	bool tell; /* call event at the end of this packet */

	/* timers and congestion */
	uint64_t timer_at; /* retransmit, probe or TIME_WAIT; 0: off */
	uint64_t rto;
	uint64_t srtt;
	uint64_t rttvar;
	uint64_t rtt_start; /* 0: nothing is being timed */
	uint32_t rtt_seq;
	uint32_t retries;
	uint32_t cwnd;
	uint32_t ssthresh;
	uint32_t recover;
	uint32_t dupacks;
	bool recovering;
};

struct tcp_listener {
	uint16_t port; /* 0: free */
	tcp_event_fn *event;
	void *ctx;
};

struct tcp_stats {
	uint64_t rx_segs;
	uint64_t rx_bad;
	uint64_t tx_segs;
	uint64_t rexmit_timeout;
	uint64_t rexmit_fast;
	uint64_t refused; /* SYNs without a listener or a free slot */
	uint64_t resets;
};

struct tcp_stack {
	struct net_if *nif;
	uint64_t secret[2];
	uint64_t next_serial;
	uint32_t isn_base; /* moves beyond what closed connections used */
	bool isn_clock;	   /* and with time, as Linux's: two machines with the same input differ */
	uint16_t next_port;
	/* How long the next segment may be, from 1 to the MSS; NULL: the MSS. */
	uint32_t (*cut)(uint32_t mss);
	struct tcp_listener listener[TCP_LISTENERS];
	struct tcp_stats stats;
	struct tcp_conn conn[TCP_CONNS];
	uint8_t snd[TCP_CONNS][TCP_SND_BUF];
	uint8_t rcv[TCP_CONNS][TCP_RCV_BUF];
};

/* Sets up the stack on nif; `seed` makes sequence numbers hard to guess. Memory may be dirty. */
void tcp_init(struct tcp_stack *s, struct net_if *nif, uint64_t seed);
/* 0, -EADDRINUSE or -ENOSPC. */
int tcp_listen(struct tcp_stack *s, uint16_t port, tcp_event_fn *event, void *ctx);
/* Starts an active open; NULL if there is no slot. The event follows when it is established. */
struct tcp_conn *tcp_connect(struct tcp_stack *s, uint32_t ip, uint16_t port, tcp_event_fn *event,
			     void *ctx);

/* Bytes ready to be read. */
size_t tcp_avail(const struct tcp_conn *c);
/* The peer has closed its side and everything was read. */
bool tcp_eof(const struct tcp_conn *c);
/* Copies up to len bytes that are ready; returns how many. */
size_t tcp_peek(const struct tcp_conn *c, void *buf, size_t len);
/* Copies and consumes up to len bytes; returns how many. */
size_t tcp_read(struct tcp_conn *c, void *buf, size_t len);
/* Bytes tcp_write() would take now; 0 once this side was shut down. */
size_t tcp_room(const struct tcp_conn *c);
/* Queues up to len bytes; returns how many. */
size_t tcp_write(struct tcp_conn *c, const void *buf, size_t len);
/* Sends FIN after what was written; reading goes on. */
void tcp_shutdown(struct tcp_conn *c);
/* tcp_shutdown(), and the application forgets c: no more events, input is thrown away. */
void tcp_close(struct tcp_conn *c);
/* Sends RST and frees c. */
void tcp_abort(struct tcp_conn *c);

/* Whether a timer runs, so that net_poll() must be called from time to time without input. */
bool tcp_is_busy(const struct tcp_stack *s);

/* Called by ip.c and net.c. */
void tcp_input(struct tcp_stack *s, const struct ip_packet *pkt);
void tcp_poll(struct tcp_stack *s);

#endif

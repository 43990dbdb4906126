/* One run of load: what all client threads share. */
#ifndef TESTS_LIN_LOAD_H
#define TESTS_LIN_LOAD_H

#include <netinet/in.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "tests/lin/history.h"
#include "tests/lin/stats.h"

#define LOAD_NEVER UINT64_MAX

struct load_config {
	struct sockaddr_in server; /* the kv port */
	uint16_t echo_port, stream_port;
	unsigned udp, tcp, echo, stream; /* clients of each kind */
	unsigned client_base;		 /* number of the first client */
	unsigned keys, lists;
	uint64_t ops; /* of all clients; 0: until stopped */
	uint64_t seed;
	uint64_t timeout; /* ns until a UDP operation becomes unknown */
	uint64_t drain;	  /* ns that operations in flight get at the end */
	uint64_t connect; /* ns to establish a TCP connection */
	double rate;	  /* operations per second and client; 0: as fast as replies come */
	double echo_rate, stream_rate; /* bytes per second and client; 0: no pause */
	unsigned window;	       /* bytes an echo client has in flight */
	uint64_t bytes; /* of a byte-stream client, each way that it has; 0: until stopped */
};

struct load {
	struct load_config cfg;
	struct history_writer *history;
	struct stats kv, bytes;
	int stopfd;		  /* readable once stopping */
	int donefd;		  /* eventfd: one count per client that ended */
	_Atomic uint64_t stop_ns; /* when stopping began; 0 before */
	_Atomic uint64_t taken;	  /* operations begun */
	_Atomic uint64_t failed, timeouts, late, unknown, dups, strays;
	_Atomic uint64_t tcp_total, tcp_lost, bad_replies;
	_Atomic uint64_t silent; /* connections that stand, and on which nothing comes any more */
	_Atomic uint64_t echo_total, echo_ok, echo_bytes, stream_total, stream_ok, stream_bytes;
	_Atomic unsigned ready; /* clients that are under way, TCP connections made */
	_Atomic bool broken;	/* a client could not even start */
};

struct load_stream { /* what is known about one checked byte stream */
	bool lost, bad;
	uint64_t sent, verified;
	uint64_t start;
};

struct load_client { /* what each thread gets */
	struct load *load;
	unsigned number;
	bool tcp;
	uint64_t rng;
	uint64_t next; /* pacing: when the next operation is due */
};

/* Thread bodies; arg is a struct load_client. */
void *kvload_run(void *arg);
void *echoload_run(void *arg);
void *streamload_run(void *arg);

uint64_t load_now(void);
uint64_t load_random(uint64_t *state);
/* Byte at offset of the pseudo-random stream named by seed. */
uint8_t load_byte(uint64_t seed, uint64_t offset);
void load_stop(struct load *l); /* any thread, any number of times */
static inline bool load_stopping(struct load *l)
{
	return atomic_load(&l->stop_ns) != 0;
}
/* Take one operation out of the budget; false when stopping or used up. */
bool load_take(struct load *l);
/*
 * Wait for events on fd (-1: none) until a time. When the run stops, a wait that is_op goes on for
 * at most the drain time; any other ends at once. Returns the poll events, 0 when time is up.
 */
int load_wait(struct load *l, int fd, short events, uint64_t until, bool is_op);
/* The time of the client's next operation of that rate (per second). */
uint64_t load_pace(struct load_client *c, double rate);
/* This client is under way; the last of all says so on standard error: "kvclient: ready". */
void load_ready(struct load *l);
/*
 * A connected non-blocking TCP socket; tries again while nobody listens, up to cfg.connect.
 * -ECANCELED when the run stops first. rcvbuf: bytes of receive buffer, 0 for the default.
 */
int load_connect(struct load *l, uint16_t port, int rcvbuf);
/* The same for a byte stream; a failure ends the run. */
int load_open_stream(struct load_client *c, uint16_t port, int rcvbuf);
/* So many more may come or go; LOAD_NEVER: without end. */
static inline uint64_t load_bytes_left(const struct load *l, uint64_t done)
{
	return l->cfg.bytes ? l->cfg.bytes - done : LOAD_NEVER;
}
/* Record the outcome. */
void load_end_stream(struct load_client *c, uint16_t port, const struct load_stream *s);
void load_lost(struct load_client *c, uint16_t port, uint64_t received);
void load_done(struct load_client *c);

#endif

/*
 * A TCP proxy that misbehaves on command. Single-threaded; every socket is non-blocking.
 * A link is one forwarded connection: side A came in, side B is ours to the target. A flow is one
 * direction of it, a queue of pieces in order; the ends (FIN, RST) are pieces as well, so delay
 * and black holes hold them like data.
 */
#ifndef TESTS_WIRE_PROXY_H
#define TESTS_WIRE_PROXY_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PROXY_LISTENERS 8
#define PROXY_AFTER	16
#define PROXY_CTL_LINE	128
#define PROXY_NEVER	UINT64_MAX

enum proxy_side { PROXY_A, PROXY_B }; /* flow[A] is a2b, flow[B] is b2a */
enum flow_kind { FLOW_DATA, FLOW_FIN, FLOW_RST };

struct flow_piece {
	struct flow_piece *next;
	uint64_t due; /* monotonic ns */
	enum flow_kind kind;
	size_t len, done;
	uint8_t data[];
};

struct flow {
	struct flow_piece *head, *tail;
	size_t queued;	  /* bytes */
	uint64_t last;	  /* due of the newest piece: order is kept under jitter */
	bool ended;	  /* nothing more is read from the source */
	bool finished;	  /* the end was passed on */
	bool blocked;	  /* the destination's buffer is full */
	bool dead;	  /* the destination is gone: data is dropped */
	bool close_after; /* truncated: close the link after the end */
};

struct proxy;

struct link {
	struct link *next, *prev;
	struct proxy *proxy;
	bool connecting, gone;
	struct proxy_end { /* what epoll points to */
		struct link *link;
		enum proxy_side side;
		int fd;
		uint32_t events; /* registered; 0: not in the epoll set */
	} end[2];
	struct flow flow[2];
};

struct proxy_dir { /* state of one direction, over all links */
	bool hole;
	bool truncate;	  /* the next piece */
	uint64_t flip_at; /* offset of the byte to damage, or PROXY_NEVER */
	uint64_t read;	  /* bytes taken from sources */
	uint64_t bytes;	  /* bytes given to destinations */
	uint64_t free_at; /* rate limit: when the line is free again */
};

struct proxy_after { /* a command that waits for a byte count */
	bool used;
	enum proxy_side dir;
	uint64_t at;
	char command[PROXY_CTL_LINE];
};

struct proxy_listener {
	int fd;
	struct sockaddr_in to;
};

struct proxy {
	int ep;
	struct proxy_listener listener[PROXY_LISTENERS];
	unsigned nlisteners;
	struct link *links;
	unsigned nlinks;
	struct proxy_dir dir[2];
	struct proxy_after after[PROXY_AFTER];
	uint64_t delay, jitter; /* ns */
	uint64_t rate;		/* bytes per second each way, 0: no limit */
	uint64_t rng;
	uint64_t accepted, refused, resets, flips, truncated;
	bool refuse;
	unsigned turn;		    /* which link goes first under a rate limit */
	unsigned char tag_listener; /* its address marks listeners in epoll */
};

uint64_t proxy_now(void);
uint64_t proxy_random(struct proxy *p, uint64_t below);
void proxy_init(struct proxy *p, uint64_t seed);
/* Listen and forward to an address; returns the port or a negative errno. */
int proxy_listen(struct proxy *p, const struct sockaddr_in *at, const struct sockaddr_in *to);
void proxy_accept(struct proxy *p);
void proxy_event(struct proxy_end *e, uint32_t events);
/* Move what is due, close what is over; returns when to be called again. */
uint64_t proxy_run(struct proxy *p);
void proxy_reset_all(struct proxy *p);
void proxy_free(struct proxy *p); /* resets what is still open */
/* One command line; the answer, without a newline, goes to reply. */
void proxy_command(struct proxy *p, const char *line, char *reply, size_t len);

/* libflow.c; the time is passed in so that one pass of the loop has one time. */
void flow_read(struct link *l, enum proxy_side from, uint64_t now);
void flow_end(struct link *l, enum proxy_side from, enum flow_kind kind, uint64_t now);
uint64_t flow_pump(struct link *l, enum proxy_side from, uint64_t now);
bool flow_wants_read(const struct link *l, enum proxy_side from);
void flow_free(struct flow *f);

#endif

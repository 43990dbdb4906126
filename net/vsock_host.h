/*
 * The host's side of a vsock: unix sockets. Who connects to PATH and writes "CONNECT <port>\n" gets
 * a stream to that port of the guest, after a line "OK <port>\n"; a guest that connects to port P
 * of the host reaches the program that listens on PATH_P.
 *
 * What the guest causes here (connects, the OK line, bytes, shutdowns, closes) comes in only as
 * orders through the output buffer: vsock_host_deliver() is what its sink calls. Nothing here calls
 * the device: it is woken, and then takes events.
 *
 * Owner: the loop thread.
 */
#ifndef NET_VSOCK_HOST_H
#define NET_VSOCK_HOST_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "vmm/base/err.h"
#include "vmm/base/loop.h"

#define VSOCK_MAX_CONNS 128
#define VSOCK_BUF_BYTES 65536u /* most that waits for one host program to read */
#define VSOCK_PATH_MAX	96     /* longest PATH: "_4294967295" must still fit into an address */
#define VSOCK_LINE_MAX	32     /* of "CONNECT <port>\n" */
#define VSOCK_MAX_NEW	32     /* connections that the device has not heard of yet */
#define VSOCK_MAX_SOCKS (VSOCK_MAX_CONNS + VSOCK_MAX_NEW)

enum vsock_order_op {
	VSOCK_CONNECT = 1, /* to PATH_arg */
	VSOCK_ACCEPT,	   /* the guest took the connection: "OK arg" */
	VSOCK_DATA,	   /* bytes follow */
	VSOCK_SHUTDOWN,	   /* arg: VSOCK_SHUT_* of the guest */
	VSOCK_CLOSE,	   /* now, whatever waits */
	VSOCK_CLOSE_ALL,   /* that, for all of its maker up to this id: the guest forgot them */
};

/* As in a packet: the guest will receive, send no more. */
enum { VSOCK_SHUT_RCV = 1, VSOCK_SHUT_SEND = 2, VSOCK_SHUT_BOTH = 3 };

/* What an entry of the output buffer begins with. */
struct vsock_order {
	uint32_t op, arg;
	uint64_t id;
};

enum vsock_note {
	VSOCK_REQUEST = 1,   /* a program asks for guest port `port` */
	VSOCK_CONNECTED = 2, /* VSOCK_CONNECT succeeded */
	VSOCK_READABLE = 4,  /* vsock_host_read() until it says -EAGAIN */
	VSOCK_WRITTEN = 8,   /* so many bytes went to the program */
	VSOCK_GONE = 16,     /* closed, or never connected; the id is void */
};

struct vsock_event {
	uint64_t id;
	uint32_t notes, port, written;
};

enum vsock_phase {
	VSOCK_FREE,
	VSOCK_LINE,    /* the program has yet to say which port */
	VSOCK_WAITING, /* for the guest to accept */
	VSOCK_TRYING,  /* to connect: the program's queue is full */
	VSOCK_OPEN,
	VSOCK_DEAD, /* its last event has yet to be taken */
};

struct vsock_host;

struct vsock_sock {
	struct vsock_host *host;
	enum vsock_phase phase;
	uint64_t id;
	int fd;
	uint32_t port;
	uint64_t deadline_ns;
	uint8_t line_len;
	char line[VSOCK_LINE_MAX];
	struct loop_op poll_op, timer_op;
	uint32_t polled; /* 1 + events asked of the loop, 0: none */
	bool want_read;
	bool hung_up;  /* the program has closed: what it sent can still be read */
	bool sinking;  /* it reads no more: bytes for it count as written */
	uint32_t shut; /* VSOCK_SHUT_* of the guest */
	uint32_t notes, written;
	uint8_t *out; /* VSOCK_BUF_BYTES, made when the program first falls behind */
	uint32_t out_at, out_len;
};

struct vsock_host_stats {
	uint64_t accepted;  /* connections of host programs */
	uint64_t refused;   /* of these too many, late, or with a bad first line */
	uint64_t connected; /* connections of the guest */
	uint64_t failed;    /* of these without a program that takes them */
};

struct vsock_host {
	struct loop *loop; /* NULL: this VM has no vsock */
	char path[VSOCK_PATH_MAX + 1];
	int listen_fd;
	uint64_t dev, ino; /* of the socket file that is ours */
	struct loop_op listen_op, retry_op;
	void (*wake)(void *arg); /* there are events; must not call back from there */
	void *arg;
	uint64_t last_id; /* of a program's connection */
	unsigned next_event;
	struct vsock_host_stats stats;
	struct vsock_sock socks[VSOCK_MAX_SOCKS]; /* last: see struct vm */
};

/* Nothing is opened yet: a side that stands by has no socket. */
int vsock_host_init(struct vsock_host *h, struct loop *l, const char *path, struct err *e);
/*
 * This side runs the VM: make the socket. One that nobody listens on is replaced; one that somebody
 * listens on, and a file that is no socket, is an error. No-op without a vsock. May wait 200 ms for
 * another process that is at it, too.
 */
int vsock_host_listen(struct vsock_host *h, struct err *e);
/* Close everything without a word to the programs; the socket file goes. Safe when zeroed. */
void vsock_host_done(struct vsock_host *h);
/*
 * Who made the connection of this id? Each counts its own, and none repeats: those of the guest are
 * odd, so that what the guest does, and nothing else, says which is the next (VSOCK_CONNECT).
 */
static inline bool vsock_id_is_guests(uint64_t id)
{
	return id & 1;
}
/* Carry an order out: struct vsock_order, then bytes. Never blocks. Unknown ids are ignored. */
void vsock_host_deliver(struct vsock_host *h, const void *entry, uint32_t len);
/* The next event; false when there is none. */
bool vsock_host_event(struct vsock_host *h, struct vsock_event *ret);
/*
 * Bytes of the program, -EAGAIN (an event follows), 0 when it sends no more, -EPIPE when it has
 * closed and all was read, -ENOENT for an unknown id.
 */
ssize_t vsock_host_read(struct vsock_host *h, uint64_t id, void *buf, uint32_t cap);
/* Close what the guest has not heard of, or did not answer: not on the guest's behalf. */
void vsock_host_refuse(struct vsock_host *h, uint64_t id);

#endif

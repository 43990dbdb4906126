/*
 * A listening socket, and connections that have not said yet what they are: a stream each, up to
 * its first frame, and with TLS the handshake before that. Silent ones cannot keep out whoever has
 * something to say, as long as they do not come faster than DOOR_MAX_PENDING in DOOR_AGE_NS; nor
 * can any number of connections fill the log.
 *
 * Owner: the loop.
 */
#ifndef FT_DOOR_H
#define FT_DOOR_H

#include <stdbool.h>
#include <stdint.h>

#include "vmm/base/err.h"
#include "vmm/base/loop.h"
#include "vmm/wire/stream.h"
#include "vmm/wire/tls.h"

/* At thousands of connections a second each has time to speak, over a far link, too. */
#define DOOR_MAX_PENDING 128
#define DOOR_AGE_NS	 25000000ull /* and has its place for so long, whoever comes */

struct door;

struct door_conn {
	struct door *door;
	struct stream stream;
	struct loop_op read_op, timer_op;
	bool used;
	uint64_t since_ns;
};

struct door {
	struct loop *loop;
	int listen_fd; /* -1: closed */
	struct loop_op listen_op;
	struct door_conn conns[DOOR_MAX_PENDING];
	bool (*open)(void *arg); /* false: who connects now is sent away unheard; may be NULL */
	/*
	 * The first frame of a connection, which is dropped after it unless door_take() took its
	 * stream. False: nobody wants it.
	 */
	bool (*said)(void *arg, struct door_conn *c, const struct frame *f);
	const struct tls *tls; /* of a tls: address; may be NULL */
	enum tls_role us;
	const char *strange; /* for the log: what a connection is that nobody wants */
	void *arg;
	/* private */
	bool over_tls;
	char wrong[160];	 /* with the last connection: said once, not at every try */
	uint64_t lines_ns;	 /* up to which the lines of the log are used up */
	unsigned long long kept; /* from it, since the last one */
};

/* open, said, tls, us, strange and arg are the caller's, set before; the rest is zero. */
int door_open(struct door *d, struct loop *l, const char *uri, struct err *e);
void door_close(struct door *d); /* safe twice */
/* In said(): the connection's stream is the caller's from here on. */
void door_take(struct door_conn *c, struct stream *ret);

#endif

/*
 * The way to an address: a connection, and what must be agreed on it before it can be written to.
 * Whoever dials bounds the time: it may take for ever.
 *
 * Owner: the loop.
 */
#ifndef FT_DIAL_H
#define FT_DIAL_H

#include <stdbool.h>

#include "vmm/base/err.h"
#include "vmm/base/loop.h"
#include "vmm/wire/chan_io.h"
#include "vmm/wire/tls.h"

struct dial {
	struct loop *loop;
	const struct tls *tls; /* of tls: addresses; may be NULL */
	enum tls_role us;
	void (*done)(void *arg,
		     const struct err *e); /* e is NULL when there is a channel to take */
	void *arg;
	/* private */
	struct loop_op op;
	struct chan chan; /* no ops: not connected */
	int fd;		  /* that is being connected, or -1 */
	bool over_tls;
};

/* fd is -1; loop, tls, us, done and arg are the caller's, set before. */
int dial_start(struct dial *d, const char *uri, struct err *e);
/* Once after done() without an error: the channel is the caller's. */
struct chan dial_take(struct dial *d);
/* No done() any more; what is not taken is closed. Safe twice. */
void dial_stop(struct dial *d);

#endif

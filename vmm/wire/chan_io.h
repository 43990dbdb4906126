/*
 * An open channel: what bytes go through once it is connected. Streams know nothing else of it, so
 * that a socket, a file, what encrypts, or a test can be under them.
 */
#ifndef VMM_CHAN_IO_H
#define VMM_CHAN_IO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "vmm/base/err.h"

struct chan;

/* Results below 0 are errnos. One thread may read while another writes. */
struct chan_ops {
	/*
	 * What is there, at most len bytes; 0 at the end; -EAGAIN: nothing now. Fewer than len: the
	 * rest is for a poll of the fd to tell.
	 */
	ssize_t (*read)(struct chan *c, void *buf, size_t len);
	/* As much as goes at once; -EAGAIN: nothing now. */
	ssize_t (*write)(struct chan *c, const struct iovec *iov, int niov);
	/* Until more can be written. 0, or -ETIMEDOUT at deadline_ns (CLOCK_MONOTONIC). */
	int (*wait)(struct chan *c, uint64_t deadline_ns);
	void (*close)(struct chan *c);
	/* NULL where there is nothing to do. */
	uint64_t (*rate)(const struct chan *c);
	void (*shut)(struct chan *c);
	void (*shallow)(struct chan *c);
	int (*ready)(struct chan *c, struct err *e);
	const char *(*why)(const struct chan *c);
};

struct chan {
	const struct chan_ops *ops;
	int fd;	       /* that a loop waits on for something to read */
	bool blocking; /* read() waits: never -EAGAIN, and a short read says nothing */
	void *self;    /* the kind's own */
};

extern const struct chan_ops chan_socket_ops; /* for channels through something above one */

/* Of a socket, a pipe or a file; it is the channel's to close from then on. */
struct chan chan_of(int fd);
void chan_close(struct chan *c);
/*
 * Of one that begins with a handshake: 0 when it can be written to; -EAGAIN: again when there is
 * something to read. A reader need not ask.
 */
int chan_ready(struct chan *c, struct err *e);
/* What an -EBADMSG of its read() was about. */
const char *chan_why(const struct chan *c);
/*
 * Write all of iov before deadline_ns, else -ETIMEDOUT and an unknown part is written. The deadline
 * does not bind a file or a blocking pipe. No SIGPIPE from sockets.
 */
int chan_write(struct chan *c, const struct iovec *iov, int niov, uint64_t deadline_ns);
/* Bytes a second that get through, as far as the channel knows; 0: it does not. */
uint64_t chan_rate(const struct chan *c);
/*
 * Little waits in it from here on: what is written is read soon, if the reader keeps up. Both ends,
 * each for what it does. Costs speed only where one round trip takes long, so not there.
 */
void chan_shallow(struct chan *c);
/* Whoever reads or writes it, in any thread, comes back. */
void chan_shut(struct chan *c);
/* Wait for events on a descriptor (-1: only wait). 0 when ready, else -ETIMEDOUT. */
int chan_wait_fd(int fd, short events, uint64_t deadline_ns);

#endif

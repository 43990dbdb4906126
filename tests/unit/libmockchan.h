/*
 * A channel that does what the test says: takes and gives bytes in any pieces, stalls, fails, ends.
 * Its clock is its own: a wait costs no time. What is atomic may be looked at while it is used.
 */
#ifndef TESTS_LIBMOCKCHAN_H
#define TESTS_LIBMOCKCHAN_H

#include <stdatomic.h>

#include "vmm/wire/chan_io.h"

#define MOCK_NEVER SIZE_MAX

struct mock_chan {
	/* Writing. */
	uint8_t *sent; /* what was taken */
	size_t nsent;
	size_t take;		 /* bytes that one write takes at most */
	size_t room;		 /* bytes that are taken before the next stall... */
	size_t more;		 /* ...and after each */
	uint64_t stall_ns;	 /* so long lasts each */
	_Atomic uint64_t now_ns; /* CLOCK_MONOTONIC when it began, and all stalls */
	atomic_bool hold;	 /* writes wait, in real time */
	size_t fail_write_at;	 /* this byte is not taken, but an error: */
	int write_error;
	unsigned writes, waits;

	/* Reading. */
	const uint8_t *in;
	size_t nin, at;
	size_t give;	/* bytes that one read gives at most */
	size_t stop_at; /* before this byte there is nothing, once */
	size_t fail_read_at;
	int read_error; /* 0: the end; -EAGAIN: no more for now */
	unsigned reads;

	/* The rest. */
	uint64_t rate;
	unsigned shut, closed;
};

/* Takes all, has nothing to read and no end. The mock must stay; mock_chan_done() when closed. */
struct chan mock_chan_open(struct mock_chan *m);
/* To be read: all of it, then what read_error says, where fail_read_at says. */
void mock_chan_feed(struct mock_chan *m, const void *in, size_t n);
void mock_chan_done(struct mock_chan *m);

#endif

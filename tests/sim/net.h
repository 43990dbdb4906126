/*
 * TCP between the hosts: byte streams in order, each direction of a link with its own fate. What is
 * sent into a direction that is cut stays there until it heals, as TCP sends it again; a host that
 * lost its power says nothing any more.
 */
#ifndef TESTS_SIM_NET_H
#define TESTS_SIM_NET_H

#include "tests/sim/fd.h"

struct direction {
	bool cut;
	uint64_t delay_ns, jitter_ns;
	uint64_t ns_per_kib; /* 0: as fast as you like */
	unsigned window;     /* bytes that may wait */
	bool splits;	     /* a write takes only a part */
};

/* From one host to the other, by the index of who sends. */
extern struct direction directions[HOSTS];

void net_cut(unsigned from, bool cut);
/* Some of the connections break, at both ends. */
void net_break(void);
/* Its connections just end, without a word. */
void net_silence(const struct proc *p);

#endif

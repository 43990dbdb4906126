/*
 * What systemd is told of a service of Type=notify: that it has started, its state, that its loop
 * turns. One datagram each (sd_notify(3), the protocol's section), never waited for. Without
 * NOTIFY_SOCKET: nothing. Owner: the loop.
 */
#ifndef VMM_NOTIFY_H
#define VMM_NOTIFY_H

#include <stdbool.h>
#include <stdint.h>

#include "vmm/base/loop.h"

struct notify {
	int fd; /* -1: nobody is told */
	struct loop *loop;
	struct loop_op watchdog_op;
	uint64_t watchdog_ns; /* 0: nobody watches */
	bool ready;
	char state[200]; /* the last one said, "" for none */
};

/*
 * By the environment, which nobody inherits from here on: programs that this process starts do not
 * speak for it. What is wrong with it is logged.
 */
void notify_open(struct notify *n, struct loop *l);
/* From here on systemd's watchdog counts: the loop must be about to run. */
void notify_ready(struct notify *n);
void notify_state(struct notify *n, const char *word, const char *note);
/* It is about to end; what systemd waits for is its process. Safe twice, and without notify_open().
 */
void notify_close(struct notify *n);

#endif

/*
 * What systemd is told of a service of Type=notify: that it has started, its state, that its loop
 * turns. One datagram each (sd_notify(3)), never waited for, so all of it is said again every some
 * seconds: one may be lost. Without NOTIFY_SOCKET: nothing. Owner: the loop.
 */
#ifndef VMM_NOTIFY_H
#define VMM_NOTIFY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "vmm/base/loop.h"

struct notify {
	int fd; /* -1: nobody is told */
	struct loop *loop;
	struct loop_op again_op;
	uint64_t again_ns;
	bool watched;	   /* by a watchdog */
	const char *phase; /* the line that says it, "" before it is ready */
	void (*state)(void *arg, char *ret, size_t cap); /* a line for people */
	void *arg;
};

/*
 * By the environment, which nobody inherits from here on: programs that this process starts do not
 * speak for it. What is wrong with it is logged.
 */
void notify_open(struct notify *n, struct loop *l, void (*state)(void *arg, char *ret, size_t cap),
		 void *arg);
/* From here on systemd's watchdog counts: the loop must be about to run. */
void notify_ready(struct notify *n);
/* The state is another one. */
void notify_changed(struct notify *n);
/* It is about to end, but goes on to feed the watchdog: an image may take its time until then. */
void notify_stopping(struct notify *n);
/* Safe twice, and without notify_open(). */
void notify_close(struct notify *n);

#endif

/*
 * A watchdog as the WDAT table describes it (vmm/boot/acpi.c): a count that the guest sets and
 * resets, in steps of 100 ms. Ports 0x610 to 0x61f, 32 bits each. Time that the VM is paused does
 * not count.
 */
#ifndef DEVICES_WATCHDOG_H
#define DEVICES_WATCHDOG_H

#include "devices/device.h"

#define WATCHDOG_BASE	   0x610
#define WATCHDOG_PERIOD_MS 100
#define WATCHDOG_COUNT_MAX 6000 /* 10 minutes */
#define WATCHDOG_RUNNING   1	/* bit of WATCHDOG_CONTROL */

enum {
	WATCHDOG_CONTROL = 0,
	WATCHDOG_COUNT = 4, /* what a reset begins with */
	WATCHDOG_KICK = 8,  /* 1: reset */
	WATCHDOG_LEFT = 12, /* read only */
	WATCHDOG_PORTS = 16,
};

/* expired(arg, seconds) is called on the loop thread; the watchdog has stopped then. */
int watchdog_new(const struct dev_env *env, void (*expired)(void *arg, unsigned seconds), void *arg,
		 struct device **ret, struct err *e);

extern const struct state_desc watchdog_desc;

#endif

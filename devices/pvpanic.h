/*
 * pvpanic (QEMU, docs/specs/pvpanic): a guest kernel that panics says so. Port 0x505.
 */
#ifndef DEVICES_PVPANIC_H
#define DEVICES_PVPANIC_H

#include "devices/device.h"

#define PVPANIC_PORT 0x505

enum { PVPANIC_PANICKED = 1, PVPANIC_CRASH_LOADED = 2 };

/* fn(arg, event) is called on a vCPU thread: it must only leave a note for others. */
int pvpanic_new(const struct dev_env *env, void (*fn)(void *arg, uint8_t event), void *arg,
		struct device **ret, struct err *e);

extern const struct state_desc pvpanic_desc;

#endif

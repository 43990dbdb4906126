/*
 * The PC's keyboard controller at 0x60/0x64, without keyboard or mouse: enough that drivers find
 * it, see nothing plugged in, and can reset the machine by it.
 */
#ifndef DEVICES_I8042_H
#define DEVICES_I8042_H

#include "devices/device.h"

#define I8042_DATA 0x60
#define I8042_CMD  0x64

/* reset(arg) is called on a vCPU thread: it must only leave a note for others. */
int i8042_new(const struct dev_env *env, void (*reset)(void *arg), void *arg, struct device **ret,
	      struct err *e);

extern const struct state_desc i8042_desc;

#endif

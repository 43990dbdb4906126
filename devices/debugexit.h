/* Port 0xf4: a guest that writes byte N asks for the machine to end with code N. For tests. */
#ifndef DEVICES_DEBUGEXIT_H
#define DEVICES_DEBUGEXIT_H

#include "devices/device.h"

#define DEBUGEXIT_PORT 0xf4

/* fn(arg, code) is called on a vCPU thread: it must only leave a note for others. */
int debugexit_new(const struct dev_env *env, void (*fn)(void *arg, int code), void *arg,
		  struct device **ret, struct err *e);

extern const struct state_desc debugexit_desc;

#endif

/* A 16550A serial port at 0x3f8, IRQ 4. */
#ifndef DEVICES_SERIAL_H
#define DEVICES_SERIAL_H

#include "devices/device.h"
#include "net/obuf.h"

#define SERIAL_BASE 0x3f8
#define SERIAL_GSI  4

/* What the guest prints goes through env->obuf and then to out(arg, ...). Loop thread. */
int serial_new(const struct dev_env *env, obuf_sink_fn *out, void *arg, struct device **ret,
	       struct err *e);
/* Bytes for the guest; returns how many fitted (the rest is the caller's to offer again or drop).
 */
unsigned serial_input(struct device *d, const void *bytes, unsigned len);

extern const struct state_desc serial_desc;

#endif

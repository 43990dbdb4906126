/* A 16550A serial port at 0x3f8, IRQ 4. */
#ifndef DEVICES_SERIAL_H
#define DEVICES_SERIAL_H

#include "devices/device.h"
#include "net/obuf.h"

#define SERIAL_BASE 0x3f8
#define SERIAL_GSI  4

#define SERIAL_TYPED_MAX 1024u /* bytes that wait for the guest to receive them */

/* What the guest prints goes through env->obuf and then to out(arg, ...). Loop thread. */
int serial_new(const struct dev_env *env, obuf_sink_fn *out, void *arg, struct device **ret,
	       struct err *e);
/*
 * Bytes for the guest; how many were taken: none while the port is quiet, or inputs.ready() says
 * no. The rest is the caller's to offer again or drop. What is taken is part of the state. Loop
 * thread.
 */
unsigned serial_input(struct device *d, const void *bytes, unsigned len);
/*
 * What a primary's guest was given so, for a twin's (devices/inputs.h): SERIAL_TYPED_MAX bytes at
 * most. False: full, no more until inputs.room(), or it is lost. Loop thread.
 */
bool serial_put(struct device *d, const void *bytes, unsigned len);

extern const struct state_desc serial_desc;

#endif

/*
 * The console as a socket, NAME.console beside the control socket: raw bytes, both ways, for the
 * VM's owner and root. What the guest prints comes here as it leaves the output buffer; what is
 * typed is for its serial port. Bytes that the port has taken are part of the guest's state; others
 * end with the host, as on a cable.
 *
 * Owner: the loop thread.
 */
#ifndef VMM_CONSOLE_SOCK_H
#define VMM_CONSOLE_SOCK_H

#include <stdint.h>

#include "vmm/base/err.h"
#include "vmm/base/loop.h"

struct console_sock;

/* How many of the bytes were taken, the rest is offered again; negative: no VM runs here. */
typedef int console_input_fn(void *arg, const void *bytes, unsigned len);

/* After ctl_open() of that name, which says whose it is: a socket that is left over is replaced. */
int console_sock_open(struct console_sock **ret, struct loop *l, const char *name,
		      console_input_fn *input, void *arg, struct err *e);
void console_sock_close(struct console_sock *s); /* NULL is fine */
/* To all who are connected; whoever leaves 64 KiB unread is dropped. arg: struct console_sock. */
void console_sock_put(void *arg, const void *data, uint32_t len);

#endif

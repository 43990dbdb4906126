/*
 * Where console bytes of the guest go: standard output, a file, or nowhere. Output comes through
 * the output buffer only, so it is held and released with the epoch that produced it.
 */
#ifndef VMM_CONSOLE_H
#define VMM_CONSOLE_H

#include <stdbool.h>
#include <stdint.h>

#include "vmm/base/err.h"

struct console {
	int out_fd; /* -1: bytes are dropped */
	uint64_t dropped;
	bool stuck; /* the last write found no room in time */
	/* Gets the same bytes; may be NULL. */
	void (*tee)(void *arg, const void *data, uint32_t len);
	void *tee_arg;
};

/* "stdio", "none", or a file that is appended to (created 0600). */
int console_open(struct console *c, const char *spec, struct err *e);
/* An output buffer sink: writes the bytes out; arg is the struct console. */
void console_deliver(void *arg, const void *data, uint32_t len);
void console_close(struct console *c);

#endif

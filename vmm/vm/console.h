/*
 * Where console bytes of the guest go: standard output, a file, or nowhere. Output comes through
 * the output buffer only, so it is held and released with the epoch that produced it.
 *
 * Whoever reads them is never waited for: bytes go into a ring, and from there as the reader takes
 * them. While the ring is full the guest waits, as for a slow line; what was acknowledged has its
 * place. After two seconds without a byte taken the reader counts as stuck: what the guest prints
 * then is lost and counted, until the reader has caught up.
 *
 * Owner: the loop.
 */
#ifndef VMM_CONSOLE_H
#define VMM_CONSOLE_H

#include <stdbool.h>
#include <stdint.h>

#include "vmm/base/err.h"
#include "vmm/base/loop.h"

/* A file is put aside when it has so much: vmm/vm/console_file.h. */
#define CONSOLE_FILE_BYTES (64ull << 20)

struct console_file;
struct obuf;

struct console {
	int out_fd;	  /* -1: bytes are dropped */
	uint64_t dropped; /* bytes lost since the start */
	/* Gets the same bytes; may be NULL. */
	void (*tee)(void *arg, const void *data, uint32_t len);
	void *tee_arg;
	/* private to console.c */
	struct loop *loop;
	struct obuf *obuf;
	uint8_t *ring;
	uint32_t at, len; /* what waits, the part at the kernel included */
	uint32_t writing; /* that part */
	bool full, stuck;
	uint64_t told, error_told; /* of dropped; log_may() */
	char *path;		   /* of a regular file; else NULL */
	uint64_t bytes, limit;	   /* in it; when it is put aside */
	struct console_file *next; /* that is under way: nothing is written */
	struct loop_op write_op, retry_op, stuck_op;
};

/* "stdio", "none", or a file that is appended to (created 0600), and put aside as FILE.1. ob: of
 * what is delivered. */
int console_open(struct console *c, struct loop *l, struct obuf *ob, const char *spec,
		 struct err *e);
/* An output buffer sink: never waits; arg is the struct console. */
bool console_deliver(void *arg, const void *data, uint32_t len);
/* Run the loop until what waits is out; a second at most, and not for a reader that is stuck. */
void console_flush(struct console *c);
void console_close(struct console *c);

#endif

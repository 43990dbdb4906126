/*
 * The machine description as a flattened device tree: given to the guest, and sent in the
 * handshake so that the peer builds the same machine. Pure functions.
 */
#ifndef VMM_FDT_H
#define VMM_FDT_H

#include <stddef.h>

#include "vmm/base/err.h"
#include "vmm/machine/machine.h"

#define FDT_MAX_BYTES 65536

/* Build into buf; returns bytes or a negative errno. */
int fdt_build(const struct machine *m, void *buf, size_t cap, struct err *e);
/* Parse and check one from a peer or a file: every value is within the machine's limits after it.
 */
int fdt_parse(const void *buf, size_t len, struct machine *ret, struct err *e);

#endif

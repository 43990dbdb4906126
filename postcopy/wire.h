/*
 * Payloads of the migration frames: little-endian structs without padding holes. Pages and state
 * have formats of their own (vmm/copy/pages.h, vmm/machine/state.h).
 */
#ifndef POSTCOPY_WIRE_H
#define POSTCOPY_WIRE_H

#include <stdint.h>

enum migrate_mode { MIGRATE_PRECOPY = 1 };

/* FRAME_OFFER: followed by the machine description, fdt_bytes long. */
struct wire_offer {
	uint32_t mode; /* enum migrate_mode */
	uint32_t fdt_bytes;
};

/* FRAME_SWITCH */
struct wire_switch {
	uint32_t mode;
	uint32_t paused;     /* 1: by the user; it stays so */
	uint64_t stopped_ns; /* for so long the guest stood when this was written */
};

/* FRAME_READY */
struct wire_ready {
	uint64_t lock_ns, load_ns; /* what that took */
};

/* FRAME_RUNS */
struct wire_runs {
	uint64_t run_ns; /* from GO to the first vCPU let go */
};

#endif

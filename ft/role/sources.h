/*
 * COLO, the secondary: what was different in the two guests' devices when a checkpoint had to make
 * them one again. The twin stands some milliseconds away from where the primary's guest stood, so a
 * field that is only further on counts, too: it is the ones that differ each time which tell what
 * drives the two apart. Counted once a second at most. Owner: the loop.
 */
#ifndef FT_SOURCES_H
#define FT_SOURCES_H

#include <stdint.h>

#include "vmm/vm/vm.h"

#define SOURCES_MAX  48 /* fields; what comes later is counted together */
#define SOURCES_NAME 96

struct source_field {
	char name[SOURCES_NAME]; /* "virtio-net[5].queues[0].last_avail" */
	uint64_t count;		 /* looks at which it differed */
};

struct sources {
	struct source_field fields[SOURCES_MAX];
	unsigned n;
	uint64_t looks, others;
	uint64_t looked_ns;
};

/* The twin stands, and the checkpoint that is to undo it is decoded. Some 100 us, if it is time. */
void sources_look(struct sources *s, struct vm *vm);

#endif

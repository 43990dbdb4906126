/*
 * Background memory load: a number of pages changed on every tick, each changed part verified
 * before it is changed again.
 */
#ifndef GUESTS_LIB_BGLOAD_H
#define GUESTS_LIB_BGLOAD_H

#include <stdbool.h>
#include <stdint.h>

struct bgload {
	uint64_t pages;
	uint64_t tick; /* ticks done */
	uint64_t next; /* ns: when the next one is due */
	uint64_t *mem;
};

/* Takes `pages` pages of memory; 0: no load. */
void bgload_start(struct bgload *b, uint64_t pages);
/* Does what is due. Ends the guest with code 3 after printing CORRUPT if memory has changed. */
void bgload_poll(struct bgload *b, uint64_t now_ns);

#endif

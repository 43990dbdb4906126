/*
 * What the program and its world allocate, in one place that is emptied at once: a history ends
 * with processes that were killed, and the next one in the same process is to begin as it did.
 * Libraries have their own allocator, and the sanitizers want all of it: then this one is idle.
 */
#ifndef TESTS_SIM_HEAP_H
#define TESTS_SIM_HEAP_H

#include <stdbool.h>
#include <stddef.h>

/* Once, before all else. */
void heap_init(void);
/* False: allocations are the C library's, and a history needs a process of its own. */
bool heap_is_ours(void);
/* What is there now stays; heap_rewind() forgets all that came later, and sets back all variables
 * of the program. */
void heap_mark(void);
void heap_rewind(void);

#endif

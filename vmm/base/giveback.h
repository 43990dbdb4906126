/*
 * What starting took and running does not need: heap, and the code that only starts. A host has as
 * many VMs as its memory lets it have.
 */
#ifndef VMM_GIVEBACK_H
#define VMM_GIVEBACK_H

/* Once, when all has started. Any thread. What is needed after all comes back by itself. */
void giveback_start(void);

#endif

/* The pager's thread: faults into requests, and urgent pages into memory. For pager.c. */
#ifndef POSTCOPY_PAGER_THREAD_H
#define POSTCOPY_PAGER_THREAD_H

#include "postcopy/pager.h"

/*
 * Faults are read while fewer than PAGER_ASKED are asked for, 16 at a time; the loop asks until
 * there are twice as many; and what could not be filled is asked for again.
 */
#define PAGER_ASKS (2 * PAGER_ASKED + 128 + 2 * FILL_RUN)

void *pager_thread(void *arg); /* a struct pager, started */
/* Any thread. */
void pager_ask(struct pager *p, uint64_t page); /* one that is ASKED now */
void pager_tell(struct pager *p, unsigned events);
void pager_wake(struct pager *p);
/* What a fill has filled is looked at: who waits is told. */
void pager_filled(struct pager *p, struct fill *f);
/* The source has sent all it has, all of that is here, and pages are missing. */
bool pager_cheated(const struct pager *p);

#endif

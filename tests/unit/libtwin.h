/* For tests of a primary (libprimary.h) whose guest runs at the secondary, too. */
#ifndef TESTS_LIBTWIN_H
#define TESTS_LIBTWIN_H

#include <stdint.h>

#include "tests/unit/libprimary.h"

extern char twin_text[64]; /* what the guests print */

/* Both guests print so many bytes of it, this one now and the twin when it says so. */
void prints(struct rig *r, unsigned n);
void twin_prints(struct rig *r, uint64_t epoch, unsigned n);
/* What is on its way has arrived. */
void settle(struct rig *r);
/* STEADY, a mirror, and nothing sealed since. */
void meet(struct rig *r);
/* An epoch with a twin behind it is in flight. */
uint64_t seal(struct rig *r);
/* An epoch more, and the twin runs. Returns the one that is open. */
uint64_t next(struct rig *r);
/* STEADY, and a twin that runs; likewise. */
uint64_t twin_run(struct rig *r);

#endif

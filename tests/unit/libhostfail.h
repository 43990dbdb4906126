/* A host that cannot: it stands in for the calls that make threads and fill missing pages. */
#ifndef TESTS_LIBHOSTFAIL_H
#define TESTS_LIBHOSTFAIL_H

#include <stdbool.h>

/* The n-th thread from here on is not made, whoever asks for it (-EAGAIN). 0: each is. */
void hostfail_thread(unsigned n);
/* Was there one? */
bool hostfail_happened(void);

/*
 * So many calls that fill pages (UFFDIO_COPY, UFFDIO_ZEROPAGE) fail with this errno. done: what
 * they say that they did, in bytes, and have, or a negative errno, as some kernels do.
 */
void hostfail_fill(unsigned count, int error, long done);
/* How many of them are still to fail. Any thread. */
unsigned hostfail_left(void);

#endif

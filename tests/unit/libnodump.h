/* Is memory kept out of core dumps? */
#ifndef TESTS_LIBNODUMP_H
#define TESTS_LIBNODUMP_H

#include <stdbool.h>

/* Of the mapping that p is in. */
bool is_nodump(const void *p);

#endif

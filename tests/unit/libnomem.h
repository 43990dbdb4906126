/* Memory that runs out where a test says: it stands in for the calls that give some. */
#ifndef TESTS_LIBNOMEM_H
#define TESTS_LIBNOMEM_H

#include <stdbool.h>

/* The n-th allocation of this thread from here on fails, and so many in all. 0: none. */
void nomem_at(unsigned n, unsigned count);
/* Has it? */
bool nomem_happened(void);

#endif

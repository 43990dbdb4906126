/*
 * Another program, run until it has ended or its time is up: then it is killed, and whatever it has
 * started and left in its process group, too. Blocks; for a job.
 */
#ifndef VMM_PROGRAM_H
#define VMM_PROGRAM_H

#include <stddef.h>
#include <stdint.h>

#include "vmm/base/err.h"

struct program_end {
	int code;	     /* its exit code, or 128 and the signal */
	char out[4096];	     /* standard output; it ends with a NUL */
	size_t len;	     /* of it */
	char complaint[120]; /* the first line of standard error, printable */
};

/*
 * argv[0] is its path; standard input is empty. until: CLOCK_MONOTONIC, ns. 0: it has ended, and
 * ret says how. -EIO: it did not in time. -EMSGSIZE: it said more than ret holds. Others: it could
 * not be started.
 */
int program_run(char *const argv[], uint64_t until, struct program_end *ret, struct err *e);

#endif

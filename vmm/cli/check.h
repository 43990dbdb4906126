/*
 * What `ftvmm check` finds: one finding for each thing that a run needs of its host. Each is tried
 * as `ftvmm run` would, and given back at once; nothing is written, no guest runs, and what is in a
 * kernel or a snapshot is not looked at.
 */
#ifndef VMM_CHECK_H
#define VMM_CHECK_H

#include <jansson.h>
#include <stdbool.h>

#include "vmm/base/err.h"
#include "vmm/conf/config.h"

enum check_is {
	CHECK_OK,
	CHECK_WARN,  /* it runs, with less than it could have, or not yet */
	CHECK_FAILS, /* it would not run */
};

struct check {
	const struct config *cfg;
	json_t *found; /* array of {"is", "what", "text"} */
	bool fails;
};

void check_say(struct check *c, enum check_is is, const char *what, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));
/* code 0: OK with the text, else FAILS with e's. */
void check_tried(struct check *c, const char *what, int code, const struct err *e,
		 const char *text);

void check_warn(void *check, const char *what, const char *text); /* for advise() */

/* check_host.c: KVM, io_uring, memory, userfaultfd, the name. */
void check_host(struct check *c);
/* check_devices.c: images and networks. */
void check_devices(struct check *c);
/*
 * check_peers.c: where it listens, whom it connects to, the arbiter. Some seconds each; a name
 * server that does not answer takes longer.
 */
void check_peers(struct check *c);

#endif

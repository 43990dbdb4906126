/*
 * `ftvmm trace` at the VM: spans are kept while a client asks for them, again and again. An answer
 * waits a moment, so that it has some, or until the process ends. One that stays away is given up.
 *
 * Owner: the loop.
 */
#ifndef VMM_RUN_TRACE_H
#define VMM_RUN_TRACE_H

#include <jansson.h>

#include "vmm/base/loop.h"
#include "vmm/cli/ctl.h"

#define RUN_TRACE_SPANS 1024 /* in an answer, which must fit into a line */

enum run_trace_state {
	RUN_TRACE_OFF,
	RUN_TRACE_ASKED,    /* an answer is owed */
	RUN_TRACE_ANSWERED, /* and the next question is awaited */
};

struct run;

struct run_trace {
	enum run_trace_state state;
	uint64_t session; /* who asks: the client's number */
	uint64_t begun_epochs;
	struct loop_op timer;
	struct ctl_later later;
};

json_t *serve_trace(struct run *r, json_t *request, struct err *e);
/* The process ends: what there is goes out. */
void run_trace_stop(struct run *r);

#endif

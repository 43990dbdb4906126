/* What a running VM does when it is asked through its control socket. Loop thread. */
#ifndef VMM_RUN_COMMAND_H
#define VMM_RUN_COMMAND_H

#include <jansson.h>

#include "vmm/base/err.h"

struct run;

/* A ctl_fn; arg is the struct run. */
json_t *run_command(void *arg, const char *cmd, json_t *request, struct err *e);

/* For the table of commands: request is the whole object, the answer a new reference. */
json_t *serve_status(struct run *r, json_t *request, struct err *e);
json_t *serve_events(struct run *r, json_t *request, struct err *e);
json_t *serve_pause(struct run *r, json_t *request, struct err *e);
json_t *serve_resume(struct run *r, json_t *request, struct err *e);
json_t *serve_set(struct run *r, json_t *request, struct err *e); /* all or nothing */
json_t *serve_failover(struct run *r, json_t *request, struct err *e);
json_t *serve_migrate(struct run *r, json_t *request, struct err *e); /* run_migrate.c */
/* run_dump.c: pause_us, and machine (FDT) and state (vmm/machine/state.h) in base64 */
json_t *serve_dump(struct run *r, json_t *request, struct err *e);
json_t *serve_stop(struct run *r, json_t *request, struct err *e);

#endif

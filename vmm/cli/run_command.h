/* What a running VM does when it is asked through its control socket. */
#ifndef VMM_RUN_COMMAND_H
#define VMM_RUN_COMMAND_H

#include <jansson.h>

#include "vmm/base/err.h"

/* A ctl_fn; arg is the struct run. */
json_t *run_command(void *arg, const char *cmd, json_t *args, struct err *e);

#endif

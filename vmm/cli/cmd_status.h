/* `ftvmm status`: VMs as a table or as JSON, and their state as an exit code. */
#ifndef VMM_CMD_STATUS_H
#define VMM_CMD_STATUS_H

#include "vmm/cli/command.h"

/* Of w->name, or of all when that is NULL. Returns the highest code of their states. */
int cmd_status(const struct command_words *w);

#endif

/* `ftvmm failover`: a protected VM goes over to its secondary; --test: and is protected again. */
#ifndef VMM_CMD_FAILOVER_H
#define VMM_CMD_FAILOVER_H

#include "vmm/cli/command.h"

/*
 * An exit code. With --test, EXIT_FAILED when this host does not stand by for the VM, in step,
 * within --timeout: the VM runs at the other one then, and is not protected.
 */
int cmd_failover(const struct command_words *w);
void cmd_failover_print_options(void);

#endif

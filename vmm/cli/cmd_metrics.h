/* `ftvmm metrics`: a VM's numbers, or those of all VMs of the host, for a monitor. */
#ifndef VMM_CMD_METRICS_H
#define VMM_CMD_METRICS_H

#include "vmm/cli/command.h"

/* Returns 0 when the text is whole, also when a VM does not answer: that is in it. */
int cmd_metrics(const struct command_words *w);

#endif

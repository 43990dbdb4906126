/* `ftvmm top`: the VMs of this host, a line each, anew each second. */
#ifndef VMM_CMD_TOP_H
#define VMM_CMD_TOP_H

#include "vmm/cli/command.h"

/* Goes on until the user ends it, or once; then 0. */
int cmd_top(const struct command_words *w);

#endif

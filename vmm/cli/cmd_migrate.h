/* `ftvmm migrate`: an exit code, when the VM runs at the destination, or goes on here. */
#ifndef VMM_CMD_MIGRATE_H
#define VMM_CMD_MIGRATE_H

#include "vmm/cli/command.h"

int cmd_migrate(const struct command_words *w);

#endif

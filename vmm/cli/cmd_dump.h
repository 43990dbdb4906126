/* `ftvmm dump`: the state of a VM that runs, or of a snapshot, by device and field; or of two. */
#ifndef VMM_CMD_DUMP_H
#define VMM_CMD_DUMP_H

#include "vmm/cli/command.h"

int cmd_dump(const struct command_words *w); /* an exit code; EXIT_DIFFERS with --diff */

#endif

/* `ftvmm wait`: until a VM is in one of some states. */
#ifndef VMM_CMD_WAIT_H
#define VMM_CMD_WAIT_H

#include "vmm/cli/command.h"

/*
 * Returns 0 when it is in one of them, EXIT_FAILED when it is not within --timeout or cannot be
 * asked, EXIT_GONE when its process has ended before that, EXIT_FENCED when that was fenced.
 */
int cmd_wait(const struct command_words *w);
void cmd_wait_print_options(void);

#endif

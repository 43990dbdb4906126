/* `ftvmm trace`: what a VM does when, as a file for a viewer of Chrome's trace format. */
#ifndef VMM_CMD_TRACE_H
#define VMM_CMD_TRACE_H

#include "vmm/cli/command.h"

#define CMD_TRACE_FILE_MAX (64u << 20) /* bytes; the trace ends there */

/* Ends at its time, at that size, with the VM or by a signal; the file is whole then. */
int cmd_trace(const struct command_words *w);
void cmd_trace_print_options(void);

#endif

/* The commands that ask a VM for something; `ftvmm status` has its own file. Each an exit code. */
#ifndef VMM_CMD_CTL_H
#define VMM_CMD_CTL_H

#include "vmm/base/err.h"
#include "vmm/cli/command.h"

#define CTL_SHORT_MS 5000 /* for an answer of a VM that has nothing else to do */

int cmd_send(const struct command_words *w); /* the command alone */
int cmd_set(const struct command_words *w);
int cmd_snapshot(const struct command_words *w);
int cmd_events(const struct command_words *w);
int cmd_console(const struct command_words *w);
/* Done when the VM has left, so that the next command finds its name, disks and taps free. */
int cmd_stop(const struct command_words *w);

/* The VM may run in another folder. -EINVAL: it does not fit. */
int cmd_absolute(const char *path, char *ret, size_t cap, struct err *e);
/* Say why it failed. Returns the exit code. */
int cmd_fail(const struct err *e);
void cmd_print_json(json_t *value); /* as one line */

#endif

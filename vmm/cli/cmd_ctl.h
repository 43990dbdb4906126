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

/* The state that a VM told last, "" for none, and why it is so. */
struct cmd_told {
	char state[32], note[480];
};

/* A line, or an answer, that may be an ft-state; others change nothing. */
void cmd_hear(struct cmd_told *t, json_t *event);
void cmd_hear_line(struct cmd_told *t, const char *line);
/* Has it ended because the other side has the VM? */
bool cmd_was_handed(const struct cmd_told *t);

/* The VM may run in another folder. -EINVAL: it does not fit. */
int cmd_absolute(const char *path, char *ret, size_t cap, struct err *e);
/* Say why it failed. Returns the exit code. */
int cmd_fail(const struct err *e);
void cmd_print_json(json_t *value); /* as one line */

#endif

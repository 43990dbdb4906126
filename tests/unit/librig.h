/* A `run` process without a VM in it, and a client at its control socket. */
#ifndef TESTS_LIBRIG_H
#define TESTS_LIBRIG_H

#include "vmm/cli/run.h"

struct rig {
	char dir[32];
	struct run *r;
	int client;
};

extern char rig_out[16384]; /* what was heard last */

int rig_setup(void **state);
int rig_teardown(void **state);
/* All that comes within a few rounds. */
const char *rig_hear(struct rig *rig);
/* A request {"cmd":"CMD"}, and what comes of it; cmd may bring more members along. */
const char *rig_ask(struct rig *rig, const char *cmd);

#endif

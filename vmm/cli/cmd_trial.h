/* ftvmm trial: two hosts and a client on this machine. */
#ifndef VMM_CMD_TRIAL_H
#define VMM_CMD_TRIAL_H

int cmd_trial(int argc, char **argv);

#endif

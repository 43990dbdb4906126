/* The subcommands that talk to a running VM. */
#ifndef VMM_CMD_CTL_H
#define VMM_CMD_CTL_H

/* Whole subcommand, argv[0] being its name. Returns the exit code of the process. */
int ctl_main(int argc, char **argv);

#endif

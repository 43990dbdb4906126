/* `ftvmm run`: one VM in one process, in the role that the configuration names. */
#ifndef VMM_CMD_RUN_H
#define VMM_CMD_RUN_H

/* argv[0] is "run". Returns the exit code of the process. */
int cmd_run(int argc, char **argv);

#endif

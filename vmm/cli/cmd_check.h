/* `ftvmm check`: would `ftvmm run` with these words run here? */
#ifndef VMM_CMD_CHECK_H
#define VMM_CMD_CHECK_H

int cmd_check(int argc, char **argv);

#endif

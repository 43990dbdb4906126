/* `ftvmm console`: a terminal at the guest's serial port. */
#ifndef VMM_CMD_CONSOLE_H
#define VMM_CMD_CONSOLE_H

/* Until the VM leaves this host, or Ctrl-] is typed at a terminal. Exit code. */
int console_attach(const char *name);

#endif

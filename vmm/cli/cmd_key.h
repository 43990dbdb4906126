/* ftvmm key FILE: what --tls-psk reads, at both sides. */
#ifndef VMM_CMD_KEY_H
#define VMM_CMD_KEY_H

int cmd_key(int argc, char **argv);

#endif

/* A command of the program, as a shell would start it. */
#ifndef TESTS_LIBCOMMAND_H
#define TESTS_LIBCOMMAND_H

#include <stddef.h>

/* "status web1": its exit code; what it prints, on either stream, is in out. */
int command_says(const char *line, char *out, size_t cap);

#endif

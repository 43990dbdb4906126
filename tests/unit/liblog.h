/* The log, caught: it stands in for log_write(). */
#ifndef TESTS_LIBLOG_H
#define TESTS_LIBLOG_H

#include <stdbool.h>

/* Forget what was logged; all levels are caught. */
void logged_reset(void);
/* Lines, as "level: text", that contain this. Any thread's. */
unsigned logged(const char *text);
/* From now on each line goes to stderr, too. */
void logged_to_stderr(void);

#endif

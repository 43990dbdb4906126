/*
 * A message as one line of the log: as text, or as an object of JSON. What is in it comes from
 * outside, too: a path, a peer's words. Pure functions, but for the clock. Any thread.
 */
#ifndef VMM_LOG_LINE_H
#define VMM_LOG_LINE_H

#include <stdbool.h>
#include <stddef.h>

#include "vmm/base/log.h"

#define LOG_LINE_MAX 1024 /* bytes, newline included; a longer message is cut */

struct log_style {
	enum log_form form;
	bool journal; /* its reader takes a priority in front, and knows the time */
	char name[64];
};

/*
 * Into line, of LOG_LINE_MAX bytes, without a NUL; returns its length. Control characters become
 * blanks, so that it is one line; in JSON, what is no UTF-8 a question mark. text may be changed.
 */
size_t log_line(const struct log_style *s, enum log_level level, char *text, char *line);
/* Is this file the one that the variable JOURNAL_STREAM, or NULL, names? */
bool log_line_is_journal(const char *journal_stream, int fd);
/* Now, UTC, as in "2026-11-01T10:00:00.000000Z"; cap 32 is enough. */
void log_line_time(char *ret, size_t cap);

#endif

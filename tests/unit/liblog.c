#include "tests/unit/liblog.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "vmm/base/log.h"

#define LINES 256

void __wrap_log_write(enum log_level level, const char *fmt, ...);

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char lines[LINES][700];
static unsigned nlines;
static bool to_stderr;

void __wrap_log_write(enum log_level level, const char *fmt, ...)
{
	static const char *const name[] = {"error", "warning", "info", "debug"};
	char *line;
	size_t n;
	va_list ap;

	pthread_mutex_lock(&lock);
	line = lines[nlines++ % LINES];
	n = (size_t)snprintf(line, sizeof(lines[0]), "%s: ", name[level]);
	va_start(ap, fmt);
	vsnprintf(line + n, sizeof(lines[0]) - n, fmt, ap);
	va_end(ap);
	if (to_stderr)
		fprintf(stderr, "%s\n", line);
	pthread_mutex_unlock(&lock);
}

void logged_reset(void)
{
	log_init(LOG_DEBUG, "test");
	pthread_mutex_lock(&lock);
	nlines = 0;
	pthread_mutex_unlock(&lock);
}

unsigned logged(const char *text)
{
	unsigned n = 0;

	pthread_mutex_lock(&lock);
	for (unsigned i = 0; i < nlines && i < LINES; i++)
		if (strstr(lines[i], text))
			n++;
	pthread_mutex_unlock(&lock);
	return n;
}

void logged_to_stderr(void)
{
	to_stderr = true;
}

#include "vmm/base/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static const char *const level_name[] = {"error", "warning", "info", "debug"};

/* Process-wide by nature: there is one stderr. Set before any thread exists. */
static struct {
	enum log_level level;
	char name[64];
} sink = {.level = LOG_INFO};

void log_init(enum log_level level, const char *name)
{
	sink.level = level;
	snprintf(sink.name, sizeof(sink.name), "%s", name ? name : "");
}

bool log_enabled(enum log_level level)
{
	return level <= sink.level;
}

void log_write(enum log_level level, const char *fmt, ...)
{
	char line[1024];
	size_t n;
	va_list ap;

	if (!log_enabled(level))
		return;
	n = snprintf(line, sizeof(line), "ftvmm%s%s%s %s: ", sink.name[0] ? "[" : "", sink.name,
		     sink.name[0] ? "]" : "", level_name[level]);
	va_start(ap, fmt);
	vsnprintf(line + n, sizeof(line) - n - 1, fmt, ap);
	va_end(ap);
	n = strlen(line);
	line[n++] = '\n';
	/* One write, so that lines of several threads and processes do not mix. */
	if (write(STDERR_FILENO, line, n) < 0)
		return;
}

bool log_may(uint64_t *last)
{
	struct timespec t;
	uint64_t now;

	clock_gettime(CLOCK_MONOTONIC, &t);
	now = (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
	if (*last && now - *last < 1000000000ull)
		return false;
	*last = now;
	return true;
}

void log_bug(const char *file, int line, const char *what)
{
	log_write(LOG_ERROR, "bug in ftvmm at %s:%d: %s", file, line, what);
	abort();
}

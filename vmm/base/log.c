#define _GNU_SOURCE /* pthread_cond_clockwait, pthread_setname_np */
#include "vmm/base/log.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "vmm/base/lock.h"
#include "vmm/base/log_line.h"

#define RING 65536u

/* Process-wide by nature: there is one stderr. Level and style are set before any thread exists. */
static struct {
	enum log_level level;
	struct log_style style;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	bool started;
	uint64_t lost; /* lines, behind those in the ring */
	uint32_t at, len;
} sink = {
	.level = LOG_INFO, .lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};
/* Whole lines, the one that is being written included. Not in sink: that is data of the file. */
static char ring[RING];

void log_init(enum log_level level, const char *name)
{
	sink.level = level;
	snprintf(sink.style.name, sizeof(sink.style.name), "%s", name ? name : "");
}

void log_set_form(enum log_form form)
{
	sink.style.form = form;
	sink.style.journal = log_line_is_journal(getenv("JOURNAL_STREAM"), STDERR_FILENO);
}

bool log_is_for_people(void)
{
	return sink.style.form != LOG_JSON && !sink.style.journal;
}

bool log_enabled(enum log_level level)
{
	return level <= sink.level;
}

/* One write, so that lines of several threads and processes do not mix. */
static void write_line(const char *line, size_t n)
{
	while (n) {
		struct pollfd p = {.fd = STDERR_FILENO, .events = POLLOUT};
		ssize_t done = write(STDERR_FILENO, line, n);

		if (done < 0 && errno == EAGAIN)
			poll(&p, 1, -1);
		else if (done < 0 && errno != EINTR)
			return;
		if (done > 0) {
			line += done;
			n -= (size_t)done;
		}
	}
}

/* --- the ring; all under the lock ------------------------------------------------------------- */

/* Behind lines that are lost nothing has a place until that is said. */
static void put(const char *line, size_t n)
{
	if (sink.lost || n > RING - sink.len) {
		sink.lost++;
		return;
	}
	for (size_t i = 0; i < n; i++)
		ring[(sink.at + sink.len + i) % RING] = line[i];
	sink.len += (uint32_t)n;
}

/* The first line there is, which stays there until it is written. */
static size_t peek(char *line)
{
	size_t n = 0;

	do
		line[n] = ring[(sink.at + n) % RING];
	while (line[n++] != '\n' && n < LOG_LINE_MAX);
	return n;
}

/* All before them are written: there is room to say so. */
static void say_lost(void)
{
	uint64_t n = sink.lost;

	sink.lost = 0;
	pthread_mutex_unlock(&sink.lock);
	log_warn("%" PRIu64 " lines lost: nobody read this log", n);
	pthread_mutex_lock(&sink.lock);
}

static void write_one(void)
{
	char line[LOG_LINE_MAX];
	size_t n = peek(line);

	pthread_mutex_unlock(&sink.lock);
	write_line(line, n);
	pthread_mutex_lock(&sink.lock);
	sink.len -= (uint32_t)n;
	sink.at = sink.len ? (uint32_t)((sink.at + n) % RING) : 0;
	pthread_cond_broadcast(&sink.changed);
}

static void *writer(void *arg)
{
	pthread_setname_np(pthread_self(), "log");
	pthread_mutex_lock(&sink.lock);
	for (;;) {
		if (sink.len)
			write_one();
		else if (sink.lost)
			say_lost();
		else
			pthread_cond_wait(&sink.changed, &sink.lock);
	}
	return NULL;
}

int log_start(void)
{
	sigset_t all, old;
	pthread_t thread;
	int r;

	lock_init(&sink.lock); /* until here there is one thread */
	/* Signals are the main thread's business. */
	sigfillset(&all);
	pthread_sigmask(SIG_BLOCK, &all, &old);
	r = pthread_create(&thread, NULL, writer, NULL);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (r)
		return -r;
	pthread_detach(thread);
	sink.started = true;
	return 0;
}

void log_flush(void)
{
	struct timespec until;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_nsec += LOG_FLUSH_MS * 1000000l;
	until.tv_sec += until.tv_nsec / 1000000000;
	until.tv_nsec %= 1000000000;
	pthread_mutex_lock(&sink.lock);
	while (sink.len || sink.lost)
		if (pthread_cond_clockwait(&sink.changed, &sink.lock, CLOCK_MONOTONIC, &until))
			break;
	pthread_mutex_unlock(&sink.lock);
}

/* --- lines ------------------------------------------------------------------------------------ */

void log_write(enum log_level level, const char *fmt, ...)
{
	char line[LOG_LINE_MAX], text[LOG_LINE_MAX];
	size_t n;
	va_list ap;

	if (!log_enabled(level))
		return;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	n = log_line(&sink.style, level, text, line);
	if (!sink.started) {
		write_line(line, n);
		return;
	}
	pthread_mutex_lock(&sink.lock);
	put(line, n);
	pthread_cond_broadcast(&sink.changed);
	pthread_mutex_unlock(&sink.lock);
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
	log_flush();
	abort();
}

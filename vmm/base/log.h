/*
 * Levelled log to stderr, one line a message: "[TIME ]ftvmm[NAME] level: text", or JSON. Any
 * thread.
 *
 * After log_start() nobody waits for whoever reads it, a terminal with Ctrl-S or a full pipe:
 * lines go into a ring of 64 KiB, and a thread writes them. What finds no room is lost, and how
 * much it was is said in its place.
 */
#ifndef VMM_LOG_H
#define VMM_LOG_H

#include <stdbool.h>
#include <stdint.h>

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };
enum log_form {
	LOG_BARE, /* without a time: where there is no --log */
	LOG_TEXT,
	LOG_JSON,
};

/* Threshold (default LOG_INFO) and the name shown; called once at start, before threads. */
void log_init(enum log_level level, const char *name);
/*
 * Likewise. When standard error is the journal's, lines begin with their priority, as sd-daemon(3)
 * has it, and text has no time, as the journal has that.
 */
void log_set_form(enum log_form form);
bool log_is_for_people(void); /* text, and not in the journal */
bool log_enabled(enum log_level level);
/* Lines are written by a thread of its own from now on. Once; 0 or a negative errno. */
int log_start(void);
/* Wait until all lines so far are written, at most LOG_FLUSH_MS: before an end. */
#define LOG_FLUSH_MS 500
void log_flush(void);
void log_write(enum log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* For what a guest can do all day: true once a second. *last: of the caller, 0 to begin with. */
bool log_may(uint64_t *last);

#define log_error(...) log_write(LOG_ERROR, __VA_ARGS__)
#define log_warn(...)  log_write(LOG_WARN, __VA_ARGS__)
#define log_info(...)  log_write(LOG_INFO, __VA_ARGS__)
#define log_debug(...)                                                                             \
	do {                                                                                       \
		if (log_enabled(LOG_DEBUG))                                                        \
			log_write(LOG_DEBUG, __VA_ARGS__);                                         \
	} while (0)

/* Our own bug, never outside data: abort with the place. */
void log_bug(const char *file, int line, const char *what) __attribute__((noreturn));
#define VMM_BUG_ON(cond)                                                                           \
	do {                                                                                       \
		if (__builtin_expect(!!(cond), 0))                                                 \
			log_bug(__FILE__, __LINE__, #cond);                                        \
	} while (0)

#endif

/*
 * Error context for set-up, migration and FT paths: filled once, at the leaf that failed, printed
 * once, at the boundary (command line, control reply, log). Hot paths return an errno only.
 */
#ifndef VMM_ERR_H
#define VMM_ERR_H

struct err {
	int code; /* negative errno, 0 when unset */
	char msg[480];
};

/* Fill e (may be NULL) with what, which, limit and next step; returns code. First call wins. */
int err_set(struct err *e, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* As err_set with errno; ": strerror" is appended. Returns -errno. */
int err_sys(struct err *e, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Put "prefix: " before a message that a callee set. Returns e's code. */
int err_wrap(struct err *e, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif

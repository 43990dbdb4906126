/*
 * Byte transports for streams: tcp:HOST:PORT, unix:PATH, fd:N, file:PATH. Nothing here knows what
 * the bytes mean. Every wait has a deadline.
 */
#ifndef VMM_CHAN_H
#define VMM_CHAN_H

#include <stdbool.h>
#include <stdint.h>

#include "vmm/err.h"

enum chan_kind { CHAN_TCP, CHAN_UNIX, CHAN_FD, CHAN_FILE };

struct chan_uri {
	enum chan_kind kind;
	char host[256]; /* tcp: numeric address or name; [::1] without its brackets */
	char port[8];
	char path[256];
	int fd;
};

/* Parse and check; the message names what is wrong and shows the right form. */
int chan_parse(const char *text, struct chan_uri *ret, struct err *e);
/* Start a non-blocking connect; *ret_fd becomes writable when done, then chan_connected(). */
int chan_connect_start(const struct chan_uri *u, int *ret_fd, struct err *e);
int chan_connected(int fd, struct err *e);
/* Connect and wait at most timeout_ms. Returns the fd or a negative errno. */
int chan_connect(const struct chan_uri *u, int timeout_ms, struct err *e);
/* Listening socket, non-blocking, SO_REUSEADDR; a stale unix socket is unlinked. Returns fd. */
int chan_listen(const struct chan_uri *u, struct err *e);
/* Accept one (non-blocking fd, options set); -EAGAIN when none waits. */
int chan_accept(int listen_fd, struct err *e);
/* TCP_NODELAY, TCP_USER_TIMEOUT (ms), keepalive; no-op for other kinds. */
int chan_set_options(int fd, int user_timeout_ms);
/* file: snapshot files. For writing: "PATH.tmp" created 0600; chan_file_commit() fsyncs and renames. */
int chan_file_create(const char *path, struct err *e);
int chan_file_commit(int fd, const char *path, struct err *e);
int chan_file_open(const char *path, struct err *e);
/* Write all of iov (socket or file, blocking or not) before deadline_ns (CLOCK_MONOTONIC). */
struct iovec;
int chan_write(int fd, const struct iovec *iov, int niov, uint64_t deadline_ns);

#endif

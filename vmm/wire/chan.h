/*
 * Where byte transports come from: tcp:HOST:PORT, tls:HOST:PORT (TCP: what goes on top is in
 * vmm/wire/tls.h), unix:PATH, fd:N, file:PATH. Every wait has a deadline.
 */
#ifndef VMM_CHAN_H
#define VMM_CHAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "vmm/base/err.h"

#define CHAN_USER_TIMEOUT_MS 10000 /* TCP_USER_TIMEOUT until chan_set_options() says otherwise */
#define CHAN_FILE_PATH_MAX   251   /* a temporary name has 4 bytes more */

enum chan_kind { CHAN_TCP, CHAN_TLS, CHAN_UNIX, CHAN_FD, CHAN_FILE };

struct chan_uri {
	enum chan_kind kind;
	char host[256]; /* tcp, tls: numeric address or name; [::1] without its brackets */
	char port[8];
	char path[256];
	int fd;
};

/* "tcp", "tls", ...: what its text begins with, and a colon. */
const char *chan_scheme(enum chan_kind kind);
/* Parse and check; the message names what is wrong and shows the right form. */
int chan_parse(const char *text, struct chan_uri *ret, struct err *e);
/*
 * Is what goes there open to everybody on the way, and its port to whoever reaches it? tcp: is, and
 * a socket of TCP that is handed in, but on this host alone: 127.0.0.0/8, ::1, localhost.
 */
bool chan_is_open(const struct chan_uri *u);
/*
 * Put the first address of HOST in its place, in the cap bytes of text: a name server that does not
 * answer takes many seconds, which the loop thread does not have. Other kinds stay as they are.
 */
int chan_resolve(char *text, size_t cap, struct err *e);
/* 0 when HOST is an address, as for the loop thread; else -EHOSTUNREACH. Other kinds: 0. */
int chan_check_address(const char *text, struct err *e);
/*
 * Start a non-blocking connect; *ret_fd becomes writable when done, then chan_connected(). HOST
 * must be an address. fd:N is handed out as it is, once.
 */
int chan_connect_start(const struct chan_uri *u, int *ret_fd, struct err *e);
/* 0, -EINPROGRESS, or why it failed. */
int chan_connected(int fd, struct err *e);
/* Connect, trying each address of a name, within timeout_ms. Returns the fd or a negative errno. */
int chan_connect(const struct chan_uri *u, int timeout_ms, struct err *e);
/*
 * Listening socket, non-blocking, SO_REUSEADDR. A unix socket gets mode 0600; one that nobody
 * listens on any more is replaced, anything else at its path is refused. Returns fd.
 */
int chan_listen(const struct chan_uri *u, struct err *e);
/* Would it do? Nothing is made, removed, or kept. */
int chan_try_listen(const struct chan_uri *u, struct err *e);
/* Accept one (non-blocking fd, options set); -EAGAIN when none waits. */
int chan_accept(int listen_fd, struct err *e);
/* TCP_NODELAY, TCP_USER_TIMEOUT (ms), keepalive; no-op for other kinds. */
int chan_set_options(int fd, int user_timeout_ms);
/*
 * file: snapshot files. For writing: "PATH.tmp" created 0600; chan_file_commit() fsyncs and
 * renames. The fd stays the caller's, to be closed by it. Only regular files are opened, and only
 * such that nobody uses are replaced: -EEXIST, -EBUSY.
 */
int chan_file_create(const char *path, struct err *e);
int chan_file_commit(int fd, const char *path, struct err *e);
void chan_file_drop(int fd, const char *path); /* not to be committed: "PATH.tmp" is removed */
int chan_file_open(const char *path, struct err *e);

#endif

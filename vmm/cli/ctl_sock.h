/* Where control sockets live, and who may make or remove one. Shared by server and client. */
#ifndef VMM_CTL_SOCK_H
#define VMM_CTL_SOCK_H

#include <stdbool.h>
#include <sys/un.h>

#include "vmm/base/err.h"

/* Of what is said over it; another one when a member means something else, or is gone. */
#define CTL_VERSION   1
#define CTL_LINE_MAX  65536u /* a request or reply line with its newline */
#define CTL_DEPTH_MAX 8u
#define CTL_NAME_MAX  63 /* as config.h has it for a VM's name */

/* The folder of the sockets, without a slash at the end. */
int ctl_sock_dir(char *ret, size_t cap, struct err *e);
/* Calls fn with every name that has a control socket, served or not. 0 or a negative errno. */
int ctl_sock_names(void (*fn)(void *arg, const char *name), void *arg, struct err *e);
/*
 * The lock of the folder (made when missing): whoever tests, unlinks or binds a socket in it holds
 * this. Returns what ctl_sock_unlock() takes, or a negative errno; waits 2 s at most.
 */
int ctl_sock_lock(struct err *e);
void ctl_sock_unlock(int lock);
/* Path of a VM's socket. */
int ctl_sock_path(const char *name, char *ret, size_t cap, struct err *e);
/* Fill sa; fails when the path is longer than a socket address takes. */
int ctl_sock_addr(const char *name, struct sockaddr_un *sa, struct err *e);
/* The same for the socket of its console. */
int ctl_sock_console_addr(const char *name, struct sockaddr_un *sa, struct err *e);
/* Bind and listen, mode 0600. The fd, non-blocking, or a negative errno. */
int ctl_sock_listen(const struct sockaddr_un *sa, int backlog, struct err *e);
/* Is the client of this socket our user, or root? */
bool ctl_sock_peer_allowed(int fd);
/* Say why in a line, if the socket has room for it, and close it. */
void ctl_sock_refuse(int fd, const char *line);
/* Connect, non-blocking socket. The fd, -ENOENT or -ECONNREFUSED (nobody there), other errno. */
int ctl_sock_connect(const struct sockaddr_un *sa, int timeout_ms);
/* Remove the socket if nobody listens on it. */
void ctl_sock_reap(const struct sockaddr_un *sa);

#endif

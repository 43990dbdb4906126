/* A connection to a VM's control socket, as the subcommands use it. One thread; may block. */
#ifndef VMM_CTL_CLIENT_H
#define VMM_CTL_CLIENT_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "vmm/base/err.h"

/*
 * Longest line taken from a VM. That is a dump's, in base64: the state of the largest machine, 209
 * KiB, and its description, at most 64 KiB.
 */
#define CTL_CLIENT_MAX (8 * 65536u)

struct ctl_client {
	int fd;
	const char *name; /* of the VM, for messages; the caller's */
	bool greeted;
	size_t len, used; /* bytes in buf; of these, the line handed out last */
	char buf[CTL_CLIENT_MAX];
};

/* *ret is to be given to ctl_client_close(). A socket that nobody serves is removed. */
int ctl_client_open(struct ctl_client **ret, const char *name, int timeout_ms, struct err *e);
void ctl_client_close(struct ctl_client *c); /* NULL is fine */
/*
 * The next line, without newline, valid until the next call; *ret NULL at the end. timeout_ms for
 * the whole line, -1 none.
 */
int ctl_client_line(struct ctl_client *c, int timeout_ms, char **ret, struct err *e);
/*
 * Send a request (reference stolen) and return the "ok" of its reply, or NULL with e. Events that
 * come before it are left out.
 */
json_t *ctl_client_call(struct ctl_client *c, json_t *request, int timeout_ms, struct err *e);
/*
 * One request, one reply, with a deadline. Returns the "ok" value (new reference), or NULL with e:
 * -ENOENT no such VM, -ETIMEDOUT, -EREMOTEIO the VM refused and the message is its own. Steals the
 * request.
 */
json_t *ctl_call(const char *name, json_t *request, int timeout_ms, struct err *e);

#endif

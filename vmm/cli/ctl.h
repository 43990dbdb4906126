/*
 * The control socket: $XDG_RUNTIME_DIR/ftvmm/NAME.sock, or /run/ftvmm/NAME.sock for root; JSON
 * lines. First comes {"greeting":{"control":1,"name":"NAME"}}, with the version of what is said.
 * Request {"id":1,"cmd":"status",...} -> {"id":1,"ok":{...}} or {"id":1,"error":"..."}; one with
 * another "version" is refused. A client that follows also gets {"event":...,"time":...} lines.
 * What the members are: vmm/cli/ctl_schema.c, docs/control.md. Limits: 64 KiB a line, depth 8, 16
 * clients, 0600, same uid or root. Owner: the loop thread; never blocks on a client.
 */
#ifndef VMM_CTL_H
#define VMM_CTL_H

#include <jansson.h>

#include "vmm/base/err.h"
#include "vmm/base/loop.h"

struct ctl;
/*
 * Answer a command: a new reference, or NULL with e set. request is the whole object. May send
 * events, but must not close the ctl.
 */
typedef json_t *ctl_fn(void *arg, const char *cmd, json_t *request, struct err *e);

/* Fails with a clear message when a live ftvmm already has that name; a dead socket is replaced. */
int ctl_open(struct ctl **ret, struct loop *l, const char *name, ctl_fn *fn, void *arg,
	     struct err *e);
void ctl_close(struct ctl *c); /* unlinks the socket; NULL is fine */
/* From a ctl_fn only: whoever asks gets the events from now on. */
void ctl_follow(struct ctl *c);

/* An answer that takes its time; zeroed to begin with, owned by whoever gives it. */
struct ctl_later {
	/* The client does not wait any more: nobody is to be answered. NULL: it is all the same. */
	void (*left)(void *arg);
	void *arg;
	/* private to ctl.c */
	void *client;
	json_t *id;
};

/*
 * From a ctl_fn only, which then returns NULL and leaves e alone: the answer comes later. Until
 * then nothing else of this client is answered; others are. Not while one is owed by l. When the
 * client has left meanwhile nothing is owed, and left() is not called.
 */
void ctl_later(struct ctl *c, struct ctl_later *l);
/* ok (stolen), or NULL with e. Nothing when the client has left. */
void ctl_answer(struct ctl_later *l, json_t *ok, const struct err *e);
/*
 * Send an event to all who follow, with the time; steals the reference. A client that does not read
 * is dropped.
 */
void ctl_event(struct ctl *c, json_t *event);
/* Its time, which is now: UTC, as in "2026-11-01T10:00:00.000000Z". NULL is fine. */
void ctl_stamp(json_t *event);

#endif

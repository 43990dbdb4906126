/*
 * The source of a migration: it has the VM, and brings it to a destination that waits with
 * --incoming. What it does when is the table in postcopy/phases.c; the actions are in
 * source_begin.c, source_switch.c and source_back.c.
 *
 * Up to GO the VM is this side's, and goes on here whatever fails. From GO on it never runs here
 * again, unless the destination says that it never ran there, or the user does.
 *
 * Owner: the loop. The sender is a thread of its own (postcopy/passes.h), as it reads memory as
 * fast as the link takes it while this side's guest is to be served.
 */
#ifndef POSTCOPY_SOURCE_H
#define POSTCOPY_SOURCE_H

#include <stdbool.h>
#include <stdint.h>

#include "ft/common/dial.h"
#include "ft/common/ft.h"
#include "postcopy/carry_out.h"
#include "postcopy/copies.h"
#include "postcopy/images.h"
#include "postcopy/passes.h"
#include "postcopy/phases.h"
#include "postcopy/push.h"
#include "postcopy/unsent.h"
#include "postcopy/urgent.h"
#include "vmm/conf/migrate_conf.h"
#include "vmm/wire/chan.h"
#include "vmm/wire/stream.h"

/* How the last one ended, or that it has not. */
enum source_result {
	SOURCE_NONE, /* there was none */
	SOURCE_ACTIVE,
	SOURCE_CANCELLING, /* given up by the user, and not all is back yet */
	SOURCE_DONE,
	SOURCE_FAILED,
	SOURCE_CANCELLED,
	SOURCE_UNSURE,
};

/* CLOCK_MONOTONIC ns of what has happened, 0: not yet. */
struct source_times {
	uint64_t begun, passes, stop, stopped, drained, sent, ready, go, runs, ended;
};

struct source {
	struct ft *ft;
	struct vm *vm;
	struct fsm fsm;
	struct migrate_conf conf;
	struct stream link; /* its fd is -1 when there is none */
	struct dial dial;
	struct loop_op read_op, timer_op, late_op, sender_op;
	uint64_t session;   /* names this migration to the destination, also after a lost link */
	uint64_t have_word; /* of a FRAME_HAVE: the next one that is to come */
	unsigned tries;	    /* to connect again, since anything came of it */
	uint64_t lacked;    /* pages that the destination lacked at the last FRAME_HAVE */
	struct dirty dirty;
	struct passes passes;
	/* The second half of postcopy. */
	struct stream pair; /* the urgent link; its fd is -1 when there is none */
	struct unsent unsent;
	struct urgent urgent;
	struct push push;
	int serve_fd; /* eventfd: the threads of these have news; -1 */
	struct loop_op serve_op;
	struct wire_map *maps;
	struct carry_out *carry; /* a file that is being written, or NULL */
	struct images images;
	struct copies copies; /* images that go along */
	uint64_t offered;     /* bit i: machine.devs[i] may be one of these */
	uint8_t *state;
	size_t state_cap;
	enum source_result result;
	struct source_times at;
	struct wire_ready ready;
	struct wire_runs runs;
	char why[480];		 /* it failed, or is unsure */
	void (*news)(void *arg); /* the result is another */
	void *arg;
};

void source_init(struct source *s, struct ft *ft, struct vm *vm, void (*news)(void *arg),
		 void *arg);
/* -EBUSY: one is under way; else what this VM, or this host, lacks for it. */
int source_start(struct source *s, const struct migrate_conf *conf, struct err *e);
/* Give it up. -EBUSY: too late; -ENOENT: there is none. force: see struct migrate_conf. */
int source_cancel(struct source *s, bool force, const char *why, struct err *e);
/* Connect to uri from now on; only when a link was lost from GO on, else *e says why not. */
int source_recover(struct source *s, const char *uri, struct err *e);
/*
 * The same without a network: write what the destination may lack to a file, which it reads
 * (dest_take_file()). That changes nothing here. told: once.
 */
int source_write_file(struct source *s, const char *path,
		      void (*told)(void *arg, const struct err *e), void *arg, struct err *e);
/* Is one under way? */
bool source_busy(const struct source *s);
/* Does the VM run elsewhere, and lack what is here, with no link to bring it? */
bool source_is_cut(const struct source *s);
/* Does the VM stand for it? Then nothing about it is changed here. */
bool source_stands(const struct source *s);
/*
 * The VM is to end here: gives up what is under way. False: it is not this side's any more, and
 * the process ends by itself.
 */
bool source_may_end(struct source *s, const char *why);
/* The process ends: links and thread. The VM stays the caller's. Safe on a zeroed one. */
void source_done(struct source *s);

#endif

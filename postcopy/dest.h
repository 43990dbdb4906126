/*
 * The destination of a migration: it listens, becomes the machine that a source offers, takes its
 * memory and state, and runs it when the source says so. What it does when is the table in
 * postcopy/phases.c; the actions are in dest_receive.c, dest_run.c and dest_fill.c.
 *
 * Until GO the VM is the source's: whatever happens, all is dropped here, and the source is told
 * so, also when it asks later. From GO on it is this side's.
 *
 * Owner: the loop. Frames are taken in turns of it (struct loop_work), not by a thread: there is
 * no guest here yet that it would keep waiting, and whoever asks is answered between two turns.
 */
#ifndef POSTCOPY_DEST_H
#define POSTCOPY_DEST_H

#include <stdbool.h>
#include <stdint.h>

#include "ft/common/door.h"
#include "ft/common/ft.h"
#include "postcopy/carry_in.h"
#include "postcopy/carry_out.h"
#include "postcopy/copies.h"
#include "postcopy/pager.h"
#include "postcopy/phases.h"
#include "postcopy/wire.h"
#include "vmm/copy/diskapply.h"
#include "vmm/vm/vm_net.h"
#include "vmm/wire/stream.h"

struct dest_stats {
	uint64_t begun_ns, ended_ns; /* CLOCK_MONOTONIC; 0: not yet */
	uint64_t bytes;		     /* of page frames */
	uint64_t disk_bytes;	     /* of frames of images */
	uint64_t disk_total;	     /* of the images that come; 0: none does */
	uint64_t frames;
	uint64_t lock_ns, load_ns, run_ns;
};

struct dest {
	struct ft *ft;
	struct vm *vm; /* the caller's; built at OFFER */
	bool has_vm;   /* and not run yet */
	struct fsm fsm;
	struct door door;
	struct door further;	   /* dest_recover() */
	struct door_conn *caller;  /* who said OFFER or ASK */
	const struct frame *frame; /* that is being taken */
	struct stream link;	   /* its fd is -1 when there is none */
	struct stream urgent;	   /* likewise; the pager's while it serves */
	struct pager pager;	   /* mem is NULL: there is none, all comes before the VM runs */
	int pager_fd;		   /* eventfd: it has news; -1 */
	struct carry_in *carry;	   /* a file that is being read, or NULL */
	struct carry_out *arrived; /* one that is being written, or NULL */
	struct loop_op read_op, timer_op, pager_op, have_op;
	uint64_t have_word; /* of a FRAME_HAVE: the next one to be said */
	struct loop_work read_work;
	uint32_t copied;	    /* bit i: the image of machine.devs[i] comes, too, */
	struct diskapply images;    /* into these */
	bool written_asked;	    /* the source is to be told when they are on the medium */
	bool read_stopped;	    /* the link is not read until less waits for them */
	uint64_t heard_ns;	    /* of the last frame */
	uint64_t filled, filled_ns; /* pages behind the switch; when there was one more */
	uint64_t session;	    /* of the migration that is under way, or has ended here */
	uint64_t dropped;	    /* session of the last one that was dropped; 0: none */
	bool has_state;
	struct wire_switch last;
	uint64_t switch_ns; /* when it came */
	struct vm_announce announce;
	struct dest_stats stats;
	struct pager_stats came; /* as it was when all of the memory was here */
	char why[480];
	/* The VM is about to run, and is the caller's; it has run, and all who listen may know. */
	void (*runs)(void *arg);
	/* The caller's, or NULL: memory has come in, or its link was lost, or is back. */
	void (*news)(void *arg);
	void *arg;
};

/* Listens at cfg->incoming. runs(arg): this side has the VM, before its first instruction. */
int dest_start(struct dest *d, struct ft *ft, struct vm *vm, void (*runs)(void *arg), void *arg,
	       struct err *e);
/* Listen at uri, too, for a source that has lost its link; the last one counts. */
int dest_recover(struct dest *d, const char *uri, struct err *e);
/* Take pages from a file (source_write_file()), as there is no link. told: once. */
int dest_take_file(struct dest *d, const char *path, void (*told)(void *arg, const struct err *e),
		   void *arg, struct err *e);
/*
 * Write what has come to a file, as the source is dead, and what is missing with it. told: once.
 * *ret_missing: pages.
 */
int dest_write_arrived(struct dest *d, const char *path,
		       void (*told)(void *arg, const struct err *e), void *arg,
		       uint64_t *ret_missing, struct err *e);
/* Does its memory still come in? Then it is not stopped, booted, saved, nor moved on. */
bool dest_fills(const struct dest *d);
/* False: all of it came before the VM ran. */
bool dest_get_stats(struct dest *d, struct pager_stats *ret);
/* The process ends. A VM that runs stays the caller's; another is destroyed. Safe on a zeroed one.
 */
void dest_stop(struct dest *d);

#endif

/*
 * One `ftvmm run` process: a VM, the role that this side plays for it, and how it ends. Owner: the
 * loop.
 */
#ifndef VMM_RUN_H
#define VMM_RUN_H

#include <jansson.h>
#include <stdbool.h>

#include "ft/common/ft.h"
#include "ft/role/primary.h"
#include "ft/role/secondary.h"
#include "postcopy/dest.h"
#include "postcopy/source.h"
#include "vmm/boot/boot_reader.h"
#include "vmm/conf/config.h"
#include "vmm/cli/console_sock.h"
#include "vmm/cli/ctl.h"
#include "vmm/cli/notify.h"
#include "vmm/cli/run_lazy.h"
#include "vmm/cli/run_snapshot.h"
#include "vmm/cli/run_trace.h"
#include "vmm/base/loop.h"
#include "vmm/vm/vm.h"

enum run_event { RUN_EVENT_RESET, RUN_EVENT_PANIC, RUN_EVENTS };

struct run {
	struct config cfg;
	struct loop loop;
	struct notify notify;
	struct ctl *ctl;
	struct console_sock *console;
	enum config_role role; /* now: a secondary that took over is a primary */
	struct ft ft;
	struct vm vm;
	bool has_vm;  /* the VM runs (or is paused) here */
	bool waiting; /* paused before its first instruction here */
	struct primary primary;
	struct secondary secondary;
	struct source source; /* of a migration from here, */
	struct dest dest;     /* and to here */
	struct loop_op progress_op;
	struct run_snapshot snapshot;
	struct run_lazy lazy;
	struct run_trace trace;
	int signal_fd;
	struct loop_op signal_op;
	struct loop_op stop_op; /* deadline of a guest that was asked to switch itself off */
	bool stopping;
	bool stops_later; /* when this side has taken over, */
	uint64_t stop_timeout_ns;
	struct ctl_later failover; /* who asked for one */
	/* Who waits for pages that are carried over by hand: from here, to here, */
	struct ctl_later carried_out, carried_in;
	struct ctl_later arrived;   /* and for those to be kept that have arrived; */
	uint64_t missing;	    /* so many have not */
	struct boot_reader *reader; /* of a reboot, or NULL */
	uint64_t reset_told;	    /* log_may() */
	struct disk_req *kept;	    /* run_disk.c */
	struct loop_op kept_op;
	bool over;
	int exit_code;
};

/* run_vm.c: all that can fail for want of something on this host; the guest has not run yet. */
int run_vm_prepare(struct run *r, struct err *e);
/* The first instruction here: of the kernel, or of a restored VM. */
int run_vm_go(struct run *r, struct err *e);

/* run_role.c: start what the configuration names. -ESTALE: another side may run this VM. */
int run_role_start(struct run *r, struct err *e);

/* run_events.c: of the guest, once for each output buffer that there is. */
void run_events_init(struct run *r);
void run_event(struct run *r, enum run_event what);

/* run_end.c: from here on the guest's end, its resets and its panics are seen to. */
void run_end_watch(struct run *r);
/*
 * Ask the guest to switch itself off, and stop it when it has not within timeout_ns; at once when
 * that is 0, when the guest does not listen, does not run or boots again, or when this is the
 * second time. Returns why it was forced at once, or NULL; later that is an event, "stop-forced".
 */
const char *run_end_stop(struct run *r, uint64_t timeout_ns);
/* The process is to end; the first code counts. arg: struct run. */
void run_end_finish(void *arg, int code);

/* run_disk.c: an image that fails here is an event, and perhaps a reason to hand the VM over. */
void run_disk_watch(struct run *r);
json_t *run_disk_status(const struct run *r); /* new reference */
void run_disk_state_changed(struct run *r);
void run_disk_stop(struct run *r);

/* run_limit.c: of the disk or network of this id, until the process ends. Set: checked before. */
int run_limit_check(struct run *r, const char *id, const struct limit_rates *rates, struct err *e);
void run_limit_set(struct run *r, const char *id, const struct limit_rates *rates);
json_t *run_limit_status(struct run *r); /* new reference; of those that have one */

/* run_migrate.c: a VM that runs here may migrate; one may come in. */
void run_migrate_init(struct run *r);
int run_migrate_listen(struct run *r, struct err *e);
void run_migrate_stop(struct run *r);
/* Of a destination whose source is dead; answered later, with what is missing. */
void run_write_arrived(struct run *r, const char *path, struct err *e);
json_t *run_migrate_status(struct run *r); /* new reference; NULL: there was none */

/* run_postcopy.c: what there is to add to the status of a migration, and to its part "ram". */
void run_postcopy_in(json_t *o, json_t *ram, struct dest *d);
void run_postcopy_out(json_t *ram, const struct source *s);

/* run_status.c: what `ftvmm status` shows; new reference. */
json_t *run_status(struct run *r);
/* The event of a change from this state; NULL: how it is, for who begins to follow. */
json_t *run_state_event(struct run *r, const char *from);

#endif

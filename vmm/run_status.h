/* The state of one `ftvmm run` process, and how it is shown by `ftvmm status`. */
#ifndef VMM_RUN_STATUS_H
#define VMM_RUN_STATUS_H

#include <jansson.h>
#include <stdbool.h>

#include "ft/ft.h"
#include "ft/primary.h"
#include "ft/secondary.h"
#include "vmm/boot_reader.h"
#include "vmm/config.h"
#include "vmm/console_sock.h"
#include "vmm/ctl.h"
#include "vmm/loop.h"
#include "vmm/vm.h"

struct run {
	struct config cfg;
	struct loop loop;
	struct ctl *ctl;
	struct console_sock *console;
	struct ft ft;
	struct vm vm;
	bool has_vm; /* the VM runs (or is paused) here */
	bool paused;
	bool waiting; /* paused before its first instruction here */
	struct primary primary;
	struct secondary secondary;
	const char *role;
	int signal_fd;
	struct loop_op signal_op;
	struct loop_op stop_op; /* deadline of a guest that was asked to switch itself off */
	bool stopping;
	struct boot_reader *reader; /* of a reboot, or NULL */
	uint64_t reset_told;	    /* log_may() */
	bool over;
	int exit_code;
};

/* New reference. */
json_t *run_status(struct run *r);

#endif

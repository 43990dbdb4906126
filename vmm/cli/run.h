/* The state of one `ftvmm run` process, and how it is shown by `ftvmm status`. */
#ifndef VMM_RUN_STATUS_H
#define VMM_RUN_STATUS_H

#include <jansson.h>
#include <stdbool.h>

#include "ft/common/ft.h"
#include "ft/role/primary.h"
#include "ft/role/secondary.h"
#include "vmm/boot/boot_reader.h"
#include "vmm/conf/config.h"
#include "vmm/cli/console_sock.h"
#include "vmm/cli/ctl.h"
#include "vmm/base/loop.h"
#include "vmm/vm/vm.h"

struct run {
	struct config cfg;
	struct loop loop;
	struct ctl *ctl;
	struct console_sock *console;
	struct ft ft;
	struct vm vm;
	bool has_vm;  /* the VM runs (or is paused) here */
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

/* The VMs of this host, each asked for its status. One thread; blocks. */
#ifndef VMM_VMS_H
#define VMM_VMS_H

#include <jansson.h>
#include <stdbool.h>

#include "vmm/base/err.h"
#include "vmm/cli/ctl_sock.h"

#define VMS_MAX 256

struct vm_status {
	char name[CTL_NAME_MAX + 1];
	bool answers;
	json_t *status; /* {"name":...,"error":...} of one that does not answer */
};

/* Owner: the caller, who zeroes it and frees what it holds by vms_free(). */
struct vms {
	int n;
	struct vm_status list[VMS_MAX]; /* in the order of their names */
};

/*
 * Ask all; timeout_ms for each. A socket that nobody serves is removed, and no VM. Negative errno:
 * the folder of the sockets cannot be read.
 */
int vms_ask(struct vms *all, int timeout_ms, struct err *e);
/* One. One that does not answer is in the list, too; -ENOENT and e: there is none of that name. */
int vms_ask_one(struct vms *all, const char *name, int timeout_ms, struct err *e);
void vms_free(struct vms *all);
/* Say on standard error that none runs, and where was looked. */
void vms_say_none(void);

#endif

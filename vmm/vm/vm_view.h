/*
 * The state of a VM that is not here, to be looked at: of a file or of another process. Checked as
 * if it were to run, but nothing of the host is asked, so another one may refuse it all the same.
 */
#ifndef VMM_VM_VIEW_H
#define VMM_VM_VIEW_H

#include <stddef.h>

#include "vmm/base/err.h"
#include "vmm/machine/machine.h"
#include "vmm/machine/state.h"
#include "vmm/vm/vm_state.h"

struct vm_view {
	struct machine machine;
	struct state_item items[VM_MAX_ITEMS]; /* with pods of the view */
	unsigned nitems;
};

/* fdt: the machine's description. -EBADMSG, -ENOMEM; vm_view_done() is to be called all the same.
 */
int vm_view_init(struct vm_view *v, const void *fdt, size_t len, struct err *e);
int vm_view_decode(struct vm_view *v, const void *state, size_t len, struct err *e);
void vm_view_done(struct vm_view *v); /* safe on a zeroed one */
/* The user's name of the device that has this item; NULL: not one that has a name. */
const char *vm_view_id(const struct vm_view *v, const struct state_item *it);

#endif

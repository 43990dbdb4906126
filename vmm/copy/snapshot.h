/*
 * Snapshot files: the machine description, pages, and the device state, in the same stream as fault
 * tolerance uses. A page that is missing is zero, of one that comes again the last counts. Disks
 * are not in it: a restored VM needs the images as they were. Written by vmm/copy/live_snapshot.h,
 * beside the final name, and renamed when the file is whole and on disk.
 */
#ifndef VMM_SNAPSHOT_H
#define VMM_SNAPSHOT_H

#include "vmm/base/err.h"
#include "vmm/vm/vm.h"
#include "vmm/vm/vm_view.h"
#include "vmm/wire/stream.h"

/* Who takes the pages, if they are not to go into memory at once. */
struct snapshot_pages {
	/* Each FRAME_PAGES, which st has just read. */
	int (*take)(void *arg, struct vm *vm, const struct stream *st, const struct frame *f,
		    struct err *e);
	/* That was all; next the state is loaded, which looks at memory. */
	int (*taken)(void *arg, struct vm *vm, const struct stream *st, struct err *e);
	void (*undo)(void *arg); /* it failed; the VM is about to be destroyed */
	void *arg;
};

/*
 * Build the VM of a snapshot on the back ends b; vm_load() and vm_start() set it going. pages may
 * be NULL.
 */
int snapshot_restore(struct vm *vm, struct loop *l, const struct backends *b, const char *path,
		     const struct snapshot_pages *pages, struct err *e);
/*
 * Its machine and state, for no VM: the file is read to its end and checked as by a restore, but
 * for what is in the pages. vm_view_done() is to be called whatever comes.
 */
int snapshot_view(struct vm_view *v, const char *path, struct err *e);

#endif

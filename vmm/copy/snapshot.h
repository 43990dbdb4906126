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

/* Build the VM of a snapshot on the back ends b; vm_load() and vm_start() set it going. */
int snapshot_restore(struct vm *vm, struct loop *l, const struct backends *b, const char *path,
		     struct err *e);

#endif

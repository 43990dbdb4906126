/*
 * Snapshot files: the machine description, all pages that are not zero, and the device state, in
 * the same stream as fault tolerance uses. Disks are not in it: a restored VM needs the images as
 * they were. The file is written beside its final name and renamed when it is whole and on disk.
 */
#ifndef VMM_SNAPSHOT_H
#define VMM_SNAPSHOT_H

#include "vmm/base/err.h"
#include "vmm/vm/vm.h"

/* The VM must be paused. Loop thread; takes as long as the file takes. */
int snapshot_save(struct vm *vm, const char *path, struct err *e);
/* Build the VM of a snapshot on the back ends b; vm_load() and vm_start() set it going. */
int snapshot_restore(struct vm *vm, struct loop *l, const struct backends *b, const char *path,
		     struct err *e);

#endif

/* Where a dump has its state from. One thread; may block. */
#ifndef VMM_DUMP_GET_H
#define VMM_DUMP_GET_H

#include "vmm/base/err.h"
#include "vmm/vm/vm_view.h"

/*
 * word: the name of a VM that runs here, or a snapshot's file; one with a slash is a file, and a VM
 * comes before a file of its name. vm_view_done() is to be called whatever comes.
 */
int dump_get(struct vm_view *v, const char *word, struct err *e);

#endif

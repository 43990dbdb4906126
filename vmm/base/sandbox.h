/*
 * What a thread may ask of the kernel once it can be reached by a guest or a peer: a list of system
 * calls (seccomp, by libseccomp), and the few of root's rights that ftvmm uses (capabilities(7)).
 * Whoever takes a thread over has no more than that.
 */
#ifndef VMM_BASE_SANDBOX_H
#define VMM_BASE_SANDBOX_H

#include <linux/filter.h>
#include <stdbool.h>

#include "vmm/base/err.h"

enum sandbox {
	SANDBOX_OFF,
	SANDBOX_ON,	/* what is not listed fails with EPERM, and is in the kernel's audit log */
	SANDBOX_STRICT, /* it ends the process (SIGSYS) */
};

/* Whose list. That of a vCPU is the shortest: its thread is where the guest's exits are handled. */
enum sandbox_of { SANDBOX_PROCESS, SANDBOX_VCPU };

#define SANDBOX_MAX 512

/* A program for the kernel (BPF): none with n = 0. */
struct sandbox_list {
	unsigned short n;
	struct sock_filter code[SANDBOX_MAX];
};

/*
 * Make the list; empty with SANDBOX_OFF. A negative errno, with e set to what and how to go
 * without. For this process: its children have other process ids.
 */
int sandbox_make(struct sandbox_list *ret, enum sandbox how, enum sandbox_of of, struct err *e);
/*
 * From here on it holds, for good: of the calling thread, or of all that there are and will be
 * (before any thread has one of its own). Nothing with an empty list. No allocations.
 */
int sandbox_enter(const struct sandbox_list *list, bool all_threads, struct err *e);

/*
 * Give up what of root's rights is never used; flushes: the cache of a block device is to be
 * emptied (BLKFLSBUF), which takes CAP_SYS_ADMIN. Of this thread and those that it starts later.
 */
int sandbox_drop_rights(enum sandbox how, bool flushes, struct err *e);

#endif

/* VMs of which only the control socket is there, each served by a thread of its own. */
#ifndef TESTS_LIBFAKEVM_H
#define TESTS_LIBFAKEVM_H

#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>

#include "vmm/cli/ctl.h"

struct fakevm {
	const char *name;
	json_t *status; /* the thread's once it serves */
	atomic_int asked, followers;
	pthread_t thread;
	sem_t serves;
	struct loop loop;
	struct ctl *ctl;
	struct ctl_later silent; /* what "silent" status is never answered with */
};

/* A folder for the sockets, from here on the one of this process; as cmocka calls it. */
int fakevm_setup(void **state);
int fakevm_teardown(void **state); /* *state as fakevm_setup() left it */
/*
 * It answers `status` with this JSON, in which ' stands for ", and `events` with its "state", as a
 * VM does, `stop` with its "end" or nothing, `failover` with nothing, and `trace` once with its
 * "trace". NULL: it answers none of them.
 */
void fakevm_start(struct fakevm *vm, const char *name, const char *status);
void fakevm_stop(struct fakevm *vm);
void fakevm_become(struct fakevm *vm, const char *state);
void fakevm_note(struct fakevm *vm, const char *note); /* of the states from here on */
/* Add to a number of its status. */
void fakevm_grow(struct fakevm *vm, const char *key, int n);
void fakevm_await_follower(struct fakevm *vm); /* 20 s at most */

#endif

/*
 * Run control: how vCPU threads are stopped, saved, loaded and let go.
 *
 * Order inside vm_pause() and vm_save(), the same for pause, snapshot and every epoch:
 *   1. vCPUs leave KVM_RUN; when the last one has, all finish their last exit and save their
 *      registers, in parallel: as long as one runs it can send interrupts to the others;
 *   2. devices are told to be quiet: until vm_resume() they touch neither guest memory nor state;
 *   3. interrupt chips and clock are read; vm_save() then reads every device.
 */
#ifndef VMM_VM_RUN_H
#define VMM_VM_RUN_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "vmm/base/err.h"
#include "vmm/base/sandbox.h"
#include "vmm/vm/vcpu.h"

/* Under lock, but for what says otherwise. */
struct vm_run {
	struct sandbox_list *sandbox; /* of vCPU threads */
	pthread_mutex_t lock;
	pthread_cond_t parked_cond, go_cond;
	bool want_park; /* also read without lock */
	bool quit;
	unsigned nparked, nanswered;
	uint32_t request; /* counts what vCPUs were asked to do while parked: task */
	enum vcpu_task task;
	int vcpu_error; /* first failure of a save or load since they parked, or were asked */
	const char *vcpu_what;
	bool fresh;	    /* loop: loaded or built, devices have not looked at their queues */
	uint64_t paused_ns; /* loop: CLOCK_MONOTONIC of the last vm_pause(); 0: never */
	uint64_t first_entry_ns; /* atomic: CLOCK_MONOTONIC when a vCPU first entered the guest, or
				    0 */
};

struct vm;

/*
 * Stop all vCPUs, save their state and that of the interrupt chips (no-op when paused).
 * -ETIMEDOUT after 5 s says how many stopped; the VM goes on then. Of a host that failed
 * (VM_END_HOST) no state is to be had: that is an error, too.
 */
int vm_pause(struct vm *vm, struct err *e);
/*
 * After a vm_pause() that failed: true, it did as this host's KVM had failed (VM_END_HOST). All
 * stands now, and only vm_load() gives it a state again.
 */
bool vm_stand_failed(struct vm *vm);
/*
 * Let the vCPUs go; after a load devices look at their queues again first. A guest that has ended
 * stays where it is; on_end is called once more.
 */
void vm_resume(struct vm *vm);
/* The same for a VM that was built and not loaded. */
void vm_start(struct vm *vm);
/* No vCPU goes on, for good, and nobody waits for it: before vm_destroy(). */
void vm_halt(struct vm *vm);
/*
 * Until vm_go_on() no vCPU goes on, and nobody waits for it. Those of `waiting` (bit i: vCPU i)
 * wait for a page, and are not interrupted: KVM would touch it again and again. They stop as soon
 * as they leave the guest.
 */
void vm_rest(struct vm *vm, uint32_t waiting);
/* The vCPUs of a running VM go on: after vm_rest(), or a pause that failed. */
void vm_go_on(struct vm *vm);

#endif

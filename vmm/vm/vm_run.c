/* Run control: how vCPU threads are stopped, saved, loaded and let go. */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "vmm/base/log.h"
#include "vmm/vm/vm_internal.h"

#define PARK_DEADLINE_S 5
#define SPIN_NS		100000

/* Wait until *count is n, at most PARK_DEADLINE_S. Under vm->lock. */
static int wait_count(struct vm *vm, const unsigned *count, unsigned n)
{
	struct timespec until;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += PARK_DEADLINE_S;
	while (*count < n)
		if (pthread_cond_timedwait(&vm->parked_cond, &vm->lock, &until) == ETIMEDOUT)
			return -ETIMEDOUT;
	return 0;
}

/*
 * On a busy host a vCPU that is to stop would wait for its turn while all others stand still. So it
 * runs before ordinary threads from the kick until it is let go. Under vm->lock.
 */
static void boost(struct vcpu *v)
{
	struct sched_param p = {.sched_priority = 1};

	v->boosted = v->may_boost && !pthread_setschedparam(v->thread, SCHED_RR, &p);
	v->may_boost = v->boosted;
}

static void unboost(struct vcpu *v)
{
	struct sched_param p = {0};

	pthread_setschedparam(v->thread, SCHED_OTHER, &p);
}

void vm_kick_vcpus(struct vm *vm)
{
	__atomic_store_n(&vm->want_park, true, __ATOMIC_RELEASE);
	for (unsigned i = 0; i < vm->machine.vcpus; i++) {
		struct vcpu *v = &vm->vcpus[i];

		if (!v->has_thread)
			continue;
		__atomic_store_n(&v->run->immediate_exit, 1, __ATOMIC_RELAXED);
		boost(v);
		pthread_kill(v->thread, VCPU_SIGNAL);
	}
}

/* A device that is quiet leaves guest memory and its own state alone, though the loop runs. */
static void quiet_devices(struct vm *vm, bool on)
{
	for (unsigned i = 0; i < vm->ndevs; i++)
		if (vm->devs[i]->ops->quiet)
			vm->devs[i]->ops->quiet(vm->devs[i], on);
}

/* Most vCPUs stop within 100 us; sleeping and being woken would cost half as much again. */
static void spin_until_parked(const struct vm *vm)
{
	uint64_t until = loop_now_ns() + SPIN_NS;

	while (__atomic_load_n(&vm->nparked, __ATOMIC_ACQUIRE) < vm->machine.vcpus &&
	       loop_now_ns() < until)
		__builtin_ia32_pause();
}

/*
 * A vCPU alone has saved itself as it stopped, unless it was let go but did not get its turn before
 * this pause. Several are saved when all have stopped: each can send interrupts to the others.
 */
static int save_parked(struct vm *vm, struct err *e)
{
	if (vm->machine.vcpus == 1 && !vm->vcpus[0].fresh)
		return 0;
	return vm_ask_vcpus(vm, VCPU_SAVE, e);
}

/* The pause failed: nobody stays behind in it, unless the guest has ended. */
static void let_go(struct vm *vm)
{
	pthread_mutex_lock(&vm->lock);
	__atomic_store_n(&vm->want_park, vm->ending.end != VM_END_NONE, __ATOMIC_RELEASE);
	for (unsigned i = 0; i < vm->machine.vcpus; i++)
		__atomic_store_n(&vm->vcpus[i].run->immediate_exit, 0, __ATOMIC_RELAXED);
	pthread_cond_broadcast(&vm->go_cond);
	pthread_mutex_unlock(&vm->lock);
}

int vm_pause(struct vm *vm, struct err *e)
{
	int r;

	if (!vm->running)
		return 0;
	pthread_mutex_lock(&vm->lock);
	vm->vcpu_error = 0;
	vm_kick_vcpus(vm);
	pthread_mutex_unlock(&vm->lock);
	spin_until_parked(vm);
	pthread_mutex_lock(&vm->lock);
	r = wait_count(vm, &vm->nparked, vm->machine.vcpus);
	if (r)
		err_set(e, r, "vCPUs: only %u of %u stopped within %d s", vm->nparked,
			vm->machine.vcpus, PARK_DEADLINE_S);
	else if (vm->vcpu_error)
		r = err_set(e, vm->vcpu_error, "vCPU state: reading %s: %s", vm->vcpu_what,
			    strerror(-vm->vcpu_error));
	pthread_mutex_unlock(&vm->lock);
	if (!r)
		r = save_parked(vm, e);
	if (r) {
		let_go(vm);
		return r;
	}
	vm->running = false;
	vm->paused_ns = loop_now_ns();
	quiet_devices(vm, true);
	/* Here, and not in vm_save(): the clock goes on, but a paused VM has one state. */
	r = vm_chips_save(vm);
	return r < 0 ? err_set(e, r, "interrupt chips: reading: %s", strerror(-r)) : 0;
}

void vm_resume(struct vm *vm)
{
	VMM_BUG_ON(vm->running);
	vm->running = true;
	vm_clock_resume(vm);
	quiet_devices(vm, false);
	if (vm->ending.end != VM_END_NONE) {
		device_signal(vm->end_fd);
		return;
	}
	pthread_mutex_lock(&vm->lock);
	__atomic_store_n(&vm->want_park, false, __ATOMIC_RELEASE);
	pthread_cond_broadcast(&vm->go_cond);
	pthread_mutex_unlock(&vm->lock);
}

void vm_start(struct vm *vm)
{
	for (unsigned i = 0; i < vm->ndevs; i++)
		if (vm->devs[i]->ops->resume)
			vm->devs[i]->ops->resume(vm->devs[i]);
	vm_resume(vm);
}

/* Every vCPU thread does this for itself; parked threads only. */
int vm_ask_vcpus(struct vm *vm, enum vcpu_task task, struct err *e)
{
	int r;

	pthread_mutex_lock(&vm->lock);
	vm->vcpu_error = 0;
	vm->nanswered = 0;
	vm->task = task;
	vm->request++;
	for (unsigned i = 0; i < vm->machine.vcpus; i++)
		boost(&vm->vcpus[i]);
	pthread_cond_broadcast(&vm->go_cond);
	r = wait_count(vm, &vm->nanswered, vm->machine.vcpus);
	if (r)
		err_set(e, r, "vCPUs: only %u of %u answered", vm->nanswered, vm->machine.vcpus);
	else if (vm->vcpu_error)
		r = err_set(e, vm->vcpu_error, "vCPU state: %s %s: %s",
			    task == VCPU_SAVE ? "reading" : "this host refuses", vm->vcpu_what,
			    strerror(-vm->vcpu_error));
	pthread_mutex_unlock(&vm->lock);
	return r;
}

void vm_quit_vcpus(struct vm *vm)
{
	pthread_mutex_lock(&vm->lock);
	vm->quit = true;
	vm_kick_vcpus(vm);
	pthread_cond_broadcast(&vm->go_cond);
	pthread_mutex_unlock(&vm->lock);
	for (unsigned i = 0; i < vm->machine.vcpus; i++) {
		if (!vm->vcpus[i].has_thread)
			continue;
		pthread_join(vm->vcpus[i].thread, NULL);
		vm->vcpus[i].has_thread = false;
	}
}

static void note_error(struct vm *vm, int r, const char *what)
{
	if (r < 0 && !vm->vcpu_error) {
		vm->vcpu_error = r;
		vm->vcpu_what = what;
	}
}

static int do_task(struct vcpu *v, enum vcpu_task task, const char **ret_what)
{
	if (task == VCPU_SAVE)
		return vcpu_save(v, ret_what);
	return vcpu_load(v, task == VCPU_TRY_LOAD, ret_what);
}

/* Parked until told to go, doing what the loop asks for meanwhile. Under vm->lock. */
static void wait_for_go(struct vcpu *v)
{
	struct vm *vm = v->vm;

	while (vm->want_park && !vm->quit) {
		enum vcpu_task task = vm->task;
		const char *what = "";
		int r;

		if (v->answered == vm->request) {
			pthread_cond_wait(&vm->go_cond, &vm->lock);
			continue;
		}
		v->answered = vm->request;
		pthread_mutex_unlock(&vm->lock);
		r = do_task(v, task, &what);
		pthread_mutex_lock(&vm->lock);
		note_error(vm, r, what);
		vm->nanswered++;
		pthread_cond_signal(&vm->parked_cond);
	}
}

/* The end of a park, under vm->lock, which is given back. False: the thread is to end. */
static bool leave_park(struct vcpu *v)
{
	struct vm *vm = v->vm;
	bool go = !vm->quit, boosted = v->boosted;

	__atomic_fetch_sub(&vm->nparked, 1, __ATOMIC_RELEASE);
	/* Under the lock, so that a pause that comes now sets it again after us. */
	__atomic_store_n(&v->run->immediate_exit, 0, __ATOMIC_RELAXED);
	v->boosted = false;
	pthread_mutex_unlock(&vm->lock);
	if (boosted)
		unboost(v);
	return go;
}

bool vm_park(struct vcpu *v)
{
	struct vm *vm = v->vm;
	const char *what = "";
	int r = v->fresh || vm->machine.vcpus > 1 ? 0 : vcpu_save(v, &what);
	bool go;

	pthread_mutex_lock(&vm->lock);
	note_error(vm, r, what);
	__atomic_fetch_add(&vm->nparked, 1, __ATOMIC_RELEASE);
	pthread_cond_signal(&vm->parked_cond);
	wait_for_go(v);
	go = leave_park(v);
	if (!__atomic_load_n(&vm->first_entry_ns, __ATOMIC_RELAXED))
		__atomic_store_n(&vm->first_entry_ns, loop_now_ns(), __ATOMIC_RELAXED);
	return go;
}

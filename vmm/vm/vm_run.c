#define _GNU_SOURCE
#include "vmm/vm/vm_run.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "vmm/base/lock.h"
#include "vmm/base/log.h"
#include "vmm/vm/vm_internal.h"

#define PARK_DEADLINE_S 5
#define SPIN_NS		100000

/* Wait until *count is n, at most PARK_DEADLINE_S. Under run.lock. */
static int wait_count(struct vm *vm, const unsigned *count, unsigned n)
{
	struct timespec until;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += PARK_DEADLINE_S;
	while (*count < n)
		if (pthread_cond_timedwait(&vm->run.parked_cond, &vm->run.lock, &until) ==
		    ETIMEDOUT)
			return -ETIMEDOUT;
	return 0;
}

/*
 * On a busy host a vCPU that is to stop would wait for its turn while all others stand still. So it
 * runs before ordinary threads from the kick until it is let go. Under run.lock.
 *
 * Not by pthread_setschedparam(), which takes a lock of the thread: a vCPU that lets go of its
 * priority there loses its processor with the lock, and the next boost would wait for it.
 */
static void boost(struct vcpu *v)
{
	struct sched_param p = {.sched_priority = 1};
	pid_t tid = __atomic_load_n(&v->tid, __ATOMIC_ACQUIRE);

	if (!tid)
		return;
	v->boosted = v->may_boost && !sched_setscheduler(tid, SCHED_RR, &p);
	v->may_boost = v->boosted;
}

static void unboost(void)
{
	struct sched_param p = {0};

	sched_setscheduler(0, SCHED_OTHER, &p);
}

/* All are to park; those of `leave` (bit i: vCPU i) are not interrupted for it. */
static void want_park(struct vm *vm, uint32_t leave)
{
	__atomic_store_n(&vm->run.want_park, true, __ATOMIC_RELEASE);
	for (unsigned i = 0; i < vm->machine.vcpus; i++) {
		struct vcpu *v = &vm->vcpus[i];

		if (!v->has_thread)
			continue;
		__atomic_store_n(&v->run->immediate_exit, 1, __ATOMIC_RELAXED);
		if (!(leave & 1u << i))
			pthread_kill(v->thread, VCPU_SIGNAL);
	}
}

void vm_kick_vcpus(struct vm *vm)
{
	want_park(vm, 0);
	/* Not before it is signalled: it may take this processor at once, and run the guest. */
	for (unsigned i = 0; i < vm->machine.vcpus; i++)
		if (vm->vcpus[i].has_thread)
			boost(&vm->vcpus[i]);
}

/* Most vCPUs stop within 100 us; sleeping and being woken would cost half as much again. */
static void spin_until_parked(const struct vm *vm)
{
	uint64_t until = loop_now_ns() + SPIN_NS;

	while (__atomic_load_n(&vm->run.nparked, __ATOMIC_ACQUIRE) < vm->machine.vcpus &&
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

int vm_pause(struct vm *vm, struct err *e)
{
	int r;

	if (!vm->running)
		return 0;
	pthread_mutex_lock(&vm->run.lock);
	vm_kick_vcpus(vm);
	pthread_mutex_unlock(&vm->run.lock);
	spin_until_parked(vm);
	pthread_mutex_lock(&vm->run.lock);
	r = wait_count(vm, &vm->run.nparked, vm->machine.vcpus);
	if (r)
		err_set(e, r, "vCPUs: only %u of %u stopped within %d s", vm->run.nparked,
			vm->machine.vcpus, PARK_DEADLINE_S);
	else if (vm->run.vcpu_error)
		r = err_set(e, vm->run.vcpu_error, "vCPU state: reading %s: %s", vm->run.vcpu_what,
			    strerror(-vm->run.vcpu_error));
	pthread_mutex_unlock(&vm->run.lock);
	if (!r)
		r = save_parked(vm, e);
	if (!r && vm->ending.end == VM_END_HOST)
		r = err_set(e, -EIO, "%s", vm_end_why(vm));
	if (r) {
		vm_go_on(vm);
		return r;
	}
	vm->running = false;
	vm->run.paused_ns = loop_now_ns();
	vm_devices_quiet(vm, true);
	/* Here, and not in vm_save(): the clock goes on, but a paused VM has one state. */
	r = vm_chips_save(vm);
	return r < 0 ? err_set(e, r, "interrupt chips: reading: %s", strerror(-r)) : 0;
}

bool vm_stand_failed(struct vm *vm)
{
	bool stands;

	pthread_mutex_lock(&vm->run.lock);
	stands = vm->ending.end == VM_END_HOST && vm->run.nparked == vm->machine.vcpus;
	pthread_mutex_unlock(&vm->run.lock);
	if (!stands || !vm->running)
		return false;
	vm->running = false;
	vm_devices_quiet(vm, true);
	return true;
}

void vm_resume(struct vm *vm)
{
	VMM_BUG_ON(vm->running);
	if (vm->run.fresh)
		vm_devices_resume(vm);
	vm->run.fresh = false;
	vm->running = true;
	vm_clock_resume(vm);
	vm_devices_quiet(vm, false);
	if (vm->ending.end != VM_END_NONE) {
		vm_tell_end(vm);
		return;
	}
	pthread_mutex_lock(&vm->run.lock);
	__atomic_store_n(&vm->run.want_park, false, __ATOMIC_RELEASE);
	pthread_cond_broadcast(&vm->run.go_cond);
	pthread_mutex_unlock(&vm->run.lock);
}

void vm_start(struct vm *vm)
{
	vm->run.fresh = true;
	vm_resume(vm);
}

void vm_halt(struct vm *vm)
{
	pthread_mutex_lock(&vm->run.lock);
	vm_kick_vcpus(vm);
	pthread_mutex_unlock(&vm->run.lock);
}

void vm_rest(struct vm *vm, uint32_t waiting)
{
	pthread_mutex_lock(&vm->run.lock);
	want_park(vm, waiting);
	pthread_mutex_unlock(&vm->run.lock);
}

/* Nobody stays behind, unless the guest has ended. */
void vm_go_on(struct vm *vm)
{
	bool ended;

	pthread_mutex_lock(&vm->run.lock);
	ended = vm->ending.end != VM_END_NONE;
	__atomic_store_n(&vm->run.want_park, ended, __ATOMIC_RELEASE);
	for (unsigned i = 0; i < vm->machine.vcpus && !ended; i++)
		if (vm->vcpus[i].has_thread)
			__atomic_store_n(&vm->vcpus[i].run->immediate_exit, 0, __ATOMIC_RELAXED);
	pthread_cond_broadcast(&vm->run.go_cond);
	pthread_mutex_unlock(&vm->run.lock);
}

/* Every vCPU thread does this for itself; parked threads only. */
int vm_ask_vcpus(struct vm *vm, enum vcpu_task task, struct err *e)
{
	int r;

	pthread_mutex_lock(&vm->run.lock);
	vm->run.vcpu_error = 0;
	vm->run.nanswered = 0;
	vm->run.task = task;
	vm->run.request++;
	for (unsigned i = 0; i < vm->machine.vcpus; i++)
		boost(&vm->vcpus[i]);
	pthread_cond_broadcast(&vm->run.go_cond);
	r = wait_count(vm, &vm->run.nanswered, vm->machine.vcpus);
	if (r)
		err_set(e, r, "vCPUs: only %u of %u answered", vm->run.nanswered,
			vm->machine.vcpus);
	else if (vm->run.vcpu_error)
		r = err_set(e, vm->run.vcpu_error, "vCPU state: %s %s: %s",
			    task == VCPU_SAVE ? "reading" : "this host refuses", vm->run.vcpu_what,
			    strerror(-vm->run.vcpu_error));
	pthread_mutex_unlock(&vm->run.lock);
	return r;
}

void vm_quit_vcpus(struct vm *vm)
{
	pthread_mutex_lock(&vm->run.lock);
	vm->run.quit = true;
	vm_kick_vcpus(vm);
	pthread_cond_broadcast(&vm->run.go_cond);
	pthread_mutex_unlock(&vm->run.lock);
	for (unsigned i = 0; i < vm->machine.vcpus; i++) {
		if (!vm->vcpus[i].has_thread)
			continue;
		pthread_join(vm->vcpus[i].thread, NULL);
		vm->vcpus[i].has_thread = false;
	}
}

static void note_error(struct vm *vm, int r, const char *what)
{
	if (r < 0 && !vm->run.vcpu_error) {
		vm->run.vcpu_error = r;
		vm->run.vcpu_what = what;
	}
}

static int do_task(struct vcpu *v, enum vcpu_task task, const char **ret_what)
{
	if (task == VCPU_SAVE)
		return vcpu_save(v, ret_what);
	return vcpu_load(v, task == VCPU_TRY_LOAD, ret_what);
}

/* Parked until told to go, doing what the loop asks for meanwhile. Under run.lock. */
static void wait_for_go(struct vcpu *v)
{
	struct vm *vm = v->env->arg;

	while (vm->run.want_park && !vm->run.quit) {
		enum vcpu_task task = vm->run.task;
		const char *what = "";
		int r;

		if (v->answered == vm->run.request) {
			pthread_cond_wait(&vm->run.go_cond, &vm->run.lock);
			continue;
		}
		v->answered = vm->run.request;
		pthread_mutex_unlock(&vm->run.lock);
		r = do_task(v, task, &what);
		pthread_mutex_lock(&vm->run.lock);
		note_error(vm, r, what);
		vm->run.nanswered++;
		pthread_cond_signal(&vm->run.parked_cond);
	}
}

/* The end of a park, under run.lock, which is given back. False: the thread is to end. */
static bool leave_park(struct vcpu *v)
{
	struct vm *vm = v->env->arg;
	bool go = !vm->run.quit, boosted = v->boosted;

	__atomic_fetch_sub(&vm->run.nparked, 1, __ATOMIC_RELEASE);
	/* Under the lock, so that a pause that comes now sets it again after us. */
	__atomic_store_n(&v->run->immediate_exit, 0, __ATOMIC_RELAXED);
	v->boosted = false;
	vm->run.vcpu_error = 0;
	pthread_mutex_unlock(&vm->run.lock);
	if (boosted)
		unboost();
	return go;
}

static bool park(struct vcpu *v)
{
	struct vm *vm = v->env->arg;
	const char *what = "";
	int r = v->fresh || vm->machine.vcpus > 1 ? 0 : vcpu_save(v, &what);
	bool go;

	pthread_mutex_lock(&vm->run.lock);
	note_error(vm, r, what);
	__atomic_fetch_add(&vm->run.nparked, 1, __ATOMIC_RELEASE);
	pthread_cond_signal(&vm->run.parked_cond);
	wait_for_go(v);
	go = leave_park(v);
	if (!__atomic_load_n(&vm->run.first_entry_ns, __ATOMIC_RELAXED))
		__atomic_store_n(&vm->run.first_entry_ns, loop_now_ns(), __ATOMIC_RELAXED);
	return go;
}

static void *thread_main(void *arg)
{
	struct vcpu *v = arg;
	const struct vm *vm = v->env->arg;
	struct err e = {0};
	char name[16];

	__atomic_store_n(&v->tid, gettid(), __ATOMIC_RELEASE);
	snprintf(name, sizeof(name), "vcpu%u", v->index);
	pthread_setname_np(pthread_self(), name);
	if (sandbox_enter(vm->run.sandbox, false, &e))
		v->env->ended(v->env->arg, VM_END_HOST, e.msg);
	for (;;) {
		if (__atomic_load_n(&vm->run.want_park, __ATOMIC_ACQUIRE) && !park(v))
			return NULL;
		vcpu_run(v);
	}
}

int vm_run_threads(struct vm *vm, enum sandbox how, struct err *e)
{
	vm->run.sandbox = malloc(sizeof(*vm->run.sandbox));
	if (!vm->run.sandbox)
		return err_set(e, -ENOMEM, "out of memory");
	if (sandbox_make(vm->run.sandbox, how, SANDBOX_VCPU, e))
		return e->code;
	for (unsigned i = 0; i < vm->machine.vcpus; i++) {
		int r = pthread_create(&vm->vcpus[i].thread, NULL, thread_main, &vm->vcpus[i]);

		if (r)
			return err_set(e, -r, "vCPU %u: thread: %s", i, strerror(r));
		vm->vcpus[i].has_thread = true;
	}
	return 0;
}

void vm_run_init(struct vm *vm)
{
	struct vm_run *run = &vm->run;
	pthread_condattr_t ca;

	lock_init(&run->lock);
	pthread_condattr_init(&ca);
	pthread_condattr_setclock(&ca, CLOCK_MONOTONIC);
	pthread_cond_init(&run->parked_cond, &ca);
	pthread_cond_init(&run->go_cond, &ca);
	pthread_condattr_destroy(&ca);
	run->want_park = true;
}

void vm_run_done(struct vm *vm)
{
	pthread_cond_destroy(&vm->run.parked_cond);
	pthread_cond_destroy(&vm->run.go_cond);
	pthread_mutex_destroy(&vm->run.lock);
	free(vm->run.sandbox);
}

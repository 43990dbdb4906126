/*
 * One virtual machine: KVM objects, memory, devices, vCPU threads, and the few verbs that all run
 * modes use: create, boot, pause, resume, save, load, end.
 *
 * Owner: the loop thread. vCPU threads touch only what is marked so. Order inside vm_pause() and
 * vm_save(), the same for pause, snapshot and every epoch:
 *   1. vCPUs leave KVM_RUN; when the last one has, all finish their last exit and save their
 *      registers, in parallel: as long as one runs it can send interrupts to the others;
 *   2. devices are told to be quiet: until vm_resume() they touch neither guest memory nor state;
 *   3. interrupt chips and clock are read; vm_save() then reads every device.
 */
#ifndef VMM_VM_H
#define VMM_VM_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "devices/backends.h"
#include "devices/device.h"
#include "devices/disk.h"
#include "net/netdev.h"
#include "net/obuf.h"
#include "net/vsock_host.h"
#include "vmm/boot/boot_file.h"
#include "vmm/machine/bus.h"
#include "vmm/vm/console.h"
#include "vmm/vm/kvm.h"
#include "vmm/base/loop.h"
#include "vmm/machine/machine.h"
#include "vmm/machine/mem.h"
#include "vmm/vm/vcpu.h"
#include "vmm/vm/vm_end.h"

#define VM_MAX_DEVICES (7 + MACHINE_MAX_DEVS)
#define VM_MAX_ITEMS   (2 + MACHINE_MAX_VCPUS + VM_MAX_DEVICES)

/* Interrupt chips and clock of the VM (KVM_GET_IRQCHIP, KVM_GET_PIT2, KVM_GET_CLOCK). */
struct vm_chips {
	struct kvm_irqchip pic[2];
	struct kvm_irqchip ioapic;
	struct kvm_pit_state2 pit;
	uint64_t clock_ns; /* kvmclock */
	uint8_t tsc_exact; /* the TSC in each vCPU's state is that of the moment of clock_ns */
};

extern const struct state_desc vm_chips_desc;

struct vm {
	struct machine machine;
	struct kvm kvm;
	struct mem mem;
	struct bus bus;
	struct loop *loop;
	struct obuf obuf;
	struct loop_op output_op;  /* obuf_continue() */
	bool (*doubts)(void *arg); /* may another side run the VM? Then output waits; may be NULL */
	void *doubts_arg;
	struct console console;
	struct dev_env env;
	struct device *devs[VM_MAX_DEVICES]; /* legacy first, then machine.devs in order */
	unsigned ndevs;
	struct device *ged, *serial;
	struct device *mdevs[MACHINE_MAX_DEVS]; /* the device of machine.devs[i] */
	struct disk disks[MACHINE_MAX_DEVS];  /* by index of machine.devs; fd -1 when not a disk */
	struct netdev nets[MACHINE_MAX_DEVS]; /* likewise */
	struct vsock_host vsock;	      /* unused without a device of that kind */
	struct vm_chips chips;
	struct state_item items[VM_MAX_ITEMS];	 /* pods are the live copies */
	struct state_item scratch[VM_MAX_ITEMS]; /* pods of their own, for decoding */
	unsigned nitems;
	uint8_t *power_on; /* all items as they were when the VM was built */
	size_t power_on_len;
	uint64_t resets;

	/* Run control: under lock; want_park is also read without it. */
	pthread_mutex_t lock;
	pthread_cond_t parked_cond, go_cond;
	bool want_park, quit;
	unsigned nparked, nanswered;
	uint32_t request; /* counts what vCPUs were asked to do while parked: task */
	enum vcpu_task task;
	int vcpu_error; /* first failure of a save or load since asked */
	const char *vcpu_what;
	bool running;
	bool tsc_offsets;	 /* this host lets us set TSCs exactly */
	uint64_t paused_ns;	 /* CLOCK_MONOTONIC of the last vm_pause(); 0: never */
	uint64_t first_entry_ns; /* atomic: CLOCK_MONOTONIC when a vCPU first entered the guest, or
				    0 */

	struct vm_ending ending;
	int end_fd; /* tells the loop of the guest's end */
	struct loop_op end_op;
	void (*on_end)(void *arg);
	void (*on_panic)(void *arg); /* the guest's kernel said that it panicked; may be NULL */
	void *on_end_arg;
	uint8_t panics;	     /* atomic: pvpanic events not reported yet */
	uint64_t panic_told; /* log_may() */

	struct vcpu vcpus[MACHINE_MAX_VCPUS]; /* last: most of it stays untouched */
};

/*
 * Build the whole machine on the back ends b, vCPU threads parked. The error says which device and
 * what to do. On failure nothing is left behind.
 */
int vm_create(struct vm *vm, struct loop *l, const struct machine *m, const struct backends *b,
	      struct err *e);
void vm_destroy(struct vm *vm); /* safe on a zeroed or half-built vm */
/* Load kernel and boot data into RAM and set vCPU 0 to its entry. */
int vm_boot(struct vm *vm, const struct boot_files *files, struct err *e);

/*
 * After VM_END_RESET: power-on state, boot, run; 1 ms for each 10 MiB of files. On failure the VM
 * is paused and of no use.
 */
int vm_reset(struct vm *vm, const struct boot_files *files, struct err *e);

/*
 * Stop all vCPUs, save their state and that of the interrupt chips (no-op when paused).
 * -ETIMEDOUT after 5 s says how many stopped; the VM goes on then.
 */
int vm_pause(struct vm *vm, struct err *e);
/* A guest that has ended stays where it is; on_end is called once more. */
void vm_resume(struct vm *vm);
/* The first device of that kind, or NULL. */
struct device *vm_find_device(struct vm *vm, enum mdev_kind kind);
/* First start, restore or takeover: devices look at their queues again, then vCPUs run. */
void vm_start(struct vm *vm);

/*
 * Press the power button. False when the guest does not listen to it (no ACPI, or not yet).
 * Loop thread.
 */
bool vm_power_button(struct vm *vm);
/*
 * This VM may have a twin: it was restored, or its other side is lost with random numbers drawn
 * from the same state. Tells the guest (VM generation ID). VM paused, loaded, about to start.
 */
void vm_new_generation(struct vm *vm);

/* Paused: bring every item's pod up to date and encode them all. Bytes, or a negative errno. */
int64_t vm_save(struct vm *vm, void *buf, size_t cap);
size_t vm_state_bound(const struct vm *vm);
/* Decode and check into the scratch pods; the VM is unchanged. */
int vm_decode(struct vm *vm, const void *buf, size_t len, struct err *e);
/* Scratch becomes what vm_load() will load. Plain copies: cannot fail. VM paused or never run. */
void vm_commit(struct vm *vm);
/*
 * Put the committed state into KVM and devices, to run it: KVM writes its clock into memory.
 * advance_ns: how long ago the guest was what is loaded, if its time went on meanwhile.
 */
int vm_load(struct vm *vm, uint64_t advance_ns, struct err *e);
/* The same, but guest memory stays as it is: will this host take the state? */
int vm_try_load(struct vm *vm, struct err *e);

/* vCPU threads only. vm_park() returns false when the thread is to end. */
static inline bool vm_should_park(const struct vm *vm)
{
	return __atomic_load_n(&vm->want_park, __ATOMIC_ACQUIRE);
}
bool vm_park(struct vcpu *v);

#endif

/*
 * What every device has in common. A device is KVM-free: it sees guest memory, the event loop, the
 * bus and the output buffer; interrupts are an eventfd (bound to an irqfd by vmm/vm/vm_devices.c),
 * doorbells are eventfds (bound to ioeventfds). So it can be tested without /dev/kvm.
 *
 * Threads: register accesses come from vCPU threads and take `lock`; everything else runs on the
 * loop thread and takes `lock` too. save/load/resume are called with all vCPUs stopped.
 */
#ifndef DEVICES_DEVICE_H
#define DEVICES_DEVICE_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "vmm/machine/bus.h"
#include "vmm/base/err.h"
#include "vmm/base/loop.h"
#include "vmm/machine/mem.h"
#include "vmm/machine/state.h"

struct inputs;
struct obuf;
struct seqmap;

struct dev_env {
	struct mem *mem;
	struct loop *loop;
	struct bus *bus;
	struct obuf *obuf;
	struct seqmap *seqs;   /* of all networks (net/seqmap.h); NULL: none */
	struct inputs *inputs; /* of all devices (devices/inputs.h); NULL: none */
};

#define DEVICE_MAX_DOORBELLS 17

struct device;

struct device_ops {
	const struct state_desc *state; /* a device without a table does not exist */
	/* Copy live state into pod (d->pod). vCPUs stopped, loop thread. Cannot fail. */
	void (*save)(struct device *d);
	/*
	 * Take a checked scratch pod over as the live state, and be quiet until resume(): a
	 * secondary loads to try, and stands by. vCPUs stopped. Cannot fail.
	 */
	void (*load)(struct device *d, const void *pod);
	/*
	 * The VM is about to run (first start, restore, takeover): look at every queue again,
	 * re-raise interrupts that are pending, replay requests that were in flight.
	 */
	void (*resume)(struct device *d);
	/*
	 * While quiet, the device leaves guest memory and its own state alone: what arrives waits
	 * inside. For pauses that let the loop run (migration, snapshot); an epoch needs none, its
	 * seal is one callback. Loop thread. NULL when there is nothing to hold back.
	 */
	void (*quiet)(struct device *d, bool on);
	/*
	 * Memory that mem_ready() was asked for has come, at least a part: look again at what was
	 * left for want of it. Loop thread. NULL for those that touch no memory.
	 */
	void (*arrived)(struct device *d);
	void (*free)(struct device *d);
};

struct device {
	const struct device_ops *ops;
	const char *id;
	pthread_mutex_t lock;
	void *pod;	       /* state copy filled by save(); sizeof = ops->state->size */
	int irq_fd;	       /* eventfd that raises the interrupt, -1 for none */
	uint32_t gsi;	       /* where irq_fd is to be bound */
	uint64_t doorbell_gpa; /* a 4-byte MMIO write of value n signals doorbell[n] */
	int doorbell[DEVICE_MAX_DOORBELLS];
	unsigned ndoorbells;
	uint64_t faults; /* times the guest broke a rule; any thread reads it: atomic */
};

/*
 * For devices/ only. device_init() allocates pod and, when irq is set, irq_fd; the rest of d is
 * zeroed. device_done() gives back what it made, doorbells too, but not d itself.
 */
int device_init(struct device *d, const struct device_ops *ops, const char *id, bool irq,
		struct err *e);
void device_done(struct device *d);
/* Add a doorbell eventfd; returns its number or a negative errno. */
int device_add_doorbell(struct device *d);
/* Signal an eventfd / take its count; both never block. -1 is nothing. Any thread. */
void device_signal(int eventfd);
void device_drain(int eventfd);
/* Register a region of this device on the bus. */
int device_add_region(const struct dev_env *env, const char *id, const struct bus_region *r,
		      struct err *e);

#endif

/*
 * What all virtio devices share, whatever the transport: status machine, feature negotiation,
 * queue set-up, interrupts, needs-reset (virtio 1.2 sections 2.1, 2.2, 3.1).
 *
 * struct virtio_dev lies at offset 0 of each device type. Unless said otherwise functions are
 * called under dev.lock.
 */
#ifndef DEVICES_VIRTIO_H
#define DEVICES_VIRTIO_H

#include "devices/device.h"
#include "devices/virtq.h"
#include "vmm/machine/machine.h"

#define VIRTIO_MAX_QUEUES 17 /* 8 pairs of a NIC and its control queue */

/* InterruptStatus bits, virtio 1.2 section 4.2.2 */
enum { VIRTIO_INT_USED = 1, VIRTIO_INT_CONFIG = 2 };

/* The part of a device's POD that every type begins with. */
struct virtio_state {
	uint32_t status;
	uint32_t irq_status; /* stays until the driver acknowledges */
	uint64_t drv_features;
	uint32_t dev_features_sel, drv_features_sel, queue_sel;
	uint32_t config_gen;
	uint32_t nqueues;
	struct virtq_state queues[VIRTIO_MAX_QUEUES];
};

extern const struct field virtio_fields[8];
/*
 * Relations inside a decoded state; for state_desc.check of each type. A type whose devices differ
 * in queues passes s->nqueues: a state with more than the device has faults it when it resumes, one
 * with fewer leaves the others unused.
 */
int virtio_state_check(const struct virtio_state *s, unsigned nqueues, struct err *e);

struct virtio_dev;

struct virtio_ops {
	const struct device_ops *device;
	uint32_t device_id;
	unsigned nqueues;  /* unless virtio_dev.nqueues says otherwise */
	uint64_t features; /* of the type; the transport-independent ones are added */
	/* Which sets hang together; NULL: any subset of the offered ones. */
	bool (*features_ok)(struct virtio_dev *vd, uint64_t features);
	/* Copy the config space out, at most VIRTIO_CONFIG_MAX bytes. */
	void (*config)(struct virtio_dev *vd, void *buf);
	/* The driver writes to it, 1 to 8 bytes at any offset. vCPU thread. NULL: ignored. */
	void (*config_write)(struct virtio_dev *vd, uint64_t off, unsigned size, uint64_t val);
	/* Loop thread, once when the driver set DRIVER_OK, and at resume. May be NULL. */
	void (*activate)(struct virtio_dev *vd);
	/* Loop thread: a turn at queue qi; return true to have another (loop_should_yield()). */
	bool (*notify)(struct virtio_dev *vd, unsigned qi);
	/* The queue stops (reset, disabled, state loaded): forget its requests. Any thread. */
	void (*queue_stop)(struct virtio_dev *vd, unsigned qi);
	/* At resume, before the queues are looked at: replay what was in flight. May be NULL. */
	void (*replay)(struct virtio_dev *vd);
	/* The device stops being quiet. May be NULL. */
	void (*wake)(struct virtio_dev *vd);
};

#define VIRTIO_CONFIG_MAX 256

struct virtio_dev {
	struct device dev;
	struct dev_env env;
	const struct virtio_ops *ops;
	char id[32];
	unsigned nqueues;	 /* of this device */
	uint64_t features;	 /* offered */
	struct virtio_state *st; /* begins the live POD */
	struct virtq vq[VIRTIO_MAX_QUEUES];
	struct loop_op kick[VIRTIO_MAX_QUEUES];
	bool activate_pending;
	bool odd_state;	 /* loaded, and not of a device like this one */
	bool quiet;	 /* also from load to resume */
	uint32_t kicked; /* queues to be looked at: in turns of work, but not while quiet */
	unsigned turn;	 /* the queue to begin with */
	struct loop_work work;
};

/*
 * Set up vd; live is the POD, whose first member is struct virtio_state, of
 * ops->device->state->size bytes. Makes doorbells and their polls and registers the registers on
 * the bus. vd->nqueues may be set before, to at most VIRTIO_MAX_QUEUES; 0 takes that of the type.
 */
int virtio_init(struct virtio_dev *vd, const struct virtio_ops *ops, const struct dev_env *env,
		const struct mdev *md, void *live, struct err *e);
/* Without lock; vCPUs stopped. */
void virtio_done(struct virtio_dev *vd);

/* device_ops for all types: the live POD is copied as it is. They take the lock. */
void virtio_save(struct device *d);
void virtio_load(struct device *d, const void *pod);
void virtio_resume(struct device *d);
void virtio_quiet(struct device *d, bool on);
void virtio_arrived(struct device *d);

/* May queues be worked on? */
bool virtio_running(const struct virtio_dev *vd);
static inline bool virtio_has(const struct virtio_dev *vd, unsigned feature)
{
	return vd->st->drv_features >> feature & 1;
}
/* The guest broke a rule: count, log, and stop the device until the driver resets it. */
void virtio_fault(struct virtio_dev *vd, const char *why);
/* Interrupt for used buffers when the driver wants one / for a changed configuration. */
void virtio_signal_used(struct virtio_dev *vd, unsigned qi);
void virtio_signal_config(struct virtio_dev *vd);
/* Have notify() called for a queue soon. Any thread, with or without the lock. */
void virtio_kick(struct virtio_dev *vd, unsigned qi);
/* The same, in this round if there is time. Loop thread, under the lock. */
void virtio_later(struct virtio_dev *vd, unsigned qi);

/*
 * These queues waited for the same thing, and it has come: the one behind `last` is the first to
 * have it. Loop thread, without the lock.
 */
void virtio_go_on(struct virtio_dev *vd, uint32_t queues, unsigned last);

/*
 * Call one() until the queue is empty or this turn is over; then interrupt if wanted. one()
 * takes one chain: 1 done, 0 the ring is empty, -EAGAIN stop here, something will kick later,
 * -EBADMSG the guest broke a rule. Returns true when there is more to do, as notify() does.
 */
typedef int virtio_one_fn(struct virtio_dev *vd, unsigned qi);
bool virtio_drain(struct virtio_dev *vd, unsigned qi, virtio_one_fn *one);

/* What the driver does through the transport. */
void virtio_set_status(struct virtio_dev *vd, uint32_t val);
void virtio_set_features(struct virtio_dev *vd, uint32_t sel, uint32_t val);
void virtio_set_queue_ready(struct virtio_dev *vd, struct virtq *vq, bool ready);
/* May size and addresses be set? Not once the queue is ready or the driver is. */
bool virtio_queue_open(const struct virtio_dev *vd, const struct virtq *vq);

#endif

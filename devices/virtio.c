#include "devices/virtio.h"

#include <errno.h>
#include <linux/virtio_config.h>
#include <linux/virtio_mmio.h>
#include <linux/virtio_ring.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>

#include "devices/virtio_mmio.h"
#include "vmm/base/log.h"

#define ACK	    VIRTIO_CONFIG_S_ACKNOWLEDGE
#define DRIVER	    VIRTIO_CONFIG_S_DRIVER
#define DRIVER_OK   VIRTIO_CONFIG_S_DRIVER_OK
#define FEATURES_OK VIRTIO_CONFIG_S_FEATURES_OK
#define NEEDS_RESET VIRTIO_CONFIG_S_NEEDS_RESET
#define FAILED	    VIRTIO_CONFIG_S_FAILED

#define COMMON_FEATURES                                                                            \
	(1ull << VIRTIO_F_VERSION_1 | 1ull << VIRTIO_RING_F_INDIRECT_DESC |                        \
	 1ull << VIRTIO_RING_F_EVENT_IDX)

const struct field virtio_fields[8] = {
	F_U32(struct virtio_state, status, 1, "device status", .max = 0xff),
	F_U32(struct virtio_state, irq_status, 2, "interrupt causes not yet acknowledged",
	      .max = VIRTIO_INT_USED | VIRTIO_INT_CONFIG),
	F_U64(struct virtio_state, drv_features, 3, "features the driver accepted"),
	F_U32(struct virtio_state, dev_features_sel, 4, "selected word of offered features"),
	F_U32(struct virtio_state, drv_features_sel, 5, "selected word of driver features"),
	F_U32(struct virtio_state, queue_sel, 6, "selected queue"),
	F_U32(struct virtio_state, config_gen, 7, "configuration generation"),
	F_ARRAY(struct virtio_state, queues, nqueues, 8, virtq_fields, "the queues"),
};

/* The steps of section 3.1.1; a driver may take several at once, but none back. */
static bool status_legal(uint32_t base)
{
	return base == 0 || base == ACK || base == (ACK | DRIVER) ||
	       base == (ACK | DRIVER | FEATURES_OK) ||
	       base == (ACK | DRIVER | FEATURES_OK | DRIVER_OK);
}

int virtio_state_check(const struct virtio_state *s, unsigned nqueues, struct err *e)
{
	if (!status_legal(s->status & ~(NEEDS_RESET | FAILED)))
		return err_set(e, -EBADMSG, "virtio status 0x%x is not reachable", s->status);
	if ((s->status & FEATURES_OK) && !(s->drv_features >> VIRTIO_F_VERSION_1 & 1))
		return err_set(e, -EBADMSG, "virtio features accepted without VERSION_1");
	if (s->nqueues != nqueues)
		return err_set(e, -EBADMSG, "%u virtio queues, must be %u", s->nqueues, nqueues);
	for (unsigned i = 0; i < nqueues; i++) {
		const struct virtq_state *q = &s->queues[i];

		if (q->size & (q->size - 1))
			return err_set(e, -EBADMSG, "queue %u: size %u is no power of two", i,
				       q->size);
		if (!q->ready)
			continue;
		if (!q->size || q->desc % 16 || q->avail % 2 || q->used % 4)
			return err_set(e, -EBADMSG, "queue %u: ready, but badly set up", i);
		if (!(s->status & FEATURES_OK))
			return err_set(e, -EBADMSG, "queue %u: ready before FEATURES_OK", i);
	}
	return 0;
}

bool virtio_running(const struct virtio_dev *vd)
{
	return (vd->st->status & (DRIVER_OK | NEEDS_RESET | FAILED)) == DRIVER_OK;
}

void virtio_kick(struct virtio_dev *vd, unsigned qi)
{
	device_signal(vd->dev.doorbell[qi]);
}

static void raise_irq(struct virtio_dev *vd, uint32_t cause)
{
	vd->st->irq_status |= cause;
	device_signal(vd->dev.irq_fd);
}

void virtio_signal_used(struct virtio_dev *vd, unsigned qi)
{
	if (virtio_running(vd) && virtq_should_signal(&vd->vq[qi]))
		raise_irq(vd, VIRTIO_INT_USED);
}

void virtio_signal_config(struct virtio_dev *vd)
{
	vd->st->config_gen++;
	if (vd->st->status & DRIVER_OK)
		raise_irq(vd, VIRTIO_INT_CONFIG);
}

void virtio_fault(struct virtio_dev *vd, const char *why)
{
	uint64_t n = __atomic_add_fetch(&vd->dev.faults, 1, __ATOMIC_RELAXED);

	/* A guest can do this all day: log less and less of it. */
	if (n <= 4 || !(n & (n - 1)))
		log_warn("%s: guest fault %llu: %s; the device waits for a reset", vd->id,
			 (unsigned long long)n, why);
	if (vd->st->status & NEEDS_RESET)
		return;
	vd->st->status |= NEEDS_RESET;
	virtio_signal_config(vd);
}

static void stop_queue(struct virtio_dev *vd, unsigned qi)
{
	vd->vq[qi].gen++;
	vd->vq[qi].inuse = 0;
	vd->vq[qi].absent = false;
	if (vd->ops->queue_stop)
		vd->ops->queue_stop(vd, qi);
}

static void stop_queues(struct virtio_dev *vd)
{
	vd->activate_pending = false;
	for (unsigned i = 0; i < vd->nqueues; i++)
		stop_queue(vd, i);
}

static void reset(struct virtio_dev *vd)
{
	struct virtio_state *st = vd->st;

	stop_queues(vd);
	st->status = 0;
	st->irq_status = 0;
	st->drv_features = 0;
	st->dev_features_sel = st->drv_features_sel = st->queue_sel = 0;
	memset(st->queues, 0, sizeof(st->queues));
}

static void apply_features(struct virtio_dev *vd)
{
	for (unsigned i = 0; i < vd->nqueues; i++) {
		vd->vq[i].event_idx = virtio_has(vd, VIRTIO_RING_F_EVENT_IDX);
		vd->vq[i].indirect = virtio_has(vd, VIRTIO_RING_F_INDIRECT_DESC);
	}
}

static bool features_acceptable(struct virtio_dev *vd)
{
	uint64_t f = vd->st->drv_features;

	return !(f & ~vd->features) && virtio_has(vd, VIRTIO_F_VERSION_1) &&
	       (!vd->ops->features_ok || vd->ops->features_ok(vd, f));
}

void virtio_set_status(struct virtio_dev *vd, uint32_t val)
{
	uint32_t old = vd->st->status & ~(NEEDS_RESET | FAILED);
	uint32_t base = val & ~(NEEDS_RESET | FAILED);

	if (!val) {
		reset(vd);
		return;
	}
	if (val & FAILED)
		vd->st->status |= FAILED;
	if (vd->st->status & (NEEDS_RESET | FAILED))
		return;
	if (!status_legal(base) || (old & ~base)) {
		virtio_fault(vd, "illegal status change");
		return;
	}
	if ((base & ~old & FEATURES_OK) && !features_acceptable(vd)) {
		/* Section 2.2: the driver sees FEATURES_OK missing when it reads back. */
		if (base & DRIVER_OK)
			virtio_fault(vd, "DRIVER_OK with refused features");
		else
			vd->st->status = base & ~FEATURES_OK;
		return;
	}
	vd->st->status = base;
	if (base & ~old & FEATURES_OK)
		apply_features(vd);
	if (base & ~old & DRIVER_OK) {
		vd->activate_pending = true;
		for (unsigned i = 0; i < vd->nqueues; i++)
			virtio_kick(vd, i);
	}
}

void virtio_set_features(struct virtio_dev *vd, uint32_t sel, uint32_t val)
{
	uint64_t *f = &vd->st->drv_features;

	if (sel > 1 || (vd->st->status & FEATURES_OK))
		return;
	if (sel)
		*f = (*f & UINT32_MAX) | (uint64_t)val << 32;
	else
		*f = (*f & ~(uint64_t)UINT32_MAX) | val;
}

bool virtio_queue_open(const struct virtio_dev *vd, const struct virtq *vq)
{
	return !vq->st->ready &&
	       (vd->st->status & (FEATURES_OK | DRIVER_OK | NEEDS_RESET | FAILED)) == FEATURES_OK;
}

void virtio_set_queue_ready(struct virtio_dev *vd, struct virtq *vq, bool ready)
{
	if (!ready) {
		if (vq->st->ready)
			stop_queue(vd, (unsigned)(vq - vd->vq));
		vq->st->ready = 0;
		return;
	}
	if (!virtio_queue_open(vd, vq))
		return;
	if (virtq_validate(vq)) {
		virtio_fault(vd, "queue enabled with a bad size or address");
		return;
	}
	vq->st->last_avail = vq->st->used_idx = vq->st->signalled = 0;
	vq->inuse = 0;
	vq->st->ready = 1;
}

void virtio_later(struct virtio_dev *vd, unsigned qi)
{
	vd->kicked |= 1u << qi;
	if (!vd->quiet)
		loop_work_add(vd->env.loop, &vd->work);
}

void virtio_go_on(struct virtio_dev *vd, uint32_t queues, unsigned last)
{
	pthread_mutex_lock(&vd->dev.lock);
	vd->kicked |= queues;
	vd->turn = (last + 1) % vd->nqueues;
	if (!vd->quiet)
		loop_work_add(vd->env.loop, &vd->work);
	pthread_mutex_unlock(&vd->dev.lock);
}

static void on_kick(struct loop_op *op, int res)
{
	struct virtio_dev *vd = op->arg;
	unsigned qi = (unsigned)(op - vd->kick);

	if (res < 0)
		return;
	device_drain(vd->dev.doorbell[qi]);
	pthread_mutex_lock(&vd->dev.lock);
	virtio_later(vd, qi);
	pthread_mutex_unlock(&vd->dev.lock);
}

static bool look_at(struct virtio_dev *vd, unsigned qi)
{
	if (!virtio_running(vd))
		return false;
	if (vd->activate_pending && vd->ops->activate)
		vd->ops->activate(vd);
	vd->activate_pending = false;
	return vd->vq[qi].st->ready && vd->ops->notify(vd, qi);
}

/* A turn of the device: its queues take theirs as well. What is left is in the rings. */
static bool work(struct loop_work *w)
{
	struct virtio_dev *vd = w->arg;
	bool more;

	pthread_mutex_lock(&vd->dev.lock);
	for (unsigned n = 0; n < vd->nqueues && vd->kicked && !vd->quiet; n++) {
		unsigned qi = vd->turn;

		vd->turn = (qi + 1) % vd->nqueues;
		if (!(vd->kicked >> qi & 1))
			continue;
		vd->kicked &= ~(1u << qi);
		if (look_at(vd, qi))
			vd->kicked |= 1u << qi;
		if (loop_should_yield(vd->env.loop))
			break;
	}
	more = vd->kicked && !vd->quiet;
	pthread_mutex_unlock(&vd->dev.lock);
	return more;
}

bool virtio_drain(struct virtio_dev *vd, unsigned qi, virtio_one_fn *one)
{
	struct virtq *vq = &vd->vq[qi];
	bool again = false;

	virtq_kick_off(vq);
	while (virtio_running(vd) && !again) {
		int r = one(vd, qi);

		if (r == -EBADMSG)
			virtio_fault(vd, "bad descriptor or ring");
		if (r < 0)
			break;
		if (!r && !virtq_kick_on(vq, 0))
			break;
		again = loop_should_yield(vd->env.loop);
	}
	virtio_signal_used(vd, qi);
	return again;
}

int virtio_init(struct virtio_dev *vd, const struct virtio_ops *ops, const struct dev_env *env,
		const struct mdev *md, void *live, struct err *e)
{
	struct bus_region regs = {
		.kind = BUS_MMIO,
		.base = md->gpa,
		.len = VIRTIO_MMIO_LEN,
		.read = virtio_mmio_read,
		.write = virtio_mmio_write,
		.arg = vd,
	};
	int r;

	snprintf(vd->id, sizeof(vd->id), "%s", md->id);
	r = device_init(&vd->dev, ops->device, vd->id, true, e);
	if (r)
		return r;
	vd->env = *env;
	vd->ops = ops;
	vd->work = (struct loop_work){.fn = work, .arg = vd};
	vd->features = ops->features | COMMON_FEATURES;
	vd->st = live;
	if (!vd->nqueues)
		vd->nqueues = ops->nqueues;
	vd->st->nqueues = vd->nqueues;
	vd->dev.gsi = md->gsi;
	vd->dev.doorbell_gpa = md->gpa + VIRTIO_MMIO_QUEUE_NOTIFY;
	for (unsigned i = 0; i < vd->nqueues; i++) {
		vd->vq[i] = (struct virtq){.st = &vd->st->queues[i], .mem = env->mem};
		vd->kick[i] = (struct loop_op){.fn = on_kick, .arg = vd};
		r = device_add_doorbell(&vd->dev);
		if (r >= 0)
			r = loop_poll_add(env->loop, &vd->kick[i], vd->dev.doorbell[i], POLLIN);
		if (r < 0) {
			err_set(e, r, "device %s: doorbell: %s", vd->id, strerror(-r));
			goto fail;
		}
	}
	r = device_add_region(env, vd->id, &regs, e);
	if (!r)
		return 0;
fail:
	virtio_done(vd);
	return r;
}

void virtio_done(struct virtio_dev *vd)
{
	for (unsigned i = 0; i < vd->dev.ndoorbells; i++)
		loop_poll_del(vd->env.loop, &vd->kick[i]);
	loop_work_del(vd->env.loop, &vd->work);
	device_done(&vd->dev);
}

void virtio_save(struct device *d)
{
	struct virtio_dev *vd = (struct virtio_dev *)d;

	pthread_mutex_lock(&d->lock);
	memcpy(d->pod, vd->st, d->ops->state->size);
	pthread_mutex_unlock(&d->lock);
}

void virtio_load(struct device *d, const void *pod)
{
	struct virtio_dev *vd = (struct virtio_dev *)d;

	pthread_mutex_lock(&d->lock);
	stop_queues(vd);
	memcpy(vd->st, pod, d->ops->state->size);
	vd->quiet = true; /* until resume: it may belong to a VM that runs elsewhere */
	vd->odd_state = vd->st->nqueues > vd->nqueues;
	vd->st->nqueues = vd->nqueues;
	apply_features(vd);
	pthread_mutex_unlock(&d->lock);
}

/* What a table cannot know: this device's features and this machine's memory. */
static void check_loaded(struct virtio_dev *vd)
{
	if (vd->odd_state)
		virtio_fault(vd, "restored with more queues than this device has");
	vd->odd_state = false;
	if ((vd->st->status & FEATURES_OK) && !features_acceptable(vd))
		virtio_fault(vd, "restored with features this device does not offer");
	for (unsigned i = 0; i < vd->nqueues; i++) {
		if (vd->st->queues[i].ready && virtq_validate(&vd->vq[i]))
			virtio_fault(vd, "restored with a queue outside memory");
	}
}

void virtio_resume(struct device *d)
{
	struct virtio_dev *vd = (struct virtio_dev *)d;

	pthread_mutex_lock(&d->lock);
	vd->quiet = false;
	check_loaded(vd);
	if (virtio_running(vd)) {
		vd->activate_pending = true;
		for (unsigned i = 0; i < vd->nqueues; i++)
			virtio_kick(vd, i);
		/* An edge may have been under way to the other machine's interrupt controller. */
		vd->st->irq_status |= VIRTIO_INT_USED;
		if (vd->ops->replay)
			vd->ops->replay(vd);
	}
	if (vd->st->irq_status)
		device_signal(d->irq_fd);
	pthread_mutex_unlock(&d->lock);
}

void virtio_arrived(struct device *d)
{
	struct virtio_dev *vd = (struct virtio_dev *)d;

	pthread_mutex_lock(&d->lock);
	for (unsigned i = 0; i < vd->nqueues; i++)
		if (vd->vq[i].absent)
			virtio_later(vd, i);
	pthread_mutex_unlock(&d->lock);
}

void virtio_quiet(struct device *d, bool on)
{
	struct virtio_dev *vd = (struct virtio_dev *)d;

	pthread_mutex_lock(&d->lock);
	vd->quiet = on;
	if (!on && vd->kicked)
		loop_work_add(vd->env.loop, &vd->work);
	if (!on && vd->ops->wake)
		vd->ops->wake(vd);
	pthread_mutex_unlock(&d->lock);
}

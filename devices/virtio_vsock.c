#include "devices/virtio_vsock.h"

#include <errno.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ids.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <unistd.h>

#include "devices/virtio_vsock_int.h"
#include "net/obuf.h"

static const struct field conn_fields[] = {
	F_U64(struct vsock_conn_pod, id, 1, "odd: the guest made it", .min = 1),
	F_U32(struct vsock_conn_pod, host_port, 2, "port at the host"),
	F_U32(struct vsock_conn_pod, guest_port, 3, "port at the guest"),
	F_U8(struct vsock_conn_pod, state, 4, "host asks, guest asks, established, ended",
	     .max = VSOCK_ENDED),
	F_U8(struct vsock_conn_pod, shut_guest, 5, "what the guest will not do any more",
	     .max = VSOCK_SHUT_BOTH),
	F_U32(struct vsock_conn_pod, rx_cnt, 6, "bytes that came from the guest"),
	F_U32(struct vsock_conn_pod, fwd_cnt, 7, "of these, what the program has"),
	F_U32(struct vsock_conn_pod, tx_cnt, 8, "bytes that the guest was given"),
	F_U32(struct vsock_conn_pod, peer_fwd_cnt, 9, "of these, what it has done with"),
	F_U32(struct vsock_conn_pod, peer_buf_alloc, 10, "how many it takes beyond that"),
};

static const struct field vsock_fields[] = {
	F_STRUCT(struct vsock_pod, common, 1, virtio_fields, "what all virtio devices have"),
	F_U8(struct vsock_pod, reset_pending, 2, "the guest is to forget its connections",
	     .max = 1),
	F_U64(struct vsock_pod, last_id, 3, "of a connection that the guest made",
	      .max = 1ull << 62, .since = 2),
	F_ARRAY(struct vsock_pod, conns, nconns, 4, conn_fields,
		"connections, for a twin; whoever takes over without one forgets them", .since = 2),
};

static int vsock_check(const void *pod, struct err *e)
{
	const struct vsock_pod *s = pod;

	for (uint32_t i = 0; i < s->nconns; i++) {
		const struct vsock_conn_pod *c = &s->conns[i];

		if (!vsock_counts_fit(c->rx_cnt, c->fwd_cnt))
			return err_set(e, -EBADMSG,
				       "connection %u: of %u bytes the program has %u; at most %u "
				       "can wait",
				       i, c->rx_cnt, c->fwd_cnt, VSOCK_BUF_BYTES);
	}
	return virtio_state_check(&s->common, NQUEUES, e);
}

const struct state_desc virtio_vsock_desc = {
	.name = "virtio-vsock",
	.id = 38,
	.version = 2,
	.size = sizeof(struct vsock_pod),
	.fields = vsock_fields,
	.nfields = sizeof(vsock_fields) / sizeof(vsock_fields[0]),
	.check = vsock_check,
};

void vsock_start_ticking(struct vsock *v)
{
	if (!v->ticking && loop_timer_set(v->vd.env.loop, &v->tick_op, TICK_NS) == 0)
		v->ticking = true;
}

/* --- orders to the host's side -----------------------------------------------------------------
 */

static bool deliver(void *arg, const void *data, uint32_t len)
{
	struct vsock *v = arg;

	vsock_host_deliver(v->host, data, len);
	return true;
}

static void room(void *arg)
{
	struct vsock *v = arg;

	virtio_kick(&v->vd, TX);
	device_signal(v->wake_fd);
}

/* What the guest knows is over, by its own reset or after it broke a rule. False: not yet. */
static bool forget_all(struct vsock *v)
{
	uint64_t last[2] = {0}; /* of the programs', of the guest's */

	for (unsigned i = 0; i < VSOCK_MAX_CONNS; i++) {
		uint64_t id = v->conns.at[i].id;

		if (id > last[vsock_id_is_guests(id)])
			last[vsock_id_is_guests(id)] = id;
	}
	for (unsigned i = 0; i < 2; i++)
		if (last[i] && vsock_put(v, VSOCK_CLOSE_ALL, 0, last[i], 0))
			return false;
	vsock_conns_reset(&v->conns, v->conns.next_port);
	v->nreplies = 0;
	v->forget = false;
	virtio_kick(&v->vd, TX);
	return true;
}

/* --- events of the host's side -----------------------------------------------------------------
 */

static void take_program(struct vsock *v, const struct vsock_event *ev)
{
	struct vsock_conn *c = NULL;

	if (virtio_running(&v->vd) && v->conns.n < VSOCK_MAX_CONNS)
		c = vsock_conn_new(&v->conns, ev->id, vsock_conns_port(&v->conns, ev->port),
				   ev->port, VSOCK_HOST_ASKS);
	if (!c) {
		vsock_host_refuse(v->host, ev->id);
		return;
	}
	c->owed = VSOCK_OWE_REQUEST;
	c->deadline_ns = loop_now_ns() + HOST_ASKS_NS;
	vsock_start_ticking(v);
}

/* Nothing is left at the host's side. What the guest has not heard of, it need not hear of. */
static void end_conn(struct vsock *v, struct vsock_conn *c)
{
	if (c->owed & VSOCK_OWE_REQUEST)
		vsock_conn_free(&v->conns, c);
	else
		vsock_conn_end(c);
}

static void take_event(struct vsock *v, const struct vsock_event *ev)
{
	struct vsock_conn *c = vsock_conn_by_id(&v->conns, ev->id);

	if (ev->notes & VSOCK_GONE) {
		if (c)
			end_conn(v, c);
		return;
	}
	if (ev->notes & VSOCK_REQUEST) {
		take_program(v, ev);
		return;
	}
	if (!c)
		return;
	if (ev->notes & VSOCK_CONNECTED && c->state == VSOCK_GUEST_ASKS) {
		c->state = VSOCK_ESTABLISHED;
		c->deadline_ns = 0;
		c->owed |= VSOCK_OWE_RESPONSE;
	}
	if (ev->notes & VSOCK_WRITTEN)
		vsock_conn_written(c, ev->written);
	if (ev->notes & VSOCK_READABLE)
		c->readable = true;
}

/* A turn at all that there is to do but for the guest's packets. True: there may be more. */
static bool work(struct vsock *v)
{
	struct vsock_event ev;

	if (v->vd.quiet) /* vsock_wake(), vsock_resume() */
		return false;
	if (!virtio_running(&v->vd) && v->conns.n)
		v->forget = true;
	if (v->forget && !forget_all(v)) /* room() */
		return false;
	while (vsock_host_event(v->host, &ev))
		take_event(v, &ev);
	if (!virtio_running(&v->vd) || !v->vd.vq[RX].st->ready)
		return false;
	vsock_tell_reset(v);
	return vsock_pump(v) || !virtio_running(&v->vd);
}

static bool work_turn(struct loop_work *w)
{
	struct vsock *v = w->arg;
	bool more;

	pthread_mutex_lock(&v->vd.dev.lock);
	more = work(v);
	pthread_mutex_unlock(&v->vd.dev.lock);
	return more;
}

static void on_wake(struct loop_op *op, int res)
{
	struct vsock *v = op->arg;

	if (res < 0)
		return;
	device_drain(v->wake_fd);
	loop_work_add(v->vd.env.loop, &v->work);
}

static void on_host_event(void *arg)
{
	struct vsock *v = arg;

	device_signal(v->wake_fd);
}

/* End what nobody answers. Returns whether something is still waited for. */
static bool check_deadlines(struct vsock *v)
{
	uint64_t now = loop_now_ns();
	bool more = v->is_fed;

	for (unsigned i = 0; i < VSOCK_MAX_CONNS; i++) {
		struct vsock_conn *c = &v->conns.at[i];

		if (!c->id || !c->deadline_ns || v->is_fed) /* that is the primary's to tell */
			continue;
		if (now < c->deadline_ns || vsock_put(v, VSOCK_CLOSE, 0, c->id, 0)) {
			more = true;
			continue;
		}
		c->deadline_ns = 0;
		end_conn(v, c);
	}
	return more;
}

static void on_tick(struct loop_op *op, int res)
{
	struct vsock *v = op->arg;
	bool more = true;

	pthread_mutex_lock(&v->vd.dev.lock);
	v->ticking = false;
	if (!v->vd.quiet) {
		if (v->put_again)
			virtio_kick(&v->vd, TX);
		v->put_again = false;
		more = check_deadlines(v);
		loop_work_add(v->vd.env.loop, &v->work);
	}
	if (more)
		vsock_start_ticking(v);
	pthread_mutex_unlock(&v->vd.dev.lock);
}

/* --- the device --------------------------------------------------------------------------------
 */

static bool vsock_notify(struct virtio_dev *vd, unsigned qi)
{
	bool again = qi == TX && virtio_drain(vd, TX, vsock_tx_one);

	/* There may be nothing to put in: a lie is noticed all the same. */
	if (qi != TX && virtq_waiting(&vd->vq[qi]) < 0)
		virtio_fault(vd, "bad ring");
	loop_work_add(vd->env.loop, &to_vsock(vd)->work);
	return again;
}

/* vCPU threads get here: the loop does the rest. */
static void vsock_queue_stop(struct virtio_dev *vd, unsigned qi)
{
	struct vsock *v = to_vsock(vd);

	v->forget = true;
	if (qi == EVENT)
		v->live.reset_pending = 0;
	device_signal(v->wake_fd);
}

static void vsock_wake(struct virtio_dev *vd)
{
	device_signal(to_vsock(vd)->wake_fd);
}

static void vsock_config(struct virtio_dev *vd, void *buf)
{
	struct virtio_vsock_config cfg = {.guest_cid = to_vsock(vd)->cid};

	memcpy(buf, &cfg, sizeof(cfg));
}

static void vsock_save(struct device *d)
{
	struct vsock *v = (struct vsock *)d;

	pthread_mutex_lock(&d->lock);
	vsock_conns_save(v);
	pthread_mutex_unlock(&d->lock);
	virtio_save(d);
}

/*
 * The connections of before are over. Of a side that stands by there are none; of one that boots
 * its guest again they end as after a reset by the guest: with the epoch it belongs to. A twin's go
 * on: its guest is told what the primary's is.
 */
static void vsock_load(struct device *d, const void *pod)
{
	struct vsock *v = (struct vsock *)d;
	uint64_t last = v->live.last_id;

	virtio_load(d, pod);
	pthread_mutex_lock(&d->lock);
	if (v->is_fed)
		vsock_conns_load(v);
	else if (v->live.last_id < last)
		v->live.last_id = last;
	if (v->live.common.status & VIRTIO_CONFIG_S_DRIVER_OK)
		v->live.reset_pending = 1;
	pthread_mutex_unlock(&d->lock);
}

void virtio_vsock_feed(struct device *d, bool on)
{
	struct vsock *v = (struct vsock *)d;
	bool was = v->is_fed;

	pthread_mutex_lock(&d->lock);
	v->is_fed = on;
	vsock_fed_drop(v);
	if (was && !on) {
		vsock_conns_reset(&v->conns, v->conns.next_port);
		v->live.reset_pending |= !!(v->live.common.status & VIRTIO_CONFIG_S_DRIVER_OK);
	}
	pthread_mutex_unlock(&d->lock);
	device_signal(v->wake_fd);
}

void virtio_vsock_go_on(struct device *d)
{
	device_signal(((struct vsock *)d)->wake_fd);
}

static void vsock_resume(struct device *d)
{
	struct vsock *v = (struct vsock *)d;

	virtio_resume(d);
	device_signal(v->wake_fd);
}

void virtio_vsock_get_stats(struct device *d, struct virtio_vsock_stats *ret)
{
	struct vsock *v = (struct vsock *)d;

	pthread_mutex_lock(&d->lock);
	*ret = v->stats;
	ret->connections = v->conns.n;
	pthread_mutex_unlock(&d->lock);
}

static void vsock_free(struct device *d)
{
	struct vsock *v = (struct vsock *)d;

	loop_timer_del(v->vd.env.loop, &v->tick_op);
	loop_poll_del(v->vd.env.loop, &v->wake_op);
	loop_work_del(v->vd.env.loop, &v->work);
	vsock_fed_drop(v);
	virtio_done(&v->vd);
	v->host->wake = NULL;
	if (v->wake_fd >= 0)
		close(v->wake_fd);
	free(v);
}

static const struct device_ops vsock_device_ops = {
	.state = &virtio_vsock_desc,
	.save = vsock_save,
	.load = vsock_load,
	.resume = vsock_resume,
	.quiet = virtio_quiet,
	.arrived = virtio_arrived,
	.free = vsock_free,
};

static const struct virtio_ops vsock_ops = {
	.device = &vsock_device_ops,
	.device_id = VIRTIO_ID_VSOCK,
	.nqueues = NQUEUES,
	.features = 1ull << VIRTIO_VSOCK_F_STREAM,
	.config = vsock_config,
	.notify = vsock_notify,
	.queue_stop = vsock_queue_stop,
	.wake = vsock_wake,
};

static int connect_parts(struct vsock *v, struct err *e)
{
	struct loop *l = v->vd.env.loop;

	v->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (v->wake_fd < 0)
		return err_sys(e, "device %s: eventfd", v->vd.id);
	v->wake_op = (struct loop_op){.fn = on_wake, .arg = v};
	v->tick_op = (struct loop_op){.fn = on_tick, .arg = v};
	v->work = (struct loop_work){.fn = work_turn, .arg = v};
	if (loop_poll_add(l, &v->wake_op, v->wake_fd, POLLIN) < 0)
		return err_set(e, -ENOSPC, "device %s: the event loop is full", v->vd.id);
	v->sink = obuf_add_sink(v->vd.env.obuf, OBUF_VSOCK, deliver, room, v);
	if (v->sink < 0)
		return err_set(e, v->sink, "device %s: too many outputs", v->vd.id);
	v->host->wake = on_host_event;
	v->host->arg = v;
	return 0;
}

/*
 * Ports of the host begin somewhere else in each process, so that a new connection is not taken for
 * one that the guest still has to forget.
 */
static uint32_t first_port(void)
{
	uint32_t port = 0;

	if (getrandom(&port, sizeof(port), GRND_NONBLOCK) != sizeof(port))
		port = (uint32_t)loop_now_ns();
	return port & 0x1fffffff;
}

int virtio_vsock_new(const struct dev_env *env, const struct mdev *md, struct vsock_host *host,
		     struct device **ret, struct err *e)
{
	struct vsock *v = calloc(1, sizeof(*v));
	int r;

	if (!v)
		return err_set(e, -ENOMEM, "device %s: out of memory", md->id);
	v->host = host;
	v->cid = md->cid;
	v->wake_fd = -1;
	v->fed_tail = &v->fed;
	vsock_conns_reset(&v->conns, first_port());
	r = virtio_init(&v->vd, &vsock_ops, env, md, &v->live, e);
	if (r) {
		free(v);
		return r;
	}
	r = connect_parts(v, e);
	if (r) {
		vsock_free(&v->vd.dev);
		return r;
	}
	*ret = &v->vd.dev;
	return 0;
}

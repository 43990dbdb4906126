#define _GNU_SOURCE
#include "ft/role/primary.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include "ft/common/steps.h"
#include "vmm/machine/fdt.h"
#include "vmm/base/log.h"

#define RETRY_NS     500000000ull  /* between attempts to find a peer, or an arbiter that answers */
#define HANDSHAKE_NS 5000000000ull /* the peer builds a VM in this time */
/* A peer that is alive but acknowledges nothing for so long (its image hangs) is no protection. */
#define ACK_NS 30000000000ull

static void try_peer(struct primary *p);

/* --- end of a link ---------------------------------------------------------------------------- */

void primary_close_link(struct primary *p)
{
	struct loop *l = p->ft->loop;

	loop_poll_del(l, &p->conn_op);
	loop_poll_del(l, &p->main_op);
	loop_timer_del(l, &p->epoch_op);
	loop_timer_del(l, &p->timer_op);
	if (p->conn_fd >= 0)
		close(p->conn_fd);
	p->conn_fd = -1;
	heart_stop(&p->heart);
	if (p->has_sender) {
		/* Order: nothing may keep the sender waiting when it is joined. */
		shutdown(p->main.fd, SHUT_RDWR);
		sync_cancel(&p->sync);
		capture_close(&p->capture);
		send_stop(&p->send);
		sync_done(&p->sync);
		capture_done(&p->capture);
		disklog_free(&p->disklog, &p->sent_log);
		disklog_stop(&p->disklog);
		p->has_sender = false;
	}
	stream_done(&p->main);
	p->in_flight = p->due = false;
	p->late_ack = 0;
	p->phase = PRI_IDLE;
	p->ft->peer[0] = 0;
}

static void retry_later(struct primary *p)
{
	loop_timer_set(p->ft->loop, &p->timer_op, RETRY_NS);
}

static void run_on(struct primary *p)
{
	if (!p->vm->running && !p->user_paused && !p->ending)
		vm_resume(p->vm);
}

void primary_fence(struct primary *p)
{
	struct err e = {0};

	if (vm_pause(p->vm, &e))
		log_error("%s", e.msg);
	obuf_drop(&p->vm->obuf);
	if (p->ending == END_HANDED) {
		ft_set_state(p->ft, FT_STOPPED, "handed over");
		p->ft->on_exit(p->ft->arg, p->end_code);
		return;
	}
	ft_set_state(p->ft, FT_FENCED, "the other side runs the VM");
	p->ft->on_exit(p->ft->arg, 5);
}

/*
 * After a hand-over the secondary's claim of the next number does not decide alone: without our
 * word it claims once more before it lets anything out, and so may we.
 */
static int claim(struct primary *p, uint64_t *ret_generation, struct err *e)
{
	struct arbiter *a = p->ft->arbiter;
	const struct arbiter_record *last = arbiter_last(a);
	int r = arbiter_claim(a, p->ft->generation, ARBITER_GO_ON, ret_generation, e);

	if (r != -ESTALE || !p->token || last->generation != p->ft->generation + 1 ||
	    last->token != p->token || last->end != ARBITER_HELD)
		return r;
	p->token = 0;
	p->ft->generation++;
	*e = (struct err){0};
	return arbiter_claim(a, p->ft->generation, ARBITER_GO_ON, ret_generation, e);
}

/*
 * The peer may have taken over: only the arbiter's word lets this side go on. Until it gives one,
 * the VM is stopped and its output stays held.
 */
void primary_claim(struct primary *p)
{
	struct err e = {0};
	uint64_t gen = 0;
	int r = claim(p, &gen, &e);

	if (r == -ESTALE || r == -ECANCELED) {
		primary_fence(p);
		return;
	}
	if (r) {
		struct err pe = {0};

		p->owe_claim = true;
		vm_pause(p->vm, &pe);
		ft_set_state(p->ft, FT_PAUSED, e.msg);
		loop_timer_set(p->ft->loop, &p->claim_op, RETRY_NS);
		return;
	}
	p->owe_claim = p->peer_may_run = false;
	p->token = 0;
	primary_keep(p);
	p->ft->generation = gen;
	obuf_pass(&p->vm->obuf);
	run_on(p);
	ft_set_state(p->ft, FT_DEGRADED, p->lost_why);
	if (p->ending)
		primary_finish(p);
	else
		retry_later(p);
}

static void claim_again(struct loop_op *op, int res)
{
	struct primary *p = op->arg;

	if (p->owe_claim)
		primary_claim(p);
}

/* Of the peer in use: peer_index is the next one. */
static char *last_trouble(struct primary *p)
{
	return p->last_trouble[(p->peer_index ? p->peer_index : p->ft->cfg->npeers) - 1];
}

/*
 * What keeps a peer away is said once, not at every try. A host that is off is reported in turns as
 * silent and as unreachable: that is one trouble.
 */
static void tell_trouble(struct primary *p, const char *note, bool was_in_step)
{
	const char *kind = p->phase == PRI_CONNECTING ? "cannot be reached" : note;

	if (was_in_step || strcmp(kind, last_trouble(p)))
		log_warn("%s", note);
	else
		log_debug("%s", note);
	snprintf(last_trouble(p), sizeof(p->last_trouble[0]), "%s", kind);
}

void primary_lost(struct primary *p, const char *why)
{
	char note[sizeof(p->ft->note)];
	bool was_in_step = p->phase >= PRI_SYNCING, said_bye = p->phase == PRI_BYE;
	size_t n = strlen(p->ft->peer);

	if (p->phase == PRI_IDLE)
		return;
	/* The errors of a connection begin with the address, too: it is said once. */
	if (!strncmp(why, p->ft->peer, n) && !strncmp(why + n, ": ", 2))
		why += n + 2;
	snprintf(note, sizeof(note), "peer %.100s: %.360s", p->ft->peer, why);
	tell_trouble(p, note, was_in_step);
	step_reached(STEP_PEER_LOST);
	primary_close_link(p);
	if (said_bye) {
		primary_not_done(p);
		return;
	}
	if (p->peer_may_run) {
		snprintf(p->lost_why, sizeof(p->lost_why), "%s", note);
		primary_claim(p);
		return;
	}
	run_on(p);
	ft_set_state(p->ft, was_in_step ? FT_UNPROTECTED : p->ft->state, note);
	if (p->ending)
		primary_finish(p);
	else
		retry_later(p);
}

/* --- messages from the peer ------------------------------------------------------------------- */

static void take_ack(struct primary *p, uint64_t epoch)
{
	/* We were away: the peer may have taken over since it acknowledged. Ask it first. */
	if (heart_suspect(&p->heart))
		p->late_ack = epoch;
	else
		epoch_acked(p, epoch);
}

static void trusted_again(void *arg)
{
	struct primary *p = arg;
	uint64_t epoch = p->late_ack;

	p->late_ack = 0;
	if (epoch)
		epoch_acked(p, epoch);
}

static void refused(struct primary *p, const struct frame *f)
{
	char text[360] = "refuses: ";
	unsigned at = strlen(text), n = f->length;

	if (n > sizeof(text) - 1 - at)
		n = sizeof(text) - 1 - at;
	for (unsigned i = 0; i < n; i++)
		text[at + i] = f->data[i] >= ' ' && f->data[i] < 127 ? f->data[i] : '?';
	text[at + n] = 0;
	primary_lost(p, text);
}

static void connect_heart(struct primary *p);

/* What may be acted on only when nothing, and no end of the stream, is behind it. */
struct word {
	uint64_t ack; /* of this epoch; 0: none */
	bool runs;
};

/* False: the link is gone. */
static bool take_frame(struct primary *p, const struct frame *f, struct word *w)
{
	if (p->phase == PRI_HELLO && f->type == FRAME_WELCOME) {
		connect_heart(p);
		return p->phase != PRI_IDLE;
	}
	if (f->type == FRAME_REFUSE) {
		refused(p, f);
		return false;
	}
	if (p->phase == PRI_EPOCHS && f->type == FRAME_ACK && p->in_flight && !w->ack &&
	    !p->late_ack && f->epoch == p->epoch - 1 &&
	    f->epoch == __atomic_load_n(&p->send.ending, __ATOMIC_ACQUIRE)) {
		w->ack = f->epoch;
		return true;
	}
	if (p->phase == PRI_BYE && f->type == FRAME_DONE) {
		primary_done(p);
		return false;
	}
	if (p->phase == PRI_HANDED && f->type == FRAME_RUNS && !w->runs) {
		w->runs = true;
		return true;
	}
	primary_lost(p, "message out of order");
	return false;
}

/*
 * All that has arrived is read before an ack is acted on: when the stream has ended behind the ack,
 * the peer may have taken over, and the arbiter is asked first.
 */
static void main_readable(struct loop_op *op, int res)
{
	struct primary *p = op->arg;
	struct word w = {0};
	struct frame f;
	int r;

	heart_suspect(&p->heart);
	while ((r = stream_recv(&p->main, &f)) == 1)
		if (!take_frame(p, &f, &w))
			return;
	if (r < 0) {
		primary_lost(p, r == -EBADMSG ? p->main.why
				: r == -EPIPE ? "connection closed"
					      : strerror(-r));
		return;
	}
	heart_heard(&p->heart);
	if (w.ack)
		take_ack(p, w.ack);
	if (w.runs)
		primary_gone(p);
}

/* --- the way to a peer ------------------------------------------------------------------------ */

static int send_hello(struct primary *p)
{
	const struct config *cfg = p->ft->cfg;
	uint8_t *fdt = malloc(FDT_MAX_BYTES);
	struct wire_hello h = {.generation = p->ft->generation,
			       .heartbeat_ns = cfg->heartbeat_ns,
			       .peer_timeout_ns = cfg->peer_timeout_ns,
			       .disklog_bytes = cfg->disklog_bytes,
			       .verify = cfg->verify,
			       .shared_arbiter = arbiter_is_shared(p->ft->arbiter)};
	struct iovec iov[2] = {{&h, sizeof(h)}, {fdt, 0}};
	uint64_t deadline = loop_now_ns() + PRIMARY_CONNECT_NS;
	int r = fdt ? fdt_build(&p->vm->machine, fdt, FDT_MAX_BYTES, NULL) : -ENOMEM;

	if (r > 0) {
		h.fdt_bytes = iov[1].iov_len = r;
		r = stream_send_preface(&p->main, deadline);
		if (!r)
			r = stream_send(&p->main, FRAME_HELLO, 0, iov, 2, deadline);
	}
	free(fdt);
	return r;
}

static void connected_main(struct primary *p)
{
	uint64_t session;

	if (getrandom(&session, sizeof(session), 0) != sizeof(session))
		session = loop_now_ns();
	stream_init(&p->main, p->conn_fd, STREAM_MAIN, session | 1);
	p->conn_fd = -1;
	chan_set_options(p->main.fd, 5000);
	p->phase = PRI_HELLO;
	loop_timer_set(p->ft->loop, &p->timer_op, HANDSHAKE_NS);
	p->main_op = (struct loop_op){.fn = main_readable, .arg = p};
	if (send_hello(p) < 0 || loop_poll_add(p->ft->loop, &p->main_op, p->main.fd, POLLIN) < 0) {
		primary_lost(p, "handshake failed");
		return;
	}
	step_reached(STEP_HELLO_SENT);
}

static void log_is_on(void *arg)
{
	struct primary *p = arg;

	sync_log_is_on(&p->sync);
}

static void ask_log(void *arg)
{
	struct primary *p = arg;
	uint64_t one = 1;

	__atomic_store_n(&p->wants_log, true, __ATOMIC_RELEASE);
	if (write(p->notify_fd, &one, sizeof(one)) < 0)
		return;
}

/* Both links are up: dirty tracking on, then everything is sent while the guest runs. */
static int start_sync(struct primary *p, struct err *e)
{
	struct vm *vm = p->vm;
	const struct config *cfg = p->ft->cfg;
	int r;

	p->has_sender = true;
	sync_init(&p->sync);
	r = capture_init(&p->capture, &vm->kvm, &vm->mem, cfg->staging_bytes, e);
	if (!r)
		r = disklog_start(&p->disklog, p->ft->loop, &vm->machine, vm->disks,
				  cfg->disklog_bytes, e);
	if (r)
		return r;
	p->sync.machine = &vm->machine;
	p->sync.mem = &vm->mem;
	p->sync.dirty = &p->capture.dirty;
	p->sync.disklog = &p->disklog;
	p->sync.disks = vm->disks;
	p->sync.ask_log = ask_log;
	p->sync.arg = p;
	p->sync.stop = p->sync.log_on = false;
	p->wants_log = false;
	return send_start(&p->send, &p->main, &p->capture, &p->sync, vm_state_bound(vm),
			  p->notify_fd, e);
}

/* The word that ends a stop may have come already, on the other link. */
static void peer_silent(void *arg, const char *why)
{
	struct primary *p = arg;

	if (p->phase == PRI_BYE)
		main_readable(&p->main_op, 0);
	primary_lost(p, why);
}

static void connected_heart(struct primary *p)
{
	struct stream st;
	struct err e = {0};

	stream_init(&st, p->conn_fd, STREAM_HEART, p->main.session);
	p->conn_fd = -1;
	chan_set_options(st.fd, 5000);
	p->heart.lost = peer_silent;
	p->heart.trusted = trusted_again;
	p->heart.arg = p;
	if (stream_send_preface(&st, loop_now_ns() + PRIMARY_CONNECT_NS) < 0 ||
	    heart_start(&p->heart, p->ft->loop, &st, p->ft->cfg->heartbeat_ns,
			p->ft->cfg->peer_timeout_ns) < 0) {
		stream_done(&st);
		primary_lost(p, "heartbeat link failed");
		return;
	}
	loop_timer_del(p->ft->loop, &p->timer_op);
	p->phase = PRI_SYNCING;
	ft_set_state(p->ft, FT_SYNCING, NULL);
	last_trouble(p)[0] = 0;
	if (start_sync(p, &e)) {
		log_error("%s", e.msg);
		primary_lost(p, e.msg);
	}
}

static void writable(struct loop_op *op, int res)
{
	struct primary *p = op->arg;
	struct err e = {0};

	loop_poll_del(p->ft->loop, &p->conn_op);
	if (chan_connected(p->conn_fd, &e)) {
		primary_lost(p, e.msg);
	} else if (p->phase == PRI_CONNECTING) {
		connected_main(p);
	} else {
		connected_heart(p);
	}
}

static int start_connect(struct primary *p, struct err *e)
{
	int r = chan_connect_start(&p->uri, &p->conn_fd, e);

	if (r) {
		p->conn_fd = -1;
		return r;
	}
	p->conn_op = (struct loop_op){.fn = writable, .arg = p};
	r = loop_poll_add(p->ft->loop, &p->conn_op, p->conn_fd, POLLOUT);
	return r ? err_set(e, r, "cannot wait for the connection: %s", strerror(-r)) : 0;
}

static void connect_heart(struct primary *p)
{
	struct err e = {0};

	p->phase = PRI_HEART;
	if (start_connect(p, &e)) {
		err_wrap(&e, "heartbeat link");
		primary_lost(p, e.msg);
	}
}

static void try_peer(struct primary *p)
{
	const struct config *cfg = p->ft->cfg;
	struct err e = {0};

	if (!cfg->npeers || p->ending)
		return;
	/* A sync would read old blocks, and let go the guest's requests that wait for the new. */
	if (p->ft->images_behind) {
		retry_later(p);
		return;
	}
	snprintf(p->ft->peer, sizeof(p->ft->peer), "%s", cfg->peers[p->peer_index]);
	p->peer_index = (p->peer_index + 1) % cfg->npeers;
	if (chan_parse(p->ft->peer, &p->uri, &e)) {
		log_error("--peer: %s", e.msg);
		return;
	}
	p->phase = PRI_CONNECTING;
	loop_timer_set(p->ft->loop, &p->timer_op, PRIMARY_CONNECT_NS);
	if (start_connect(p, &e))
		primary_lost(p, e.msg);
}

static void timer(struct loop_op *op, int res)
{
	struct primary *p = op->arg;

	if (p->phase == PRI_IDLE)
		try_peer(p);
	else if (p->phase == PRI_REST)
		primary_finish(p);
	else if (p->phase == PRI_HELLO)
		primary_lost(p, "connected, but no answer in time; is that a --secondary?");
	else if (p->phase == PRI_BYE)
		peer_silent(p, "its images did not take all of the disk writes in time");
	else if (p->phase == PRI_HANDED)
		primary_lost(p, "failover: it did not claim the VM and run it in time");
	else if (p->phase != PRI_EPOCHS)
		primary_lost(p, "no answer in time");
	else if (p->in_flight && loop_now_ns() - p->sealed_ns > ACK_NS)
		primary_lost(p, "no acknowledgement in time");
	else
		loop_timer_set(p->ft->loop, &p->timer_op, ACK_NS / 2);
}

/* --- sender and epochs ------------------------------------------------------------------------ */

static void notified(struct loop_op *op, int res)
{
	struct primary *p = op->arg;
	uint64_t n;

	if (read(p->notify_fd, &n, sizeof(n)) < 0 || !p->has_sender)
		return;
	if (__atomic_exchange_n(&p->wants_log, false, __ATOMIC_ACQ_REL))
		disklog_switch(&p->disklog, log_is_on, p);
	if (p->phase == PRI_SYNCING && __atomic_load_n(&p->send.synced, __ATOMIC_ACQUIRE)) {
		p->phase = PRI_EPOCHS;
		loop_timer_set(p->ft->loop, &p->timer_op, ACK_NS / 2);
		p->epoch = p->vm->obuf.epoch + 1; /* numbers never repeat in the life of a VM */
		epoch_seal(p);
		return;
	}
	pthread_mutex_lock(&p->send.lock);
	n = p->send.error != 0;
	pthread_mutex_unlock(&p->send.lock);
	if (n)
		primary_lost(p, "link broken");
}

static void epoch_timer(struct loop_op *op, int res)
{
	struct primary *p = op->arg;

	if (p->phase != PRI_EPOCHS)
		return;
	if (p->in_flight)
		p->due = true;
	else
		epoch_seal(p); /* also when paused: what the guest did before is not lost */
}

/* We were away: the rest of an epoch that was acknowledged before waits, as an ack would. */
static bool doubts(void *arg)
{
	struct primary *p = arg;

	return p->owe_claim || (p->phase == PRI_EPOCHS && heart_suspect(&p->heart));
}

/* --- interface -------------------------------------------------------------------------------- */

int primary_start(struct primary *p, struct ft *ft, struct vm *vm, struct err *e)
{
	memset(p, 0, sizeof(*p));
	p->ft = ft;
	p->vm = vm;
	p->conn_fd = p->main.fd = -1;
	p->epoch_ns = ft->cfg->epoch_ns;
	p->notify_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (p->notify_fd < 0)
		return err_sys(e, "eventfd");
	p->notify_op = (struct loop_op){.fn = notified, .arg = p};
	p->timer_op = (struct loop_op){.fn = timer, .arg = p};
	p->claim_op = (struct loop_op){.fn = claim_again, .arg = p};
	p->epoch_op = (struct loop_op){.fn = epoch_timer, .arg = p};
	if (loop_poll_add(ft->loop, &p->notify_op, p->notify_fd, POLLIN) < 0)
		return err_set(e, -ENOSPC, "event loop is full");
	vm->doubts = doubts;
	vm->doubts_arg = p;
	try_peer(p);
	return 0;
}

void primary_stop(struct primary *p)
{
	if (!p->ft)
		return;
	primary_close_link(p);
	loop_timer_del(p->ft->loop, &p->claim_op);
	loop_poll_del(p->ft->loop, &p->notify_op);
	close(p->notify_fd);
	p->vm->doubts = NULL;
	memset(p, 0, sizeof(*p));
}

int primary_pause(struct primary *p, bool pause, struct err *e)
{
	int r = 0;

	/* Nobody would resume it, wherever it goes on. */
	if (pause && p->ending > END_STOP)
		return err_set(e, -EBUSY, "pause: the VM is being handed over");
	p->user_paused = pause;
	if (pause)
		r = vm_pause(p->vm, e);
	if (!pause && !p->vm->running && !p->owe_claim && !p->ending) {
		vm_resume(p->vm);
		if (p->phase == PRI_EPOCHS && !p->in_flight)
			loop_timer_set(p->ft->loop, &p->epoch_op, 0);
	}
	return r;
}

void primary_set_epoch(struct primary *p, uint64_t epoch_ns)
{
	p->epoch_ns = epoch_ns;
}

#include "ft/epoch/lockstep.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "devices/virtio_rng.h"
#include "devices/virtio_vsock.h"
#include "ft/common/steps.h"
#include "ft/common/wire.h"
#include "net/packet.h"
#include "net/seqmap.h"
#include "vmm/base/log.h"

#define TRUST_NS      5000000ull
#define BYTES	      (64ull << 20)
#define FLOW_BYTES    (8u << 20)
#define HISTORY_BYTES (1u << 20)
#define FLOWS	      16384u
#define IDLE_NS	      600000000000ull

const char *lockstep_state_name(enum lockstep_state s)
{
	static const char *const names[] = {[LOCKSTEP_OFF] = "none",
					    [LOCKSTEP_ALONE] = "stands",
					    [LOCKSTEP_LOADING] = "loads",
					    [LOCKSTEP_RUNS] = "runs",
					    [LOCKSTEP_DIFFERED] = "differs"};

	return names[s];
}

/* --- a difference ----------------------------------------------------------------------------- */

static void give_up(struct lockstep *l, enum ft_seal asks, const char *why, enum lockstep_news what)
{
	if (!lockstep_compares(l))
		return;
	l->state = LOCKSTEP_DIFFERED;
	l->asks = asks;
	snprintf(l->why, sizeof(l->why), "%s", why);
	l->news(l->arg, what);
}

static void differ_because(struct lockstep *l, enum ft_seal asks, const char *why)
{
	give_up(l, asks, why, LOCKSTEP_DIFFERS);
}

static void differ(void *arg, const struct compare_verdict *v)
{
	struct lockstep *l = arg;
	char text[sizeof(l->why)];

	compare_describe(v, text, sizeof(text));
	log_debug("twin: %s", text);
	if (v->why < sizeof(l->stats.differences) / sizeof(l->stats.differences[0]))
		l->stats.differences[v->why]++;
	if (v->why == COMPARE_BYTES || v->why == COMPARE_FLAGS)
		l->differed_ns = l->compared_ns;
	step_reached(STEP_TWIN_DIFFERS);
	differ_because(l, v->why == COMPARE_OVERDUE ? FT_SEAL_OVERDUE : FT_SEAL_DIFFER, text);
}

/* --- what may leave --------------------------------------------------------------------------- */

/*
 * The twin's word that it runs may be here before the ack of what it runs from, and what that lets
 * go takes turns of its own: a console would have its bytes in another order.
 */
static bool may_leave(struct lockstep *l)
{
	return obuf_is_turn(&l->vm->obuf) && !heart_suspect(l->heart);
}

static void look_again(struct loop_op *op, int res)
{
	struct lockstep *l = op->arg;

	if (!l->marked)
		return;
	if (!may_leave(l)) {
		loop_timer_set(l->vm->loop, &l->trust_op, TRUST_NS);
		return;
	}
	if (l->marked <= l->agreed)
		l->marked = 0; /* else with the twin's next word */
	if (lockstep_compares(l))
		obuf_let_marked(&l->vm->obuf, l->agreed);
}

static void release(void *arg, void *cookie)
{
	struct lockstep *l = arg;

	if (!lockstep_compares(l))
		return; /* with the next checkpoint */
	l->stats.let++;
	if (!l->marked && l->told == l->agreed && may_leave(l)) {
		obuf_let(&l->vm->obuf, cookie);
		step_reached(STEP_TWIN_LET);
		return;
	}
	obuf_mark(&l->vm->obuf, cookie, l->told);
	if (!l->marked)
		loop_timer_set(l->vm->loop, &l->trust_op, TRUST_NS);
	l->marked = l->told;
}

/* --- TCP connections that began since the checkpoint ------------------------------------------ */

static int say_mapping(struct lockstep *l, const struct packet_key *flow,
		       const struct compare_mapping *m)
{
	struct wire_mapped w = {
		.delta = m->delta,
		.ts_delta = m->ts_delta,
		.version = flow->version,
		.guest_port = flow->sport,
		.peer_port = flow->dport,
	};
	struct iovec iov = {&w, sizeof(w)};

	for (int i = 0; i < 2; i++) /* as in segment.c: a tag that says 0 is none */
		w.vlan[w.vlan[0] != 0] = flow->vlan[i] & 0xfff;
	memcpy(w.guest, flow->src, sizeof(w.guest));
	memcpy(w.peer, flow->dst, sizeof(w.peer));
	if (l->told > l->room)
		return -ENOSPC;
	return mirror_put(&l->mirror, FRAME_MAPPED, l->vm->obuf.epoch, &iov, 1);
}

/* With the next checkpoint both have ours; until then only a map can tell them apart. */
static void mapped(void *arg, const struct packet_key *flow, const struct compare_mapping *m)
{
	struct lockstep *l = arg;
	bool none = !m->delta && !m->ts_delta;

	if (!m->fixed && none && l->told == 1) /* nor in place of another */
		return;
	l->stats.connections += m->fixed || !none;
	if (m->fixed || say_mapping(l, flow, m)) {
		l->stats.unmapped++;
		differ_because(l, FT_SEAL_DIFFER,
			       m->fixed ? "a new TCP connection is one that cannot be translated"
					: "a new TCP connection has other sequence numbers there");
		return;
	}
	l->told++;
}

static bool twin_maps(struct lockstep *l, const struct frame *f)
{
	if (f->epoch != l->vm->obuf.epoch)
		return true;
	if (l->agreed == l->told)
		return false;
	l->agreed++;
	look_again(&l->trust_op, 0);
	return true;
}

static const struct compare_ops ops = {.release = release, .differ = differ, .mapped = mapped};

/* --- time ------------------------------------------------------------------------------------- */

static void watch_time(struct lockstep *l)
{
	uint64_t due = compare_due(&l->compare), now = loop_now_ns();

	if (l->due_set || l->state != LOCKSTEP_RUNS || due == UINT64_MAX)
		return;
	/* What was put out before the twin ran is not late because of that. */
	if (due < l->loaded_ns + l->bounds.overdue_ns)
		due = l->loaded_ns + l->bounds.overdue_ns;
	l->due_set = true;
	loop_timer_set(l->vm->loop, &l->due_op, due > now ? due - now : 0);
}

static void due(struct loop_op *op, int res)
{
	struct lockstep *l = op->arg;
	uint64_t now = loop_now_ns();

	l->due_set = false;
	if (l->state == LOCKSTEP_RUNS && now >= l->loaded_ns + l->bounds.overdue_ns)
		compare_overdue(&l->compare, now);
	watch_time(l);
}

static void stop(struct lockstep *l, struct loop_op *op, bool *set)
{
	loop_timer_del(l->vm->loop, op);
	*set = false;
}

/*
 * The peer has what it is to load: from here on the wait is for the twin alone. One that is late
 * for each of many checkpoints is no better than one that is late for one.
 */
static void watch_load(struct lockstep *l)
{
	if (l->state != LOCKSTEP_LOADING || l->load_set)
		return;
	l->load_set = true;
	loop_timer_set(l->vm->loop, &l->load_op, l->bounds.load_ns);
}

static void load_late(struct loop_op *op, int res)
{
	struct lockstep *l = op->arg;
	char why[sizeof(l->why)];

	l->load_set = false;
	if (l->state != LOCKSTEP_LOADING)
		return;
	l->stats.not_loaded++;
	snprintf(why, sizeof(why),
		 "expected loaded %llu, received nothing in %llu ms, loaded %llu last",
		 (unsigned long long)l->vm->obuf.epoch - 1,
		 (unsigned long long)l->bounds.load_ns / 1000000, (unsigned long long)l->loaded);
	give_up(l, FT_SEAL_TWIN, why, LOCKSTEP_LATE);
}

/* --- both guests ------------------------------------------------------------------------------ */

static void kept(void *arg, struct obuf_entry *en, int sink, const void *data, uint32_t len)
{
	struct lockstep *l = arg;

	if (!lockstep_compares(l)) {
		compare_learn(&l->compare, sink, data, len, loop_now_ns());
		return;
	}
	if (l->vm->obuf.sinks[sink].kind == OBUF_EVENT) {
		differ_because(l, FT_SEAL_EVENT, "the guest did what this side tells as an event");
		return;
	}
	l->compared_ns = loop_now_ns();
	compare_ours(&l->compare, sink, data, len, en, l->compared_ns);
	watch_time(l);
}

static bool ready(void *arg)
{
	struct lockstep *l = arg;

	if (!lockstep_compares(l) || !mirror_is_full(&l->mirror))
		return true;
	if (!l->input_set)
		loop_timer_set(l->vm->loop, &l->input_op, l->bounds.input_ns);
	l->input_set = true;
	return false;
}

static int sink_of(const struct lockstep *l, const struct netdev *nd)
{
	const struct obuf *ob = &l->vm->obuf;

	for (unsigned i = 0; i < ob->nsinks; i++)
		if (ob->sinks[i].arg == nd)
			return (int)i;
	return -1;
}

static void tell_input(struct lockstep *l, const struct device *d, const void *data, uint32_t len)
{
	struct wire_input w = {.place = ++l->given};
	struct iovec iov[2] = {{&w, sizeof(w)}, {(void *)data, len}};

	while (l->vm->devices.devs[w.device] != d)
		w.device++;
	l->stats.inputs++;
	if (mirror_put(&l->mirror, FRAME_INPUT, l->vm->obuf.epoch, iov, 2))
		differ_because(l, FT_SEAL_TWIN,
			       "an input did not find room on its way to the twin");
}

static void frame_given(void *arg, struct netdev *nd, const void *frame, uint32_t len)
{
	struct lockstep *l = arg;

	compare_input(&l->compare, sink_of(l, nd), frame, len);
	if (!lockstep_compares(l))
		return;
	tell_input(l, l->vm->devices.mdevs[nd - l->vm->devices.nets], frame, len);
}

static void given(void *arg, const struct device *d, const void *data, uint32_t len)
{
	struct lockstep *l = arg;

	if (lockstep_compares(l))
		tell_input(l, d, data, len);
}

static void room(void *arg)
{
	struct lockstep *l = arg;

	stop(l, &l->input_op, &l->input_set);
	for (unsigned i = 0; i < l->vm->machine.ndevs; i++)
		if (l->vm->machine.devs[i].kind == MDEV_NET)
			netdev_go_on(&l->vm->devices.nets[i]);
		else if (l->vm->machine.devs[i].kind == MDEV_RNG)
			virtio_rng_go_on(l->vm->devices.mdevs[i]);
		else if (l->vm->machine.devs[i].kind == MDEV_VSOCK)
			virtio_vsock_go_on(l->vm->devices.mdevs[i]);
}

/* Clients of this side's guest are not to wait for a twin that reads slowly, or not at all. */
static void input_late(struct loop_op *op, int res)
{
	struct lockstep *l = op->arg;
	char why[sizeof(l->why)];

	if (!lockstep_compares(l))
		return;
	l->stats.not_taken++;
	snprintf(why, sizeof(why), "it takes no input: %llu KiB of it wait, for %llu ms",
		 (unsigned long long)MIRROR_LIMIT >> 10,
		 (unsigned long long)l->bounds.input_ns / 1000000);
	give_up(l, FT_SEAL_TWIN, why, LOCKSTEP_LATE);
	room(l);
}

static void twin_output(struct lockstep *l, const struct frame *f)
{
	struct wire_output w;

	/* Of an epoch that is over. */
	if (l->state != LOCKSTEP_RUNS || f->epoch != l->vm->obuf.epoch)
		return;
	if (f->length < sizeof(w)) {
		differ_because(l, FT_SEAL_TWIN, "the twin's output is malformed");
		return;
	}
	memcpy(&w, f->data, sizeof(w));
	l->compared_ns = loop_now_ns();
	if (w.sink >= l->vm->obuf.nsinks ||
	    compare_theirs(&l->compare, (int)w.sink, f->data + sizeof(w),
			   f->length - (uint32_t)sizeof(w), l->compared_ns))
		differ_because(l, FT_SEAL_TWIN, "the twin's output is malformed");
	watch_time(l);
}

static void twin_apart(struct lockstep *l, const struct frame *f)
{
	static const char *const whys[] = {[APART_ENDED] = "the twin has ended",
					   [APART_HOST] = "the twin's host cannot run it",
					   [APART_SPACE] = "the twin's writes find no room"};
	struct wire_apart w = {.why = APART_WHYS};

	if (f->epoch != l->vm->obuf.epoch || !lockstep_compares(l))
		return;
	if (f->length == sizeof(w))
		memcpy(&w, f->data, sizeof(w));
	if (w.why < APART_WHYS)
		l->stats.apart[w.why]++;
	differ_because(l, FT_SEAL_TWIN,
		       w.why < APART_WHYS ? whys[w.why] : "the twin's word is malformed");
}

/* --- what the twin reads from its disks ------------------------------------------------------- */

static void wrote(void *arg, unsigned device, const struct disk_req *r)
{
	struct lockstep *l = arg;

	if (r->kind == DISK_WRITE)
		written_add(&l->written, device, r->off, r->buf, r->len);
}

static void log_filled(void *arg)
{
	struct lockstep *l = arg;

	if (!lockstep_compares(l))
		return;
	l->stats.log_full++;
	differ_because(l, FT_SEAL_LOG,
		       "the disk log is full: the guest's writes wait for a checkpoint");
}

static void watch_reads(struct lockstep *l)
{
	if (l->read_set || !written_waits(&l->written))
		return;
	l->read_set = true;
	loop_timer_set(l->vm->loop, &l->read_op, l->bounds.overdue_ns);
}

static void look_at_reads(struct loop_op *op, int res)
{
	struct lockstep *l = op->arg;

	l->read_set = false;
	/* While a full log holds its writes it is not known what this guest would have written. */
	if (lockstep_compares(l) && !l->disklog->full && written_missing(&l->written)) {
		l->stats.reads++;
		differ_because(l, FT_SEAL_DIFFER,
			       "the twin read from a disk what it alone has written");
	}
	watch_reads(l);
}

static void twin_read(struct lockstep *l, const struct frame *f)
{
	struct wire_read w;
	uint64_t key;

	if (f->epoch != l->vm->obuf.epoch || l->state != LOCKSTEP_RUNS)
		return;
	if (f->length < sizeof(w) || (f->length - sizeof(w)) % sizeof(key)) {
		differ_because(l, FT_SEAL_TWIN, "the twin's word is malformed");
		return;
	}
	memcpy(&w, f->data, sizeof(w));
	for (uint32_t at = sizeof(w); at < f->length; at += sizeof(key)) {
		memcpy(&key, f->data + at, sizeof(key));
		written_expect(&l->written, key, w.writes);
	}
	watch_reads(l);
}

/* --- begin and end ---------------------------------------------------------------------------- */

/* Have this side asked and told of all inputs, or nobody: then they go on that waited for it. */
static void hear_inputs(struct lockstep *l, bool on)
{
	struct netdev_tee t = {ready, frame_given, l};

	for (unsigned i = 0; i < l->vm->machine.ndevs; i++)
		if (l->vm->machine.devs[i].kind == MDEV_NET)
			netdev_set_tee(&l->vm->devices.nets[i], on ? &t : NULL);
	l->vm->devices.inputs =
		on ? (struct inputs){.ready = ready, .given = given, .arg = l} : (struct inputs){0};
	room(l);
}

static void lost(void *arg, const char *why)
{
	struct lockstep *l = arg;

	snprintf(l->why, sizeof(l->why), "%s", why);
	lockstep_end(l);
	l->news(l->arg, LOCKSTEP_LOST);
}

/* The connection is of no use any more; frees what came on it. */
static bool refuse(struct lockstep *l, const char *why)
{
	lost(l, why);
	return false;
}

static bool twin_loaded(struct lockstep *l, const struct frame *f)
{
	uint64_t expected = l->vm->obuf.epoch - 1;
	char why[80];

	if (f->epoch > expected || (f->epoch == expected && l->state == LOCKSTEP_RUNS)) {
		snprintf(why, sizeof(why), "expected loaded %llu%s, received loaded %llu",
			 (unsigned long long)expected, l->state == LOCKSTEP_RUNS ? " once" : "",
			 (unsigned long long)f->epoch);
		return refuse(l, why);
	}
	l->loaded = f->epoch;
	if (f->epoch < expected || l->state != LOCKSTEP_LOADING)
		return true; /* too late: there is a newer one, or it was given up */
	l->state = LOCKSTEP_RUNS;
	stop(l, &l->load_op, &l->load_set);
	l->loaded_ns = loop_now_ns();
	l->stats.load_ns = l->loaded_ns - l->sealed_ns;
	watch_time(l);
	return true;
}

static bool is_of_twin(const struct frame *f)
{
	return f->type == FRAME_OUTPUT || f->type == FRAME_MAPPED || f->type == FRAME_APART ||
	       f->type == FRAME_READ;
}

/* It may be behind, but nothing there is of an epoch that has not begun here. */
static bool take(void *arg, const struct frame *f)
{
	struct lockstep *l = arg;
	char why[100];

	if (f->type == FRAME_LOADED)
		return twin_loaded(l, f);
	if (!is_of_twin(f)) {
		snprintf(why, sizeof(why),
			 "expected output, loaded, mapped, apart or read, received %s",
			 stream_frame_name(f->type));
		return refuse(l, why);
	}
	if (f->epoch > l->vm->obuf.epoch) {
		snprintf(why, sizeof(why), "expected %s of epoch %llu, received one of %llu",
			 stream_frame_name(f->type), (unsigned long long)l->vm->obuf.epoch,
			 (unsigned long long)f->epoch);
		return refuse(l, why);
	}
	if (f->type == FRAME_OUTPUT)
		twin_output(l, f);
	else if (f->type == FRAME_APART)
		twin_apart(l, f);
	else if (f->type == FRAME_READ)
		twin_read(l, f);
	else if (!twin_maps(l, f))
		differ_because(l, FT_SEAL_TWIN, "the twin answers what it was not told");
	return true;
}

void lockstep_acked(struct lockstep *l)
{
	if (l->state == LOCKSTEP_OFF)
		return;
	look_again(&l->trust_op, 0);
	watch_load(l);
}

void lockstep_seals(struct lockstep *l)
{
	if (!l->differed_ns)
		return;
	l->stats.asked_ns = loop_now_ns() - l->differed_ns;
	if (l->stats.asked_ns > l->stats.asked_max_ns)
		l->stats.asked_max_ns = l->stats.asked_ns;
	l->differed_ns = 0;
}

void lockstep_sealed(struct lockstep *l, bool runs)
{
	const struct seqmap *seqs;

	if (l->state == LOCKSTEP_OFF)
		return;
	compare_reset(&l->compare);
	written_seal(&l->written);
	seqs = l->vm->devices.env.seqs;
	/* A side that takes over adds to the map that this one had at the checkpoint. */
	l->room = seqs ? seqmap_room(seqs) : SEQMAP_MAX;
	l->marked = 0;
	l->told = l->agreed = 1;
	l->given = 0;
	l->state = runs ? LOCKSTEP_LOADING : LOCKSTEP_ALONE;
	if (!runs)
		stop(l, &l->load_op, &l->load_set);
	l->sealed_ns = loop_now_ns();
	l->stats.checkpoints += runs;
	room(l); /* an input may have waited for it */
}

static enum compare_kind kind_of(const struct lockstep *l, unsigned sink)
{
	switch (l->vm->obuf.sinks[sink].kind) {
	case OBUF_NET:
		return COMPARE_FRAMES;
	case OBUF_VSOCK:
		return COMPARE_ORDERS;
	default:
		return COMPARE_STREAM;
	}
}

static void forget(struct lockstep *l)
{
	compare_done(&l->compare);
	written_done(&l->written);
}

static int begin_compare(struct lockstep *l, struct err *e)
{
	struct compare_limits limits = {.bytes = BYTES,
					.flow_bytes = FLOW_BYTES,
					.history_bytes = HISTORY_BYTES,
					.flows = FLOWS,
					.overdue_ns = l->bounds.overdue_ns,
					.idle_ns = IDLE_NS};
	int r = compare_init(&l->compare, &limits, &ops, l);

	if (!r && (r = written_init(&l->written)))
		compare_done(&l->compare);
	if (r)
		return err_set(e, r, "comparison: %s", strerror(-r));
	for (unsigned i = 0; i < l->vm->obuf.nsinks; i++)
		compare_add_sink(&l->compare, (int)i, kind_of(l, i));
	return 0;
}

static void init_times(struct lockstep *l)
{
	l->due_op = (struct loop_op){.fn = due, .arg = l};
	l->trust_op = (struct loop_op){.fn = look_again, .arg = l};
	l->load_op = (struct loop_op){.fn = load_late, .arg = l};
	l->input_op = (struct loop_op){.fn = input_late, .arg = l};
	l->read_op = (struct loop_op){.fn = look_at_reads, .arg = l};
	l->due_set = l->load_set = l->input_set = l->read_set = false;
	l->loaded = 0;
}

int lockstep_begin(struct lockstep *l, struct vm *vm, struct heart *heart, struct stream *st,
		   struct err *e)
{
	int r;

	l->vm = vm;
	l->heart = heart;
	init_times(l);
	l->marked = 0;
	l->differed_ns = 0;
	l->told = l->agreed = 1;
	r = begin_compare(l, e);
	if (r) {
		stream_done(st);
		return r;
	}
	l->mirror.frame = take;
	l->mirror.room = room;
	l->mirror.lost = lost;
	l->mirror.arg = l;
	r = mirror_start(&l->mirror, vm->loop, st, e);
	if (r) {
		forget(l);
		return r;
	}
	l->state = LOCKSTEP_ALONE;
	l->disklog->wrote_arg = l;
	l->disklog->wrote = wrote;
	l->disklog->filled = log_filled;
	obuf_on_kept(&vm->obuf, kept, l);
	hear_inputs(l, true);
	return 0;
}

void lockstep_end(struct lockstep *l)
{
	if (l->state == LOCKSTEP_OFF)
		return;
	l->state = LOCKSTEP_OFF;
	mirror_stop(&l->mirror);
	obuf_on_kept(&l->vm->obuf, NULL, NULL);
	loop_timer_del(l->vm->loop, &l->due_op);
	loop_timer_del(l->vm->loop, &l->trust_op);
	loop_timer_del(l->vm->loop, &l->load_op);
	loop_timer_del(l->vm->loop, &l->input_op);
	loop_timer_del(l->vm->loop, &l->read_op);
	l->disklog->wrote = NULL;
	l->disklog->filled = NULL;
	forget(l);
	hear_inputs(l, false);
}

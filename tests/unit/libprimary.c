#define _GNU_SOURCE /* accept4 */
#include "tests/unit/libprimary.h"

#include <errno.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#include "ft/role/primary_do.h"
#include "tests/fuzz/vm.h"
#include "tests/unit/libkvm_model.h"
#include "tests/unit/liblog.h"
#include "tests/unit/libtime.h"
#include "vmm/base/hash.h"

/* --- set-up ----------------------------------------------------------------------------------- */

static void on_state(void *arg, const char *from, const char *to)
{
	struct rig *r = arg;

	assert_string_not_equal(from, to);
	r->changes++;
}

static void on_exit_code(void *arg, int code)
{
	struct rig *r = arg;

	r->exits++;
	r->code = code;
}

static void configure(struct rig *r)
{
	char image[96];

	snprintf(image, sizeof(image), "%s/image", r->folder);
	fake_machine(&r->machine, &r->cfg, image);
	r->machine.devs[RIG_NET] =
		(struct mdev){.kind = MDEV_NET,
			      .id = "net",
			      .gpa = MACHINE_MMIO_BASE + RIG_NET * MACHINE_MMIO_STEP,
			      .gsi = MACHINE_GSI_BASE + RIG_NET,
			      .mac = {2, 0, 0, 0, 0, 4},
			      .queues = 1};
	r->machine.ndevs = RIG_NET + 1;
	fake_vm.has_network = true;
	r->cfg.role = ROLE_PRIMARY;
	/* So that no test has to think of heartbeats, but those that are about them. */
	r->cfg.heartbeat_ns = 5 * S;
	r->cfg.peer_timeout_ns = 60 * S;
	r->cfg.epoch_ns = EPOCH_NS;
	r->cfg.staging_bytes = 1 << 20;
	r->cfg.disklog_bytes = 1 << 20;
	r->cfg.npeers = 1;
	for (unsigned i = 0; i < RIG_PEERS; i++)
		snprintf(r->cfg.peers[i], sizeof(r->cfg.peers[i]), "unix:%s/p%u", r->folder, i);
	r->ft = (struct ft){.cfg = &r->cfg,
			    .loop = &r->loop,
			    .life = FT_HERE,
			    .cover = FT_UNPROTECTED,
			    .generation = RIG_GEN,
			    .on_state = on_state,
			    .on_exit = on_exit_code,
			    .arg = r};
}

int rig_setup(void **state)
{
	static struct rig rig; /* stays when the arbiter's last thread ends */
	struct rig *r = &rig;

	memset(r, 0, sizeof(*r));
	time_reset();
	logged_reset();
	fake_vm_reset();
	strcpy(r->folder, "/tmp/ftvmm-primary-XXXXXX");
	assert_non_null(mkdtemp(r->folder));
	configure(r);
	assert_int_equal(loop_init(&r->loop, NULL), 0);
	r->loop.clock = loop_now_ns;
	r->ft.arbiter = mock_arbiter_open(&r->mock, &r->loop, ARBITER_DEADLINE_MS);
	arbiter_set_side(r->ft.arbiter, RIG_SIDE);
	mock_arbiter_hold(&r->mock, true);
	for (unsigned i = 0; i < RIG_PEERS; i++)
		r->listener[i] = -1;
	peer_listens(r, 0, true);
	r->main.fd = r->heart.fd = r->mirror.fd = r->new_main.fd = r->new_heart.fd = -1;
	r->code = -1;
	*state = r;
	return 0;
}

/* Each epoch was sealed for something. */
static void check_seals(const struct ft_stats *s)
{
	uint64_t n = 0;

	for (enum ft_seal why = FT_SEAL_NONE + 1; why < FT_SEALS; why++)
		n += s->seals[why];
	assert_int_equal(n, s->epochs);
}

int rig_teardown(void **state)
{
	struct rig *r = *state;
	char command[96];

	check_seals(&r->ft.stats);
	primary_stop(&r->pri);
	marks_stop(&r->ft.marks);
	peer_hangs_up(r);
	new_hangs_up(r);
	for (unsigned i = 0; i < RIG_PEERS; i++)
		peer_listens(r, i, false);
	r->vm.devices.disks[0].inflight = 0;
	r->vm.running = false;
	vm_destroy(&r->vm);
	kvm_model_end();
	assert_int_equal(fake_vm.created, fake_vm.destroyed);
	arbiter_close(r->ft.arbiter);
	mock_arbiter_hold(&r->mock, false);
	mock_arbiter_wait(&r->mock, &r->mock.closed, 1);
	loop_turns(&r->loop);
	loop_done(&r->loop);
	snprintf(command, sizeof(command), "rm -rf %s", r->folder);
	return system(command);
}

void rig_start(struct rig *r)
{
	fake_vm_create(&r->vm, &r->loop, &r->machine, &r->cfg);
	kvm_model_start(&r->vm.mem);
	r->vm.kvm = kvm_model.kvm;
	r->dirty_log_error = &kvm_model.fail;
	/* A request is under way until SYNCED is to come: the disk log waits for it. */
	r->vm.devices.disks[0].inflight = 1;
	rig_scribble(r, 5, 3);
	vm_start(&r->vm);
	assert_int_equal(primary_start(&r->pri, &r->ft, &r->vm, NULL), 0);
}

/* --- the guest -------------------------------------------------------------------------------- */

void rig_scribble(struct rig *r, unsigned page, unsigned n)
{
	static uint64_t x = 88172645463325252ull;

	for (unsigned i = 0; i < n; i++)
		for (unsigned k = 0; k < MEM_PAGE_SIZE / 8; k++) {
			x ^= x << 13;
			x ^= x >> 7;
			x ^= x << 17;
			guest_writes(&r->vm.mem, page + i, k, x);
		}
}

bool rig_print(struct rig *r, unsigned n)
{
	static char text[1 << 16];
	struct iovec iov = {text, n};

	assert_true(r->vm.running && n <= sizeof(text));
	text[0]++;
	assert_int_equal(mem_write(&r->vm.mem, 9 * MEM_PAGE_SIZE, text, 64), 0);
	return !obuf_put(&r->vm.obuf, fake_vm.sink, &iov, 1);
}

static void not_now(void *arg)
{
}

void rig_print_much(struct rig *r)
{
	static struct loop busy = {.clock = loop_now_ns, .yield_ns = 0};

	obuf_set_later(&r->vm.obuf, &busy, not_now, NULL);
	for (unsigned i = 0; i < 300; i++)
		assert_true(rig_print(r, 1));
}

/* --- the secondary ---------------------------------------------------------------------------- */

void peer_listens(struct rig *r, unsigned i, bool listens)
{
	struct sockaddr_un sun = {.sun_family = AF_UNIX};

	if (r->listener[i] >= 0)
		close(r->listener[i]);
	r->listener[i] = -1;
	snprintf(sun.sun_path, sizeof(sun.sun_path), "%s/p%u", r->folder, i);
	unlink(sun.sun_path);
	if (!listens)
		return;
	r->listener[i] = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(r->listener[i], (struct sockaddr *)&sun, sizeof(sun)), 0);
	assert_int_equal(listen(r->listener[i], 4), 0);
}

static void take(struct rig *r, unsigned i, struct stream *st, enum stream_link link)
{
	int fd = -1, next;

	while ((next = accept4(r->listener[i], NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
		if (fd >= 0)
			close(fd);
		fd = next;
	}
	assert_true(fd >= 0);
	stream_done(st);
	stream_init(st, fd, link, 0);
}

void peer_takes_main(struct rig *r, unsigned i)
{
	take(r, i, &r->main, STREAM_MAIN);
}

void peer_takes_heart(struct rig *r, unsigned i)
{
	take(r, i, &r->heart, STREAM_HEART);
}

void peer_takes_mirror(struct rig *r, unsigned i)
{
	struct frame f;

	take(r, i, &r->mirror, STREAM_MIRROR);
	loop_until(&r->loop, stream_recv(&r->mirror, &f) == 1);
	assert_int_equal(f.type, FRAME_MIRROR);
}

static void take_in(struct rig *r, const struct frame *f)
{
	r->came[f->type]++;
	r->last = f->type;
	if (f->type == FRAME_HELLO) {
		memcpy(&r->hello, f->data, sizeof(r->hello));
		assert_int_equal(f->length, sizeof(r->hello) + r->hello.fdt_bytes);
		memcpy(r->fdt, f->data + sizeof(r->hello), r->hello.fdt_bytes);
	} else if (f->type == FRAME_STATE) {
		r->state_hash = XXH3_64bits(f->data, f->length);
	} else if (f->type == FRAME_EPOCH_END) {
		assert_int_equal(f->length,
				 sizeof(r->end) + (r->cfg.verify ? sizeof(r->places) : 0));
		memcpy(&r->end, f->data, sizeof(r->end));
		memcpy(&r->places, f->data + sizeof(r->end), f->length - sizeof(r->end));
		r->ended = f->epoch;
		r->pages += r->end.pages;
	} else if (f->type == FRAME_PAGES && f->epoch) {
		r->page_bytes += f->length;
	} else if (f->type == FRAME_HAND_OVER) {
		assert_int_equal(f->length, sizeof(r->token));
		memcpy(&r->token, f->data, sizeof(r->token));
	} else if (f->type == FRAME_GENERATION) {
		assert_int_equal(f->length, sizeof(r->generation));
		memcpy(&r->generation, f->data, sizeof(r->generation));
	}
}

void peer_reads(struct rig *r)
{
	struct frame f;

	while (r->main.fd >= 0 && stream_recv(&r->main, &f) == 1)
		take_in(r, &f);
	while (r->heart.fd >= 0 && stream_recv(&r->heart, &f) == 1) {
		r->came[FRAME_HEART]++;
		assert_int_equal(f.type, FRAME_HEART);
		assert_int_equal(f.length, sizeof(r->beat));
		memcpy(&r->beat, f.data, sizeof(r->beat));
	}
}

static void say(struct stream *st, enum frame_type type, uint64_t epoch, const void *p, size_t n)
{
	struct iovec iov = {(void *)p, n};

	assert_int_equal(stream_send(st, type, epoch, &iov, n ? 1 : 0, UINT64_MAX), 0);
}

void peer_says(struct rig *r, enum frame_type type, uint64_t epoch)
{
	say(&r->main, type, epoch, NULL, 0);
}

void peer_mirrors(struct rig *r, enum frame_type type, uint64_t epoch, const void *p, size_t n)
{
	say(&r->mirror, type, epoch, p, n);
}

/* As if it had been asked for. */
static void say_compared(struct stream *st, struct sync *s)
{
	const struct {
		struct wire_differ w;
		struct wire_blocks piece;
	} m = {.w = {.disk = 0, .count = 1, .where = {0, 1}}, .piece = {0, 1}};

	__atomic_fetch_add(&s->asked, 1, __ATOMIC_RELEASE);
	say(st, FRAME_DIFFER, 0, &m, sizeof(m));
}

void new_compared(struct rig *r)
{
	struct engine *g = &r->pri.engine;

	say_compared(&r->new_main, &g->syncs[g->sync == &g->syncs[0]]);
}

void peer_says_text(struct rig *r, enum frame_type type, const void *text, size_t len)
{
	say(&r->main, type, 0, text, len);
}

void peer_beats(struct rig *r, uint64_t echo)
{
	struct wire_heart w = {.nonce = ++r->beats, .echo = echo};

	peer_reads(r); /* the preface names the session */
	say(&r->heart, FRAME_HEART, 0, &w, sizeof(w));
}

void peer_hangs_up(struct rig *r)
{
	stream_done(&r->main);
	stream_done(&r->heart);
	stream_done(&r->mirror);
}

/* --- the new secondary ------------------------------------------------------------------------ */

#define NEW (RIG_PEERS - 1)

const char *new_address(const struct rig *r)
{
	return r->cfg.peers[NEW];
}

void new_reads(struct rig *r)
{
	struct frame f;

	while (r->new_main.fd >= 0 && stream_recv(&r->new_main, &f) == 1) {
		r->new_came[f.type]++;
		if (f.type == FRAME_HELLO)
			memcpy(&r->new_hello, f.data, sizeof(r->new_hello));
		else if (f.type == FRAME_STATE)
			r->new_state_hash = XXH3_64bits(f.data, f.length);
		else if (f.type == FRAME_EPOCH_END)
			r->new_ended = f.epoch;
		else if (f.type == FRAME_GENERATION)
			memcpy(&r->new_generation, f.data, sizeof(r->new_generation));
	}
	while (r->new_heart.fd >= 0 && stream_recv(&r->new_heart, &f) == 1)
		;
}

void new_hangs_up(struct rig *r)
{
	stream_done(&r->new_main);
	stream_done(&r->new_heart);
	r->new_main.fd = r->new_heart.fd = -1;
}

void new_listens(struct rig *r, bool listens)
{
	peer_listens(r, NEW, listens);
}

void new_says(struct rig *r, enum frame_type type, uint64_t epoch)
{
	say(&r->new_main, type, epoch, NULL, 0);
}

static void new_has_epoch(struct rig *r)
{
	uint64_t epoch = r->pri.engine.follow.epoch;

	loop_until(&r->loop, (new_reads(r), epoch && r->new_ended == epoch));
}

void new_acks(struct rig *r)
{
	new_has_epoch(r);
	loop_until(&r->loop, r->pri.move.fsm.state == MOV_FED);
	say(&r->new_main, FRAME_ACK, r->new_ended, NULL, 0);
}

/* By the event that leads there. */
void new_goes_on(struct rig *r, enum move_state s)
{
	struct err e = {0};

	if (s == MOV_CONNECTING) {
		rig_scribble(r, 300, 100); /* the passes do not end before it reads */
		peer_listens(r, NEW, true);
		assert_int_equal(primary_move(&r->pri, new_address(r), &e), 0);
	} else if (s == MOV_HELLO) {
		loop_until(&r->loop, r->pri.move.fsm.state == s);
		take(r, NEW, &r->new_main, STREAM_MAIN);
	} else if (s == MOV_HEART) {
		new_reads(r);
		say(&r->new_main, FRAME_WELCOME, 0, NULL, 0);
	} else if (s == MOV_PASSES) {
		loop_until(&r->loop, r->pri.move.fsm.state == s);
		take(r, NEW, &r->new_heart, STREAM_HEART);
	} else if (s == MOV_ASKED) {
		loop_until(&r->loop, (new_reads(r), r->pri.move.fsm.state == s));
		arbiter_was_asked(r, r->mock.answered + 1);
	} else if (s == MOV_HOLD) {
		/* More than its socket takes: the rest is not out before it reads. */
		rig_scribble(r, 100, 100);
		r->vm.devices.disks[0].inflight = 1;
		arbiter_says(r, 0, NULL);
	} else if (s == MOV_LAST) {
		r->vm.devices.disks[0].inflight = 0;
	} else if (s == MOV_FED) {
		loop_until(&r->loop, (new_reads(r), r->pri.move.fsm.state == s));
	} else {
		new_acks(r);
	}
	loop_until(&r->loop, r->pri.move.fsm.state >= s);
}

void new_reach(struct rig *r, enum move_state s)
{
	for (unsigned i = MOV_CONNECTING; i <= s; i++)
		new_goes_on(r, i);
}

/* --- the arbiter ------------------------------------------------------------------------------ */

static void wait_for(const atomic_uint *counter, unsigned n)
{
	uint64_t began = 0;

	while (*counter < n) {
		assert_true(real_time_left(&began));
		poll(NULL, 0, 1);
	}
	assert_int_equal(*counter, n);
}

void arbiter_was_asked(struct rig *r, unsigned n)
{
	wait_for(&r->mock.asked, n);
}

void arbiter_says(struct rig *r, int code, const struct arbiter_record *record)
{
	unsigned n = r->mock.answered + 1;

	mock_arbiter_set(&r->mock, code, record);
	mock_arbiter_hold(&r->mock, false);
	wait_for(&r->mock.answered, n);
	mock_arbiter_hold(&r->mock, true);
}

/* --- what happens ----------------------------------------------------------------------------- */

static void answer(struct rig *r, int code)
{
	struct arbiter_record other = {.generation = r->ft.generation + 1, .holder = "you"};

	arbiter_says(r, code, &other);
}

/* It is asked again every 0.5 s: what it says next is the answer to that. */
static void ask_again(struct rig *r)
{
	bool of_hand_over = r->pri.fsm.state == PRI_ASKED || r->pri.fsm.state == PRI_ASKED_FLIGHT;

	if (!of_hand_over && time_left(&r->pri.timer_op) >= 0)
		time_fire(&r->pri.timer_op);
}

void rig_handing(void *arg, int code, const struct err *e)
{
	struct rig *r = arg;

	r->told++;
	r->told_code = code;
	snprintf(r->told_why, sizeof(r->told_why), "%s", e->msg);
}

static void acknowledge(struct rig *r)
{
	loop_until(&r->loop, (peer_reads(r), r->ended == r->pri.engine.in_flight));
	peer_says(r, FRAME_ACK, r->ended);
}

static void lose(struct rig *r)
{
	if (r->pri.fsm.state == PRI_CONNECTING || r->pri.fsm.state == PRI_HEART)
		peer_listens(r, 0, false); /* with our connection in its backlog */
	else
		peer_hangs_up(r);
}

/* What the arbiter, the images and the clock do. */
static void cause_here(struct rig *r, enum primary_event ev)
{
	switch (ev) {
	case PRI_EV_WON:
	case PRI_EV_RECORDED:
		answer(r, 0);
		break;
	case PRI_EV_ANSWERED:
		arbiter_says(r, 0, NULL);
		break;
	case PRI_EV_CLAIM_LOST:
		answer(r, -ESTALE);
		break;
	case PRI_EV_NO_ANSWER:
		answer(r, -EIO);
		break;
	case PRI_EV_IMAGES_LATE:
		time_jump(30 * S);
		time_fire(&r->pri.timer_op);
		break;
	case PRI_EV_OUTPUT:
		assert_true(rig_print(r, 1));
		break;
	case PRI_EV_DIFFER:
		r->pri.mirroring.lockstep.news(&r->pri.mirroring, LOCKSTEP_DIFFERS);
		break;
	case PRI_EV_TRY:
	case PRI_EV_IMAGES:
		r->ft.images_behind = false;
		time_fire(&r->pri.timer_op);
		break;
	default:
		assert_int_equal(ev, PRI_EV_TIMER);
		if (r->pri.fsm.state == PRI_IDLE)
			r->ft.images_behind = false;
		time_fire(&r->pri.timer_op);
	}
}

static void cause_by_peer(struct rig *r, enum primary_event ev)
{
	static const struct wire_side side = {.side = RIG_PEER, .dismiss = 1};

	switch (ev) {
	case PRI_EV_SYNCED:
		r->vm.devices.disks[0].inflight = 0;
		loop_until(&r->loop, (peer_reads(r), r->pri.fsm.state != PRI_SYNCING));
		break;
	case PRI_EV_LOST:
		lose(r);
		break;
	case PRI_EV_COMPARED:
		say_compared(&r->main, r->pri.engine.sync);
		break;
	case PRI_EV_WELCOME:
		peer_reads(r);
		peer_says_text(r, FRAME_WELCOME, &side, sizeof(side));
		break;
	case PRI_EV_MOVE:
		new_reach(r, MOV_LAST);
		break;
	case PRI_EV_NEW_ACK:
		new_acks(r);
		break;
	case PRI_EV_NEW_LOST:
		new_has_epoch(r);
		new_hangs_up(r);
		break;
	case PRI_EV_NEW_GONE:
		new_hangs_up(r);
		break;
	case PRI_EV_ACK:
		acknowledge(r);
		break;
	case PRI_EV_DONE:
		peer_says(r, FRAME_DONE, 0);
		break;
	case PRI_EV_RUNS:
		peer_says(r, FRAME_RUNS, 0);
		break;
	default:
		cause_here(r, ev);
	}
}

void rig_set_mode(struct rig *r, enum ft_mode mode)
{
	assert_int_equal(primary_may_have_mode(&r->pri, mode, NULL), 0);
	r->cfg.ft = mode;
	primary_set_mode(&r->pri, mode);
}

void rig_cause(struct rig *r, enum primary_event ev)
{
	enum primary_state from = r->pri.fsm.state;
	uint64_t steps;

	if (ev >= PRI_EV_WON && ev <= PRI_EV_NO_ANSWER)
		ask_again(r);
	steps = r->pri.fsm.steps;
	if (ev == PRI_EV_STOP)
		primary_end(&r->pri, 0);
	else if (ev == PRI_EV_HAND_OVER)
		assert_int_equal(primary_hand_over(&r->pri, rig_handing, r, NULL), 0);
	else if (ev == PRI_EV_HOST_FAILED)
		assert_true(primary_host_failed(&r->pri));
	else if (ev == PRI_EV_OFF || ev == PRI_EV_ON)
		rig_set_mode(r, ev == PRI_EV_OFF ? FT_MODE_OFF : FT_MODE_MC);
	else if (ev != PRI_EV_CONNECTED)
		cause_by_peer(r, ev);
	loop_until(&r->loop, r->pri.fsm.steps > steps);
	if (ev == PRI_EV_CONNECTED && from == PRI_CONNECTING)
		peer_takes_main(r, 0);
	else if (ev == PRI_EV_CONNECTED)
		peer_takes_heart(r, 0);
}

static bool is_asking(enum primary_state s)
{
	return s == PRI_CLAIM || s == PRI_CLAIM_STOP || s == PRI_CLAIM_HANDED ||
	       s == PRI_CLAIM_HANDED_STOP || s == PRI_RECORD || s == PRI_UNSURE || s == PRI_ASKED ||
	       s == PRI_ASKED_FLIGHT || s == PRI_SWAP || s == PRI_KEEP;
}

void rig_reach(struct rig *r, enum primary_state s)
{
	static const struct {
		uint8_t from, by;
	} way[PRI_STATE_MAX] = {
		[PRI_OFF] = {PRI_IDLE, PRI_EV_OFF},
		[PRI_OFF_DUE] = {PRI_FLIGHT, PRI_EV_OFF},
		[PRI_OFF_LAST] = {PRI_STEADY, PRI_EV_OFF},
		[PRI_DISMISS] = {PRI_OFF_LAST, PRI_EV_ACK},
		[PRI_DISMISS_STOP] = {PRI_DISMISS, PRI_EV_STOP},
		[PRI_CONNECTING] = {PRI_IDLE, PRI_EV_TIMER},
		[PRI_HELLO] = {PRI_CONNECTING, PRI_EV_CONNECTED},
		[PRI_HEART] = {PRI_HELLO, PRI_EV_WELCOME},
		[PRI_SYNCING] = {PRI_HEART, PRI_EV_CONNECTED},
		[PRI_STEADY] = {PRI_SYNCING, PRI_EV_SYNCED},
		[PRI_FLIGHT] = {PRI_STEADY, PRI_EV_TIMER},
		[PRI_MOVE_DUE] = {PRI_FLIGHT, PRI_EV_MOVE},
		[PRI_MOVE] = {PRI_STEADY, PRI_EV_MOVE},
		[PRI_MOVE_OLD] = {PRI_MOVE, PRI_EV_ACK},
		[PRI_MOVE_NEW] = {PRI_MOVE, PRI_EV_NEW_ACK},
		[PRI_SWAP] = {PRI_MOVE_OLD, PRI_EV_NEW_ACK},
		[PRI_KEEP_FLIGHT] = {PRI_MOVE, PRI_EV_NEW_LOST},
		[PRI_KEEP] = {PRI_MOVE_OLD, PRI_EV_NEW_LOST},
		[PRI_STOP_DUE] = {PRI_FLIGHT, PRI_EV_STOP},
		[PRI_STOP] = {PRI_STEADY, PRI_EV_STOP},
		[PRI_BYE] = {PRI_STOP, PRI_EV_ACK},
		[PRI_ASKED] = {PRI_STEADY, PRI_EV_HAND_OVER},
		[PRI_ASKED_FLIGHT] = {PRI_FLIGHT, PRI_EV_HAND_OVER},
		[PRI_HAND_DUE] = {PRI_ASKED_FLIGHT, PRI_EV_ANSWERED},
		[PRI_HAND] = {PRI_ASKED, PRI_EV_ANSWERED},
		[PRI_HANDED] = {PRI_HAND, PRI_EV_ACK},
		[PRI_HANDED_STOP] = {PRI_HANDED, PRI_EV_STOP},
		[PRI_CLAIM] = {PRI_STEADY, PRI_EV_LOST},
		[PRI_UNANSWERED] = {PRI_CLAIM, PRI_EV_NO_ANSWER},
		[PRI_CLAIM_STOP] = {PRI_CLAIM, PRI_EV_STOP},
		[PRI_CLAIM_HANDED] = {PRI_HANDED, PRI_EV_LOST},
		[PRI_HANDED_UNANSWERED] = {PRI_CLAIM_HANDED, PRI_EV_NO_ANSWER},
		[PRI_CLAIM_HANDED_STOP] = {PRI_HANDED_STOP, PRI_EV_LOST},
		[PRI_REST] = {PRI_IDLE, PRI_EV_STOP},
		[PRI_RECORD] = {PRI_BYE, PRI_EV_DONE},
		[PRI_UNSURE] = {PRI_BYE, PRI_EV_LOST},
		[PRI_LEFT] = {PRI_RECORD, PRI_EV_RECORDED},
	};

	if (s == PRI_IDLE) {
		r->ft.images_behind = true;
		rig_start(r);
	} else {
		rig_reach(r, way[s].from);
		rig_cause(r, way[s].by);
	}
	if (s == PRI_STEADY)
		rig_cause(r, PRI_EV_ACK); /* of the first epoch */
	if (is_asking(s))
		arbiter_was_asked(r, r->mock.answered + 1);
	assert_string_equal(primary_desc.states[r->pri.fsm.state], primary_desc.states[s]);
}

void rig_until(struct rig *r, enum primary_state s)
{
	loop_until(&r->loop, r->pri.fsm.state == s);
}

const char *rig_peer(const struct rig *r, unsigned i, const char *what)
{
	static char text[800];

	snprintf(text, sizeof(text), "peer %s: %s", r->cfg.peers[i], what);
	return text;
}

void rig_expect(const struct rig *r, enum primary_state s, const char *word, bool runs, char out)
{
	const struct obuf *ob = &r->vm.obuf;

	assert_string_equal(primary_desc.states[r->pri.fsm.state], primary_desc.states[s]);
	assert_string_equal(ft_word(&r->ft), word);
	assert_int_equal(r->vm.running, runs);
	assert_int_equal(ob->closed ? 'd' : ob->holding ? 'h' : 'f', out);
}

void rig_expect_left(struct rig *r, const char *word, int code, const char *note)
{
	assert_int_equal(r->pri.fsm.state, PRI_LEFT);
	assert_string_equal(ft_word(&r->ft), word);
	assert_int_equal(r->ft.life, FT_OVER);
	assert_int_equal(r->exits, 1);
	assert_int_equal(r->code, code);
	assert_string_equal(r->ft.note, note);
	assert_false(r->vm.running);
}

void rig_sync_again(struct rig *r)
{
	r->vm.devices.disks[0].inflight = 1;
	rig_cause(r, PRI_EV_TIMER);
	rig_cause(r, PRI_EV_CONNECTED);
	rig_cause(r, PRI_EV_WELCOME);
	rig_cause(r, PRI_EV_CONNECTED);
	rig_cause(r, PRI_EV_SYNCED);
}

/* The primary's way to a peer, what it takes from one, and what it says about one that it lost. */
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/fuzz/vm.h"
#include "tests/unit/libkvm_model.h"
#include "tests/unit/liblog.h"
#include "tests/unit/libmockarbiter.h"
#include "tests/unit/libprimary.h"
#include "tests/unit/libtime.h"

/* --- the handshake ---------------------------------------------------------------------------- */

static void a_hello_says_what_is_needed(void **state)
{
	struct rig *r = *state;
	struct machine m;
	struct err e = {0};

	r->cfg.verify = true;
	rig_reach(r, PRI_HELLO);
	loop_until(&r->loop, (peer_reads(r), r->came[FRAME_HELLO]));
	assert_int_equal(r->main.link, STREAM_MAIN);
	assert_int_equal(r->hello.generation, RIG_GEN);
	assert_int_equal(r->hello.heartbeat_ns, r->cfg.heartbeat_ns);
	assert_int_equal(r->hello.peer_timeout_ns, r->cfg.peer_timeout_ns);
	assert_int_equal(r->hello.disklog_bytes, r->cfg.disklog_bytes);
	assert_int_equal(r->hello.verify, 1);
	assert_int_equal(r->hello.shared_arbiter, 1);
	assert_int_equal(r->hello.sums, 1);
	assert_int_equal(fdt_parse(r->fdt, r->hello.fdt_bytes, &m, &e), 0);
	assert_int_equal(m.mem_bytes, r->machine.mem_bytes);
	assert_int_equal(m.ndevs, r->machine.ndevs);
	assert_string_equal(r->ft.peer, r->cfg.peers[0]);
	assert_null(r->pri.link->dial.chan.ops); /* it is the stream's now */
}

static void no_verify_and_no_shared_arbiter(void **state)
{
	struct rig *r = *state;

	r->mock.ops.shared = false;
	rig_reach(r, PRI_HEART);
	assert_int_equal(r->hello.verify, 0);
	assert_int_equal(r->hello.shared_arbiter, 0);
}

/* Both links are of one session, which is another one each time. */
static void sessions(void **state)
{
	struct rig *r = *state;
	uint64_t session;

	rig_reach(r, PRI_SYNCING);
	loop_until(&r->loop, (peer_reads(r), r->came[FRAME_HEART]));
	session = r->main.session;
	assert_int_not_equal(session, 0);
	assert_int_not_equal(session, loop_now_ns() | 1); /* nobody guesses it */
	assert_int_equal(session, r->heart.session);
	assert_int_equal(r->heart.link, STREAM_HEART);
	rig_cause(r, PRI_EV_LOST);
	rig_cause(r, PRI_EV_TIMER);
	rig_cause(r, PRI_EV_CONNECTED);
	loop_until(&r->loop, (peer_reads(r), r->came[FRAME_HELLO] == 2));
	assert_int_not_equal(r->main.session, session);
}

/* --- refusals --------------------------------------------------------------------------------- */

static void refuse(struct rig *r, const char *text, size_t len)
{
	rig_reach(r, PRI_HELLO);
	peer_reads(r);
	peer_says_text(r, FRAME_REFUSE, text, len);
	rig_until(r, PRI_IDLE);
	rig_expect(r, PRI_IDLE, "UNPROTECTED", true, 'f');
}

static void a_refusal_says_why(void **state)
{
	struct rig *r = *state;

	refuse(r, "no disk 'd0' \x1b[2J\x7f\xc3~ \n", 22);
	assert_string_equal(r->ft.note, rig_peer(r, 0, "refuses: no disk 'd0' ?[2J??~ ?"));
	assert_int_equal(logged(rig_peer(r, 0, "refuses: no disk 'd0' ?[2J??~ ?")), 1);
	assert_int_equal(logged("warning: peer"), 1);
}

static void a_refusal_of_any_length(void **state)
{
	static char text[4096];

	memset(text, 'x', sizeof(text));
	for (unsigned n = 0; n < 5; n++) {
		static const unsigned length[] = {0, 1, 350, 351, 4096};
		unsigned want = length[n] < 350 ? length[n] : 350;
		struct rig *r;

		assert_int_equal(rig_setup(state), 0);
		r = *state;
		refuse(r, text, length[n]);
		assert_int_equal(strlen(r->pri.link->why), 9 + want);
		assert_memory_equal(r->pri.link->why, "refuses: ", 9);
		assert_int_equal(strspn(r->pri.link->why + 9, "x"), want);
		assert_int_equal(rig_teardown(state), 0);
	}
}

/* --- peers that do not answer, in turn -------------------------------------------------------- */

static void too_late(struct rig *r, enum primary_state s, const char *why)
{
	rig_reach(r, s);
	time_fire(&r->pri.timer_op);
	assert_string_equal(r->pri.link->why, why);
}

static void what_came_too_late(void **state)
{
	static const char silent[] = "no answer in time", unacked[] = "no acknowledgement in time",
			  unhanded[] = "failover: it did not claim the VM and run it in time";
	static const struct {
		uint8_t state;
		const char *why;
	} list[] = {
		{PRI_CONNECTING, silent},
		{PRI_HELLO, "connected, but no answer in time; is that a --secondary?"},
		{PRI_HEART, silent},
		{PRI_FLIGHT, unacked},
		{PRI_STOP_DUE, unacked},
		{PRI_STOP, unacked},
		{PRI_HAND_DUE, unacked},
		{PRI_HAND, unacked},
		{PRI_BYE, "its images did not take all of the disk writes in time"},
		{PRI_HANDED, unhanded},
		{PRI_HANDED_STOP, unhanded},
	};

	for (unsigned i = 0; i < sizeof(list) / sizeof(list[0]); i++) {
		assert_int_equal(rig_setup(state), 0);
		too_late(*state, list[i].state, list[i].why);
		assert_int_equal(rig_teardown(state), 0);
	}
}

/* The first is unreachable, the second one hangs up, the third one is silent. */
static void one_round(struct rig *r)
{
	rig_until(r, PRI_IDLE);
	assert_string_equal(r->ft.note,
			    rig_peer(r, 0, "cannot connect: No such file or directory"));
	assert_string_equal(r->ft.peer, "");
	time_fire(&r->pri.timer_op);
	assert_string_equal(r->ft.peer, r->cfg.peers[1]);
	rig_until(r, PRI_HELLO);
	peer_takes_main(r, 1);
	peer_reads(r);
	peer_hangs_up(r);
	rig_until(r, PRI_IDLE);
	assert_string_equal(r->ft.note, rig_peer(r, 1, "connection closed"));
	time_fire(&r->pri.timer_op);
	assert_string_equal(r->ft.peer, r->cfg.peers[2]);
	rig_until(r, PRI_HELLO);
	peer_takes_main(r, 2);
	time_fire(&r->pri.timer_op);
	rig_expect(r, PRI_IDLE, "UNPROTECTED", true, 'f');
	assert_non_null(strstr(r->ft.note, "is that a --secondary?"));
	assert_non_null(strstr(r->ft.note, r->cfg.peers[2]));
}

static void peers_in_turn_each_trouble_said_once(void **state)
{
	struct rig *r = *state;

	r->cfg.npeers = 3;
	peer_listens(r, 0, false);
	peer_listens(r, 1, true);
	peer_listens(r, 2, true);
	rig_start(r);
	for (unsigned i = 0; i < 3; i++) {
		one_round(r);
		time_fire(&r->pri.timer_op);
	}
	assert_int_equal(logged("warning: peer"), 3);
	assert_int_equal(logged(rig_peer(r, 0, "cannot connect")), 4); /* the fourth try, too */
	assert_int_equal(logged("debug: peer"), 7);
	assert_int_equal(logged(rig_peer(r, 1, "connection closed")), 3);
	assert_int_equal(logged("--secondary?"), 3);
	assert_int_equal(r->changes, 0);
}

/* Whoever had none is waited for no more, and one that is tried anew has its trouble said anew. */
static void other_peers(void **state)
{
	struct rig *r = *state;

	r->cfg.npeers = 0;
	rig_start(r);
	assert_int_equal(time_left(&r->pri.timer_op), -1);
	r->cfg.npeers = 2;
	peer_listens(r, 0, false);
	peer_listens(r, 1, true);
	primary_new_peers(&r->pri);
	rig_expect(r, PRI_IDLE, "UNPROTECTED", true, 'f');
	assert_int_equal(logged(rig_peer(r, 0, "cannot connect")), 1);
	memcpy(r->cfg.peers[0], r->cfg.peers[1], sizeof(r->cfg.peers[0]));
	r->cfg.npeers = 1;
	primary_new_peers(&r->pri); /* at once, and this one first */
	rig_until(r, PRI_HELLO);
	assert_string_equal(r->ft.peer, r->cfg.peers[1]);
	primary_new_peers(&r->pri); /* what is on its way stays */
	rig_expect(r, PRI_HELLO, "UNPROTECTED", true, 'f');
	time_fire(&r->pri.timer_op);
	assert_int_equal(logged("warning: peer"), 2);
	primary_new_peers(&r->pri);
	rig_until(r, PRI_HELLO);
	time_fire(&r->pri.timer_op);
	assert_int_equal(logged("warning: peer"), 3);
}

/* In turns unreachable and silent: that is one trouble, another reason is another one. */
static void a_new_trouble_is_said(void **state)
{
	struct rig *r = *state;

	peer_listens(r, 0, false);
	rig_start(r);
	assert_int_equal(logged("warning: peer"), 1);
	peer_listens(r, 0, true);
	time_fire(&r->pri.timer_op);
	time_fire(&r->pri.timer_op); /* no answer in time: no connection, again */
	rig_expect(r, PRI_IDLE, "UNPROTECTED", true, 'f');
	assert_int_equal(logged("warning: peer"), 1);
	time_fire(&r->pri.timer_op);
	rig_cause(r, PRI_EV_CONNECTED);
	rig_cause(r, PRI_EV_LOST);
	assert_int_equal(logged("warning: peer"), 2);
	time_fire(&r->pri.timer_op);
	rig_cause(r, PRI_EV_CONNECTED);
	rig_cause(r, PRI_EV_LOST);
	assert_int_equal(logged("warning: peer"), 2);
}

/* First it is not there, then it has another key: whoever reads the log is to learn that. */
static void a_wrong_key_is_said(void **state)
{
	struct rig *r = *state;

	peer_listens(r, 0, false);
	rig_start(r);
	peer_listens(r, 0, true);
	for (unsigned i = 0; i < 2; i++) {
		time_fire(&r->pri.timer_op);
		link_break(r->pri.link, "TLS: another key");
		rig_expect(r, PRI_IDLE, "UNPROTECTED", true, 'f');
		assert_int_equal(logged("warning: peer"), 2);
	}
}

/* A peer that was in step is news each time, and its old trouble is over. */
static void a_loss_is_said_each_time(void **state)
{
	struct rig *r = *state;

	peer_listens(r, 0, false);
	rig_start(r);
	assert_int_equal(logged("warning: peer"), 1);
	peer_listens(r, 0, true);
	for (unsigned i = 0; i < 2; i++) {
		time_fire(&r->pri.timer_op);
		rig_cause(r, PRI_EV_CONNECTED);
		rig_cause(r, PRI_EV_WELCOME);
		rig_cause(r, PRI_EV_CONNECTED);
		stream_done(&r->heart);
		rig_until(r, PRI_IDLE);
		assert_string_equal(r->ft.note, rig_peer(r, 0, "heartbeat link closed"));
	}
	assert_int_equal(logged("warning: peer"), 3);
	/* Unreachable again. */
	peer_listens(r, 0, false);
	time_fire(&r->pri.timer_op);
	assert_int_equal(logged("warning: peer"), 4);
}

/* One whose image fails in each first sync does not keep both hosts busy with them. */
static void a_sync_that_fails_is_tried_less_and_less(void **state)
{
	static const unsigned ms[] = {500, 1000, 2000, 4000, 8000, 16000, 32000, 32000};
	struct rig *r = *state;

	rig_start(r);
	for (unsigned i = 0; i < 8; i++) {
		rig_cause(r, PRI_EV_CONNECTED);
		rig_cause(r, PRI_EV_WELCOME);
		rig_cause(r, PRI_EV_CONNECTED);
		stream_done(&r->heart);
		rig_until(r, PRI_IDLE);
		assert_int_equal(time_left(&r->pri.timer_op), ms[i] * MS);
		assert_int_equal(!strstr(r->ft.note, "; next try in "), i < 2);
		time_fire(&r->pri.timer_op);
	}
	/* A connection that does not come to a sync costs nothing. */
	rig_cause(r, PRI_EV_CONNECTED);
	rig_cause(r, PRI_EV_LOST);
	assert_int_equal(time_left(&r->pri.timer_op), 500 * MS);
	/* It is well again. */
	time_fire(&r->pri.timer_op);
	rig_cause(r, PRI_EV_CONNECTED);
	rig_cause(r, PRI_EV_WELCOME);
	rig_cause(r, PRI_EV_CONNECTED);
	rig_cause(r, PRI_EV_SYNCED);
	assert_int_equal(r->pri.unsynced[0], 0);
}

/* Who is well does not wait for who is not. */
static void each_peer_has_its_own_count(void **state)
{
	struct rig *r = *state;

	snprintf(r->cfg.peers[1], sizeof(r->cfg.peers[1]), "unix:%s/none", r->folder);
	r->cfg.npeers = 2;
	rig_start(r);
	r->pri.unsynced[0] = 5;
	rig_cause(r, PRI_EV_CONNECTED);
	rig_cause(r, PRI_EV_WELCOME);
	rig_cause(r, PRI_EV_CONNECTED);
	stream_done(&r->heart);
	rig_until(r, PRI_IDLE);
	assert_int_equal(time_left(&r->pri.timer_op), 500 * MS);
	time_fire(&r->pri.timer_op); /* nobody is there */
	rig_expect(r, PRI_IDLE, "UNPROTECTED", true, 'f');
	assert_int_equal(time_left(&r->pri.timer_op), 16000 * MS);
}

static void other_peers_are_tried_at_once(void **state)
{
	struct rig *r = *state;

	rig_start(r);
	r->pri.unsynced[0] = 6;
	primary_new_peers(&r->pri);
	assert_int_equal(r->pri.unsynced[0], 0);
}

static void the_images_come_first(void **state)
{
	struct rig *r = *state;

	rig_reach(r, PRI_IDLE);
	for (unsigned i = 0; i < 4; i++) {
		assert_int_equal(time_left(&r->pri.timer_op), 500 * MS);
		time_pass(&r->loop, 500 * MS);
		rig_expect(r, PRI_IDLE, "UNPROTECTED", true, 'f');
	}
	r->ft.images_behind = false;
	time_pass(&r->loop, 500 * MS - 1);
	assert_string_equal(r->ft.peer, "");
	time_pass(&r->loop, 1);
	assert_string_equal(r->ft.peer, r->cfg.peers[0]);
}

/* A snapshot that is being written follows the guest's writes: no sync could. */
static void a_snapshot_comes_first(void **state)
{
	struct rig *r = *state;

	rig_reach(r, PRI_IDLE);
	r->ft.images_behind = false;
	r->vm.kvm.tracked = true;
	for (unsigned i = 0; i < 4; i++) {
		time_pass(&r->loop, 500 * MS);
		rig_expect(r, PRI_IDLE, "UNPROTECTED", true, 'f');
	}
	r->vm.kvm.tracked = false;
	time_pass(&r->loop, 500 * MS);
	assert_string_equal(r->ft.peer, r->cfg.peers[0]);
}

static void an_address_that_is_none(void **state)
{
	struct rig *r = *state;

	snprintf(r->cfg.peers[0], sizeof(r->cfg.peers[0]), "unix:");
	rig_start(r);
	rig_expect(r, PRI_IDLE, "UNPROTECTED", true, 'f');
	assert_int_equal(time_left(&r->pri.timer_op), 500 * MS);
	assert_int_equal(logged("warning: peer unix:: "), 1);
	rig_cause(r, PRI_EV_TIMER); /* nothing is left of the try */
	rig_expect(r, PRI_IDLE, "UNPROTECTED", true, 'f');
}

/* As many as there may be, none of which is there. */
static void all_peers_there_may_be(void **state)
{
	struct rig *r = *state;

	peer_listens(r, 0, false);
	r->cfg.npeers = CONFIG_MAX_PEERS;
	for (unsigned i = 0; i < CONFIG_MAX_PEERS; i++)
		snprintf(r->cfg.peers[i], sizeof(r->cfg.peers[i]), "unix:%s/none%u", r->folder, i);
	rig_start(r);
	for (unsigned i = 1; i < 2 * CONFIG_MAX_PEERS; i++)
		time_fire(&r->pri.timer_op);
	for (unsigned i = 0; i < CONFIG_MAX_PEERS; i++)
		assert_int_equal(logged(rig_peer(r, i, "cannot connect")), 2);
	assert_int_equal(logged("warning: peer"), CONFIG_MAX_PEERS);
}

static unsigned count_fds(void)
{
	unsigned n = 0;

	for (int fd = 0; fd < 1024; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

/* From IDLE; each of the ways in which a link ends. */
static void lose_a_link(struct rig *r, enum primary_state in)
{
	time_fire(&r->pri.timer_op);
	if (in >= PRI_HELLO)
		rig_cause(r, PRI_EV_CONNECTED);
	if (in >= PRI_HEART)
		rig_cause(r, PRI_EV_WELCOME);
	assert_int_equal(r->pri.fsm.state, in);
	time_fire(&r->pri.timer_op);
	assert_int_equal(r->pri.fsm.state, PRI_IDLE);
	peer_hangs_up(r);
	peer_listens(r, 0, false);
	peer_listens(r, 0, true);
	loop_turns(&r->loop);
}

static void nothing_is_left_of_a_link(void **state)
{
	static const uint8_t in[] = {PRI_CONNECTING, PRI_HELLO, PRI_HEART};
	struct rig *r = *state;
	unsigned fds, slots;

	rig_reach(r, PRI_IDLE);
	r->ft.images_behind = false;
	for (unsigned i = 0; i < 3; i++)
		lose_a_link(r, in[i]);
	fds = count_fds();
	slots = r->loop.nslots;
	for (unsigned i = 0; i < 30; i++)
		lose_a_link(r, in[i % 3]);
	assert_int_equal(count_fds(), fds);
	assert_int_equal(r->loop.nslots, slots);
}

/* Its own descriptor's poll has no place in the loop. */
static void a_full_loop(void **state)
{
	static struct loop_op ops[LOOP_MAX_OPS];
	struct rig *r = *state;
	unsigned n = 0;
	int fds[2];

	rig_reach(r, PRI_IDLE);
	assert_int_equal(pipe(fds), 0);
	while (n < LOOP_MAX_OPS && !loop_poll_add(&r->loop, &ops[n], fds[0], POLLIN))
		n++;
	r->ft.images_behind = false;
	time_fire(&r->pri.timer_op);
	rig_expect(r, PRI_IDLE, "UNPROTECTED", true, 'f');
	assert_string_equal(
		r->ft.note,
		rig_peer(r, 0, "cannot wait for the connection: No space left on device"));
	while (n)
		loop_poll_del(&r->loop, &ops[--n]);
	loop_turns(&r->loop);
	close(fds[0]);
	close(fds[1]);
}

/* --- the links -------------------------------------------------------------------------------- */

static void a_connection_that_fails_later(void **state)
{
	struct rig *r = *state;

	rig_reach(r, PRI_CONNECTING);
	rig_cause(r, PRI_EV_LOST);
	assert_string_equal(r->ft.note, rig_peer(r, 0, "cannot connect: Connection reset by peer"));
}

static unsigned user_timeout_ms(int fd)
{
	unsigned ms = 0;
	socklen_t len = sizeof(ms);

	assert_int_equal(getsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &ms, &len), 0);
	return ms;
}

/* What the kernel cannot deliver for so long ends a link. */
static void links_over_tcp(void **state)
{
	struct sockaddr_in sin = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(sin);
	struct rig *r = *state;

	peer_listens(r, 0, false);
	r->listener[0] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(r->listener[0], (struct sockaddr *)&sin, len), 0);
	assert_int_equal(listen(r->listener[0], 4), 0);
	assert_int_equal(getsockname(r->listener[0], (struct sockaddr *)&sin, &len), 0);
	snprintf(r->cfg.peers[0], sizeof(r->cfg.peers[0]), "tcp:127.0.0.1:%u", ntohs(sin.sin_port));
	rig_start(r);
	rig_until(r, PRI_HELLO);
	peer_takes_main(r, 0);
	loop_until(&r->loop, (peer_reads(r), r->came[FRAME_HELLO]));
	peer_says(r, FRAME_WELCOME, 0);
	rig_until(r, PRI_SYNCING);
	assert_int_equal(user_timeout_ms(r->pri.link->main.fd), FT_MAIN_TIMEOUT_MS);
	assert_int_equal(user_timeout_ms(r->pri.link->heart.stream.fd), FT_HEART_TIMEOUT_MS);
}

static void a_peer_that_hangs_up_at_once(void **state)
{
	struct rig *r = *state;

	rig_reach(r, PRI_CONNECTING);
	peer_takes_main(r, 0);
	peer_hangs_up(r);
	rig_until(r, PRI_IDLE);
	assert_string_equal(r->ft.note, rig_peer(r, 0, "connection closed"));
}

static void a_heart_link_that_cannot_be_connected(void **state)
{
	struct rig *r = *state;

	rig_reach(r, PRI_HELLO);
	peer_reads(r);
	peer_listens(r, 0, false);
	peer_says(r, FRAME_WELCOME, 0);
	rig_until(r, PRI_IDLE);
	assert_non_null(strstr(r->ft.note, "heartbeat link: "));
	assert_non_null(strstr(r->ft.note, "cannot connect: No such file"));
	rig_expect(r, PRI_IDLE, "UNPROTECTED", true, 'f');
}

static void a_heart_link_that_is_closed_at_once(void **state)
{
	struct rig *r = *state;

	rig_reach(r, PRI_HEART);
	peer_takes_heart(r, 0);
	stream_done(&r->heart);
	rig_until(r, PRI_IDLE);
	assert_string_equal(r->ft.note, rig_peer(r, 0, "heartbeat link failed"));
	assert_int_equal(r->changes, 2); /* SYNCING for a moment */
	assert_int_equal(r->pri.engine.state, ENGINE_DOWN);
}

static void a_heart_link_that_is_closed_each_time(void **state)
{
	struct rig *r = *state;

	rig_reach(r, PRI_HEART);
	for (unsigned i = 0; i < 3; i++) {
		peer_takes_heart(r, 0);
		stream_done(&r->heart);
		rig_until(r, PRI_IDLE);
		rig_cause(r, PRI_EV_TIMER);
		rig_cause(r, PRI_EV_CONNECTED);
		rig_cause(r, PRI_EV_WELCOME);
	}
	assert_int_equal(logged(rig_peer(r, 0, "heartbeat link failed")),
			 3 + 3); /* and UNPROTECTED */
	assert_int_equal(logged("warning: peer"), 1);
}

static void a_heart_link_that_ends(void **state)
{
	struct rig *r = *state;

	rig_reach(r, PRI_FLIGHT);
	stream_done(&r->heart);
	rig_until(r, PRI_CLAIM);
	assert_string_equal(r->pri.lost_why, rig_peer(r, 0, "heartbeat link closed"));
}

static void damage(struct rig *r, struct stream *st)
{
	static const char junk[64] = "junk";

	rig_reach(r, PRI_STEADY);
	assert_int_equal(write(st->fd, junk, sizeof(junk)), sizeof(junk));
	rig_until(r, PRI_CLAIM);
	assert_non_null(strstr(r->pri.lost_why, "type 30058 does not exist"));
}

static void damage_on_main(void **state)
{
	struct rig *r = *state;

	damage(r, &r->main);
}

static void damage_on_heart(void **state)
{
	struct rig *r = *state;

	damage(r, &r->heart);
}

/* So much time passes for the heart, too. */
static void pass_beat(struct rig *r, uint64_t ns)
{
	unsigned n = r->came[FRAME_HEART];

	time_pass(&r->loop, ns);
	loop_until(&r->loop, (peer_reads(r), r->came[FRAME_HEART] > n));
}

/* Silence is judged by the clock; whatever comes on main is a sign of life. */
static void silence(void **state)
{
	struct rig *r = *state;

	r->cfg.heartbeat_ns = 30 * MS;
	r->cfg.peer_timeout_ns = 100 * MS;
	rig_reach(r, PRI_STEADY);
	loop_until(&r->loop, (peer_reads(r), r->came[FRAME_HEART]));
	for (unsigned i = 0; i < 3; i++)
		pass_beat(r, 30 * MS);
	assert_int_equal(r->pri.fsm.state, PRI_FLIGHT);
	peer_says(r, FRAME_ACK, r->ended); /* it waits for trust, and is life */
	loop_turns(&r->loop);
	for (unsigned i = 0; i < 3; i++)
		pass_beat(r, 30 * MS);
	assert_int_equal(r->pri.fsm.state, PRI_FLIGHT);
	time_pass(&r->loop, 30 * MS);
	rig_until(r, PRI_CLAIM);
	assert_string_equal(r->pri.lost_why, rig_peer(r, 0, "silent for 120 ms"));
}

/* The sender has nobody to write to, and says so. */
static void a_peer_that_does_not_read(void **state)
{
	struct rig *r = *state;

	rig_reach(r, PRI_STEADY);
	shutdown(r->main.fd, SHUT_RD);
	rig_cause(r, PRI_EV_TIMER);
	rig_until(r, PRI_CLAIM);
	assert_string_equal(r->pri.lost_why, rig_peer(r, 0, "link broken"));
}

static void first_sync_to_a_peer_that_does_not_read(void **state)
{
	struct rig *r = *state;

	rig_reach(r, PRI_HEART);
	shutdown(r->main.fd, SHUT_RD);
	rig_until(r, PRI_IDLE);
	assert_string_equal(r->ft.note, rig_peer(r, 0, "link broken"));
	rig_expect(r, PRI_IDLE, "UNPROTECTED", true, 'f');
}

static void a_word_that_cannot_be_said(void **state)
{
	static const struct {
		uint8_t in, then;
	} list[] = {{PRI_STOP, PRI_UNSURE}, {PRI_HAND, PRI_CLAIM_HANDED}};

	for (unsigned i = 0; i < 2; i++) {
		struct rig *r;

		assert_int_equal(rig_setup(state), 0);
		r = *state;
		rig_reach(r, list[i].in);
		loop_until(&r->loop, (peer_reads(r), r->ended == r->pri.engine.in_flight));
		shutdown(r->main.fd, SHUT_RD);
		peer_says(r, FRAME_ACK, r->ended);
		rig_until(r, list[i].then);
		assert_string_equal(r->pri.link->why, "link broken");
		assert_int_equal(rig_teardown(state), 0);
	}
}

/* What does not work here is said, and the VM goes on. */
static void an_engine_that_does_not_start(void **state)
{
	struct rig *r = *state;

	rig_reach(r, PRI_HEART);
	r->vm.kvm.manual_protect = false;
	loop_until(&r->loop, r->pri.fsm.state == PRI_IDLE);
	rig_expect(r, PRI_IDLE, "UNPROTECTED", true, 'f');
	assert_int_equal(logged("error: dirty tracking: this host lacks"), 1);
	assert_non_null(strstr(r->ft.note, ": dirty tracking: this host lacks"));
	r->vm.kvm.manual_protect = true;
	rig_cause(r, PRI_EV_TIMER);
	assert_string_equal(r->ft.peer, r->cfg.peers[0]);
}

/* --- a link by itself ------------------------------------------------------------------------- */

static void count_news(void *arg, enum link_news what)
{
	unsigned *n = arg;

	assert_int_equal(what, LINK_LOST);
	(*n)++;
}

/* Told once, and only of a link that there is. */
static void a_loss_is_told_once(void **state)
{
	struct rig *r = *state;
	struct link l;
	unsigned told = 0;
	int fds[2];

	link_init(&l, &r->ft, count_news, &told);
	link_break(&l, "not yet");
	link_break_after_reading(&l, "not yet");
	link_close(&l);
	assert_int_equal(told, 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds), 0);
	l.state = LINK_UP;
	l.dial.chan = chan_of(fds[0]);
	link_begin_main(&l, NULL, 2); /* no hello could be made */
	assert_int_equal(told, 1);
	assert_string_equal(l.why, "handshake failed");
	link_break(&l, "again");
	assert_int_equal(told, 1);
	assert_string_equal(l.why, "handshake failed");
	link_close(&l);
	assert_int_equal(l.state, LINK_DOWN);
	assert_int_equal(read(fds[1], &told, 1), 0); /* its end is closed */
	close(fds[1]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		RIG_TEST(a_hello_says_what_is_needed),
		RIG_TEST(no_verify_and_no_shared_arbiter),
		RIG_TEST(sessions),
		RIG_TEST(a_refusal_says_why),
		cmocka_unit_test(a_refusal_of_any_length),
		cmocka_unit_test(what_came_too_late),
		RIG_TEST(peers_in_turn_each_trouble_said_once),
		RIG_TEST(other_peers),
		RIG_TEST(a_new_trouble_is_said),
		RIG_TEST(a_wrong_key_is_said),
		RIG_TEST(a_loss_is_said_each_time),
		RIG_TEST(a_sync_that_fails_is_tried_less_and_less),
		RIG_TEST(each_peer_has_its_own_count),
		RIG_TEST(other_peers_are_tried_at_once),
		RIG_TEST(the_images_come_first),
		RIG_TEST(a_snapshot_comes_first),
		RIG_TEST(an_address_that_is_none),
		RIG_TEST(all_peers_there_may_be),
		RIG_TEST(nothing_is_left_of_a_link),
		RIG_TEST(a_full_loop),
		RIG_TEST(a_connection_that_fails_later),
		RIG_TEST(links_over_tcp),
		RIG_TEST(a_peer_that_hangs_up_at_once),
		RIG_TEST(a_heart_link_that_cannot_be_connected),
		RIG_TEST(a_heart_link_that_is_closed_at_once),
		RIG_TEST(a_heart_link_that_is_closed_each_time),
		RIG_TEST(a_heart_link_that_ends),
		RIG_TEST(damage_on_main),
		RIG_TEST(damage_on_heart),
		RIG_TEST(silence),
		RIG_TEST(a_peer_that_does_not_read),
		RIG_TEST(first_sync_to_a_peer_that_does_not_read),
		cmocka_unit_test(a_word_that_cannot_be_said),
		RIG_TEST(an_engine_that_does_not_start),
		RIG_TEST(a_loss_is_told_once),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

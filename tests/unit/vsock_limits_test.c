/* virtio-vsock: limits, guests and programs that break the rules, the socket file. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <libgen.h>
#include <sys/file.h>

#include "tests/unit/libvirtio.h"
#include "tests/unit/libvsock.h"

/* --- limits and hostile sides ------------------------------------------------------------------
 */

static void too_many_connections(void **state)
{
	struct fix *f = *state;
	int l, fd;

	vs_start(f);
	l = vs_listener(f, "_6000", 4096);
	for (uint32_t i = 0; i < VSOCK_MAX_CONNS; i++) {
		vs_send_op(f, 1000 + i, 6000, OP(REQUEST));
		vs_expect(f, OP(RESPONSE));
	}
	vs_send_op(f, 999, 6000, OP(REQUEST));
	vs_expect(f, OP(RST));
	fd = vs_program(f, "CONNECT 5000\n");
	assert_true(vs_closed(f, fd));
	close(fd);
	assert_int_equal(vs_connections(f), VSOCK_MAX_CONNS);
	vs_send_op(f, 1000, 6000, OP(RST));
	vs_send_op(f, 999, 6000, OP(REQUEST));
	vs_expect(f, OP(RESPONSE));
	close(l);
}

static void silent_programs_leave_room(void **state)
{
	struct fix *f = *state;
	int fds[VSOCK_MAX_NEW + 1], l;

	vs_start(f);
	l = vs_listener(f, "_6000", 4);
	for (unsigned i = 0; i <= VSOCK_MAX_NEW; i++) {
		fds[i] = vs_program(f, NULL);
		rig_settle(&f->rig);
	}
	assert_true(vs_closed(f, fds[VSOCK_MAX_NEW]));
	assert_true(vs_would_block(fds[0]));
	close(vs_open_from_guest(f, l));
	for (unsigned i = 0; i <= VSOCK_MAX_NEW; i++)
		close(fds[i]);
	close(l);
}

static void program_with_a_full_queue(void **state)
{
	struct fix *f = *state;
	struct sockaddr_un sa;
	int l, first, fd = -1, fd2;

	vs_start(f);
	l = vs_listener(f, "_6000", 0);
	first = vs_unix_socket(f, "_6000", &sa);
	assert_int_equal(connect(first, (struct sockaddr *)&sa, sizeof(sa)), 0);
	vs_send_op(f, 1234, 6000, OP(REQUEST));
	rig_settle(&f->rig);
	vs_expect_nothing(f);
	fd = accept(l, NULL, NULL);
	vs_expect(f, OP(RESPONSE));
	fd2 = accept(l, NULL, NULL);
	assert_true(fd2 >= 0);
	close(fd2);
	close(fd);
	close(first);
	close(l);
}

/* Each of these ends the connection, and nothing else. */
static void broken_packets(void **state)
{
	struct fix *f = *state;
	static const uint16_t ops[] = {0, OP(REQUEST), OP(RESPONSE), 8, 0xffff};
	uint32_t hp;
	hdr_t h;
	int fd;

	vs_start(f);
	for (unsigned i = 0; i < sizeof(ops) / sizeof(ops[0]); i++) {
		fd = vs_open_from_host(f, &hp);
		vs_send_op(f, 5000, hp, ops[i]);
		vs_expect(f, OP(RST));
		assert_true(vs_closed(f, fd));
		assert_int_equal(vs_connections(f), 0);
		close(fd);
	}
	/* Longer than its buffer. */
	fd = vs_open_from_host(f, &hp);
	h = vs_packet(f, 5000, hp, OP(RW));
	h.len = 11;
	vs_send_packet(f, h, "0123456789", 10);
	vs_expect(f, OP(RST));
	assert_true(vs_closed(f, fd));
	close(fd);
	fd = vs_open_from_host(f, &hp);
	h = vs_packet(f, 5000, hp, OP(RW));
	h.len = UINT32_MAX;
	vs_send_packet(f, h, "0123456789", 10);
	vs_expect(f, OP(RST));
	close(fd);
	/* Of another type, to another address, from another address. */
	fd = vs_open_from_host(f, &hp);
	h = vs_packet(f, 5000, hp, OP(RST));
	h.type = VIRTIO_VSOCK_TYPE_SEQPACKET;
	vs_send_packet(f, h, NULL, 0);
	h = vs_packet(f, 5000, hp, OP(REQUEST));
	h.type = VIRTIO_VSOCK_TYPE_SEQPACKET;
	vs_send_packet(f, h, NULL, 0);
	assert_int_equal(vs_expect(f, OP(RST)).type, VIRTIO_VSOCK_TYPE_SEQPACKET);
	h = vs_packet(f, 5000, hp, OP(REQUEST));
	h.dst_cid = 77;
	vs_send_packet(f, h, NULL, 0);
	assert_int_equal(vs_expect(f, OP(RST)).src_cid, 77);
	h = vs_packet(f, 5000, hp, OP(RST));
	h.src_cid = 1ull << 32 | CID;
	vs_send_packet(f, h, NULL, 0);
	vs_expect_nothing(f);
	assert_int_equal(vs_connections(f), 1);
	assert_int_equal(f->dev->faults, 0);
	/* Not even a header. */
	struct rig_seg s = {RIG_DATA, HDR - 1, false};

	rig_add(&f->q[TX], &s, 1);
	rig_kick(&f->rig, 0, TX);
	rig_until(&f->rig, f->dev->faults == 1);
	assert_true(vs_closed(f, fd));
	close(fd);
}

static void small_receive_buffer(void **state)
{
	struct fix *f = *state;
	struct rig_seg s = {RX_AT(0), HDR - 1, true};

	vs_start_with(f, 0);
	rig_add(&f->q[RX], &s, 1);
	rig_kick(&f->rig, 0, RX);
	vs_send_op(f, 1, 2, OP(RW));
	rig_until(&f->rig, f->dev->faults == 1);
}

/* Section 5.10.6.1.1: a guest without receive buffers fills what is bounded, and then waits. */
static void flood_without_buffers(void **state)
{
	struct fix *f = *state;

	vs_start_with(f, 0);
	for (unsigned i = 0; i < 3; i++) {
		for (unsigned n = 0; n < QSIZE; n++) {
			hdr_t h = vs_packet(f, 1 + n, 2, OP(RW));

			vs_post(f, &h, NULL, 0);
		}
		rig_settle(&f->rig);
		rig_settle(&f->rig);
	}
	assert_int_equal(rig_used_idx(&f->q[TX]), 128);
	f->q[RX].next_desc = 0;
	vs_add_rx(f, QSIZE);
	for (unsigned i = 0; i < 128 + QSIZE; i++)
		vs_expect(f, OP(RST));
}

static void starved_connections_keep_their_bytes(void **state)
{
	struct fix *f = *state;
	uint32_t hp;
	int fd;

	vs_start_with(f, 1);
	fd = vs_open_from_host(f, &hp);
	for (unsigned i = 0; i < 10; i++) {
		assert_int_equal(write(fd, "abc", 3), 3);
		vs_expect(f, OP(RW));
		assert_memory_equal(f->data, "abc", 3);
	}
	close(fd);
}

/* What a program wrote comes a packet a turn, when each takes all of it. */
static void packets_take_turns(void **state)
{
	struct fix *f = *state;
	uint32_t hp;
	uint16_t before;
	int fd;

	vs_start(f);
	fd = vs_open_from_host(f, &hp);
	before = f->rx_seen = rig_used_idx(&f->q[RX]);
	assert_int_equal(write(fd, f->out, 60000), 60000);
	rig_set_clock(&f->rig.loop, LOOP_BUDGET_NS);
	for (unsigned i = 0; i < 10; i++) {
		loop_run_once(&f->rig.loop, 1000000);
		assert_in_range((uint16_t)(rig_used_idx(&f->q[RX]) - before), i ? 1 : 0, i + 1);
	}
	rig_until(&f->rig, (uint16_t)(rig_used_idx(&f->q[RX]) - before) >= 60000 / RX_BUF);
	close(fd);
}

static void quiet_device_waits(void **state)
{
	struct fix *f = *state;
	uint32_t hp;
	int fd, fd2;

	vs_start(f);
	fd = vs_open_from_host(f, &hp);
	f->dev->ops->quiet(f->dev, true);
	assert_int_equal(write(fd, "later", 5), 5);
	fd2 = vs_program(f, "CONNECT 5\n");
	vs_expect_nothing(f);
	f->dev->ops->quiet(f->dev, false);
	assert_int_equal(vs_receive(f).op ^ vs_receive(f).op, OP(RW) ^ OP(REQUEST));
	close(fd);
	close(fd2);
}

/* --- the socket file ---------------------------------------------------------------------------
 */

static void replaces_only_what_is_dead(void **state)
{
	struct fix *f = *state;
	struct vsock_host *h = calloc(1, sizeof(*h));
	struct err e = {0};
	char path[80];
	int fd;

	assert_int_equal(vsock_host_init(h, &f->rig.loop, f->path, NULL), 0);
	assert_int_equal(vsock_host_listen(h, &e), -EADDRINUSE);
	vsock_host_done(h);
	assert_int_equal(access(f->path, F_OK), 0); /* not its own */
	/* A socket that nobody listens on. */
	close(vs_listener(f, "_dead", 1));
	snprintf(path, sizeof(path), "%s_dead", f->path);
	assert_int_equal(access(path, F_OK), 0);
	assert_int_equal(vsock_host_init(h, &f->rig.loop, path, NULL), 0);
	assert_int_equal(vsock_host_listen(h, NULL), 0);
	vsock_host_done(h);
	assert_int_equal(access(path, F_OK), -1);
	/* A file. */
	fd = open(path, O_CREAT | O_WRONLY, 0600);
	close(fd);
	e = (struct err){0};
	assert_int_equal(vsock_host_init(h, &f->rig.loop, path, NULL), 0);
	assert_int_equal(vsock_host_listen(h, &e), -EEXIST);
	vsock_host_done(h);
	assert_int_equal(access(path, F_OK), 0);
	free(h);
}

/* Anybody who may read the folder may lock it, for ever. */
static void folder_that_another_locks(void **state)
{
	struct fix *f = *state;
	struct vsock_host *h = calloc(1, sizeof(*h));
	char folder[80], path[80];
	int fd;

	snprintf(folder, sizeof(folder), "%s", f->path);
	fd = open(dirname(folder), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_int_equal(flock(fd, LOCK_EX), 0);
	snprintf(path, sizeof(path), "%s_mine", f->path);
	assert_int_equal(vsock_host_init(h, &f->rig.loop, path, NULL), 0);
	assert_int_equal(vsock_host_listen(h, NULL), 0);
	vsock_host_done(h);
	assert_int_equal(access(path, F_OK), -1);
	close(fd);
	free(h);
}

/* Whatever the umask of whoever starts the VM. */
static void is_private(void **state)
{
	struct fix *f = *state;
	struct vsock_host *h = calloc(1, sizeof(*h));
	mode_t before = umask(0);
	struct stat st;
	char path[80];

	snprintf(path, sizeof(path), "%s_open", f->path);
	assert_int_equal(vsock_host_init(h, &f->rig.loop, path, NULL), 0);
	assert_int_equal(vsock_host_listen(h, NULL), 0);
	umask(before);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0600);
	vsock_host_done(h);
	free(h);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, vs_setup, vs_teardown)
	const struct CMUnitTest tests[] = {
		T(too_many_connections),
		T(silent_programs_leave_room),
		T(program_with_a_full_queue),
		T(broken_packets),
		T(small_receive_buffer),
		T(flood_without_buffers),
		T(starved_connections_keep_their_bytes),
		T(packets_take_turns),
		T(quiet_device_waits),
		T(replaces_only_what_is_dead),
		T(folder_that_another_locks),
		T(is_private),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

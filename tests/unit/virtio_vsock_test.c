/* virtio-vsock: handshakes, credit, ends, held output, resets. */
#define _GNU_SOURCE
#include "tests/unit/libvirtio.h"
#include "tests/unit/libvsock.h"

/* --- handshakes and data -----------------------------------------------------------------------
 */

static void has_its_cid(void **state)
{
	struct fix *f = *state;

	assert_int_equal(rig_get(&f->rig, 0, VIRTIO_MMIO_DEVICE_ID), 19);
	assert_int_equal(rig_get(&f->rig, 0, VIRTIO_MMIO_CONFIG), CID);
	assert_int_equal(rig_get(&f->rig, 0, VIRTIO_MMIO_CONFIG + 4), 0);
	assert_true(rig_offered(&f->rig, 0) & 1); /* VIRTIO_VSOCK_F_STREAM */
}

static void program_connects(void **state)
{
	struct fix *f = *state;
	uint32_t hp;
	hdr_t h;
	int fd;

	vs_start(f);
	fd = vs_open_from_host(f, &hp);
	assert_int_equal(write(fd, "hello", 5), 5);
	h = vs_expect(f, OP(RW));
	assert_int_equal(h.len, 5);
	assert_memory_equal(f->data, "hello", 5);
	vs_send_data(f, 5000, hp, "world", 5);
	vs_reads(f, fd, "world", 5);
	/* What comes with the line is the guest's, once it has accepted. */
	close(fd);
	h = vs_expect(f, OP(SHUTDOWN));
	assert_int_equal(h.flags, VSOCK_SHUT_BOTH);
	vs_send_op(f, 5000, hp, OP(RST));
	vs_expect_nothing(f);
	assert_int_equal(vs_connections(f), 0);
	fd = vs_program(f, "CONNECT 7\nearly");
	h = vs_expect(f, OP(REQUEST));
	vs_expect_nothing(f);
	vs_send_op(f, 7, h.src_port, OP(RESPONSE));
	vs_expect(f, OP(RW));
	assert_memory_equal(f->data, "early", 5);
	close(fd);
}

static void guest_connects(void **state)
{
	struct fix *f = *state;
	int l, fd;
	hdr_t h;

	vs_start(f);
	l = vs_listener(f, "_6000", 4);
	fd = vs_open_from_guest(f, l);
	vs_send_data(f, 1234, 6000, "ping", 4);
	vs_reads(f, fd, "ping", 4);
	assert_int_equal(write(fd, "pong", 4), 4);
	h = vs_expect(f, OP(RW));
	assert_int_equal(h.src_port, 6000);
	assert_int_equal(h.dst_port, 1234);
	assert_memory_equal(f->data, "pong", 4);
	vs_send_op(f, 1234, 6000, OP(RST));
	assert_true(vs_closed(f, fd));
	assert_int_equal(vs_connections(f), 0);
	close(fd);
	close(l);
}

static void nobody_listens(void **state)
{
	struct fix *f = *state;

	vs_start(f);
	vs_send_op(f, 1234, 6000, OP(REQUEST));
	vs_expect(f, OP(RST));
	assert_int_equal(vs_connections(f), 0);
	/* Packets of no connection are answered; a RST is not. */
	vs_send_data(f, 1, 2, "x", 1);
	vs_expect(f, OP(RST));
	vs_send_op(f, 1, 2, OP(RST));
	vs_expect_nothing(f);
}

static void guest_refuses(void **state)
{
	struct fix *f = *state;
	int fd = -1;
	hdr_t h;

	vs_start(f);
	fd = vs_program(f, "CONNECT 5000\n");
	h = vs_expect(f, OP(REQUEST));
	vs_send_op(f, 5000, h.src_port, OP(RST));
	assert_true(vs_closed(f, fd));
	close(fd);
	/* A program that gives up before the answer. */
	fd = vs_program(f, "CONNECT 5000\n");
	vs_expect(f, OP(REQUEST));
	close(fd);
	vs_expect(f, OP(RST));
	assert_int_equal(vs_connections(f), 0);
}

static void no_guest(void **state)
{
	struct fix *f = *state;
	int fd = vs_program(f, "CONNECT 5000\n");

	assert_true(vs_closed(f, fd));
	close(fd);
}

static void bad_lines(void **state)
{
	struct fix *f = *state;
	static const char *const lines[] = {
		"CONNECT \n",
		"CONNECT x\n",
		"connect 5\n",
		"CONNECT 4294967295\n",
		"\n",
		"CONNECT 5 \n",
		"CONNECT -1\n",
		"CONNECT 99999999999999999999999\n",
		"CONNECT 00000000000000000000000000000000000005\n",
	};

	vs_start(f);
	for (unsigned i = 0; i < sizeof(lines) / sizeof(lines[0]); i++) {
		int fd = vs_program(f, lines[i]);

		if (!vs_closed(f, fd))
			fail_msg("%s", lines[i]);
		close(fd);
	}
	/* In pieces it is good; never finished, it is dropped. */
	int slow = vs_program(f, "CONN"), never = vs_program(f, "CONNECT 5000");

	rig_settle(&f->rig);
	assert_int_equal(write(slow, "ECT 9\n", 6), 6);
	assert_int_equal(vs_expect(f, OP(REQUEST)).dst_port, 9);
	assert_true(vs_closed(f, never));
	close(slow);
	close(never);
	assert_int_equal(f->host.stats.refused, sizeof(lines) / sizeof(lines[0]) + 1);
}

/* --- ends --------------------------------------------------------------------------------------
 */

static void guest_shuts_down(void **state)
{
	struct fix *f = *state;
	uint32_t hp;
	hdr_t h;
	int fd;

	vs_start(f);
	fd = vs_open_from_host(f, &hp);
	vs_send_data(f, 5000, hp, "last", 4);
	h = vs_packet(f, 5000, hp, OP(SHUTDOWN));
	h.flags = VSOCK_SHUT_SEND;
	vs_send_packet(f, h, NULL, 0);
	vs_reads(f, fd, "last", 4);
	assert_true(vs_closed(f, fd));
	/* The other way is still open. */
	assert_int_equal(write(fd, "more", 4), 4);
	vs_expect(f, OP(RW));
	assert_memory_equal(f->data, "more", 4);
	/* Bytes after the end are against the rules. */
	vs_send_data(f, 5000, hp, "x", 1);
	vs_expect(f, OP(RST));
	assert_int_equal(vs_connections(f), 0);
	close(fd);
}

static void guest_shuts_both(void **state)
{
	struct fix *f = *state;
	uint32_t hp;
	hdr_t h;
	int fd;

	vs_start(f);
	fd = vs_open_from_host(f, &hp);
	vs_send_data(f, 5000, hp, "last", 4);
	h = vs_packet(f, 5000, hp, OP(SHUTDOWN));
	h.flags = VSOCK_SHUT_BOTH;
	vs_send_packet(f, h, NULL, 0);
	vs_reads(f, fd, "last", 4);
	assert_true(vs_closed(f, fd));
	vs_expect(f, OP(RST)); /* section 5.10.6.5: the end is agreed */
	assert_int_equal(vs_connections(f), 0);
	close(fd);
}

static void program_shuts_down(void **state)
{
	struct fix *f = *state;
	uint32_t hp;
	hdr_t h;
	int fd;

	vs_start(f);
	fd = vs_open_from_host(f, &hp);
	assert_int_equal(write(fd, "bye", 3), 3);
	shutdown(fd, SHUT_WR);
	vs_expect(f, OP(RW));
	h = vs_expect(f, OP(SHUTDOWN));
	assert_int_equal(h.flags, VSOCK_SHUT_SEND);
	vs_send_data(f, 5000, hp, "answer", 6);
	vs_reads(f, fd, "answer", 6);
	close(fd);
	h = vs_expect(f, OP(SHUTDOWN));
	assert_int_equal(h.flags, VSOCK_SHUT_BOTH);
	/* What the guest still sends goes nowhere, and it gets its credit back. */
	for (unsigned i = 0; i < 3; i++) {
		vs_send_data(f, 5000, hp, f->data, 40000);
		vs_expect(f, OP(CREDIT_UPDATE));
	}
	h = vs_packet(f, 5000, hp, OP(SHUTDOWN));
	h.flags = VSOCK_SHUT_BOTH;
	vs_send_packet(f, h, NULL, 0);
	vs_expect(f, OP(RST));
	assert_int_equal(vs_connections(f), 0);
}

/* A program that closed at once has still sent what it sent. */
static void bytes_before_the_end_arrive(void **state)
{
	struct fix *f = *state;
	uint32_t hp, got = 0;
	hdr_t h;
	int fd;

	vs_start(f);
	fd = vs_open_from_host(f, &hp);
	memset(f->out, 7, 30000);
	assert_int_equal(write(fd, f->out, 30000), 30000);
	close(fd);
	vs_send_data(f, 5000, hp, "nobody reads this", 17);
	while ((h = vs_receive(f)).op == OP(RW))
		got += h.len;
	assert_int_equal(got, 30000);
	assert_int_equal(h.op, OP(SHUTDOWN));
	assert_int_equal(h.flags, VSOCK_SHUT_BOTH);
}

/* --- credit ------------------------------------------------------------------------------------
 */

static void guest_credit_bounds_the_program(void **state)
{
	struct fix *f = *state;
	uint32_t hp, got = 0, size = 1 << 20;
	int fd;

	f->buf_alloc = 10000;
	vs_start(f);
	fd = vs_open_from_host(f, &hp);
	setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
	assert_int_equal(write(fd, f->out, 50000), 50000);
	while (got < 10000)
		got += vs_expect(f, OP(RW)).len;
	assert_int_equal(got, 10000);
	vs_expect(f, OP(CREDIT_REQUEST));
	vs_expect_nothing(f);
	f->fwd_cnt = 7000;
	vs_send_op(f, 5000, hp, OP(CREDIT_UPDATE));
	while (got < 17000)
		got += vs_expect(f, OP(RW)).len;
	vs_expect(f, OP(CREDIT_REQUEST));
	vs_expect_nothing(f);
	/* A guest that claims to have forwarded what it was never sent gets nothing. */
	f->fwd_cnt = 17001;
	vs_send_op(f, 5000, hp, OP(CREDIT_UPDATE));
	vs_expect_nothing(f);
	f->fwd_cnt = 17000;
	vs_send_op(f, 5000, hp, OP(CREDIT_UPDATE));
	while (got < 27000)
		got += vs_expect(f, OP(RW)).len;
	close(fd);
}

/* How many bytes the guest may send now, by what the device says. */
static uint32_t ask_room(struct fix *f, uint32_t hp, uint32_t sent)
{
	hdr_t h;

	vs_send_op(f, 5000, hp, OP(CREDIT_REQUEST));
	h = vs_expect(f, OP(CREDIT_UPDATE));
	while (rig_used_idx(&f->q[RX]) != f->rx_seen)
		h = vs_expect(f, OP(CREDIT_UPDATE));
	assert_int_equal(h.buf_alloc, VSOCK_BUF_BYTES);
	return h.buf_alloc - (sent - h.fwd_cnt);
}

static void guest_gets_credit_for_written_bytes_only(void **state)
{
	struct fix *f = *state;
	uint32_t hp, sent = 0, room;
	int fd;

	vs_start(f);
	fd = vs_open_from_host(f, &hp);
	memset(f->out, 1, sizeof(f->out));
	/* The program reads nothing: its socket takes some, then 64 KiB wait here. */
	while ((room = ask_room(f, hp, sent))) {
		room = room < 8192 ? room : 8192;
		vs_send_data(f, 5000, hp, f->out, room);
		sent += room;
		assert_true(sent < 8 << 20);
	}
	assert_int_equal(vs_connections(f), 1);
	/* Reading makes room, and the guest hears of it unasked. */
	for (uint32_t got = 0; got < sent;) {
		ssize_t n = read(fd, f->out, sizeof(f->out));

		got += n > 0 ? (uint32_t)n : 0;
		rig_settle(&f->rig);
	}
	assert_true(sent - vs_expect(f, OP(CREDIT_UPDATE)).fwd_cnt < VSOCK_BUF_BYTES);
	assert_int_equal(ask_room(f, hp, sent), VSOCK_BUF_BYTES);
	close(fd);
}

static void bytes_beyond_credit_end_it(void **state)
{
	struct fix *f = *state;
	uint32_t hp;
	int fd;

	vs_start(f);
	fd = vs_open_from_host(f, &hp);
	obuf_hold(&f->rig.obuf, 1); /* nothing is written meanwhile */
	vs_send_data(f, 5000, hp, f->out, 60000);
	vs_send_data(f, 5000, hp, f->out, 5536);
	assert_int_equal(vs_connections(f), 1);
	vs_send_data(f, 5000, hp, "x", 1);
	vs_expect(f, OP(RST));
	assert_int_equal(vs_connections(f), 0);
	close(fd);
}

/* --- the output rule ---------------------------------------------------------------------------
 */

static void output_is_held(void **state)
{
	struct fix *f = *state;
	uint32_t hp, hp2;
	int fd, l, fd2, asking;
	hdr_t h;
	char ok[32];

	vs_start(f);
	l = vs_listener(f, "_6000", 4);
	fd = vs_open_from_host(f, &hp);
	obuf_hold(&f->rig.obuf, 1);
	asking = vs_program(f, "CONNECT 5001\n");
	hp2 = vs_expect(f, OP(REQUEST)).src_port;
	vs_send_op(f, 5001, hp2, OP(RESPONSE));
	vs_send_data(f, 5001, hp2, "one", 3);
	h = vs_packet(f, 5001, hp2, OP(SHUTDOWN));
	h.flags = VSOCK_SHUT_SEND;
	vs_send_packet(f, h, NULL, 0);
	vs_send_data(f, 5000, hp, "held", 4);
	vs_send_op(f, 1234, 6000, OP(REQUEST));
	rig_settle(&f->rig);
	/* No bytes, no line, no end, no connection; and nothing that would tell the guest of any.
	 */
	assert_true(vs_would_block(fd));
	assert_true(vs_would_block(asking));
	assert_int_equal(accept4(l, NULL, NULL, SOCK_NONBLOCK), -1);
	vs_send_op(f, 5000, hp, OP(CREDIT_REQUEST));
	assert_int_equal(vs_expect(f, OP(CREDIT_UPDATE)).fwd_cnt, 0);
	vs_expect_nothing(f);
	obuf_seal(&f->rig.obuf, 2);
	vs_send_op(f, 5000, hp, OP(RST));
	obuf_release(&f->rig.obuf, 1);
	/* In order: line, bytes, end. */
	snprintf(ok, sizeof(ok), "OK %u\none", hp2);
	vs_reads(f, asking, ok, (uint32_t)strlen(ok));
	assert_true(vs_closed(f, asking));
	vs_reads(f, fd, "held", 4);
	assert_true(vs_would_block(fd)); /* its end belongs to epoch 2 */
	vs_expect(f, OP(RESPONSE));
	fd2 = accept4(l, NULL, NULL, SOCK_NONBLOCK);
	assert_true(fd2 >= 0);
	obuf_pass(&f->rig.obuf);
	assert_true(vs_closed(f, fd));
	close(fd);
	close(fd2);
	close(asking);
	close(l);
}

static void dropped_output_never_leaves(void **state)
{
	struct fix *f = *state;
	uint32_t hp;
	int fd, l;

	vs_start(f);
	l = vs_listener(f, "_6000", 4);
	fd = vs_open_from_host(f, &hp);
	obuf_hold(&f->rig.obuf, 1);
	vs_send_data(f, 5000, hp, "secret", 6);
	vs_send_op(f, 1234, 6000, OP(REQUEST));
	vs_send_op(f, 5000, hp, OP(RST));
	obuf_drop(&f->rig.obuf);
	rig_settle(&f->rig);
	assert_true(vs_would_block(fd));
	assert_int_equal(accept4(l, NULL, NULL, SOCK_NONBLOCK), -1);
	/* The side ends: programs see the end, and no byte before it. */
	vsock_host_done(&f->host);
	assert_true(vs_at_end(fd));
	close(fd);
	close(l);
}

static void full_buffer_stops_the_guest(void **state)
{
	struct fix *f = *state;
	uint32_t hp[8], n;
	int fd[8];

	vs_start(f);
	for (unsigned i = 0; i < 8; i++)
		fd[i] = vs_open_from_host(f, &hp[i]);
	obuf_hold(&f->rig.obuf, 1);
	for (unsigned i = 0; i < 8; i++) {
		hdr_t h = vs_packet(f, 5000, hp[i], OP(RW));

		memset(f->out, (int)i, 60000);
		h.len = 60000;
		vs_post(f, &h, f->out, 60000);
	}
	rig_settle(&f->rig);
	n = rig_used_idx(&f->q[TX]) - 8; /* after the responses */
	assert_true(n >= 5 && n < 8);
	obuf_seal(&f->rig.obuf, 2);
	obuf_release(&f->rig.obuf, 1);
	rig_until(&f->rig, rig_used_idx(&f->q[TX]) == 16);
	obuf_pass(&f->rig.obuf);
	for (unsigned i = 0; i < 8; i++) {
		memset(f->data, (int)i, 60000);
		vs_reads(f, fd[i], f->data, 60000);
		close(fd[i]);
	}
}

/* --- reset of the device, load -----------------------------------------------------------------
 */

static void guest_resets_the_device(void **state)
{
	struct fix *f = *state;
	uint32_t hp;
	int fd;

	vs_start(f);
	fd = vs_open_from_host(f, &hp);
	obuf_hold(&f->rig.obuf, 1);
	vs_start(f); /* the guest's driver begins again */
	assert_int_equal(vs_connections(f), 0);
	assert_true(vs_would_block(fd));
	obuf_pass(&f->rig.obuf);
	assert_true(vs_closed(f, fd));
	close(fd);
	fd = vs_open_from_host(f, &hp);
	close(fd);
}

/* A program that came after that: each maker's connections have numbers of their own. */
static void a_reset_spares_who_came_later(void **state)
{
	struct fix *f = *state;
	int listener, fd;

	vs_start(f);
	listener = vs_listener(f, "_6000", 4);
	fd = vs_open_from_guest(f, listener);
	obuf_hold(&f->rig.obuf, 1);
	rig_set(&f->rig, 0, VIRTIO_MMIO_STATUS, 0);
	rig_settle(&f->rig);
	close(fd);
	vs_start(f);
	fd = vs_program(f, "CONNECT 5000\n");
	vs_expect(f, OP(REQUEST));
	assert_true(obuf_waits(&f->rig.obuf));
	obuf_seal(&f->rig.obuf, 2);
	obuf_release(&f->rig.obuf, 1);
	rig_settle(&f->rig);
	assert_true(vs_would_block(fd));
	assert_int_equal(vs_connections(f), 1);
	close(fd);
	close(listener);
}

static void load_resets_the_transport(void **state)
{
	struct fix *f = *state;
	uint32_t old, hp;
	uint32_t *event = vs_ram(f, EVENT_AT);
	struct virtio_vsock_stats st;
	int fd, fd2;
	void *pod = malloc(f->dev->ops->state->size);

	vs_start(f);
	fd = vs_open_from_host(f, &old);
	/* Pauses are no reason. */
	f->dev->ops->quiet(f->dev, true);
	f->dev->ops->save(f->dev);
	f->dev->ops->quiet(f->dev, false);
	assert_int_equal(write(fd, "still", 5), 5);
	vs_expect(f, OP(RW));
	rig_settle(&f->rig);
	f->dev->ops->save(f->dev);
	memcpy(pod, f->dev->pod, f->dev->ops->state->size);
	f->dev->ops->load(f->dev, pod);
	rig_settle(&f->rig);
	assert_true(vs_would_block(fd)); /* not before it may run */
	f->dev->ops->resume(f->dev);
	rig_settle(&f->rig);
	assert_true(vs_at_end(fd));
	close(fd);
	assert_int_equal(vs_connections(f), 0);
	virtio_vsock_get_stats(f->dev, &st);
	assert_int_equal(st.transport_resets, 0);
	/* The flag lives in the state until there is a buffer. */
	f->dev->ops->save(f->dev);
	memcpy(pod, f->dev->pod, f->dev->ops->state->size);
	assert_int_equal(f->dev->ops->state->check(pod, NULL), 0);
	f->dev->ops->load(f->dev, pod);
	f->dev->ops->resume(f->dev);
	fd2 = vs_program(f, "CONNECT 5000\n");
	vs_expect_nothing(f); /* the guest first forgets the old ones */
	vs_add_event(f);
	assert_int_equal(*event, VIRTIO_VSOCK_EVENT_TRANSPORT_RESET);
	hp = vs_expect(f, OP(REQUEST)).src_port;
	assert_int_not_equal(hp, old);
	assert_int_equal(rig_used(&f->q[EVENT], 0)->len, 4);
	virtio_vsock_get_stats(f->dev, &st);
	assert_int_equal(st.transport_resets, 1);
	vs_add_event(f); /* exactly one */
	assert_int_equal(*event, 0xffffffff);
	/* The guest's packets of old connections find none. */
	vs_send_data(f, 5000, old, "x", 1);
	vs_expect(f, OP(RST));
	close(fd2);
	free(pod);
}

/* A secondary loads the first epoch to see whether it can, and goes on to stand by. */
static void side_that_stands_by_is_still(void **state)
{
	struct fix *f = *state;
	uint32_t *event = vs_ram(f, EVENT_AT);
	uint8_t *before = malloc(RIG_MEM);

	vs_start(f);
	f->dev->ops->save(f->dev);
	f->dev->ops->load(f->dev, f->dev->pod);
	/* What the primary's guest posts comes in with epochs. */
	vs_add_event(f);
	hdr_t h = vs_packet(f, 1, 2, OP(RW));

	memcpy(before, f->rig.mem.base, RIG_MEM);
	f->dev->ops->load(f->dev, f->dev->pod);
	rig_settle(&f->rig);
	assert_memory_equal(before, f->rig.mem.base, RIG_MEM);
	f->dev->ops->resume(f->dev);
	rig_settle(&f->rig);
	assert_int_equal(*event, VIRTIO_VSOCK_EVENT_TRANSPORT_RESET);
	vs_send_packet(f, h, NULL, 0);
	vs_expect(f, OP(RST));
	free(before);
}

/* A guest that boots again under protection: its connections end with that epoch. */
static void load_ends_connections_in_order(void **state)
{
	struct fix *f = *state;
	void *pod = malloc(f->dev->ops->state->size);
	uint32_t hp;
	int fd;

	f->dev->ops->save(f->dev);
	memcpy(pod, f->dev->pod, f->dev->ops->state->size);
	vs_start(f);
	fd = vs_open_from_host(f, &hp);
	obuf_hold(&f->rig.obuf, 1);
	vs_send_data(f, 5000, hp, "last", 4);
	f->dev->ops->load(f->dev, pod);
	f->dev->ops->resume(f->dev);
	rig_settle(&f->rig);
	assert_int_equal(vs_connections(f), 0);
	assert_true(vs_would_block(fd));
	obuf_pass(&f->rig.obuf);
	vs_reads(f, fd, "last", 4);
	assert_true(vs_closed(f, fd));
	close(fd);
	free(pod);
}

static void no_reset_without_a_driver(void **state)
{
	struct fix *f = *state;
	uint32_t *event = vs_ram(f, EVENT_AT);

	f->dev->ops->save(f->dev);
	f->dev->ops->load(f->dev, f->dev->pod);
	f->dev->ops->resume(f->dev);
	vs_start(f);
	vs_add_event(f);
	assert_int_equal(*event, 0xffffffff);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, vs_setup, vs_teardown)
	const struct CMUnitTest tests[] = {
		T(has_its_cid),
		T(program_connects),
		T(guest_connects),
		T(nobody_listens),
		T(guest_refuses),
		T(no_guest),
		T(bad_lines),
		T(guest_shuts_down),
		T(guest_shuts_both),
		T(program_shuts_down),
		T(bytes_before_the_end_arrive),
		T(guest_credit_bounds_the_program),
		T(guest_gets_credit_for_written_bytes_only),
		T(bytes_beyond_credit_end_it),
		T(output_is_held),
		T(dropped_output_never_leaves),
		T(full_buffer_stops_the_guest),
		T(guest_resets_the_device),
		T(a_reset_spares_who_came_later),
		T(load_resets_the_transport),
		T(side_that_stands_by_is_still),
		T(load_ends_connections_in_order),
		T(no_reset_without_a_driver),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* virtio-vsock of which both sides run the guest: a twin is given the same, and orders the same. */
#include "devices/virtio.h"
#include "devices/vsock_conn.h"
#include "tests/unit/libvirtio.h"
#include "tests/unit/libvsock.h"

#define PORT 5000u /* of the guest; OUT is one of the host */
#define OUT  6000u
#define MANY 200

/* What came of the primary's guest: its inputs, and the orders of it. */
static struct {
	uint8_t *input[MANY];
	uint32_t len[MANY], n;
	uint8_t orders[1 << 18];
	uint32_t norders;
	bool ready;
	uint64_t epoch;
} first;

/* Its twin: inputs that it has, orders that it gave. */
static struct {
	struct fix *f;
	uint32_t next;
	uint8_t orders[1 << 18];
	uint32_t norders;
	unsigned rooms;
} twin;

static bool on_ready(void *arg)
{
	return first.ready;
}

static void on_given(void *arg, const struct device *d, const void *data, uint32_t len)
{
	assert_ptr_equal(d, arg);
	assert_true(first.n < MANY);
	assert_true(virtio_vsock_is_input(data, len));
	first.input[first.n] = malloc(len);
	memcpy(first.input[first.n], data, len);
	first.len[first.n++] = len;
}

static void on_kept(void *arg, struct obuf_entry *en, int sink, const void *data, uint32_t len)
{
	assert_in_range(len, 1, sizeof(first.orders) - first.norders);
	memcpy(first.orders + first.norders, data, len);
	first.norders += len;
}

static int on_diverted(void *arg, int sink, const struct iovec *iov, int niov)
{
	assert_int_equal(niov, 1);
	assert_in_range(iov->iov_len, 1, sizeof(twin.orders) - twin.norders);
	memcpy(twin.orders + twin.norders, iov->iov_base, iov->iov_len);
	twin.norders += (uint32_t)iov->iov_len;
	return 0;
}

static void on_room(void *arg)
{
	twin.rooms++;
}

static int setup(void **state)
{
	struct fix *f;

	memset(&first, 0, sizeof(first));
	memset(&twin, 0, sizeof(twin));
	first.ready = true;
	first.epoch = 1;
	vs_setup(state);
	f = *state;
	f->rig.inputs = (struct inputs){on_ready, on_given, NULL, f->dev};
	obuf_hold(&f->rig.obuf, first.epoch);
	obuf_on_kept(&f->rig.obuf, on_kept, NULL);
	return 0;
}

static int teardown(void **state)
{
	void *t = twin.f;

	for (uint32_t i = 0; i < first.n; i++)
		free(first.input[i]);
	if (t)
		vs_teardown(&t);
	return vs_teardown(state);
}

/* A checkpoint: from here on the twin runs, too, on memory and state of its own. */
static void begin_twin(struct fix *f)
{
	void *t = NULL;

	f->dev->ops->save(f->dev);
	vs_setup(&t);
	twin.f = t;
	memcpy(twin.f->rig.mem.base, f->rig.mem.base, RIG_MEM);
	twin.f->rx_seen = f->rx_seen;
	for (unsigned i = 0; i < 3; i++) {
		twin.f->q[i] = f->q[i];
		twin.f->q[i].rig = &twin.f->rig;
	}
	twin.f->rig.inputs = (struct inputs){.room = on_room};
	obuf_divert(&twin.f->rig.obuf, on_diverted, NULL);
	virtio_vsock_feed(twin.f->dev, true);
	assert_int_equal(f->dev->ops->state->check(f->dev->pod, NULL), 0);
	twin.f->dev->ops->load(twin.f->dev, f->dev->pod);
	twin.f->dev->ops->resume(twin.f->dev);
	twin.next = first.n;
	first.norders = 0;
}

/* What was held leaves: the host's side hears of it. */
static void let_go(struct fix *f)
{
	obuf_seal(&f->rig.obuf, ++first.epoch);
	obuf_release(&f->rig.obuf, first.epoch - 1);
}

/* Both guests have the next packet, and it is the same. */
static hdr_t both_expect(struct fix *f, uint16_t op)
{
	hdr_t h = vs_expect(f, op), same;

	if (!twin.f)
		return h;
	assert_true(twin.next < first.n);
	assert_true(virtio_vsock_put(twin.f->dev, first.input[twin.next], first.len[twin.next]));
	twin.next++;
	same = vs_expect(twin.f, op);
	assert_memory_equal(&same, &h, HDR);
	assert_memory_equal(twin.f->data, f->data, h.len);
	return h;
}

/* Both guests say this, and it orders the same. */
static void both_say(struct fix *f, hdr_t h, const char *text)
{
	h.len = (uint32_t)strlen(text);
	vs_send_packet(f, h, text, h.len);
	if (twin.f) {
		vs_send_packet(twin.f, h, text, h.len);
		assert_int_equal(twin.norders, first.norders);
		assert_memory_equal(twin.orders, first.orders, first.norders);
	}
	let_go(f);
}

/* A program connects, asks, and is answered. */
static int ask(struct fix *f, uint32_t *hp)
{
	int fd = vs_program(f, "CONNECT 5000\n");
	char ok[32];

	*hp = both_expect(f, OP(REQUEST)).src_port;
	both_say(f, vs_packet(f, PORT, *hp, OP(RESPONSE)), "");
	snprintf(ok, sizeof(ok), "OK %u\n", *hp);
	vs_reads(f, fd, ok, (uint32_t)strlen(ok));
	assert_int_equal(write(fd, "ask", 3), 3);
	both_expect(f, OP(RW));
	both_say(f, vs_packet(f, PORT, *hp, OP(RW)), "answer");
	vs_reads(f, fd, "answer", 6);
	return fd;
}

static void end(struct fix *f, int fd, uint32_t hp)
{
	close(fd);
	both_expect(f, OP(SHUTDOWN));
	both_say(f, vs_packet(f, PORT, hp, OP(RST)), "");
	assert_int_equal(vs_connections(f), twin.f ? vs_connections(twin.f) : 0);
}

static void connections_since_the_checkpoint(void **state)
{
	struct fix *f = *state;
	uint32_t hp[2];
	int fd[2];

	vs_start(f);
	begin_twin(f);
	fd[0] = ask(f, &hp[0]);
	fd[1] = ask(f, &hp[1]);
	assert_int_equal(vs_connections(twin.f), 2);
	end(f, fd[1], hp[1]);
	end(f, fd[0], hp[0]);
	assert_int_equal(vs_connections(f), 0);
	assert_true(first.norders > 0);
}

static void connections_of_the_checkpoint(void **state)
{
	struct fix *f = *state;
	uint32_t hp;
	int fd;

	vs_start(f);
	vs_add_event(f);
	fd = ask(f, &hp);
	begin_twin(f);
	rig_settle(&twin.f->rig);
	assert_int_equal(rig_used_idx(&twin.f->q[EVENT]), 0); /* they go on */
	assert_int_equal(vs_connections(twin.f), 1);
	assert_int_equal(write(fd, "again", 5), 5);
	both_expect(f, OP(RW));
	both_say(f, vs_packet(f, PORT, hp, OP(RW)), "the same");
	vs_reads(f, fd, "the same", 8);
	end(f, fd, hp);
}

/* What the primary's guest had room for waits until the one here has, too. */
static void a_twin_that_lags(void **state)
{
	struct fix *f = *state;
	uint32_t hp;
	hdr_t more;
	int fd;

	vs_start(f);
	f->buf_alloc = 8;
	fd = ask(f, &hp); /* 3 of them */
	begin_twin(f);
	assert_int_equal(write(fd, "12345678", 8), 8);
	assert_int_equal(both_expect(f, OP(RW)).len, 5);
	both_expect(f, OP(CREDIT_REQUEST));
	f->fwd_cnt = 8;
	more = vs_packet(f, PORT, hp, OP(CREDIT_UPDATE));
	vs_send_packet(f, more, NULL, 0);
	assert_int_equal(vs_expect(f, OP(RW)).len, 3);
	assert_true(virtio_vsock_put(twin.f->dev, first.input[twin.next], first.len[twin.next]));
	vs_expect_nothing(twin.f);
	vs_send_packet(twin.f, more, NULL, 0);
	assert_int_equal(vs_expect(twin.f, OP(RW)).len, 3);
	assert_memory_equal(twin.f->data, "678", 3);
	close(fd);
}

/* Programs that nobody has heard of yet do not change what the guest's next connection is. */
static void connections_of_the_guest(void **state)
{
	struct fix *f = *state;
	int listener, silent;

	vs_start(f);
	listener = vs_listener(f, "_6000", 4);
	both_say(f, vs_packet(f, 1111, OUT, OP(REQUEST)), "");
	both_expect(f, OP(RESPONSE));
	silent = vs_program(f, NULL);
	rig_settle(&f->rig);
	begin_twin(f);
	both_say(f, vs_packet(f, 1111, OUT, OP(RW)), "first");
	both_say(f, vs_packet(f, 1112, OUT, OP(REQUEST)), "");
	both_expect(f, OP(RESPONSE));
	both_say(f, vs_packet(f, 1112, OUT, OP(RW)), "second");
	for (unsigned i = 0; i < 2; i++) {
		int fd = -1;

		rig_until(&f->rig, fd >= 0 || (fd = accept(listener, NULL, NULL)) >= 0);
		vs_reads(f, fd, i ? "second" : "first", i ? 6 : 5);
		close(fd);
	}
	close(listener);
	close(silent);
}

/* A packet of no connection is answered by the primary, for both: however many there are. */
static void answers_to_nothing(void **state)
{
	struct fix *f = *state;

	vs_start(f);
	begin_twin(f);
	for (unsigned i = 0; i < 150; i++) {
		both_say(f, vs_packet(f, 1, i, OP(RW)), "who");
		vs_expect_nothing(twin.f);
		both_expect(f, OP(RST));
	}
	both_say(f, vs_packet(f, 3, 4, OP(REQUEST)), "");
	assert_int_equal(vs_connections(twin.f), 1);
	both_expect(f, OP(RST)); /* nobody listens there */
	vs_expect_nothing(twin.f);
	assert_int_equal(vs_connections(twin.f), 0);
}

/* More than there is room for at once: the guest has credit by what the program has taken. */
static void a_guest_that_says_much(void **state)
{
	struct fix *f = *state;
	char much[4001];
	uint32_t hp;
	int fd;

	memset(much, 'm', 4000);
	much[4000] = 0;
	vs_start(f);
	begin_twin(f);
	fd = ask(f, &hp);
	for (unsigned i = 0; i < 40; i++) {
		both_say(f, vs_packet(f, PORT, hp, OP(RW)), much);
		vs_reads(f, fd, much, 4000);
		rig_settle(&f->rig);
		if (rig_used_idx(&f->q[RX]) != f->rx_seen)
			both_expect(f, OP(CREDIT_UPDATE));
	}
	assert_int_equal(vs_connections(twin.f), 1);
	end(f, fd, hp);
}

/* The event that connections are gone comes with the primary's, not with the load. */
static void the_transport_is_reset_at_both(void **state)
{
	struct fix *f = *state;
	uint32_t *event;

	vs_start(f);
	f->dev->ops->save(f->dev);
	f->dev->ops->load(f->dev, f->dev->pod);
	f->dev->ops->resume(f->dev);
	begin_twin(f);
	event = vs_ram(twin.f, EVENT_AT);
	vs_add_event(f);
	assert_int_equal(first.n, twin.next + 1);
	virtio_vsock_put(twin.f->dev, first.input[twin.next], first.len[twin.next]);
	twin.next++;
	vs_expect_nothing(twin.f);
	vs_add_event(twin.f);
	assert_int_equal(*event, VIRTIO_VSOCK_EVENT_TRANSPORT_RESET);
	vs_add_event(twin.f); /* exactly one */
	assert_int_equal(*event, 0xffffffff);
	assert_int_equal(rig_used_idx(&twin.f->q[EVENT]), 1);
}

/* Its connections end with the other host, and its guest is told; what waited for it is gone. */
static void a_twin_takes_over(void **state)
{
	struct fix *f = *state;
	uint32_t hp, *event;
	int fd;

	vs_start(f);
	begin_twin(f);
	fd = ask(f, &hp);
	obuf_divert(&twin.f->rig.obuf, NULL, NULL);
	virtio_vsock_put(twin.f->dev, first.input[1], first.len[1]);
	virtio_vsock_feed(twin.f->dev, false);
	vs_expect_nothing(twin.f);
	event = vs_ram(twin.f, EVENT_AT);
	vs_add_event(twin.f);
	assert_int_equal(*event, VIRTIO_VSOCK_EVENT_TRANSPORT_RESET);
	assert_int_equal(vs_connections(twin.f), 0);
	vs_send_data(twin.f, PORT, hp, "old", 3);
	vs_expect(twin.f, OP(RST));
	close(fd);
	fd = vs_open_from_host(twin.f, &hp);
	vs_send_data(twin.f, PORT, hp, "new", 3);
	vs_reads(twin.f, fd, "new", 3);
	close(fd);
}

static void a_primary_waits_for_its_twin(void **state)
{
	struct fix *f = *state;
	int fd;

	vs_start(f);
	first.ready = false;
	fd = vs_program(f, "CONNECT 5000\n");
	vs_expect_nothing(f);
	assert_int_equal(first.n, 0);
	first.ready = true;
	virtio_vsock_go_on(f->dev);
	vs_expect(f, OP(REQUEST));
	assert_int_equal(first.n, 1);
	close(fd);
}

static uint32_t make_input(uint8_t *buf, uint32_t len)
{
	hdr_t h = {.src_cid = 2, .dst_cid = CID, .type = 1, .op = OP(RW), .len = len};

	memset(buf, 0, 8 + HDR + len);
	memcpy(buf + 8, &h, HDR);
	return (uint32_t)(8 + HDR + len);
}

static void a_twin_keeps_a_bounded_number(void **state)
{
	static uint8_t buf[VIRTIO_VSOCK_INPUT_MAX];
	struct fix *f = *state;
	unsigned n = 1;

	vs_start_with(f, 0);
	begin_twin(f);
	while (virtio_vsock_put(twin.f->dev, buf, make_input(buf, 4000)))
		assert_in_range(++n, 1, 300);
	rig_settle(&twin.f->rig);
	assert_int_equal(twin.rooms, 0);
	for (unsigned i = 0; i < n; i++) {
		vs_add_rx(twin.f, i ? 0 : QSIZE);
		assert_int_equal(vs_expect(twin.f, OP(RW)).len, 4000);
	}
	assert_int_equal(twin.rooms, 1);
}

/* Whatever the peer says of connections, there are no more of them than ever. */
static void what_is_no_input(void **state)
{
	static uint8_t buf[VIRTIO_VSOCK_INPUT_MAX + 1];
	uint32_t len = make_input(buf, 10);

	assert_true(virtio_vsock_is_input(buf, len));
	assert_false(virtio_vsock_is_input(buf, len - 1));
	assert_false(virtio_vsock_is_input(buf, len + 1));
	assert_false(virtio_vsock_is_input(buf, 8 + HDR - 1));
	assert_false(virtio_vsock_is_input(buf, 0));
	assert_true(virtio_vsock_is_input(buf, make_input(buf, VSOCK_BUF_BYTES)));
	((hdr_t *)(buf + 8))->len = VSOCK_BUF_BYTES + 1;
	assert_false(virtio_vsock_is_input(buf, VIRTIO_VSOCK_INPUT_MAX + 1));
	len = make_input(buf, 1);
	((hdr_t *)(buf + 8))->op = OP(INVALID);
	assert_false(virtio_vsock_is_input(buf, len));
}

static void a_primary_that_lies_of_connections(void **state)
{
	static uint8_t buf[VIRTIO_VSOCK_INPUT_MAX];
	struct fix *f = *state;
	static const uint16_t ops[] = {OP(REQUEST), OP(RESPONSE), OP(RW), OP(RST), 99};

	vs_start(f);
	begin_twin(f);
	for (unsigned i = 0; i < 1000; i++) {
		hdr_t *h = (hdr_t *)(buf + 8);
		uint64_t id = i % 200;

		make_input(buf, 0);
		memcpy(buf, &id, sizeof(id));
		h->op = ops[i < 300 ? 0 : i % 5];
		h->src_port = i % 7;
		h->fwd_cnt = i * 1000003;
		virtio_vsock_put(twin.f->dev, buf, 8 + HDR);
		vs_receive(twin.f);
		assert_in_range(vs_connections(twin.f), 0, VSOCK_MAX_CONNS);
	}
	assert_int_equal(twin.f->dev->faults, 0);
}

static void expect_order(enum vsock_order_op op, uint32_t len)
{
	struct vsock_order o;

	assert_int_equal(twin.norders, sizeof(o) + len);
	memcpy(&o, twin.orders, sizeof(o));
	assert_int_equal(o.op, op);
	twin.norders = 0;
}

/* Of bytes that never came: its guest has no more room for that. */
static void a_primary_that_lies_of_what_it_took(void **state)
{
	static uint8_t buf[VIRTIO_VSOCK_INPUT_MAX];
	static const char much[200000];
	struct fix *f = *state;
	hdr_t *h = (hdr_t *)(buf + 8);
	uint64_t id = 2;

	vs_start(f);
	begin_twin(f);
	make_input(buf, 0);
	memcpy(buf, &id, sizeof(id));
	h->op = OP(REQUEST);
	h->src_port = 7;
	h->dst_port = PORT;
	h->fwd_cnt = 0x7fffffff;
	virtio_vsock_put(twin.f->dev, buf, 8 + HDR);
	vs_expect(twin.f, OP(REQUEST));
	vs_send_op(twin.f, PORT, 7, OP(RESPONSE));
	expect_order(VSOCK_ACCEPT, 0);
	vs_send_data(twin.f, PORT, 7, "a", 1);
	expect_order(VSOCK_DATA, 1);
	vs_send_data(twin.f, PORT, 7, much, sizeof(much));
	expect_order(VSOCK_CLOSE, 0);
	assert_int_equal(vs_connections(twin.f), 0);
}

struct twin_pod { /* begins the device's POD */
	struct virtio_state common;
	uint8_t reset_pending;
	uint64_t last_id;
	uint32_t nconns;
	struct {
		uint64_t id;
		uint32_t host_port, guest_port;
		uint8_t state, shut_guest;
		uint32_t rx_cnt, fwd_cnt;
	} conn;
};

static int check_counts(struct fix *f, uint32_t rx_cnt, uint32_t fwd_cnt)
{
	struct twin_pod *pod = f->dev->pod;

	pod->conn.rx_cnt = rx_cnt;
	pod->conn.fwd_cnt = fwd_cnt;
	return f->dev->ops->state->check(pod, NULL);
}

static void counts_that_no_connection_has(void **state)
{
	struct vsock_conn c = {.state = VSOCK_ESTABLISHED, .fwd_cnt = 0x7fffffff};
	hdr_t h = {.op = OP(RW), .len = 200000};
	struct fix *f = *state;
	uint32_t hp;
	int fd;

	vs_start(f);
	fd = ask(f, &hp);
	f->dev->ops->save(f->dev);
	assert_int_equal(((struct twin_pod *)f->dev->pod)->conn.rx_cnt, 6);
	assert_int_equal(check_counts(f, VSOCK_BUF_BYTES, 0), 0);
	assert_int_equal(check_counts(f, 5, UINT32_MAX), 0); /* they run on */
	assert_int_equal(check_counts(f, VSOCK_BUF_BYTES + 1, 0), -EBADMSG);
	assert_int_equal(check_counts(f, 5, 6), -EBADMSG);
	assert_int_equal(check_counts(f, 0, 0x7fffffff), -EBADMSG);
	assert_int_equal(vsock_conn_judge(&c, &h), VSOCK_DO_ABORT);
	close(fd);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(connections_since_the_checkpoint),
		T(connections_of_the_checkpoint),
		T(a_twin_that_lags),
		T(connections_of_the_guest),
		T(answers_to_nothing),
		T(a_guest_that_says_much),
		T(the_transport_is_reset_at_both),
		T(a_twin_takes_over),
		T(a_primary_waits_for_its_twin),
		T(a_twin_keeps_a_bounded_number),
		T(what_is_no_input),
		T(a_primary_that_lies_of_connections),
		T(a_primary_that_lies_of_what_it_took),
		T(counts_that_no_connection_has),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

#define _GNU_SOURCE /* accept4 */
#include "tests/unit/libvsock.h"

int vs_setup(void **state)
{
	struct fix *f = calloc(1, sizeof(*f));
	struct mdev md = rig_mdev(MDEV_VSOCK, 0);

	rig_init(&f->rig, 400000);
	md.cid = CID;
	strcpy(f->folder, "/tmp/vsocktest-XXXXXX");
	assert_non_null(mkdtemp(f->folder));
	snprintf(f->path, sizeof(f->path), "%s/v", f->folder);
	memset(&f->host, 0xff, sizeof(f->host)); /* an earlier VM's */
	assert_int_equal(vsock_host_init(&f->host, &f->rig.loop, f->path, NULL), 0);
	assert_int_equal(virtio_vsock_new(&f->rig.env, &md, &f->host, &f->dev, NULL), 0);
	assert_int_equal(vsock_host_listen(&f->host, NULL), 0);
	f->buf_alloc = 1 << 20;
	*state = f;
	return 0;
}

int vs_teardown(void **state)
{
	struct fix *f = *state;
	char cmd[64];

	f->dev->ops->free(f->dev);
	vsock_host_done(&f->host);
	assert_int_equal(access(f->path, F_OK), -1);
	rig_done(&f->rig);
	snprintf(cmd, sizeof(cmd), "rm -r %s", f->folder);
	assert_int_equal(system(cmd), 0);
	free(f);
	return 0;
}

void *vs_ram(struct fix *f, uint64_t gpa)
{
	return rig_ptr(&f->rig, gpa);
}

void vs_add_rx(struct fix *f, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		struct rig_seg s = {RX_AT(f->q[RX].next_desc % QSIZE), RX_BUF, true};

		rig_add(&f->q[RX], &s, 1);
	}
	rig_kick(&f->rig, 0, RX);
}

void vs_add_event(struct fix *f)
{
	struct rig_seg s = {EVENT_AT, 8, true};

	memset(vs_ram(f, EVENT_AT), 0xff, 8);
	rig_add(&f->q[EVENT], &s, 1);
	rig_kick(&f->rig, 0, EVENT);
	rig_settle(&f->rig);
}

void vs_start_with(struct fix *f, unsigned rx)
{
	rig_start(&f->rig, 0, 0, f->q, 3, QSIZE);
	f->rx_seen = 0;
	vs_add_rx(f, rx);
	rig_settle(&f->rig);
}

void vs_start(struct fix *f)
{
	vs_start_with(f, QSIZE);
}

hdr_t vs_packet(struct fix *f, uint32_t guest_port, uint32_t host_port, uint16_t op)
{
	return (hdr_t){.src_cid = CID,
		       .dst_cid = 2,
		       .src_port = guest_port,
		       .dst_port = host_port,
		       .type = VIRTIO_VSOCK_TYPE_STREAM,
		       .op = op,
		       .buf_alloc = f->buf_alloc,
		       .fwd_cnt = f->fwd_cnt};
}

void vs_post(struct fix *f, const hdr_t *h, const void *data, uint32_t n)
{
	uint64_t at = RIG_DATA + 0x300000 + 0x11000ull * (f->q[TX].next_desc % QSIZE);
	struct rig_seg s = {at, HDR + n, false};

	memcpy(vs_ram(f, at), h, HDR);
	if (n)
		memcpy((uint8_t *)vs_ram(f, at) + HDR, data, n);
	rig_add(&f->q[TX], &s, 1);
	rig_kick(&f->rig, 0, TX);
}

void vs_send_packet(struct fix *f, hdr_t h, const void *data, uint32_t n)
{
	uint16_t want = rig_used_idx(&f->q[TX]) + 1;

	vs_post(f, &h, data, n);
	rig_until(&f->rig, rig_used_idx(&f->q[TX]) == want);
}

void vs_send_op(struct fix *f, uint32_t guest_port, uint32_t host_port, uint16_t op)
{
	vs_send_packet(f, vs_packet(f, guest_port, host_port, op), NULL, 0);
}

void vs_send_data(struct fix *f, uint32_t gp, uint32_t hp, const void *data, uint32_t n)
{
	hdr_t h = vs_packet(f, gp, hp, OP(RW));

	h.len = n;
	vs_send_packet(f, h, data, n);
}

hdr_t vs_receive(struct fix *f)
{
	struct vring_used_elem *u;
	hdr_t h;

	rig_until(&f->rig, rig_used_idx(&f->q[RX]) != f->rx_seen);
	u = rig_used(&f->q[RX], f->rx_seen++);
	memcpy(&h, vs_ram(f, RX_AT(u->id)), HDR);
	assert_int_equal(u->len, HDR + h.len);
	memcpy(f->data, (uint8_t *)vs_ram(f, RX_AT(u->id)) + HDR, h.len);
	assert_int_equal(h.dst_cid, CID);
	f->q[RX].next_desc = u->id;
	vs_add_rx(f, 1);
	return h;
}

hdr_t vs_expect(struct fix *f, uint16_t op)
{
	hdr_t h = vs_receive(f);

	assert_int_equal(h.op, op);
	return h;
}

void vs_expect_nothing(struct fix *f)
{
	rig_settle(&f->rig);
	assert_int_equal(rig_used_idx(&f->q[RX]), f->rx_seen);
}

int vs_unix_socket(struct fix *f, const char *suffix, struct sockaddr_un *sa)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);

	memset(sa, 0, sizeof(*sa));
	sa->sun_family = AF_UNIX;
	snprintf(sa->sun_path, sizeof(sa->sun_path), "%s%s", f->path, suffix);
	return fd;
}

int vs_program(struct fix *f, const char *line)
{
	struct sockaddr_un sa;
	int fd = vs_unix_socket(f, "", &sa);

	assert_int_equal(connect(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
	if (line)
		assert_int_equal(write(fd, line, strlen(line)), strlen(line));
	return fd;
}

int vs_listener(struct fix *f, const char *suffix, int backlog)
{
	struct sockaddr_un sa;
	int fd = vs_unix_socket(f, suffix, &sa);

	assert_int_equal(bind(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
	assert_int_equal(listen(fd, backlog), 0);
	return fd;
}

void vs_reads(struct fix *f, int fd, const void *want, uint32_t n)
{
	uint32_t at = 0;

	rig_until(&f->rig, ({
		ssize_t r = read(fd, f->out + at, n - at);

		at += r > 0 ? r : 0;
		at == n;
	}));
	assert_memory_equal(f->out, want, n);
}

bool vs_would_block(int fd)
{
	char c;

	return recv(fd, &c, 1, MSG_PEEK) < 0 && errno == EAGAIN;
}

bool vs_at_end(int fd)
{
	char c;
	ssize_t n = recv(fd, &c, 1, MSG_PEEK);

	return n == 0 || (n < 0 && errno == ECONNRESET);
}

bool vs_closed(struct fix *f, int fd)
{
	for (int i = 0; i < 300 && !vs_at_end(fd); i++)
		loop_run_once(&f->rig.loop, 10000000);
	return vs_at_end(fd);
}

int vs_open_from_host(struct fix *f, uint32_t *hp)
{
	int fd = vs_program(f, "CONNECT 5000\n");
	hdr_t h = vs_expect(f, OP(REQUEST));
	char ok[32];

	assert_int_equal(h.src_cid, 2);
	assert_int_equal(h.dst_port, 5000);
	assert_int_equal(h.buf_alloc, VSOCK_BUF_BYTES);
	*hp = h.src_port;
	assert_true(vs_would_block(fd));
	vs_send_op(f, 5000, *hp, OP(RESPONSE));
	snprintf(ok, sizeof(ok), "OK %u\n", *hp);
	vs_reads(f, fd, ok, (uint32_t)strlen(ok));
	return fd;
}

int vs_open_from_guest(struct fix *f, int listen_fd)
{
	int fd;

	vs_send_op(f, 1234, 6000, OP(REQUEST));
	vs_expect(f, OP(RESPONSE));
	fd = accept4(listen_fd, NULL, NULL, SOCK_NONBLOCK);
	assert_true(fd >= 0);
	return fd;
}

unsigned vs_connections(struct fix *f)
{
	struct virtio_vsock_stats st;

	virtio_vsock_get_stats(f->dev, &st);
	return st.connections;
}

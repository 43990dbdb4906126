/* virtio-net over a socket pair: frames both ways, back-pressure, starvation, hostile headers. */
#include "tests/unit/libnic.h"
#include "tests/unit/libvirtio.h"

static void add_rx(struct fix *f, unsigned i, uint32_t len)
{
	struct rig_seg s = {RIG_DATA + 0x20000 + 0x1000 * i, len, true};

	rig_add(&f->q[RX], &s, 1);
}

static void send_to_guest(struct fix *f, const struct virtio_net_hdr_v1 *h, uint32_t len, uint8_t n)
{
	uint8_t p[70000];

	memset(p, 0, HDR);
	if (h)
		memcpy(p, h, HDR);
	for (uint32_t i = 0; i < len; i++)
		p[HDR + i] = (uint8_t)(n + i);
	assert_int_equal(write(f->peer, p, HDR + len), HDR + len);
}

static void transmits(void **state)
{
	struct fix *f = *state;
	static const uint32_t lens[] = {14, 60, 1514, 9000, 65535};

	nic_start(f, F(MAC));
	for (unsigned i = 0; i < 5; i++) {
		nic_frame(f, lens[i], (uint8_t)i);
		nic_send_frame(f, lens[i]);
		assert_int_equal(nic_got(f), HDR + lens[i]);
		assert_memory_equal(f->buf, nic_ram(f, RIG_DATA), HDR + lens[i]);
	}
	assert_int_equal(f->nd.tx_frames, 5);
	assert_true(rig_took_signal(f->dev->irq_fd));
}

static void refuses_bad_frames_and_goes_on(void **state)
{
	struct fix *f = *state;
	struct virtio_net_stats st;
	static const uint32_t lens[] = {0, 1, 13, NET_FRAME_MAX + 1, 200000};

	nic_start(f, F(MAC));
	for (unsigned i = 0; i < 5; i++) {
		nic_frame(f, lens[i], 0);
		nic_send_frame(f, lens[i]);
		assert_int_equal(nic_got(f), -EAGAIN);
	}
	virtio_net_get_stats(f->dev, &st);
	assert_int_equal(st.tx_bad, 5);
	nic_frame(f, 60, 0);
	nic_send_frame(f, 60);
	assert_int_equal(nic_got(f), HDR + 60);
	assert_int_equal(f->dev->faults, 0);
	/* Not even a header: that is no frame but a broken driver. */
	struct rig_seg s = {RIG_DATA, HDR - 1, false};

	rig_add(&f->q[TX], &s, 1);
	rig_kick(&f->rig, 0, TX);
	rig_until(&f->rig, f->dev->faults == 1);
}

struct hdr_case {
	const char *what;
	struct virtio_net_hdr_v1 h;
	bool plain, offload; /* passes without / with offloads negotiated */
};

#define CSUM VIRTIO_NET_HDR_F_NEEDS_CSUM
#define V4   VIRTIO_NET_HDR_GSO_TCPV4
#define V6   VIRTIO_NET_HDR_GSO_TCPV6

/* The frame is 1000 bytes long. */
static const struct hdr_case hdr_cases[] = {
	{"plain", {0}, true, true},
	{"checksum", {.flags = CSUM, .csum_start = 34, .csum_offset = 16}, false, true},
	{"checksum at the end", {.flags = CSUM, .csum_start = 982, .csum_offset = 16}, false, true},
	{"checksum over the end",
	 {.flags = CSUM, .csum_start = 983, .csum_offset = 16},
	 false,
	 false},
	{"start wraps", {.flags = CSUM, .csum_start = 65535, .csum_offset = 65535}, false, false},
	{"offset far", {.flags = CSUM, .csum_start = 0, .csum_offset = 65535}, false, false},
	{"unused start", {.csum_start = 65535, .csum_offset = 65535}, true, true},
	{"tso4",
	 {.flags = CSUM,
	  .gso_type = V4,
	  .hdr_len = 54,
	  .gso_size = 500,
	  .csum_start = 34,
	  .csum_offset = 16},
	 false,
	 true},
	{"tso6",
	 {.flags = CSUM,
	  .gso_type = V6,
	  .hdr_len = 74,
	  .gso_size = 500,
	  .csum_start = 54,
	  .csum_offset = 16},
	 false,
	 true},
	{"gso without checksum", {.gso_type = V4, .hdr_len = 54, .gso_size = 500}, false, false},
	{"gso of 0",
	 {.flags = CSUM, .gso_type = V4, .hdr_len = 54, .csum_start = 34, .csum_offset = 16},
	 false,
	 false},
	{"header longer than the frame",
	 {.flags = CSUM,
	  .gso_type = V4,
	  .hdr_len = 1001,
	  .gso_size = 500,
	  .csum_start = 34,
	  .csum_offset = 16},
	 false,
	 false},
	{"udp fragments",
	 {.flags = CSUM, .gso_type = 3, .hdr_len = 42, .gso_size = 500},
	 false,
	 false},
	{"ecn",
	 {.flags = CSUM, .gso_type = V4 | 0x80, .hdr_len = 54, .gso_size = 500},
	 false,
	 false},
	{"unknown type", {.gso_type = 2, .gso_size = 500}, false, false},
	{"unknown flags", {.flags = 0xf8}, true, true},
	{"sizes without type", {.gso_size = 65535, .hdr_len = 65535}, true, true},
	{"num_buffers", {.num_buffers = 65535}, true, true},
};

static void checks_transmit_headers(void **state)
{
	struct fix *f = *state;

	for (unsigned off = 0; off < 2; off++) {
		nic_start(f, off ? F(CSUM) | F(HOST_TSO4) | F(HOST_TSO6) : F(MAC));
		for (unsigned i = 0; i < sizeof(hdr_cases) / sizeof(hdr_cases[0]); i++) {
			const struct hdr_case *c = &hdr_cases[i];
			bool want = off ? c->offload : c->plain;
			struct virtio_net_hdr_v1 *h = nic_frame(f, 1000, 0);

			*h = c->h;
			nic_send_frame(f, 1000);
			if (nic_got(f) != (want ? HDR + 1000 : -EAGAIN))
				fail_msg("%s", c->what);
			if (!want)
				continue;
			/* What leaves is clean: nothing unused is passed on. */
			h = (struct virtio_net_hdr_v1 *)f->buf;
			assert_int_equal(h->num_buffers, 0);
			assert_int_equal(h->flags & ~CSUM, 0);
			if (!h->gso_type)
				assert_int_equal(h->gso_size | h->hdr_len, 0);
			if (!h->flags)
				assert_int_equal(h->csum_start | h->csum_offset, 0);
		}
	}
}

static void checks_receive_headers(void **state)
{
	struct fix *f = *state;

	for (unsigned off = 0; off < 2; off++) {
		nic_start(f, off ? F(GUEST_CSUM) | F(GUEST_TSO4) | F(GUEST_TSO6) : F(MAC));
		for (unsigned i = 0; i < sizeof(hdr_cases) / sizeof(hdr_cases[0]); i++) {
			bool want = off ? hdr_cases[i].offload : hdr_cases[i].plain;
			uint16_t before = rig_used_idx(&f->q[RX]);

			add_rx(f, 0, 2000);
			rig_kick(&f->rig, 0, RX);
			send_to_guest(f, &hdr_cases[i].h, 1000, 0);
			send_to_guest(f, NULL, 100, 0); /* comes after, whatever happened before */
			rig_until(&f->rig, rig_used_idx(&f->q[RX]) == (uint16_t)(before + 1));
			if ((rig_used(&f->q[RX], before)->len == HDR + 1000) != want)
				fail_msg("%s", hdr_cases[i].what);
			if (want) { /* fetch the other one */
				add_rx(f, 0, 2000);
				rig_kick(&f->rig, 0, RX);
				rig_until(&f->rig,
					  rig_used_idx(&f->q[RX]) == (uint16_t)(before + 2));
			}
		}
	}
	assert_int_equal(f->dev->faults, 0);
}

/* Each segment costs the host as much as a frame: nobody gets 65000 of them out of one. */
static void tiny_segments_do_not_leave(void **state)
{
	static const uint16_t sizes[] = {1, 63, 64, 65};
	struct fix *f = *state;
	struct virtio_net_stats st;
	struct virtio_net_hdr_v1 h = {
		.flags = CSUM, .gso_type = V4, .hdr_len = 54, .csum_start = 34, .csum_offset = 16};

	nic_start(f, F(CSUM) | F(HOST_TSO4) | F(GUEST_CSUM) | F(GUEST_TSO4));
	for (unsigned i = 0; i < 4; i++) {
		h.gso_size = sizes[i];
		*nic_frame(f, 1000, 0) = h;
		nic_send_frame(f, 1000);
		assert_int_equal(nic_got(f), sizes[i] < 64 ? -EAGAIN : HDR + 1000);
	}
	virtio_net_get_stats(f->dev, &st);
	assert_int_equal(st.tx_bad, 2);
	h.gso_size = 1; /* what the host sends is the guest's to judge */
	add_rx(f, 0, 2000);
	rig_kick(&f->rig, 0, RX);
	send_to_guest(f, &h, 1000, 0);
	rig_until(&f->rig, rig_used_idx(&f->q[RX]) == 1);
	assert_int_equal(f->dev->faults, 0);
}

static void receives(void **state)
{
	struct fix *f = *state;
	struct virtio_net_hdr_v1 *h;

	nic_start(f, F(MAC));
	for (unsigned i = 0; i < 4; i++)
		add_rx(f, i, 1600);
	rig_kick(&f->rig, 0, RX);
	for (unsigned i = 0; i < 4; i++)
		send_to_guest(f, NULL, 60 + i, (uint8_t)i);
	rig_until(&f->rig, rig_used_idx(&f->q[RX]) == 4);
	for (unsigned i = 0; i < 4; i++) {
		assert_int_equal(rig_used(&f->q[RX], i)->len, HDR + 60 + i);
		h = (struct virtio_net_hdr_v1 *)nic_ram(f, RIG_DATA + 0x20000 + 0x1000 * i);
		assert_int_equal(h->num_buffers, 1);
		assert_int_equal(((uint8_t *)h)[HDR], i);
	}
	assert_true(rig_took_signal(f->dev->irq_fd));
}

/* Without merging, a frame that does not fit its buffer is dropped; the buffer stays. */
static void too_large_for_its_buffer(void **state)
{
	struct fix *f = *state;
	struct virtio_net_stats st;

	nic_start(f, F(MAC));
	add_rx(f, 0, 200);
	rig_kick(&f->rig, 0, RX);
	send_to_guest(f, NULL, 189, 1);
	send_to_guest(f, NULL, 188, 2);
	rig_until(&f->rig, rig_used_idx(&f->q[RX]) == 1);
	assert_int_equal(rig_used(&f->q[RX], 0)->len, 200);
	assert_int_equal(nic_ram(f, RIG_DATA + 0x20000)[HDR], 2);
	virtio_net_get_stats(f->dev, &st);
	assert_int_equal(st.rx_bad, 1);
	/* A frame that is none touches no buffer: the old one is the guest's again. */
	memset(nic_ram(f, RIG_DATA + 0x20000), 0xee, 200);
	assert_int_equal(write(f->peer, "runt", 4), 4);
	rig_settle(&f->rig);
	virtio_net_get_stats(f->dev, &st);
	assert_int_equal(st.rx_bad, 2);
	for (unsigned i = 0; i < 200; i++)
		assert_int_equal(nic_ram(f, RIG_DATA + 0x20000)[i], 0xee);
	assert_int_equal(f->dev->faults, 0);
}

static void merges_buffers(void **state)
{
	struct fix *f = *state;
	struct virtio_net_hdr_v1 *h = (struct virtio_net_hdr_v1 *)nic_ram(f, RIG_DATA + 0x20000);
	uint32_t total = 0;

	nic_start(f, F(MAC) | F(MRG_RXBUF));
	for (unsigned i = 0; i < 5; i++)
		add_rx(f, i, 300);
	rig_kick(&f->rig, 0, RX);
	send_to_guest(f, NULL, 1000, 3);
	rig_until(&f->rig, rig_used_idx(&f->q[RX]) == 4);
	assert_int_equal(h->num_buffers, 4);
	for (unsigned i = 0; i < 4; i++)
		total += rig_used(&f->q[RX], i)->len;
	assert_int_equal(total, HDR + 1000);
	for (uint32_t i = 0; i < 1000; i++) {
		uint32_t at = HDR + i;

		assert_int_equal(nic_ram(f, RIG_DATA + 0x20000 + 0x1000 * (at / 300))[at % 300],
				 (uint8_t)(3 + i));
	}
	/* One buffer is left: the next frame needs two, waits, and gets them. */
	send_to_guest(f, NULL, 500, 4);
	rig_settle(&f->rig);
	assert_int_equal(rig_used_idx(&f->q[RX]), 4);
	add_rx(f, 5, 300);
	rig_kick(&f->rig, 0, RX);
	rig_until(&f->rig, rig_used_idx(&f->q[RX]) == 6);
	assert_int_equal(f->dev->faults, 0);
}

/* A frame that even the whole ring cannot hold must not block what comes after it. */
static void larger_than_the_whole_ring(void **state)
{
	struct fix *f = *state;

	nic_start(f, F(MAC) | F(MRG_RXBUF));
	for (unsigned i = 0; i < 32; i++)
		add_rx(f, i, 20);
	rig_kick(&f->rig, 0, RX);
	send_to_guest(f, NULL, 2000, 1);
	send_to_guest(f, NULL, 20, 2);
	rig_until(&f->rig, rig_used_idx(&f->q[RX]) == 2);
	assert_int_equal(nic_ram(f, RIG_DATA + 0x20000)[HDR], 2);
}

/* F9, the class of CVE-2020-16843: the ring runs dry, then the guest kicks. No frame is lost. */
static void starved_then_kicked(void **state)
{
	struct fix *f = *state;

	for (unsigned ev = 0; ev < 2; ev++) {
		struct virtio_net_stats st;

		nic_start(f, F(MAC) | (ev ? 1ull << VIRTIO_RING_F_EVENT_IDX : 0));
		add_rx(f, 0, 1600);
		add_rx(f, 1, 1600);
		rig_kick(&f->rig, 0, RX);
		for (unsigned i = 0; i < 20; i++)
			send_to_guest(f, NULL, 60, (uint8_t)(100 + i));
		rig_until(&f->rig, rig_used_idx(&f->q[RX]) == 2);
		rig_settle(&f->rig);
		virtio_net_get_stats(f->dev, &st);
		assert_int_equal(st.rx_starved, ev + 1);
		/* The device asked for a kick. */
		if (ev)
			assert_int_equal(*(uint16_t *)nic_ram(f, f->q[RX].used + 4 + 8 * 32), 2);
		else
			assert_int_equal(*(uint16_t *)nic_ram(f, f->q[RX].used), 0);
		for (unsigned i = 2; i < 20; i++)
			add_rx(f, i, 1600);
		rig_kick(&f->rig, 0, RX);
		rig_until(&f->rig, rig_used_idx(&f->q[RX]) == 20);
		for (unsigned i = 0; i < 20; i++)
			assert_int_equal(nic_ram(f, RIG_DATA + 0x20000 + 0x1000 * i)[HDR], 100 + i);
	}
}

static void receive_buffer_that_is_none(void **state)
{
	struct fix *f = *state;
	struct rig_seg s = {RIG_DATA, 100, false};

	nic_start(f, F(MAC));
	rig_add(&f->q[RX], &s, 1);
	rig_kick(&f->rig, 0, RX);
	send_to_guest(f, NULL, 60, 0);
	rig_until(&f->rig, f->dev->faults == 1);
	nic_start(f, F(MAC));
	s = (struct rig_seg){RIG_DATA, HDR - 1, true};
	rig_add(&f->q[RX], &s, 1);
	rig_kick(&f->rig, 0, RX);
	send_to_guest(f, NULL, 60, 0);
	rig_until(&f->rig, f->dev->faults == 2);
}

/* Held output stays in until its epoch is released; a full buffer leaves frames in the ring. */
static void hold_release_and_back_pressure(void **state)
{
	struct fix *f = *state;
	struct rig_seg s = {RIG_DATA, HDR + 9000, false};
	unsigned n = 0;

	nic_start(f, F(MAC));
	obuf_hold(&f->rig.obuf, 1);
	nic_frame(f, 9000, 0);
	for (unsigned i = 0; i < 30; i++)
		rig_add(&f->q[TX], &s, 1);
	rig_kick(&f->rig, 0, TX);
	rig_until(&f->rig, rig_used_idx(&f->q[TX]) > 0);
	rig_settle(&f->rig);
	n = rig_used_idx(&f->q[TX]);
	assert_in_range(n, 8, 12);
	assert_int_equal(nic_got(f), -EAGAIN);
	for (unsigned i = 0; i < 10; i++) /* kicks do not get more in */
		rig_kick(&f->rig, 0, TX);
	rig_settle(&f->rig);
	assert_int_equal(rig_used_idx(&f->q[TX]), n);
	obuf_seal(&f->rig.obuf, 2);
	obuf_release(&f->rig.obuf, 1);
	rig_until(&f->rig, rig_used_idx(&f->q[TX]) > n);
	for (unsigned i = 0; i < n; i++)
		assert_int_equal(nic_got(f), HDR + 9000);
	assert_int_equal(nic_got(f), -EAGAIN);
	obuf_pass(&f->rig.obuf);
	rig_until(&f->rig, rig_used_idx(&f->q[TX]) == 30);
	rig_settle(&f->rig);
	for (unsigned i = n; i < 30; i++)
		assert_int_equal(nic_got(f), HDR + 9000);
	assert_int_equal(f->dev->faults, 0);
}

static void fenced_side_sends_nothing(void **state)
{
	struct fix *f = *state;

	nic_start(f, F(MAC));
	obuf_hold(&f->rig.obuf, 1);
	nic_frame(f, 60, 0);
	nic_send_frame(f, 60);
	obuf_drop(&f->rig.obuf);
	nic_send_frame(f, 60); /* the guest is not blocked */
	assert_int_equal(nic_got(f), -EAGAIN);
}

static void link_down_and_up(void **state)
{
	struct fix *f = *state;

	nic_start(f, F(MAC) | F(STATUS));
	rig_took_signal(f->dev->irq_fd);
	virtio_net_set_link(f->dev, false);
	assert_true(rig_took_signal(f->dev->irq_fd));
	assert_int_equal(rig_get(&f->rig, 0, VIRTIO_MMIO_INTERRUPT_STATUS) & 2, 2);
	nic_frame(f, 60, 0);
	nic_send_frame(f, 60);
	assert_int_equal(nic_got(f), -EAGAIN);
	add_rx(f, 0, 1600);
	rig_kick(&f->rig, 0, RX);
	send_to_guest(f, NULL, 60, 1);
	rig_settle(&f->rig);
	assert_int_equal(rig_used_idx(&f->q[RX]), 0);
	virtio_net_set_link(f->dev, true);
	nic_send_frame(f, 60);
	assert_int_equal(nic_got(f), HDR + 60);
	send_to_guest(f, NULL, 60, 2);
	rig_until(&f->rig, rig_used_idx(&f->q[RX]) == 1);
}

static void unplugged_netdev(void **state)
{
	struct fix *f = *state;
	int fd = f->nd.fd;

	f->nd.fd = -1;
	nic_start(f, F(MAC));
	nic_frame(f, 60, 0);
	nic_send_frame(f, 60);
	add_rx(f, 0, 1600);
	rig_kick(&f->rig, 0, RX);
	rig_settle(&f->rig);
	assert_int_equal(f->nd.tx_dropped, 1);
	f->nd.fd = fd;
}

/* The other end is gone: input stops, and does not spin. */
static void peer_closes(void **state)
{
	struct fix *f = *state;
	int sv[2];

	nic_start(f, F(MAC));
	add_rx(f, 0, 1600);
	rig_kick(&f->rig, 0, RX);
	rig_settle(&f->rig);
	close(f->peer);
	rig_settle(&f->rig);
	rig_settle(&f->rig);
	assert_int_equal(loop_run_once(&f->rig.loop, 1000000), 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, sv), 0);
	f->peer = sv[1];
	close(sv[0]);
	assert_int_equal(f->dev->faults, 0);
}

static void quiet_keeps_still(void **state)
{
	struct fix *f = *state;

	nic_start(f, F(MAC));
	add_rx(f, 0, 1600);
	rig_kick(&f->rig, 0, RX);
	rig_settle(&f->rig);
	f->dev->ops->quiet(f->dev, true);
	send_to_guest(f, NULL, 60, 1);
	nic_frame(f, 60, 0);
	struct rig_seg s = {RIG_DATA, HDR + 60, false};

	rig_add(&f->q[TX], &s, 1);
	rig_kick(&f->rig, 0, TX);
	rig_settle(&f->rig);
	assert_int_equal(rig_used_idx(&f->q[RX]) + rig_used_idx(&f->q[TX]), 0);
	assert_int_equal(nic_got(f), -EAGAIN);
	/* And the loop sleeps, although there is a frame. */
	uint64_t since = loop_now_ns();

	loop_run_once(&f->rig.loop, 20000000);
	assert_true(loop_now_ns() - since >= 20000000);
	f->dev->ops->quiet(f->dev, false);
	rig_until(&f->rig, rig_used_idx(&f->q[RX]) == 1 && rig_used_idx(&f->q[TX]) == 1);
}

/* A guest that sends without end gets its input all the same. */
static void both_directions_have_turns(void **state)
{
	struct fix *f = *state;

	nic_start(f, F(MAC));
	for (unsigned i = 0; i < 3; i++)
		add_rx(f, i, 1600);
	rig_kick(&f->rig, 0, RX);
	rig_settle(&f->rig);
	nic_frame(f, 60, 0);
	for (unsigned i = 0; i < 30; i++) {
		struct rig_seg s = {RIG_DATA, HDR + 60, false};

		rig_add(&f->q[TX], &s, 1);
	}
	rig_set_clock(&f->rig.loop, LOOP_BUDGET_NS);
	rig_kick(&f->rig, 0, TX);
	for (unsigned i = 0; i < 3; i++)
		send_to_guest(f, NULL, 60, 1);
	for (unsigned i = 0; i < 7; i++)
		loop_run_once(&f->rig.loop, 0);
	assert_int_equal(rig_used_idx(&f->q[RX]), 3);
	assert_in_range(rig_used_idx(&f->q[TX]), 3, 5);
}

/* As a secondary that has tried the state: a tap that is up all the same has nothing for it. */
static void loaded_stands_still(void **state)
{
	struct fix *f = *state;

	nic_start(f, F(MAC));
	add_rx(f, 0, 1600);
	f->dev->ops->save(f->dev);
	f->dev->ops->load(f->dev, f->dev->pod);
	send_to_guest(f, NULL, 60, 1);
	rig_settle(&f->rig);
	rig_kick(&f->rig, 0, RX);
	rig_settle(&f->rig);
	assert_int_equal(rig_used_idx(&f->q[RX]), 0);
	f->dev->ops->resume(f->dev);
	rig_until(&f->rig, rig_used_idx(&f->q[RX]) == 1);
}

static void reset_between_frames(void **state)
{
	struct fix *f = *state;

	for (unsigned i = 0; i < 20; i++) {
		nic_start(f, F(MAC));
		send_to_guest(f, NULL, 60, 1); /* starves: there are no buffers */
		nic_frame(f, 60, 0);
		nic_send_frame(f, 60);
		assert_int_equal(nic_got(f), HDR + 60);
		rig_set(&f->rig, 0, VIRTIO_MMIO_STATUS, 0);
		rig_settle(&f->rig);
	}
	/* A frame that waited with what the driver before had agreed to is not for this one. */
	struct virtio_net_hdr_v1 h = {.flags = CSUM, .csum_start = 34, .csum_offset = 16};

	nic_start(f, F(MAC) | F(GUEST_CSUM));
	for (unsigned i = 0; i < 31; i++)
		add_rx(f, i, 1600);
	rig_kick(&f->rig, 0, RX);
	rig_settle(&f->rig); /* what was left from before is gone */
	nic_start(f, F(MAC) | F(GUEST_CSUM));
	send_to_guest(f, &h, 60, 1);
	rig_kick(&f->rig, 0, RX);
	rig_settle(&f->rig);
	nic_start(f, F(MAC));
	for (unsigned i = 0; i < 31; i++)
		add_rx(f, i, 1600);
	rig_kick(&f->rig, 0, RX);
	send_to_guest(f, NULL, 70, 2);
	rig_until(&f->rig,
		  rig_used_idx(&f->q[RX]) > 0 &&
			  rig_used(&f->q[RX], rig_used_idx(&f->q[RX]) - 1)->len == HDR + 70);
	assert_int_equal(rig_used_idx(&f->q[RX]), 1);
}

/* The next one: from mac, with these first bytes of what is behind the MAC addresses. */
static void announced(struct fix *f, const uint8_t *mac, const char *type_on, size_t len)
{
	static const uint8_t zero[HDR];

	assert_true(nic_got(f) >= HDR + 60);
	assert_memory_equal(f->buf, zero, HDR);
	assert_memory_equal(f->buf + HDR + 6, mac, 6);
	assert_memory_equal(f->buf + HDR + 12, type_on, len);
}

/* The guest sends an ARP of op in which mac has ip. */
static void arp_from(struct fix *f, uint8_t op, const uint8_t *mac, const char *ip)
{
	uint8_t *eth = nic_ram(f, RIG_DATA + HDR);

	nic_frame(f, 60, 0);
	memcpy(eth + 6, mac, 6);
	memcpy(eth + 12, "\x08\x06\0\1\x08\0\6\4\0", 9);
	eth[21] = op;
	memcpy(eth + 22, mac, 6);
	memcpy(eth + 28, ip, 4);
	nic_send_frame(f, 60);
	assert_int_equal(nic_got(f), HDR + 60);
}

static const uint8_t own_mac[6] = {0x52, 0x54, 0, 1, 2, 3}, other_mac[6] = {2, 0, 0, 0, 0, 0x99};

#define ARP(op, mac, ip) "\x08\x06\0\1\x08\0\6\4\0" op mac ip mac ip
#define RARP		 "\x80\x35\0\1\x08\0\6\4\0\3"
#define OWN		 "\x52\x54\0\1\2\3"

/* What it says of itself is announced after a takeover; whose packets it forwards is not. */
static void learns_and_announces(void **state)
{
	struct fix *f = *state;
	uint8_t *eth = nic_ram(f, RIG_DATA + HDR);

	virtio_net_announce(f->dev); /* nothing known: RARP with the MAC of the machine */
	announced(f, own_mac, RARP, 10);
	assert_int_equal(nic_got(f), -EAGAIN);
	nic_start(f, F(MAC));
	arp_from(f, 1, own_mac, "\x0a\1\2\3");
	arp_from(f, 1, other_mac, "\x0a\1\2\4"); /* a machine behind a bridge of the guest's */
	nic_frame(f, 60, 0);			 /* a packet that it forwards */
	memcpy(eth + 6, own_mac, 6);
	memcpy(eth + 12, "\x08\x00\x45", 3);
	memcpy(eth + 14 + 12, "\x0a\1\2\5", 4);
	nic_send_frame(f, 60);
	assert_int_equal(nic_got(f), HDR + 60);
	virtio_net_announce(f->dev);
	announced(f, own_mac, ARP("\1", OWN, "\x0a\1\2\3"), 30);
	assert_memory_equal(f->buf + HDR, "\xff\xff\xff\xff\xff\xff", 6);
	announced(f, own_mac, ARP("\2", OWN, "\x0a\1\2\3"), 30);
	announced(f, own_mac, RARP, 10);
	assert_int_equal(nic_got(f), -EAGAIN);
	arp_from(f, 2, own_mac, "\x0a\1\2\x09"); /* its second one */
	arp_from(f, 1, other_mac, "\x0a\1\2\4");
	virtio_net_announce(f->dev);
	announced(f, own_mac, ARP("\1", OWN, "\x0a\1\2\x09"), 30);
	announced(f, own_mac, ARP("\2", OWN, "\x0a\1\2\x09"), 30);
	announced(f, own_mac, ARP("\1", OWN, "\x0a\1\2\3"), 30);
	announced(f, own_mac, ARP("\2", OWN, "\x0a\1\2\3"), 30);
	announced(f, own_mac, RARP, 10);
	announced(f, other_mac, RARP, 10);
	assert_int_equal(nic_got(f), -EAGAIN);
}

/* Another machine says that it has the address now: it is not the guest's any more. */
static void address_that_moved_away(void **state)
{
	struct fix *f = *state;
	uint8_t frame[HDR + 60] = {0};

	nic_start(f, F(MAC));
	arp_from(f, 1, own_mac, "\x0a\1\2\3");
	memcpy(frame + HDR + 6, other_mac, 6);
	memcpy(frame + HDR + 12, ARP("\1", "\2\0\0\0\0\x99", "\x0a\1\2\3"), 30);
	add_rx(f, 0, 1600);
	rig_kick(&f->rig, 0, RX);
	assert_int_equal(write(f->peer, frame, sizeof(frame)), sizeof(frame));
	rig_until(&f->rig, rig_used_idx(&f->q[RX]) == 1);
	virtio_net_announce(f->dev);
	announced(f, own_mac, RARP, 10);
	assert_int_equal(nic_got(f), -EAGAIN);
}

/* A driver that is asked to announce does so with what it has now; only the MAC is said for it. */
static void guest_that_announces_itself(void **state)
{
	struct fix *f = *state;

	nic_start(f, F(MAC) | F(CTRL_VQ) | F(GUEST_ANNOUNCE));
	arp_from(f, 1, own_mac, "\x0a\1\2\3");
	virtio_net_announce(f->dev);
	announced(f, own_mac, RARP, 10);
	assert_int_equal(nic_got(f), -EAGAIN);
}

/* An address that the peer does not hold yet is announced when it does. */
static void announcement_is_held(void **state)
{
	struct fix *f = *state;

	nic_start(f, F(MAC));
	obuf_hold(&f->rig.obuf, 2);
	nic_frame(f, 60, 0);
	nic_send_frame(f, 60); /* from another address than the machine's */
	virtio_net_announce(f->dev);
	assert_int_equal(nic_got(f), -EAGAIN);
	obuf_seal(&f->rig.obuf, 3);
	obuf_release(&f->rig.obuf, 2);
	assert_int_equal(nic_got(f), HDR + 60);
	announced(f, own_mac, RARP, 10);
	announced(f, other_mac, RARP, 10);
}

/* Many frames: nobody else waits longer than a budget, and none is forgotten. */
static void bursts_are_finished(void **state)
{
	struct fix *f = *state;
	struct rig_seg s = {RIG_DATA, HDR + 60, false};

	rig_start(&f->rig, 0, F(MAC), f->q, 2, 256);
	nic_frame(f, 60, 0);
	for (unsigned i = 0; i < 256; i++)
		rig_add(&f->q[TX], &s, 1);
	rig_kick(&f->rig, 0, TX); /* once */
	rig_until(&f->rig, rig_used_idx(&f->q[TX]) == 256);
}

int main(void)
{
#define MQ(f) cmocka_unit_test_setup_teardown(f, nic_setup_mq, nic_teardown)
#define T(f)  cmocka_unit_test_setup_teardown(f, nic_setup, nic_teardown)
	const struct CMUnitTest tests[] = {
		T(transmits),
		T(refuses_bad_frames_and_goes_on),
		T(checks_transmit_headers),
		T(checks_receive_headers),
		T(tiny_segments_do_not_leave),
		T(receives),
		T(too_large_for_its_buffer),
		T(merges_buffers),
		T(larger_than_the_whole_ring),
		T(starved_then_kicked),
		T(receive_buffer_that_is_none),
		T(hold_release_and_back_pressure),
		T(fenced_side_sends_nothing),
		T(link_down_and_up),
		T(unplugged_netdev),
		T(peer_closes),
		T(quiet_keeps_still),
		T(both_directions_have_turns),
		T(loaded_stands_still),
		T(reset_between_frames),
		T(learns_and_announces),
		T(announcement_is_held),
		T(address_that_moved_away),
		T(guest_that_announces_itself),
		T(bursts_are_finished),
		MQ(hold_release_and_back_pressure),
		MQ(starved_then_kicked),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* virtio-net with several pairs of queues, and its control queue. */
#include "tests/unit/libnic.h"
#include "tests/unit/libvirtio.h"

#define RXQ(i)	(2 * (i))
#define TXQ(i)	(2 * (i) + 1)
#define CTRL	(2 * PAIRS)
#define CTRL_AT (RIG_DATA + 0x18000)
#define MQ_ALL	(F(MAC) | F(MQ) | F(CTRL_VQ) | F(STATUS) | F(GUEST_ANNOUNCE))

static uint16_t config16(struct fix *f, unsigned off)
{
	uint64_t at = RIG_BASE + VIRTIO_MMIO_CONFIG + off;

	return (uint16_t)bus_read(&f->rig.bus, BUS_MMIO, at, 2);
}

static uint16_t config_status(struct fix *f)
{
	return config16(f, offsetof(struct virtio_net_config, status));
}

static void start_mq(struct fix *f, uint64_t features)
{
	rig_start(&f->rig, 0, features, f->q, 2 * PAIRS + 1, 32);
}

/* Runs one command of `len` bytes after class and command; 0xee when there was no answer. */
static uint8_t control(struct fix *f, unsigned qi, uint8_t class, uint8_t cmd, uint64_t arg,
		       uint32_t len)
{
	struct rig_seg s[3] = {{CTRL_AT, 2, false}, {CTRL_AT + 2, len, false}};
	unsigned n = len ? 2 : 1;
	uint16_t want = rig_used_idx(&f->q[qi]) + 1;

	s[n++] = (struct rig_seg){CTRL_AT + 32, 1, true};
	memcpy(nic_ram(f, CTRL_AT), (uint8_t[]){class, cmd}, 2);
	memcpy(nic_ram(f, CTRL_AT + 2), &arg, 8);
	*nic_ram(f, CTRL_AT + 32) = 0xee;
	rig_add(&f->q[qi], s, n);
	rig_kick(&f->rig, 0, qi);
	rig_until(&f->rig, rig_used_idx(&f->q[qi]) == want);
	assert_int_equal(rig_used(&f->q[qi], want - 1)->len, 1);
	return *nic_ram(f, CTRL_AT + 32);
}

static uint8_t use_pairs(struct fix *f, uint16_t n)
{
	return control(f, CTRL, VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, n, 2);
}

/* A frame of 60 bytes of a TCP flow, numbered. */
static void send_flow(struct fix *f, uint8_t flow, uint8_t n)
{
	uint8_t p[HDR + 60] = {0};

	memcpy(p + HDR + 12, "\x08\x00\x45", 3);
	p[HDR + 14 + 9] = 6;
	p[HDR + 14 + 15] = 9;
	p[HDR + 34 + 1] = flow;
	p[HDR + 59] = n;
	assert_int_equal(write(f->peer, p, sizeof(p)), sizeof(p));
}

static unsigned queue_of_flow(uint8_t flow, unsigned pairs)
{
	uint8_t eth[60] = {0};

	memcpy(eth + 12, "\x08\x00\x45", 3);
	eth[14 + 9] = 6;
	eth[14 + 15] = 9;
	eth[34 + 1] = flow;
	return flow_hash(eth, sizeof(eth)) % pairs;
}

/* Buffer i of receive queue qi. */
static uint64_t mq_buf(unsigned qi, unsigned i)
{
	return RIG_DATA + 0x20000 + 0x20000 * qi + 0x1000 * i;
}

static void add_mq_rx(struct fix *f, unsigned qi, unsigned i)
{
	struct rig_seg s = {mq_buf(qi, i), 1600, true};

	rig_add(&f->q[qi], &s, 1);
}

static void offers_what_it_has(void **state)
{
	struct fix *f = *state;
	uint64_t offered = rig_offered(&f->rig, 0);

	assert_int_equal(!!(offered & F(MQ)), f->pairs > 1);
	assert_true(offered & F(CTRL_VQ));
	assert_true(offered & F(GUEST_ANNOUNCE));
	assert_int_equal(config16(f, offsetof(struct virtio_net_config, max_virtqueue_pairs)),
			 f->pairs);
	assert_int_equal(f->dev->ndoorbells, 2 * f->pairs + 1);
}

static void offers_no_offloads(void **state)
{
	struct fix *f = *state;
	uint64_t offloads = F(CSUM) | F(GUEST_CSUM) | F(GUEST_TSO4) | F(GUEST_TSO6) | F(HOST_TSO4) |
			    F(HOST_TSO6);

	assert_false(rig_offered(&f->rig, 0) & offloads);
	assert_true(rig_offered(&f->rig, 0) & F(MRG_RXBUF));
}

static void commands_of_the_control_queue(void **state)
{
	struct fix *f = *state;
	static const struct {
		uint8_t class, cmd;
		uint64_t arg;
		uint32_t len;
		uint8_t want;
	} table[] = {
		{VIRTIO_NET_CTRL_MQ, 0, PAIRS, 2, VIRTIO_NET_OK},
		{VIRTIO_NET_CTRL_MQ, 0, 1, 2, VIRTIO_NET_OK},
		{VIRTIO_NET_CTRL_MQ, 0, 0, 2, VIRTIO_NET_ERR},
		{VIRTIO_NET_CTRL_MQ, 0, PAIRS + 1, 2, VIRTIO_NET_ERR},
		{VIRTIO_NET_CTRL_MQ, 0, 0x8001, 2, VIRTIO_NET_ERR},
		{VIRTIO_NET_CTRL_MQ, 0, 1, 1, VIRTIO_NET_ERR},
		{VIRTIO_NET_CTRL_MQ, 0, 1, 3, VIRTIO_NET_ERR},
		{VIRTIO_NET_CTRL_MQ, 0, 1, 0, VIRTIO_NET_ERR},
		{VIRTIO_NET_CTRL_MQ, 1, 1, 2, VIRTIO_NET_ERR},
		{VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_PROMISC, 1, 1, VIRTIO_NET_ERR},
		{VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET, 1, 6, VIRTIO_NET_ERR},
		{VIRTIO_NET_CTRL_GUEST_OFFLOADS, 0, 0, 8, VIRTIO_NET_ERR},
		{VIRTIO_NET_CTRL_ANNOUNCE, VIRTIO_NET_CTRL_ANNOUNCE_ACK, 0, 0, VIRTIO_NET_OK},
		{VIRTIO_NET_CTRL_ANNOUNCE, 1, 0, 0, VIRTIO_NET_ERR},
		{255, 255, 0, 0, VIRTIO_NET_ERR},
	};

	start_mq(f, MQ_ALL);
	for (unsigned i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
		if (control(f, CTRL, table[i].class, table[i].cmd, table[i].arg, table[i].len) !=
		    table[i].want)
			fail_msg("case %u", i);
	}
	assert_true(rig_took_signal(f->dev->irq_fd));
	/* The same commands to a driver that did not ask for them. */
	start_mq(f, F(MAC) | F(CTRL_VQ));
	assert_int_equal(control(f, 2, VIRTIO_NET_CTRL_MQ, 0, 1, 2), VIRTIO_NET_ERR);
	assert_int_equal(control(f, 2, VIRTIO_NET_CTRL_ANNOUNCE, 0, 0, 0), VIRTIO_NET_ERR);
	assert_int_equal(f->dev->faults, 0);
}

/* Without a control queue negotiated there is none, whatever the driver set up. */
static void no_control_queue(void **state)
{
	struct fix *f = *state;
	struct rig_seg s[2] = {{CTRL_AT, 2, false}, {CTRL_AT + 32, 1, true}};

	start_mq(f, F(MAC));
	for (unsigned qi = 2; qi <= CTRL; qi++) {
		rig_add(&f->q[qi], s, 2);
		rig_kick(&f->rig, 0, qi);
	}
	rig_settle(&f->rig);
	for (unsigned qi = 2; qi <= CTRL; qi++)
		assert_int_equal(rig_used_idx(&f->q[qi]), 0);
	assert_int_equal(f->dev->faults, 0);
	/* The features that need it are refused without it. */
	for (unsigned i = 0; i < 2; i++) {
		rig_set(&f->rig, 0, VIRTIO_MMIO_STATUS, 0);
		rig_set(&f->rig, 0, VIRTIO_MMIO_STATUS, 3);
		rig_accept(&f->rig, 0, 1ull << 32 | (i ? F(MQ) : F(GUEST_ANNOUNCE)));
		rig_set(&f->rig, 0, VIRTIO_MMIO_STATUS, 0xb);
		assert_int_equal(rig_get(&f->rig, 0, VIRTIO_MMIO_STATUS), 3);
	}
}

static void commands_that_are_none(void **state)
{
	struct fix *f = *state;
	const struct rig_seg cases[3][2] = {
		{{CTRL_AT, 1, false}, {CTRL_AT + 32, 1, true}},
		{{CTRL_AT, 2, false}, {CTRL_AT + 2, 2, false}},
		{{CTRL_AT, 2, true}, {CTRL_AT + 32, 1, true}},
	};

	for (unsigned i = 0; i < 3; i++) {
		start_mq(f, MQ_ALL);
		rig_add(&f->q[CTRL], cases[i], 2);
		rig_kick(&f->rig, 0, CTRL);
		rig_until(&f->rig, f->dev->faults == i + 1);
		assert_int_equal(rig_get(&f->rig, 0, VIRTIO_MMIO_STATUS), 0x4f);
	}
}

/* Frames go to the queue of their flow among those in use, in order. */
static void flows_keep_to_their_queues(void **state)
{
	struct fix *f = *state;

	for (unsigned pairs = 1; pairs <= PAIRS; pairs++) {
		unsigned of[PAIRS] = {0};
		uint8_t last[12] = {0};

		start_mq(f, MQ_ALL);
		if (pairs > 1)
			assert_int_equal(use_pairs(f, (uint16_t)pairs), VIRTIO_NET_OK);
		for (unsigned q = 0; q < PAIRS; q++) {
			for (unsigned i = 0; i < 31; i++)
				add_mq_rx(f, RXQ(q), i);
			rig_kick(&f->rig, 0, RXQ(q));
		}
		for (uint8_t n = 0; n < 24; n++) {
			send_flow(f, n % 12, n + 1);
			of[queue_of_flow(n % 12, pairs)]++;
		}
		for (unsigned q = 0; q < PAIRS; q++) {
			rig_until(&f->rig, rig_used_idx(&f->q[RXQ(q)]) == of[q]);
			assert_int_equal(of[q] > 0, q < pairs);
			for (unsigned i = 0; i < of[q]; i++) {
				const uint8_t *p = nic_ram(f, mq_buf(RXQ(q), i)) + HDR;

				assert_int_equal(queue_of_flow(p[35], pairs), q);
				assert_true(p[59] > last[p[35]]);
				last[p[35]] = p[59];
			}
		}
	}
}

static uint8_t flow_of_queue(unsigned q)
{
	uint8_t flow = 0;

	while (queue_of_flow(flow, PAIRS) != q)
		flow++;
	return flow;
}

/* A queue without buffers: its frame waits, and goes on by its kick; or elsewhere, when it stops.
 */
static void frame_for_a_queue_without_buffers(void **state)
{
	struct fix *f = *state;
	uint8_t flow = flow_of_queue(2);

	for (unsigned how = 0; how < 3; how++) {
		start_mq(f, MQ_ALL);
		assert_int_equal(use_pairs(f, PAIRS), VIRTIO_NET_OK);
		add_mq_rx(f, RXQ(0), 0);
		add_mq_rx(f, RXQ(0), 1);
		rig_kick(&f->rig, 0, RXQ(0));
		send_flow(f, flow, 1);
		send_flow(f, flow_of_queue(0), 2);
		rig_settle(&f->rig);
		assert_int_equal(rig_used_idx(&f->q[RXQ(0)]), 0);
		if (how == 0) {
			add_mq_rx(f, RXQ(2), 0);
			rig_kick(&f->rig, 0, RXQ(2));
			rig_until(&f->rig, rig_used_idx(&f->q[RXQ(2)]) == 1 &&
						   rig_used_idx(&f->q[RXQ(0)]) == 1);
			continue;
		}
		if (how == 1) {
			assert_int_equal(use_pairs(f, 1), VIRTIO_NET_OK);
		} else {
			rig_set(&f->rig, 0, VIRTIO_MMIO_QUEUE_SEL, RXQ(2));
			rig_set(&f->rig, 0, VIRTIO_MMIO_QUEUE_READY, 0);
		}
		rig_until(&f->rig, rig_used_idx(&f->q[RXQ(0)]) == 2);
		assert_int_equal(nic_ram(f, mq_buf(0, 0))[HDR + 59], 1);
	}
	assert_int_equal(f->dev->faults, 0);
}

/* All queues transmit, through the one output buffer, in the order in which they are looked at. */
static void transmits_from_every_queue(void **state)
{
	struct fix *f = *state;
	struct rig_seg s = {RIG_DATA, HDR + 60, false};

	start_mq(f, MQ_ALL);
	obuf_hold(&f->rig.obuf, 1);
	for (unsigned n = 0; n < 9; n++) {
		unsigned qi = TXQ(n % PAIRS);
		uint16_t want = rig_used_idx(&f->q[qi]) + 1;

		nic_frame(f, 60, (uint8_t)(n * 10));
		rig_add(&f->q[qi], &s, 1);
		rig_kick(&f->rig, 0, qi);
		rig_until(&f->rig, rig_used_idx(&f->q[qi]) == want);
	}
	assert_int_equal(nic_got(f), -EAGAIN);
	obuf_seal(&f->rig.obuf, 2);
	obuf_release(&f->rig.obuf, 1);
	for (unsigned n = 0; n < 9; n++) {
		assert_int_equal(nic_got(f), HDR + 60);
		assert_int_equal(f->buf[HDR + 20], (uint8_t)(n * 10 + 20));
	}
	assert_int_equal(nic_got(f), -EAGAIN);
	obuf_pass(&f->rig.obuf);
}

/* A full output buffer holds all transmit queues back, and each goes on. */
static void room_is_for_all_queues(void **state)
{
	struct fix *f = *state;
	struct rig_seg s = {RIG_DATA, HDR + 9000, false};

	start_mq(f, MQ_ALL);
	obuf_hold(&f->rig.obuf, 1);
	nic_frame(f, 9000, 0);
	for (unsigned q = 0; q < PAIRS; q++) {
		for (unsigned i = 0; i < 12; i++)
			rig_add(&f->q[TXQ(q)], &s, 1);
		rig_kick(&f->rig, 0, TXQ(q));
	}
	rig_settle(&f->rig);
	obuf_pass(&f->rig.obuf);
	for (unsigned q = 0; q < PAIRS; q++)
		rig_until(&f->rig, rig_used_idx(&f->q[TXQ(q)]) == 12);
	assert_int_equal(f->dev->faults, 0);
}

/* What the driver agreed on is state; a reset forgets it. */
static void pairs_and_announcement_are_state(void **state)
{
	struct fix *f = *state;
	const struct state_desc *desc = f->dev->ops->state;
	uint8_t *wire = malloc(state_bound(desc));
	void *scratch = calloc(1, desc->size);
	struct state_item item = {.desc = desc, .pod = f->dev->pod};
	int64_t len;

	start_mq(f, MQ_ALL);
	assert_int_equal(use_pairs(f, PAIRS), VIRTIO_NET_OK);
	rig_set(&f->rig, 0, VIRTIO_MMIO_INTERRUPT_ACK, 3);
	virtio_net_ask_announce(f->dev);
	f->dev->ops->save(f->dev);
	len = state_encode_all(&item, 1, wire, state_bound(desc));
	assert_true(len > 0);
	rig_set(&f->rig, 0, VIRTIO_MMIO_STATUS, 0);
	assert_int_equal(config_status(f), VIRTIO_NET_S_LINK_UP);
	item.pod = scratch;
	assert_int_equal(state_decode_all(&item, 1, wire, (size_t)len, NULL), 0);
	f->dev->ops->load(f->dev, scratch);
	f->dev->ops->resume(f->dev);
	assert_int_equal(config_status(f), VIRTIO_NET_S_LINK_UP | VIRTIO_NET_S_ANNOUNCE);
	add_mq_rx(f, RXQ(2), 0);
	rig_kick(&f->rig, 0, RXQ(2));
	send_flow(f, flow_of_queue(2), 1);
	rig_until(&f->rig, rig_used_idx(&f->q[RXQ(2)]) == 1);
	/* After a reset there is one pair until the driver says otherwise. */
	start_mq(f, MQ_ALL);
	add_mq_rx(f, RXQ(0), 0);
	add_mq_rx(f, RXQ(2), 0);
	rig_kick(&f->rig, 0, RXQ(0));
	send_flow(f, flow_of_queue(2), 1);
	rig_until(&f->rig, rig_used_idx(&f->q[RXQ(0)]) == 1);
	free(wire);
	free(scratch);
}

struct net_pod { /* begins the device's POD */
	struct virtio_state common;
	uint8_t link_down, src_mac[6], ipv4[4], pairs, announce;
};

static void impossible_states(void **state)
{
	struct fix *f = *state;
	const struct state_desc *desc = f->dev->ops->state;
	struct net_pod *pod = calloc(1, desc->size);

	assert_true(desc->size >= sizeof(*pod));
	start_mq(f, MQ_ALL);
	f->dev->ops->save(f->dev);
	memcpy(pod, f->dev->pod, desc->size);
	assert_int_equal(desc->check(pod, NULL), 0);
	pod->pairs = PAIRS + 1;
	assert_int_equal(desc->check(pod, NULL), -EBADMSG);
	pod->pairs = PAIRS;
	assert_int_equal(desc->check(pod, NULL), 0);
	for (unsigned n = 0; n <= 17; n++) {
		pod->common.nqueues = n;
		pod->pairs = 0;
		assert_int_equal(desc->check(pod, NULL), n == 2 || (n > 2 && n % 2) ? 0 : -EBADMSG);
	}
	/* One that had no control queue yet: its driver goes on. */
	start_mq(f, F(MAC));
	f->dev->ops->save(f->dev);
	memcpy(pod, f->dev->pod, desc->size);
	pod->common.nqueues = 2;
	memset(&pod->common.queues[2], 0, 15 * sizeof(pod->common.queues[0]));
	rig_set(&f->rig, 0, VIRTIO_MMIO_STATUS, 0);
	f->dev->ops->load(f->dev, pod);
	f->dev->ops->resume(f->dev);
	nic_frame(f, 60, 0);
	nic_send_frame(f, 60);
	assert_int_equal(nic_got(f), HDR + 60);
	assert_int_equal(f->dev->faults, 0);
	/* More pairs than here. */
	pod->common.nqueues = 2 * PAIRS + 3;
	f->dev->ops->load(f->dev, pod);
	f->dev->ops->resume(f->dev);
	assert_int_equal(f->dev->faults, 1);
	free(pod);
}

static void guest_is_asked_to_announce(void **state)
{
	struct fix *f = *state;

	start_mq(f, MQ_ALL);
	rig_set(&f->rig, 0, VIRTIO_MMIO_INTERRUPT_ACK, 3);
	rig_took_signal(f->dev->irq_fd);
	assert_int_equal(config_status(f), VIRTIO_NET_S_LINK_UP);
	virtio_net_ask_announce(f->dev);
	assert_true(rig_took_signal(f->dev->irq_fd));
	assert_int_equal(rig_get(&f->rig, 0, VIRTIO_MMIO_INTERRUPT_STATUS), 2);
	assert_int_equal(config_status(f), VIRTIO_NET_S_LINK_UP | VIRTIO_NET_S_ANNOUNCE);
	assert_int_equal(
		control(f, CTRL, VIRTIO_NET_CTRL_ANNOUNCE, VIRTIO_NET_CTRL_ANNOUNCE_ACK, 0, 0),
		VIRTIO_NET_OK);
	assert_int_equal(config_status(f), VIRTIO_NET_S_LINK_UP);
	/* A driver that does not know it is left alone. */
	start_mq(f, F(MAC) | F(STATUS));
	rig_took_signal(f->dev->irq_fd);
	virtio_net_ask_announce(f->dev);
	assert_false(rig_took_signal(f->dev->irq_fd));
	assert_int_equal(config_status(f), VIRTIO_NET_S_LINK_UP);
}

int main(void)
{
#define T(f)  cmocka_unit_test_setup_teardown(f, nic_setup, nic_teardown)
#define MQ(f) cmocka_unit_test_setup_teardown(f, nic_setup_mq, nic_teardown)
	const struct CMUnitTest tests[] = {
		T(offers_what_it_has),
		MQ(offers_what_it_has),
		cmocka_unit_test_setup_teardown(offers_no_offloads, nic_setup_plain, nic_teardown),
		MQ(commands_of_the_control_queue),
		MQ(no_control_queue),
		MQ(commands_that_are_none),
		MQ(flows_keep_to_their_queues),
		MQ(frame_for_a_queue_without_buffers),
		MQ(transmits_from_every_queue),
		MQ(room_is_for_all_queues),
		MQ(pairs_and_announcement_are_state),
		MQ(impossible_states),
		MQ(guest_is_asked_to_announce),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

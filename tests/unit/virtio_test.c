/*
 * The transport and the status machine, for every device type: all registers at all sizes and
 * offsets, all status writes in all states, states from elsewhere.
 */
#include "tests/unit/libvirtio.h"

#include <errno.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_net.h>
#include <sys/socket.h>

#include "devices/disk.h"
#include "devices/virtio.h"
#include "devices/virtio_balloon.h"
#include "devices/virtio_blk.h"
#include "devices/virtio_console.h"
#include "devices/virtio_net.h"
#include "devices/virtio_rng.h"
#include "devices/virtio_vsock.h"
#include "net/netdev.h"

#define NDEV	   6
#define MAX_QUEUES 5
#define V1	   (1ull << VIRTIO_F_VERSION_1)

struct fix {
	struct rig rig;
	struct disk disk;
	struct netdev nd;
	struct vsock_host vsock; /* without a socket */
	int peer;
	struct rig_out out;
	struct device *dev[NDEV];
};

static const unsigned nqueues[NDEV] = {1, 3, 2, 1, 5, 3};
static const uint32_t ids[NDEV] = {2, 1, 3, 4, 5, 19};

static void make(struct fix *f)
{
	struct mdev md[NDEV];

	for (unsigned i = 0; i < NDEV; i++)
		md[i] = rig_mdev(MDEV_BLK + i, i);
	assert_int_equal(virtio_blk_new(&f->rig.env, &md[0], &f->disk, &f->dev[0], NULL), 0);
	assert_int_equal(virtio_net_new(&f->rig.env, &md[1], &f->nd, &f->dev[1], NULL), 0);
	assert_int_equal(
		virtio_console_new(&f->rig.env, &md[2], rig_deliver, &f->out, &f->dev[2], NULL), 0);
	assert_int_equal(virtio_rng_new(&f->rig.env, &md[3], &f->dev[3], NULL), 0);
	assert_int_equal(virtio_balloon_new(&f->rig.env, &md[4], &f->dev[4], NULL), 0);
	assert_int_equal(vsock_host_init(&f->vsock, &f->rig.loop, "none", NULL), 0);
	assert_int_equal(virtio_vsock_new(&f->rig.env, &md[5], &f->vsock, &f->dev[5], NULL), 0);
}

static int setup(void **state)
{
	struct fix *f = calloc(1, sizeof(*f));
	char path[] = "/tmp/ftvmm-virtio-XXXXXX";
	int sv[2], fd = mkstemp(path);

	rig_init(&f->rig, 1 << 20);
	assert_int_equal(ftruncate(fd, 1 << 20), 0);
	close(fd);
	assert_int_equal(disk_open(&f->disk, &f->rig.loop, "d0", path, 0, NULL), 0);
	unlink(path);
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, sv), 0);
	f->nd.fd = sv[0];
	f->peer = sv[1];
	make(f);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fix *f = *state;

	rig_until(&f->rig, !f->disk.inflight);
	for (unsigned i = 0; i < NDEV; i++)
		f->dev[i]->ops->free(f->dev[i]);
	vsock_host_done(&f->vsock);
	disk_close(&f->disk);
	close(f->nd.fd);
	close(f->peer);
	rig_done(&f->rig);
	free(f);
	return 0;
}

static void identifies_itself(void **state)
{
	struct fix *f = *state;

	for (unsigned i = 0; i < NDEV; i++) {
		assert_int_equal(rig_get(&f->rig, i, VIRTIO_MMIO_MAGIC_VALUE), 0x74726976);
		assert_int_equal(rig_get(&f->rig, i, VIRTIO_MMIO_VERSION), 2);
		assert_int_equal(rig_get(&f->rig, i, VIRTIO_MMIO_DEVICE_ID), ids[i]);
		for (unsigned q = 0; q < 70000; q += q < 4 ? 1 : 9999) {
			rig_set(&f->rig, i, VIRTIO_MMIO_QUEUE_SEL, q);
			assert_int_equal(rig_get(&f->rig, i, VIRTIO_MMIO_QUEUE_NUM_MAX),
					 q < nqueues[i] ? 256 : 0);
		}
		assert_true(rig_offered(&f->rig, i) & V1);
		rig_set(&f->rig, i, VIRTIO_MMIO_DEVICE_FEATURES_SEL, 2);
		assert_int_equal(rig_get(&f->rig, i, VIRTIO_MMIO_DEVICE_FEATURES), 0);
		rig_set(&f->rig, i, VIRTIO_MMIO_DEVICE_FEATURES_SEL, UINT32_MAX);
		assert_int_equal(rig_get(&f->rig, i, VIRTIO_MMIO_DEVICE_FEATURES), 0);
		assert_int_equal(rig_get(&f->rig, i, VIRTIO_MMIO_SHM_LEN_LOW), UINT32_MAX);
		assert_int_equal(f->dev[i]->ndoorbells, nqueues[i]);
		assert_int_equal(f->dev[i]->doorbell_gpa, RIG_BASE + i * 0x1000 + 0x50);
		assert_int_equal(f->dev[i]->gsi, 16 + i);
	}
}

/* F4: every offset, every size, several patterns, in three device states; nothing must break. */
static void every_register_access_is_defined(void **state)
{
	struct fix *f = *state;
	static const uint64_t patterns[] = {0, 1, UINT64_MAX, 0x5555555555555555, 0x80000000, 256};
	static const unsigned sizes[] = {1, 2, 4, 8};
	struct rig_q q[MAX_QUEUES];

	for (unsigned d = 0; d < NDEV; d++) {
		for (unsigned mode = 0; mode < 3; mode++) {
			if (mode == 1)
				rig_start(&f->rig, d, rig_offered(&f->rig, d), q, nqueues[d], 16);
			for (unsigned s = 0; s < 4; s++) {
				for (uint64_t off = 0; off + sizes[s] <= 0x1000; off++) {
					uint64_t at = RIG_BASE + d * 0x1000 + off;

					for (unsigned p = 0; p < 6; p++) {
						bus_write(&f->rig.bus, BUS_MMIO, at, sizes[s],
							  patterns[p]);
						uint64_t v = bus_read(&f->rig.bus, BUS_MMIO, at,
								      sizes[s]);

						if (off < 0x100 && (sizes[s] != 4 || off % 4))
							assert_int_equal(v, 0);
					}
				}
			}
			rig_settle(&f->rig);
		}
		rig_start(&f->rig, d, rig_offered(&f->rig, d), q, nqueues[d], 16);
	}
}

/* An odd access changes nothing: registers look the same before and after. */
static void odd_accesses_change_nothing(void **state)
{
	struct fix *f = *state;
	struct rig_q q[MAX_QUEUES];
	uint32_t before[64], after;

	for (unsigned d = 0; d < NDEV; d++) {
		rig_start(&f->rig, d, V1, q, nqueues[d], 16);
		for (unsigned r = 0; r < 64; r++)
			before[r] = rig_get(&f->rig, d, r * 4);
		for (uint64_t off = 0; off < 0x100; off++) {
			uint64_t at = RIG_BASE + d * 0x1000 + off;

			bus_write(&f->rig.bus, BUS_MMIO, at, 1, 0);
			bus_write(&f->rig.bus, BUS_MMIO, at, 2, 0);
			bus_write(&f->rig.bus, BUS_MMIO, at, 8, 0);
			if (off % 4)
				bus_write(&f->rig.bus, BUS_MMIO, at, 4, 0);
		}
		for (unsigned r = 0; r < 64; r++) {
			after = rig_get(&f->rig, d, r * 4);
			assert_int_equal(before[r], after);
		}
	}
}

static void configuration_is_read_at_any_size(void **state)
{
	struct fix *f = *state;
	uint64_t at = RIG_BASE + VIRTIO_MMIO_CONFIG;

	assert_int_equal(bus_read(&f->rig.bus, BUS_MMIO, at, 8), (1 << 20) / 512);
	assert_int_equal(bus_read(&f->rig.bus, BUS_MMIO, at, 4), (1 << 20) / 512);
	assert_int_equal(bus_read(&f->rig.bus, BUS_MMIO, at + 1, 1), ((1 << 20) / 512) >> 8);
	at += 0x1000; /* net: MAC, status */
	assert_int_equal(bus_read(&f->rig.bus, BUS_MMIO, at, 1), 0x52);
	assert_int_equal(bus_read(&f->rig.bus, BUS_MMIO, at + 5, 1), 3);
	assert_int_equal(bus_read(&f->rig.bus, BUS_MMIO, at + 6, 2), VIRTIO_NET_S_LINK_UP);
	virtio_net_set_link(f->dev[1], false);
	assert_int_equal(bus_read(&f->rig.bus, BUS_MMIO, at + 6, 2), 0);
	assert_int_equal(rig_get(&f->rig, 1, VIRTIO_MMIO_CONFIG_GENERATION), 1);
	assert_int_equal(bus_read(&f->rig.bus, BUS_MMIO, RIG_BASE + 0xff8, 8), 0);
}

/* Bring a device into a state by legal steps only. */
static void walk_to(struct fix *f, unsigned d, uint32_t status)
{
	rig_set(&f->rig, d, VIRTIO_MMIO_STATUS, 0);
	rig_accept(&f->rig, d, V1);
	if (status & 1)
		rig_set(&f->rig, d, VIRTIO_MMIO_STATUS, 1);
	if (status & 2)
		rig_set(&f->rig, d, VIRTIO_MMIO_STATUS, 3);
	if (status & 8)
		rig_set(&f->rig, d, VIRTIO_MMIO_STATUS, 0xb);
	if (status & 4)
		rig_set(&f->rig, d, VIRTIO_MMIO_STATUS, 0xf);
	if (status & 0x40) /* any lie will do */
		rig_set(&f->rig, d, VIRTIO_MMIO_STATUS, 0x10 | (status & 0xf));
	if (status & 0x80)
		rig_set(&f->rig, d, VIRTIO_MMIO_STATUS, 0x80 | (status & 0xf));
	assert_int_equal(rig_get(&f->rig, d, VIRTIO_MMIO_STATUS), status);
}

/* The rule written a second time, differently: steps are a chain, and the state is its length. */
static int chain_length(uint32_t base)
{
	static const uint32_t chain[] = {0, 1, 3, 0xb, 0xf};

	for (int i = 0; i < 5; i++) {
		if (chain[i] == base)
			return i;
	}
	return -1;
}

static uint32_t expect(uint32_t now, uint32_t val)
{
	uint32_t flags = now & 0xc0;
	int from = chain_length(now & 0x3f), to = chain_length(val & 0x3f);

	if (val == 0)
		return 0;
	flags |= val & 0x80;
	if (flags)
		return (now & 0x3f) | flags;
	if (to < from)
		return now | 0x40;
	return val & 0x3f;
}

/* F7: all pairs of state and write. */
static void every_status_write_in_every_state(void **state)
{
	struct fix *f = *state;
	static const uint32_t bases[] = {0, 1, 3, 0xb, 0xf};
	static const uint32_t extra[] = {0, 0x40, 0x80, 0xc0};

	for (unsigned d = 0; d < NDEV; d++) {
		for (unsigned b = 0; b < 20; b++) {
			uint32_t now = bases[b % 5] | extra[b / 5];

			for (uint32_t val = 0; val < 256; val++) {
				uint64_t faults;

				walk_to(f, d, now);
				faults = f->dev[d]->faults;
				rig_set(&f->rig, d, VIRTIO_MMIO_STATUS, val);
				uint32_t got = rig_get(&f->rig, d, VIRTIO_MMIO_STATUS);
				uint32_t want = expect(now, val);

				if (got != want)
					fail_msg("device %u: 0x%x, write 0x%x: 0x%x, not 0x%x", d,
						 now, val, got, want);
				assert_int_equal(f->dev[d]->faults - faults,
						 (want & 0x40) && !(now & 0x40));
			}
			walk_to(f, d, now);
			rig_set(&f->rig, d, VIRTIO_MMIO_STATUS, 0x100);
			assert_int_equal(rig_get(&f->rig, d, VIRTIO_MMIO_STATUS),
					 now & 0xc0 ? now : now | 0x40);
		}
		rig_settle(&f->rig);
	}
}

static bool accepts(struct fix *f, unsigned d, uint64_t features)
{
	rig_set(&f->rig, d, VIRTIO_MMIO_STATUS, 0);
	rig_set(&f->rig, d, VIRTIO_MMIO_STATUS, 3);
	rig_accept(&f->rig, d, features);
	rig_set(&f->rig, d, VIRTIO_MMIO_STATUS, 0xb);
	return rig_get(&f->rig, d, VIRTIO_MMIO_STATUS) == 0xb;
}

static void features_must_be_offered_and_fit_together(void **state)
{
	struct fix *f = *state;

	for (unsigned d = 0; d < NDEV; d++) {
		uint64_t offered = rig_offered(&f->rig, d);

		assert_true(accepts(f, d, offered));
		assert_true(accepts(f, d, V1));
		assert_false(accepts(f, d, 0));
		assert_false(accepts(f, d, offered & ~V1));
		for (unsigned bit = 0; bit < 64; bit++) {
			if (!(offered >> bit & 1))
				assert_false(accepts(f, d, V1 | 1ull << bit));
		}
		assert_int_equal(f->dev[d]->faults, 0);
		/* DRIVER_OK in the same write as features that are refused. */
		accepts(f, d, 0);
		rig_set(&f->rig, d, VIRTIO_MMIO_STATUS, 0xf);
		assert_int_equal(rig_get(&f->rig, d, VIRTIO_MMIO_STATUS), 0x43);
		/* Too late. */
		assert_true(accepts(f, d, V1));
		rig_accept(&f->rig, d, offered);
		rig_set(&f->rig, d, VIRTIO_MMIO_STATUS, 0xf);
		f->dev[d]->ops->save(f->dev[d]);
		assert_true(((struct virtio_state *)f->dev[d]->pod)->drv_features == V1);
	}
	assert_false(accepts(f, 1, V1 | 1ull << VIRTIO_NET_F_GUEST_TSO4));
	assert_false(accepts(f, 1, V1 | 1ull << VIRTIO_NET_F_HOST_TSO6));
	assert_true(accepts(f, 1, V1 | 1ull << VIRTIO_NET_F_HOST_TSO6 | 1ull << VIRTIO_NET_F_CSUM));
}

static void queues_are_set_up_in_their_time_only(void **state)
{
	struct fix *f = *state;
	struct rig_q q;

	for (unsigned d = 0; d < NDEV; d++) {
		/* Before FEATURES_OK nothing sticks. */
		walk_to(f, d, 3);
		rig_set_queue(&f->rig, d, 0, 16, 0x10000, 0x11000, 0x12000);
		assert_int_equal(rig_get(&f->rig, d, VIRTIO_MMIO_QUEUE_READY), 0);
		/* A queue that does not exist. */
		walk_to(f, d, 0xb);
		rig_set_queue(&f->rig, d, nqueues[d], 16, 0x10000, 0x11000, 0x12000);
		assert_int_equal(rig_get(&f->rig, d, VIRTIO_MMIO_QUEUE_READY), 0);
		assert_int_equal(f->dev[d]->faults, 0);
		/* Once ready, addresses are frozen: the ring is used where it was. */
		q = rig_q(&f->rig, 0, 0, 16);
		rig_set_queue(&f->rig, d, 0, 16, q.desc, q.availr, q.used);
		rig_set_queue(&f->rig, d, 0, 3, UINT64_MAX, UINT64_MAX, UINT64_MAX);
		rig_set(&f->rig, d, VIRTIO_MMIO_STATUS, 0xf);
		rig_set_queue(&f->rig, d, 0, 3, UINT64_MAX, UINT64_MAX, UINT64_MAX);
		rig_settle(&f->rig);
		assert_int_equal(rig_get(&f->rig, d, VIRTIO_MMIO_STATUS), 0xf);
		/* Off, and not on again while the driver is. */
		rig_set(&f->rig, d, VIRTIO_MMIO_QUEUE_READY, 0);
		assert_int_equal(rig_get(&f->rig, d, VIRTIO_MMIO_QUEUE_READY), 0);
		rig_set(&f->rig, d, VIRTIO_MMIO_QUEUE_READY, 1);
		assert_int_equal(rig_get(&f->rig, d, VIRTIO_MMIO_QUEUE_READY), 0);
		rig_kick(&f->rig, d, 0);
		rig_settle(&f->rig);
		/* Bad ones. */
		static const struct {
			uint32_t size;
			uint64_t desc, avail, used;
		} bad[] = {
			{0, 0x10000, 0x11000, 0x12000},	    {3, 0x10000, 0x11000, 0x12000},
			{512, 0x10000, 0x11000, 0x12000},   {32768, 0x10000, 0x11000, 0x12000},
			{65552, 0x10000, 0x11000, 0x12000}, {16, 0x10008, 0x11000, 0x12000},
			{16, RIG_MEM, 0x11000, 0x12000},    {16, 0x10000, 0x11000, 0x11000},
		};

		for (unsigned i = 0; i < 8; i++) {
			uint64_t faults = f->dev[d]->faults;

			walk_to(f, d, 0xb);
			rig_set_queue(&f->rig, d, 0, bad[i].size, bad[i].desc, bad[i].avail,
				      bad[i].used);
			assert_int_equal(rig_get(&f->rig, d, VIRTIO_MMIO_STATUS), 0x4b);
			assert_int_equal(rig_get(&f->rig, d, VIRTIO_MMIO_QUEUE_READY), 0);
			assert_int_equal(f->dev[d]->faults, faults + 1);
		}
	}
}

/* A ring that lies, on every queue of every device: needs-reset, interrupt, and back by a reset. */
static void every_queue_survives_a_lying_ring(void **state)
{
	struct fix *f = *state;
	struct rig_q q[MAX_QUEUES];

	for (unsigned d = 0; d < NDEV; d++) {
		for (unsigned qi = 0; qi < nqueues[d]; qi++) {
			uint64_t faults = f->dev[d]->faults;

			rig_start(&f->rig, d, rig_offered(&f->rig, d), q, nqueues[d], 16);
			rig_took_signal(f->dev[d]->irq_fd);
			*(uint16_t *)rig_ptr(&f->rig, q[qi].availr + 2) = 17;
			rig_kick(&f->rig, d, qi);
			if (d == 1 &&
			    qi == 0) /* receive rings are looked at when a frame is there */
				assert_int_equal(write(f->peer, (char[64]){0}, 64), 64);
			if (d == 2 && qi == 0)
				virtio_console_input(f->dev[d], "x", 1);
			rig_until(&f->rig, f->dev[d]->faults == faults + 1);
			assert_int_equal(rig_get(&f->rig, d, VIRTIO_MMIO_STATUS), 0x4f);
			assert_true(rig_took_signal(f->dev[d]->irq_fd));
			assert_int_equal(rig_get(&f->rig, d, VIRTIO_MMIO_INTERRUPT_STATUS), 2);
			for (unsigned i = 0; i < 100; i++)
				rig_kick(&f->rig, d, qi);
			rig_settle(&f->rig);
			assert_int_equal(f->dev[d]->faults, faults + 1);
		}
		rig_start(&f->rig, d, V1, q, nqueues[d], 16);
	}
}

static void notify_of_a_queue_that_is_not_there(void **state)
{
	struct fix *f = *state;
	struct rig_q q[MAX_QUEUES];

	for (unsigned d = 0; d < NDEV; d++) {
		rig_start(&f->rig, d, V1, q, nqueues[d], 16);
		for (unsigned bit = 1; bit < 32; bit++) {
			rig_kick(&f->rig, d, 1u << bit);
			rig_kick(&f->rig, d, -(1u << bit));
		}
		rig_settle(&f->rig);
		assert_int_equal(rig_get(&f->rig, d, VIRTIO_MMIO_STATUS), 0xf);
	}
}

/* States. */

static void tables_are_sound(void **state)
{
	struct fix *f = *state;

	for (unsigned d = 0; d < NDEV; d++) {
		struct err e = {0};

		if (state_desc_check(f->dev[d]->ops->state, &e))
			fail_msg("%s", e.msg);
	}
}

static void save_load_save_is_equal(void **state)
{
	struct fix *f = *state;
	struct rig_q q[MAX_QUEUES];

	for (unsigned d = 0; d < NDEV; d++) {
		const struct state_desc *desc = f->dev[d]->ops->state;
		uint8_t *wire = malloc(state_bound(desc)), *wire2 = malloc(state_bound(desc));
		void *scratch = calloc(1, desc->size);
		struct state_item item = {.desc = desc, .pod = f->dev[d]->pod};
		int64_t n, n2;

		rig_start(&f->rig, d, rig_offered(&f->rig, d), q, nqueues[d], 32);
		rig_set(&f->rig, d, VIRTIO_MMIO_QUEUE_SEL, 77);
		f->dev[d]->ops->save(f->dev[d]);
		if (d == 5) { /* a vsock notes that it was loaded */
			f->dev[d]->ops->load(f->dev[d], f->dev[d]->pod);
			f->dev[d]->ops->save(f->dev[d]);
		}
		n = state_encode_all(&item, 1, wire, state_bound(desc));
		assert_true(n > 0);
		rig_set(&f->rig, d, VIRTIO_MMIO_STATUS, 0);
		item.pod = scratch;
		assert_int_equal(state_decode_all(&item, 1, wire, (size_t)n, NULL), 0);
		f->dev[d]->ops->load(f->dev[d], scratch);
		assert_int_equal(rig_get(&f->rig, d, VIRTIO_MMIO_STATUS), 0xf);
		f->dev[d]->ops->save(f->dev[d]);
		item.pod = f->dev[d]->pod;
		n2 = state_encode_all(&item, 1, wire2, state_bound(desc));
		assert_int_equal(n, n2);
		assert_memory_equal(wire, wire2, (size_t)n);
		free(wire);
		free(wire2);
		free(scratch);
	}
}

/*
 * State that a table lets through but this machine cannot have: needs-reset at resume. The common
 * part begins every POD.
 */
static void loaded_lies_are_found_at_resume(void **state)
{
	struct fix *f = *state;
	struct rig_q q[MAX_QUEUES];

	for (unsigned d = 0; d < NDEV; d++) {
		for (unsigned lie = 0; lie < 5; lie++) {
			const struct state_desc *desc = f->dev[d]->ops->state;
			struct virtio_state *s = calloc(1, desc->size);
			uint64_t faults = f->dev[d]->faults;

			rig_start(&f->rig, d, V1, q, nqueues[d], 32);
			f->dev[d]->ops->save(f->dev[d]);
			memcpy(s, f->dev[d]->pod, desc->size);
			switch (lie) {
			case 0:
				s->queues[0].desc = RIG_MEM;
				break;
			case 1:
				s->queues[nqueues[d] - 1].used = 0xfffffffffffffffc;
				break;
			case 2:
				s->queues[0].avail = s->queues[0].used;
				break;
			case 3:
				s->drv_features |= 1ull << 63;
				break;
			case 4:
				s->queues[0].last_avail = 1000; /* the ring says 0 */
				break;
			}
			if (desc->check)
				assert_int_equal(desc->check(s, NULL), 0);
			f->dev[d]->ops->load(f->dev[d], s);
			f->dev[d]->ops->resume(f->dev[d]);
			if (lie == 4 && d == 1)
				assert_int_equal(write(f->peer, (char[64]){0}, 64), 64);
			if (lie == 4 && d == 2)
				virtio_console_input(f->dev[d], "x", 1);
			rig_until(&f->rig, f->dev[d]->faults > faults);
			assert_int_equal(rig_get(&f->rig, d, VIRTIO_MMIO_STATUS), 0x4f);
			rig_settle(&f->rig);
			free(s);
		}
		rig_start(&f->rig, d, V1, q, nqueues[d], 32);
	}
}

static void check_refuses_impossible_states(void **state)
{
	struct fix *f = *state;

	for (unsigned d = 0; d < NDEV; d++) {
		const struct state_desc *desc = f->dev[d]->ops->state;
		struct virtio_state *s = calloc(1, desc->size), good;
		struct rig_q q[MAX_QUEUES];

		rig_start(&f->rig, d, V1, q, nqueues[d], 32);
		f->dev[d]->ops->save(f->dev[d]);
		memcpy(s, f->dev[d]->pod, desc->size);
		good = *s;
		assert_int_equal(desc->check(s, NULL), 0);
		for (uint32_t st = 0; st < 256; st++) {
			bool ok = chain_length(st & 0x3f) >= 3; /* queues are ready */

			s->status = st;
			assert_int_equal(desc->check(s, NULL), ok ? 0 : -EBADMSG);
		}
		*s = good;
		s->drv_features = 0;
		assert_int_equal(desc->check(s, NULL), -EBADMSG);
		*s = good;
		s->nqueues = d < 2 ? 0 : nqueues[d] ^ 3; /* disks and NICs differ in them */
		assert_int_equal(desc->check(s, NULL), -EBADMSG);
		*s = good;
		s->queues[0].size = 24;
		assert_int_equal(desc->check(s, NULL), -EBADMSG);
		s->queues[0].size = 0;
		assert_int_equal(desc->check(s, NULL), -EBADMSG);
		*s = good;
		s->queues[0].desc |= 8;
		assert_int_equal(desc->check(s, NULL), -EBADMSG);
		*s = good;
		s->queues[nqueues[d] - 1].used |= 1;
		assert_int_equal(desc->check(s, NULL), -EBADMSG);
		free(s);
	}
}

/* An interrupt that was under way when the machine died is raised again. */
static void resume_raises_what_was_pending(void **state)
{
	struct fix *f = *state;
	struct rig_q q[MAX_QUEUES];

	for (unsigned d = 0; d < NDEV; d++) {
		/* Not running, nothing pending: silence. */
		rig_set(&f->rig, d, VIRTIO_MMIO_STATUS, 0);
		rig_took_signal(f->dev[d]->irq_fd);
		f->dev[d]->ops->resume(f->dev[d]);
		assert_false(rig_took_signal(f->dev[d]->irq_fd));
		/* Running: one, in case the edge was lost. */
		rig_start(&f->rig, d, V1, q, nqueues[d], 32);
		rig_took_signal(f->dev[d]->irq_fd);
		f->dev[d]->ops->resume(f->dev[d]);
		assert_true(rig_took_signal(f->dev[d]->irq_fd));
		assert_int_equal(rig_get(&f->rig, d, VIRTIO_MMIO_INTERRUPT_STATUS), 1);
		/* Needs-reset and the driver has not seen it yet. */
		rig_set(&f->rig, d, VIRTIO_MMIO_INTERRUPT_ACK, 3);
		rig_set(&f->rig, d, VIRTIO_MMIO_STATUS, 0x1f);
		rig_took_signal(f->dev[d]->irq_fd);
		f->dev[d]->ops->resume(f->dev[d]);
		assert_true(rig_took_signal(f->dev[d]->irq_fd));
		assert_int_equal(rig_get(&f->rig, d, VIRTIO_MMIO_INTERRUPT_STATUS), 2);
	}
}

static void bus_conflicts_are_named(void **state)
{
	struct fix *f = *state;
	struct mdev md = rig_mdev(MDEV_RNG, 3);
	struct device *d;
	struct err e = {0};

	assert_int_equal(virtio_rng_new(&f->rig.env, &md, &d, &e), -EEXIST);
	assert_non_null(strstr(e.msg, "dev3"));
	assert_non_null(strstr(e.msg, "0xd0003000"));
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(identifies_itself),
		T(every_register_access_is_defined),
		T(odd_accesses_change_nothing),
		T(configuration_is_read_at_any_size),
		T(every_status_write_in_every_state),
		T(features_must_be_offered_and_fit_together),
		T(queues_are_set_up_in_their_time_only),
		T(every_queue_survives_a_lying_ring),
		T(notify_of_a_queue_that_is_not_there),
		T(tables_are_sound),
		T(save_load_save_is_equal),
		T(loaded_lies_are_found_at_resume),
		T(check_refuses_impossible_states),
		T(resume_raises_what_was_pending),
		T(bus_conflicts_are_named),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

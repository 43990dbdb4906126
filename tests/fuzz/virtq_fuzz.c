/*
 * Fuzz target: a driver made of input bytes. It sets up one of the virtio devices, writes rings,
 * descriptors and buffers, kicks, resets, saves and loads, while frames come in and output is held
 * and released. Nothing may crash, hang, or reach outside guest memory.
 *
 * Input: a byte for the device, one for the queue size, then commands (see step()).
 */
#define _GNU_SOURCE
#include <linux/virtio_config.h>
#include <linux/virtio_mmio.h>
#include <linux/virtio_ring.h>
#include <linux/virtio_vsock.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "devices/disk.h"
#include "devices/virtio_balloon.h"
#include "devices/virtio_blk.h"
#include "devices/virtio_console.h"
#include "devices/virtio_net.h"
#include "devices/virtio_rng.h"
#include "devices/virtio_vsock_int.h"
#include "net/netdev.h"
#include "net/obuf.h"
#include "vmm/base/log.h"

#define BASE	  0xd0000000ull
#define MEM_BYTES (2ull << 20)
#define RINGS(q)  (0x10000ull + 0x4000ull * (q))
#define DATA	  0x30000u
#define DATA_LEN  0x10000u
#define NDEV	  6

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct world {
	struct mem mem;
	struct loop loop;
	struct bus bus;
	struct obuf obuf;
	struct dev_env env;
	struct disk disk;
	struct netdev nd;
	int peer;
	struct vsock_host vsock;
	struct sockaddr_un vsock_addr;
	int vsock_listener; /* a program behind port 6 */
	int programs[4];
	unsigned next_program;
	struct device *dev[NDEV];
	uint64_t epoch;
};

struct input {
	const uint8_t *p;
	size_t left;
};

static uint64_t take(struct input *in, unsigned n)
{
	uint64_t v = 0;

	if (n > in->left)
		n = (unsigned)in->left;
	memcpy(&v, in->p, n);
	in->p += n;
	in->left -= n;
	return v;
}

static void require(bool ok)
{
	if (!ok)
		abort();
}

static bool swallow(void *arg, const void *data, uint32_t len)
{
	(void)arg;
	(void)data;
	(void)len;
	return true;
}

static void make_vsock(struct world *w)
{
	struct sockaddr_un *sa = &w->vsock_addr;
	const char *in = getenv("FUZZ_FOLDER"); /* what the runner removes */
	char path[64];

	snprintf(path, sizeof(path), "%.32s/ftvmm-fuzz-%d", in ? in : "/tmp", getpid());
	require(vsock_host_init(&w->vsock, &w->loop, path, NULL) == 0);
	sa->sun_family = AF_UNIX;
	snprintf(sa->sun_path, sizeof(sa->sun_path), "%s_6", path);
	unlink(sa->sun_path);
	w->vsock_listener = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
	require(bind(w->vsock_listener, (struct sockaddr *)sa, sizeof(*sa)) == 0 &&
		listen(w->vsock_listener, 8) == 0);
	require(vsock_host_listen(&w->vsock, NULL) == 0);
	snprintf(sa->sun_path, sizeof(sa->sun_path), "%s", path);
	for (unsigned i = 0; i < 4; i++)
		w->programs[i] = -1;
}

static struct world *make_world(void)
{
	struct world *w = calloc(1, sizeof(*w));
	char path[] = "/tmp/ftvmm-fuzz-XXXXXX";
	int sv[2], fd = mkstemp(path);

	log_init(LOG_ERROR, "fuzz");
	require(w && fd >= 0 && ftruncate(fd, 1 << 20) == 0);
	require(mem_init(&w->mem, MEM_SHARED_FILE, MEM_BYTES, NULL) == 0 &&
		loop_init(&w->loop, NULL) == 0);
	obuf_init(&w->obuf, 65536);
	w->env = (struct dev_env){&w->mem, &w->loop, &w->bus, &w->obuf, NULL, NULL};
	require(disk_open(&w->disk, &w->loop, "d0", path, 0, NULL) == 0);
	unlink(path);
	close(fd);
	require(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, sv) == 0);
	w->nd.fd = sv[0];
	w->peer = sv[1];
	make_vsock(w);
	for (unsigned i = 0; i < NDEV; i++) {
		struct mdev md = {.kind = MDEV_BLK + i,
				  .id = "dev",
				  .gpa = BASE + 0x1000 * i,
				  .queues = 2,
				  .cid = 3};
		int r = i == 0	 ? virtio_blk_new(&w->env, &md, &w->disk, &w->dev[i], NULL)
			: i == 1 ? virtio_net_new(&w->env, &md, &w->nd, &w->dev[i], NULL)
			: i == 2 ? virtio_console_new(&w->env, &md, swallow, NULL, &w->dev[i], NULL)
			: i == 3 ? virtio_rng_new(&w->env, &md, &w->dev[i], NULL)
			: i == 4 ? virtio_balloon_new(&w->env, &md, &w->dev[i], NULL)
				 : virtio_vsock_new(&w->env, &md, &w->vsock, &w->dev[i], NULL);

		require(r == 0);
	}
	return w;
}

static void reg(struct world *w, unsigned d, uint32_t off, uint32_t v)
{
	bus_write(&w->bus, BUS_MMIO, BASE + 0x1000 * d + off, 4, v);
}

static void start(struct world *w, unsigned d, unsigned log2_size, bool all_features)
{
	uint64_t f = 1ull << VIRTIO_F_VERSION_1;

	reg(w, d, VIRTIO_MMIO_STATUS, 0);
	reg(w, d, VIRTIO_MMIO_STATUS, 3);
	for (unsigned i = 0; all_features && i < 2; i++) {
		reg(w, d, VIRTIO_MMIO_DEVICE_FEATURES_SEL, i);
		f |= bus_read(&w->bus, BUS_MMIO, BASE + 0x1000 * d + VIRTIO_MMIO_DEVICE_FEATURES, 4)
		     << (32 * i);
	}
	for (unsigned i = 0; i < 2; i++) {
		reg(w, d, VIRTIO_MMIO_DRIVER_FEATURES_SEL, i);
		reg(w, d, VIRTIO_MMIO_DRIVER_FEATURES, (uint32_t)(f >> (32 * i)));
	}
	reg(w, d, VIRTIO_MMIO_STATUS, 0xb);
	for (unsigned q = 0; q < w->dev[d]->ndoorbells; q++) {
		reg(w, d, VIRTIO_MMIO_QUEUE_SEL, q);
		reg(w, d, VIRTIO_MMIO_QUEUE_NUM, 1u << log2_size);
		reg(w, d, VIRTIO_MMIO_QUEUE_DESC_LOW, (uint32_t)RINGS(q));
		reg(w, d, VIRTIO_MMIO_QUEUE_AVAIL_LOW, (uint32_t)RINGS(q) + 0x1000);
		reg(w, d, VIRTIO_MMIO_QUEUE_USED_LOW, (uint32_t)RINGS(q) + 0x2000);
		reg(w, d, VIRTIO_MMIO_QUEUE_READY, 1);
	}
	reg(w, d, VIRTIO_MMIO_STATUS, 0xf);
}

/* A descriptor that is mostly sane, so that inputs get past the first check. */
static void put_desc(struct world *w, struct input *in, unsigned q)
{
	unsigned i = (unsigned)take(in, 1), how = (unsigned)take(in, 1);
	struct vring_desc d = {
		.addr = how & 0x80 ? take(in, 8) : DATA + take(in, 2) % DATA_LEN,
		.len = how & 0x40 ? (uint32_t)take(in, 4) : (uint32_t)take(in, 2),
		.flags = how & 7,
		.next = (uint16_t)take(in, 1),
	};
	uint64_t at = how & 0x20 ? DATA + 16 * i : RINGS(q) + 16 * i;

	memcpy(w->mem.base + at, &d, sizeof(d));
}

/* A request as a good driver would post it: header, data, status; the bytes only choose values. */
static void block_request(struct world *w, struct input *in, unsigned size)
{
	static const uint8_t types[] = {0, 1, 4, 8, 11, 13, 2, 99};
	struct vring_desc *d = (struct vring_desc *)(w->mem.base + RINGS(0));
	unsigned at = (unsigned)take(in, 1) % size, how = (unsigned)take(in, 1);
	uint32_t *hdr = (uint32_t *)(w->mem.base + DATA + 64 * at);
	uint16_t *avail = (uint16_t *)(w->mem.base + RINGS(0) + 0x1000), next;

	hdr[0] = types[how & 7];
	hdr[2] = (uint32_t)take(in, 2); /* sector */
	hdr[3] = 0;
	next = (uint16_t)((at + 1) % size);
	d[at] = (struct vring_desc){DATA + 64 * at, 16, VRING_DESC_F_NEXT, next};
	at = next;
	next = (uint16_t)((at + 1) % size);
	d[at] = (struct vring_desc){DATA + take(in, 2) % DATA_LEN,
				    how & 8 ? 16 : 512u * (uint32_t)take(in, 1),
				    (how & 16 ? VRING_DESC_F_WRITE : 0) | VRING_DESC_F_NEXT, next};
	d[next] = (struct vring_desc){DATA + 63, 1, VRING_DESC_F_WRITE, 0};
	avail[2 + avail[1] % size] = (uint16_t)((next + size - 2) % size);
	avail[1]++;
}

/* A packet as a good driver would send it; the bytes choose ports, operation, length, credit. */
static void vsock_packet(struct world *w, struct input *in, unsigned size)
{
	const struct vsock_conn *c = &((struct vsock *)w->dev[5])->conns.at[take(in, 1) & 3];
	struct vring_desc *d = (struct vring_desc *)(w->mem.base + RINGS(1));
	uint16_t *avail = (uint16_t *)(w->mem.base + RINGS(1) + 0x1000);
	unsigned at = avail[1] % size, how = (unsigned)take(in, 1), len = (unsigned)take(in, 2);
	struct virtio_vsock_hdr h = {
		.src_cid = 3,
		.dst_cid = 2,
		.src_port = c->id ? c->guest_port : how & 3,
		.dst_port = c->id     ? c->host_port
			    : how & 4 ? 6
				      : 7,
		.type = 1,
		.op = (uint16_t)(how >> 4 & 15),
		.flags = how & 3,
		.len = (how >> 4 & 15) == VIRTIO_VSOCK_OP_RW ? len : 0,
		.buf_alloc = (uint32_t)take(in, 2),
		.fwd_cnt = (uint32_t)take(in, 1),
	};

	memcpy(w->mem.base + DATA + 64 * (at % 64), &h, sizeof(h));
	d[at] = (struct vring_desc){DATA + 64 * (at % 64), (uint32_t)sizeof(h) + h.len, 0, 0};
	avail[2 + at] = (uint16_t)at;
	avail[1]++;
}

/* Programs come, write, shut down, go. */
static void program_moves(struct world *w, struct input *in)
{
	unsigned how = (unsigned)take(in, 1), i = how & 3;
	char buf[4096];

	if (how & 4 && w->programs[i] >= 0) {
		close(w->programs[i]);
		w->programs[i] = -1;
	}
	if (w->programs[i] < 0 && how & 8) {
		w->programs[i] = accept4(w->vsock_listener, NULL, NULL, SOCK_NONBLOCK);
	} else if (w->programs[i] < 0) {
		w->programs[i] = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
		if (connect(w->programs[i], (struct sockaddr *)&w->vsock_addr,
			    sizeof(w->vsock_addr)) < 0)
			return;
		snprintf(buf, sizeof(buf), "CONNECT %u\n", how >> 4);
		if (write(w->programs[i], buf, strlen(buf)) < 0)
			return;
	}
	if (how & 16)
		shutdown(w->programs[i], how & 32 ? SHUT_WR : SHUT_RD);
	if (how & 64 && send(w->programs[i], buf, sizeof(buf), MSG_NOSIGNAL) < 0)
		return;
	if (how & 128 && read(w->programs[i], buf, sizeof(buf)) < 0)
		return;
}

static void post(struct world *w, struct input *in, unsigned q, unsigned size)
{
	uint16_t *avail = (uint16_t *)(w->mem.base + RINGS(q) + 0x1000);
	unsigned how = (unsigned)take(in, 1);

	avail[2 + avail[1] % size] = (uint16_t)take(in, how & 1 ? 2 : 1);
	avail[1] += how & 2 ? (uint16_t)take(in, 2) : 1;
	avail[2 + size] = (uint16_t)(how & 4 ? take(in, 2) : avail[1]); /* used_event */
}

static void put_bytes(struct world *w, struct input *in)
{
	uint32_t at = DATA + (uint32_t)take(in, 2) % (DATA_LEN - 64);
	uint64_t v[4];

	for (unsigned i = 0; i < 4; i++)
		v[i] = take(in, 8);
	memcpy(w->mem.base + at, v, sizeof(v));
}

static void frame_comes_in(struct world *w, struct input *in)
{
	uint8_t frame[4096] = {0};
	uint32_t len = (uint32_t)take(in, 2) % sizeof(frame);

	for (unsigned i = 0; i < 12; i++)
		frame[i] = (uint8_t)take(in, 1);
	if (write(w->peer, frame, len) < 0)
		return;
}

/* Through the stream's encoding, with one byte of it changed: refused, or loaded and survived. */
static void save_and_load(struct world *w, struct input *in, struct device *d)
{
	size_t cap = state_bound(d->ops->state), pos = take(in, 2);
	uint8_t *wire = malloc(cap), flip = (uint8_t)take(in, 1);
	void *scratch = calloc(1, d->ops->state->size);
	struct state_item item = {.desc = d->ops->state, .pod = d->pod};
	int64_t n;

	(void)w;
	d->ops->save(d);
	n = state_encode_all(&item, 1, wire, cap);
	require(n > 0);
	wire[pos % (size_t)n] ^= flip;
	item.pod = scratch;
	if (state_decode_all(&item, 1, wire, (size_t)n, NULL) == 0) {
		d->ops->load(d, scratch);
		d->ops->resume(d);
	}
	free(wire);
	free(scratch);
}

static void output(struct world *w, unsigned what)
{
	switch (what % 4) {
	case 0:
		obuf_hold(&w->obuf, w->epoch);
		break;
	case 1:
		if (w->obuf.holding)
			obuf_seal(&w->obuf, ++w->epoch);
		break;
	case 2:
		if (w->epoch)
			obuf_release(&w->obuf, w->epoch - 1);
		break;
	default:
		obuf_pass(&w->obuf);
	}
}

static void step(struct world *w, struct input *in, unsigned d, unsigned size)
{
	unsigned cmd = (unsigned)take(in, 1), q = (cmd >> 4 & 7) % w->dev[d]->ndoorbells;

	switch (cmd & 15) {
	case 0:
	case 1:
		put_desc(w, in, q);
		break;
	case 2:
		if (d == 5)
			vsock_packet(w, in, size);
		else
			block_request(w, in, size);
		break;
	case 3:
	case 4:
		post(w, in, q, size);
		break;
	case 5:
		put_bytes(w, in);
		break;
	case 6:
	case 7:
		reg(w, d, VIRTIO_MMIO_QUEUE_NOTIFY, q);
		loop_run_once(&w->loop, 0);
		break;
	case 8:
		if (d == 5)
			program_moves(w, in);
		else
			frame_comes_in(w, in);
		break;
	case 9:
		bus_write(&w->bus, BUS_MMIO, BASE + 0x1000 * d + take(in, 2) % 0x1000, 4,
			  take(in, 4));
		break;
	case 10:
		save_and_load(w, in, w->dev[d]);
		break;
	case 11:
		w->dev[d]->ops->quiet(w->dev[d], cmd >> 5 & 1);
		break;
	case 12:
		disk_hold(&w->disk, cmd >> 5 & 1);
		break;
	case 13:
		output(w, cmd >> 4);
		break;
	case 14:
		virtio_console_input(w->dev[2], in->p, in->left < 64 ? (unsigned)in->left : 64);
		break;
	default:
		loop_run_once(&w->loop, 0);
	}
}

static void clean_up(struct world *w)
{
	uint8_t buf[4096];

	for (unsigned i = 0; i < NDEV; i++) {
		reg(w, i, VIRTIO_MMIO_STATUS, 0);
		w->dev[i]->ops->quiet(w->dev[i], false);
	}
	obuf_pass(&w->obuf);
	disk_hold(&w->disk, false);
	while (w->disk.inflight)
		loop_run_once(&w->loop, 1000000);
	while (read(w->peer, buf, sizeof(buf)) > 0 || read(w->nd.fd, buf, sizeof(buf)) > 0)
		;
	for (unsigned i = 0; i < 4; i++)
		if (w->programs[i] >= 0)
			close(w->programs[i]);
	memset(w->programs, 0xff, sizeof(w->programs));
	memset(w->mem.base + 0x10000, 0, 0x30000);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct world *w;
	struct input in = {data, size};
	unsigned d, log2_size;

	if (!w)
		w = make_world();
	d = (unsigned)take(&in, 1);
	log2_size = (unsigned)take(&in, 1) % 9;
	start(w, d % NDEV, log2_size, !(d & 0x80));
	while (in.left)
		step(w, &in, d % NDEV, 1u << log2_size);
	for (unsigned i = 0; i < 3; i++)
		loop_run_once(&w->loop, 0);
	clean_up(w);
	return 0;
}

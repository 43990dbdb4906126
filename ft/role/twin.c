#include "ft/role/twin.h"

#include <errno.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "devices/ged.h"
#include "devices/serial.h"
#include "devices/virtio_balloon.h"
#include "devices/virtio_rng.h"
#include "devices/virtio_vsock.h"
#include "ft/common/ft.h"
#include "ft/common/steps.h"
#include "ft/common/wire.h"
#include "ft/epoch/written.h"
#include "vmm/base/log.h"

#define OVERLAY_BYTES	    (64ull << 20)
#define OVERLAY_KEEP_BYTES  (8ull << 20)
#define OVERLAY_SPILL_BYTES (1ull << 30)
#define OUTPUT_PARTS	    8
/* Epochs: one acknowledged and not committed yet, one in flight. */
#define AHEAD 2u

static bool is_mirrored(const struct vm *vm, unsigned i)
{
	const struct mdev *md = &vm->machine.devs[i];

	return md->kind == MDEV_BLK && md->ft == DISK_FT_MIRROR && !md->readonly;
}

/* --- inputs ----------------------------------------------------------------------------------- */

static bool malformed(struct twin *t, const char *why)
{
	log_warn("primary: mirror: %s", why);
	mirror_stop(&t->mirror);
	obuf_room(&t->vm->obuf); /* what waited for it is for nobody now */
	return false;
}

/* Of an epoch that was rolled back, it is void. */
static bool map(struct twin *t, const struct frame *f)
{
	struct seqmap_flow flow;
	struct wire_mapped w;

	if (f->length != sizeof(w))
		return malformed(t, "malformed mapping");
	memcpy(&w, f->data, sizeof(w));
	if (w.version != 4 && w.version != 6)
		return malformed(t, "mapping of no connection");
	if (f->epoch != t->epoch || t->state != TWIN_SPLIT)
		return true;
	if (t->mapped++ == SEQMAP_MAX) /* what answers them has no bound of its own */
		return malformed(t, "too many mappings");
	flow = (struct seqmap_flow){.version = w.version,
				    .guest_port = w.guest_port,
				    .peer_port = w.peer_port,
				    .vlan = {w.vlan[0], w.vlan[1]}};
	memcpy(flow.guest, w.guest, sizeof(flow.guest));
	memcpy(flow.peer, w.peer, sizeof(flow.peer));
	if (seqmap_set(&t->born, &flow, w.delta, w.ts_delta) ||
	    mirror_put(&t->mirror, FRAME_MAPPED, t->epoch, NULL, 0))
		return malformed(t, "answer to a mapping: no memory");
	step_reached(STEP_TWIN_MAPPED);
	return true;
}

static bool stamped(struct twin *t, uint64_t epoch)
{
	char why[100];

	snprintf(why, sizeof(why), "expected input of epoch %llu, received one of %llu",
		 (unsigned long long)t->epoch, (unsigned long long)epoch);
	return malformed(t, why);
}

/* The place among the machine's devices, or ndevs: it is one that every machine has. */
static unsigned mdev_of(const struct vm *vm, const struct device *d)
{
	unsigned i = 0;

	while (i < vm->machine.ndevs && vm->devices.mdevs[i] != d)
		i++;
	return i;
}

static bool is_input(const struct twin *t, uint32_t device, const void *data, uint32_t len)
{
	const struct vm_devices *ds = &t->vm->devices;
	unsigned i;

	if (device >= ds->ndevs || !len)
		return false;
	i = mdev_of(t->vm, ds->devs[device]);
	if (i == t->vm->machine.ndevs)
		return (ds->devs[device] == ds->serial && len <= SERIAL_TYPED_MAX) ||
		       (ds->devs[device] == ds->ged && len == 1 &&
			*(const uint8_t *)data == GED_POWER_BUTTON);
	switch (t->vm->machine.devs[i].kind) {
	case MDEV_NET:
		return len <= NET_VNET_HDR + NET_FRAME_MAX;
	case MDEV_RNG:
		return len <= VIRTIO_RNG_MAX;
	case MDEV_BALLOON:
		return len == sizeof(uint32_t);
	case MDEV_VSOCK:
		return virtio_vsock_is_input(data, len);
	default:
		return false;
	}
}

/* What the operator asked for has no queue: it is there at once. */
static bool operate(struct twin *t, struct device *d, const void *data)
{
	uint32_t pages;

	if (d == t->vm->devices.ged) {
		ged_press(d);
		return true;
	}
	memcpy(&pages, data, sizeof(pages));
	virtio_balloon_set_target(d, pages);
	return true;
}

/* It is one. False: no more, until device_room(). */
static bool give(struct twin *t, uint32_t device, const void *data, uint32_t len)
{
	struct device *d = t->vm->devices.devs[device];
	unsigned i = mdev_of(t->vm, d);

	t->given++;
	if (d == t->vm->devices.serial)
		return serial_put(d, data, len);
	switch (i < t->vm->machine.ndevs ? t->vm->machine.devs[i].kind : 0) {
	case MDEV_NET:
		return inlet_put(&t->nets[i], data, len);
	case MDEV_RNG:
		return virtio_rng_put(d, data, len);
	case MDEV_VSOCK:
		return virtio_vsock_put(d, data, len);
	default:
		return operate(t, d, data);
	}
}

static void drop_early(struct twin *t)
{
	free(t->early.data);
	t->early = (struct twin_input){0};
}

static bool keep_early(struct twin *t, uint64_t epoch, uint32_t device, const void *data,
		       uint32_t len)
{
	drop_early(t);
	t->early.data = malloc(len);
	if (!t->early.data)
		return malformed(t, "an input: no memory");
	memcpy(t->early.data, data, len);
	t->early.len = len;
	t->early.device = device;
	t->early.epoch = epoch;
	return false;
}

static bool input(void *arg, const struct frame *f)
{
	struct twin *t = arg;
	struct wire_input w;
	const uint8_t *data;
	uint32_t len;

	if (f->type == FRAME_MAPPED)
		return map(t, f);
	if (f->type != FRAME_INPUT || f->length <= sizeof(w))
		return malformed(t, "malformed input");
	memcpy(&w, f->data, sizeof(w));
	data = f->data + sizeof(w);
	len = f->length - (uint32_t)sizeof(w);
	if (!is_input(t, w.device, data, len))
		return malformed(t, "input of a device that has none, or too long");
	if (f->epoch < t->epoch || (f->epoch == t->epoch && t->state != TWIN_SPLIT))
		return true;
	if (f->epoch > t->epoch + AHEAD)
		return stamped(t, f->epoch);
	if (w.place != (f->epoch == t->epoch ? t->given : 0) + 1)
		return malformed(t, "an input is missing");
	return f->epoch == t->epoch ? give(t, w.device, data, len)
				    : keep_early(t, f->epoch, w.device, data, len);
}

/* One that waits for its epoch waits for that. */
static void device_room(void *arg)
{
	struct twin *t = arg;

	if (!t->early.data)
		mirror_read_on(&t->mirror);
}

/* --- outputs ---------------------------------------------------------------------------------- */

/* Not all ends of its connections are seen later: this side may have taken over by then. */
static void see(struct twin *t, int sink, const struct iovec *iov, int niov)
{
	const struct obuf *ob = &t->vm->obuf;

	if (!t->born.count || niov != 1 || sink < 0 || (unsigned)sink >= ob->nsinks)
		return;
	for (unsigned i = 0; i < MACHINE_MAX_DEVS; i++)
		if (ob->sinks[sink].arg == &t->vm->devices.nets[i])
			seqmap_see(&t->born, iov->iov_base, (uint32_t)iov->iov_len);
}

static int output(void *arg, int sink, const struct iovec *iov, int niov)
{
	struct twin *t = arg;
	struct wire_output w = {.sink = (uint32_t)sink};
	struct iovec out[OUTPUT_PARTS + 1] = {{&w, sizeof(w)}};

	VMM_BUG_ON(niov > OUTPUT_PARTS);
	see(t, sink, iov, niov);
	if (!mirror_is_up(&t->mirror))
		return 0;
	for (int i = 0; i < niov; i++)
		out[i + 1] = iov[i];
	return mirror_put(&t->mirror, FRAME_OUTPUT, t->epoch, out, niov + 1) == -EAGAIN ? -EAGAIN
											: 0;
}

static void output_room(void *arg)
{
	struct twin *t = arg;

	obuf_room(&t->vm->obuf);
}

/* The primary notices, too, and sends a checkpoint without a twin behind it. */
static void mirror_lost(void *arg, const char *why)
{
	struct twin *t = arg;

	log_debug("primary: mirror: %s", why);
	drop_early(t);
	obuf_room(&t->vm->obuf);
}

void twin_connect(struct twin *t, struct vm *vm, const struct config *cfg, struct stream *st,
		  uint64_t epoch)
{
	struct err e = {0};

	t->vm = vm;
	t->cfg = cfg;
	t->epoch = epoch;
	mirror_stop(&t->mirror);
	drop_early(t);
	chan_set_options(st->fd, FT_MAIN_TIMEOUT_MS);
	t->mirror.frame = input;
	t->mirror.room = output_room;
	t->mirror.lost = mirror_lost;
	t->mirror.arg = t;
	if (mirror_start(&t->mirror, vm->loop, st, &e))
		log_error("%s", e.msg);
}

/* --- a twin begins, and ends ------------------------------------------------------------------ */

static void free_disks(struct twin *t)
{
	for (unsigned i = 0; i < MACHINE_MAX_DEVS; i++) {
		overlay_free(t->disks[i]);
		t->disks[i] = NULL;
	}
}

/* What its guest wrote, and what it asked for: of a disk without an overlay, too. */
static void drop_disks(struct twin *t)
{
	for (unsigned i = 0; i < t->vm->machine.ndevs; i++) {
		struct disk *d = &t->vm->devices.disks[i];

		if (t->disks[i])
			overlay_drop(t->disks[i]);
		else if (d->fd >= 0)
			disk_cancel(d);
	}
}

static void feed_devices(struct twin *t, bool on)
{
	for (unsigned i = 0; i < t->vm->machine.ndevs; i++)
		if (t->vm->machine.devs[i].kind == MDEV_RNG)
			virtio_rng_feed(t->vm->devices.mdevs[i], on);
		else if (t->vm->machine.devs[i].kind == MDEV_VSOCK)
			virtio_vsock_feed(t->vm->devices.mdevs[i], on);
}

/* Its devices have their own inputs again. */
static void end_inputs(struct twin *t)
{
	t->vm->devices.inputs = (struct inputs){0};
	feed_devices(t, false);
	for (unsigned i = 0; i < MACHINE_MAX_DEVS; i++)
		inlet_end(&t->nets[i]);
}

/* At a checkpoint: what waits for the guest is of before. */
static void drop_inputs(struct twin *t)
{
	t->given = 0;
	feed_devices(t, true);
	for (unsigned i = 0; i < MACHINE_MAX_DEVS; i++)
		if (t->nets[i].nd)
			inlet_drop(&t->nets[i]);
}

/* Its guest's next writes wait, its outputs with them. */
static void overlay_full(void *arg)
{
	twin_apart(arg, APART_SPACE);
}

static unsigned index_of(const struct twin *t, const struct disk *d)
{
	return (unsigned)(d - t->vm->devices.disks);
}

static uint64_t writes_of(const struct twin *t)
{
	struct overlay_stats st;
	uint64_t n = 0;

	for (unsigned i = 0; i < MACHINE_MAX_DEVS; i++) {
		if (!t->disks[i])
			continue;
		overlay_get_stats(t->disks[i], &st);
		n += st.writes;
	}
	return n;
}

static void tell_read(struct twin *t, const uint64_t *keys, unsigned n)
{
	struct wire_read w = {.writes = writes_of(t)};
	struct iovec iov[2] = {{&w, sizeof(w)}, {(void *)keys, n * sizeof(*keys)}};

	if (n)
		mirror_put(&t->mirror, FRAME_READ, t->epoch, iov, 2);
}

/* Has the primary's guest written that, too? If there is no room to ask, nobody will know. */
static void own_read(void *arg, struct overlay *ov, const struct disk_req *r)
{
	struct twin *t = arg;
	uint64_t keys[WRITTEN_KEYS];
	unsigned n = 0;

	if (!mirror_is_up(&t->mirror))
		return;
	for (uint32_t at = 0; at < r->len; at += WRITTEN_SECTOR) {
		if (!overlay_has(ov, r->off + at))
			continue;
		keys[n++] = written_key(index_of(t, r->disk), r->off + at, r->buf + at);
		if (n == WRITTEN_KEYS) {
			tell_read(t, keys, n);
			n = 0;
		}
	}
	tell_read(t, keys, n);
}

static const char *path_of(const struct config *cfg, const char *id)
{
	for (unsigned i = 0; i < cfg->ndisks; i++)
		if (!strcmp(cfg->disks[i].id, id))
			return cfg->disks[i].path;
	return "";
}

static int begin_disk(struct twin *t, unsigned i, struct err *e)
{
	char path[sizeof(t->cfg->disks[0].path)];
	struct overlay_limits limits = {.mem_bytes = OVERLAY_BYTES,
					.keep_bytes = OVERLAY_KEEP_BYTES,
					.spill_bytes = OVERLAY_SPILL_BYTES,
					.full = overlay_full,
					.own = own_read,
					.arg = t};

	snprintf(path, sizeof(path), "%s", path_of(t->cfg, t->vm->machine.devs[i].id));
	limits.dir = dirname(path);
	t->disks[i] = overlay_attach(&t->vm->devices.disks[i], &limits, e);
	return t->disks[i] ? 0 : -1;
}

static int begin_devices(struct twin *t, struct err *e)
{
	int r = 0;

	t->vm->devices.inputs = (struct inputs){.room = device_room, .arg = t};
	for (unsigned i = 0; i < t->vm->machine.ndevs && !r; i++) {
		if (is_mirrored(t->vm, i))
			r = begin_disk(t, i, e);
		if (r || t->vm->machine.devs[i].kind != MDEV_NET)
			continue;
		t->nets[i].room = device_room;
		t->nets[i].arg = t;
		r = inlet_begin(&t->nets[i], &t->vm->devices.nets[i], &t->born);
		if (r)
			err_set(e, r, "twin: no descriptor for an input");
	}
	return r;
}

static int begin(struct twin *t, struct err *e)
{
	int r = replica_begin(&t->memory, &t->vm->kvm, &t->vm->mem, e);

	if (r)
		return r;
	t->state = TWIN_SPLIT;
	seqmap_init(&t->born, SEQMAP_MAX);
	obuf_divert(&t->vm->obuf, output, t);
	return begin_devices(t, e);
}

/* Memory is as it is to be. */
static void join(struct twin *t)
{
	end_inputs(t);
	obuf_divert(&t->vm->obuf, NULL, NULL);
	while (!replica_end(&t->memory))
		;
	t->state = TWIN_NONE;
}

/* At the last checkpoint, and no guest is loaded: none of its requests waits for the images. */
static void end_at_checkpoint(struct twin *t)
{
	free_disks(t);
	join(t);
	seqmap_done(&t->born);
}

static void hold_disks(struct twin *t, bool hold)
{
	for (unsigned i = 0; i < t->vm->machine.ndevs; i++)
		if (t->vm->devices.disks[i].fd >= 0)
			disk_hold(&t->vm->devices.disks[i], hold);
}

int twin_stand(struct twin *t, struct err *e)
{
	int r = vm_pause(t->vm, e);

	return r && vm_stand_failed(t->vm) ? 0 : r;
}

void twin_abandon(struct twin *t)
{
	struct err e = {0};
	bool stands;

	mirror_stop(&t->mirror);
	drop_early(t);
	if (t->state == TWIN_NONE || t->state == TWIN_MERGES)
		return;
	stands = !twin_stand(t, &e);
	/* Of one that goes on until the VM is destroyed nobody hears any more, and no image. */
	if (!stands) {
		log_error("%s", e.msg);
		obuf_drop(&t->vm->obuf);
	}
	while (!replica_roll_back(&t->memory))
		;
	drop_disks(t);
	end_at_checkpoint(t);
	hold_disks(t, !stands);
}

/* --- checkpoints ------------------------------------------------------------------------------ */

void twin_look(struct twin *t)
{
	/* Of one that KVM failed no state is had. */
	if (t->state == TWIN_SPLIT && t->vm->ending.end != VM_END_HOST)
		sources_look(&t->sources, t->vm);
}

bool twin_roll_back(struct twin *t, bool all)
{
	if (t->state == TWIN_NONE)
		return true;
	t->state = TWIN_ROLLS_BACK;
	while (!replica_roll_back(&t->memory))
		if (!all && loop_should_yield(t->vm->loop))
			return false;
	t->state = TWIN_SPLIT;
	drop_disks(t);
	step_reached(STEP_TWIN_ROLLED_BACK);
	return true;
}

void twin_end(struct twin *t, uint64_t epoch)
{
	if (t->state == TWIN_SPLIT) {
		end_at_checkpoint(t);
		hold_disks(t, false);
	}
	t->epoch = epoch;
	if (t->early.epoch <= epoch)
		drop_early(t);
	if (!t->early.data)
		mirror_read_on(&t->mirror);
}

int twin_begin(struct twin *t, uint64_t epoch, struct err *e)
{
	int r = t->state == TWIN_NONE ? begin(t, e) : 0;

	t->epoch = epoch;
	t->mapped = 0;
	t->apart = false;
	seqmap_clear(&t->born);
	if (!r)
		drop_inputs(t);
	return r;
}

void twin_go(struct twin *t)
{
	mirror_put(&t->mirror, FRAME_LOADED, t->epoch - 1, NULL, 0);
	if (t->early.data && t->early.epoch == t->epoch)
		give(t, t->early.device, t->early.data, t->early.len);
	if (t->early.epoch <= t->epoch)
		drop_early(t);
	if (!t->early.data) /* else it is the next one's, and so is all behind it */
		mirror_read_on(&t->mirror);
}

void twin_apart(struct twin *t, enum wire_apart_why why)
{
	static const char *const whys[] = {[APART_ENDED] = "it has ended: ",
					   [APART_HOST] = "this host cannot run it: ",
					   [APART_SPACE] = "its writes find no room"};
	struct wire_apart w = {.why = why};
	struct iovec iov = {&w, sizeof(w)};

	if (t->apart || !mirror_is_up(&t->mirror))
		return;
	t->apart = true;
	if (log_may(&t->told))
		log_info("twin: %s%s; a checkpoint is asked for", whys[why],
			 why == APART_SPACE ? "" : vm_end_why(t->vm));
	/* If that finds no room: it is late with its output then, which is seen, too. */
	mirror_put(&t->mirror, FRAME_APART, t->epoch, &iov, 1);
}

/* --- this side takes over --------------------------------------------------------------------- */

/* Clients keep the numbers that they know. */
static void keep_connections(struct twin *t)
{
	struct seqmap *seqs = t->vm->devices.env.seqs;

	if (seqs && seqmap_add_all(seqs, &t->born))
		log_warn("too many TCP connections with other numbers: some will end");
	seqmap_done(&t->born);
}

bool twin_keep(struct twin *t)
{
	bool any = false;

	mirror_stop(&t->mirror);
	drop_early(t);
	join(t);
	keep_connections(t);
	for (unsigned i = 0; i < MACHINE_MAX_DEVS; i++)
		any |= t->disks[i] != NULL;
	if (any)
		t->state = TWIN_MERGES;
	return any;
}

static void merged(void *arg, int error)
{
	struct twin *t = arg;

	t->merge_error = t->merge_error ? t->merge_error : error;
	if (--t->merging)
		return;
	if (!t->merge_error) {
		free_disks(t);
		t->state = TWIN_NONE;
	}
	t->merged(t->merged_arg, t->merge_error);
}

bool twin_merge(struct twin *t, void (*done)(void *arg, int error), void *arg)
{
	if (t->state != TWIN_MERGES)
		return false;
	if (t->merging)
		return true;
	t->merged = done;
	t->merged_arg = arg;
	for (unsigned i = 0; i < MACHINE_MAX_DEVS; i++)
		t->merging += t->disks[i] != NULL;
	for (unsigned i = 0; i < MACHINE_MAX_DEVS; i++)
		if (t->disks[i])
			overlay_merge(t->disks[i], merged, t);
	return true;
}

void twin_leave(struct twin *t)
{
	mirror_stop(&t->mirror);
	drop_early(t);
	if (t->state == TWIN_MERGES)
		free_disks(t);
	t->state = TWIN_NONE;
}

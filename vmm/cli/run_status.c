#include "vmm/cli/run.h"

#include <unistd.h>

#include "devices/virtio_balloon.h"
#include "devices/virtio_vsock.h"

static json_t *device_faults(const struct vm *vm)
{
	json_t *faults = json_object();

	for (unsigned i = 0; i < vm->devices.ndevs; i++) {
		uint64_t n = __atomic_load_n(&vm->devices.devs[i]->faults, __ATOMIC_RELAXED);

		if (n)
			json_object_set_new(faults, vm->devices.devs[i]->id,
					    json_integer((json_int_t)n));
	}
	return faults;
}

static json_t *disk_errors(const struct vm *vm)
{
	uint64_t n = 0;

	for (unsigned i = 0; i < vm->machine.ndevs; i++)
		if (vm->machine.devs[i].kind == MDEV_BLK)
			n += vm->devices.disks[i].errors;
	return json_integer((json_int_t)n);
}

static uint64_t get(const uint64_t *count)
{
	return __atomic_load_n(count, __ATOMIC_RELAXED);
}

/* How many pauses were no longer than `le_us`, but longer than the one before; the last: longer. */
static json_t *pause_classes(const struct run *r)
{
	json_t *le = json_array(), *pauses = json_array();

	for (unsigned i = 0; i < FT_PAUSES; i++) {
		if (i < FT_PAUSES - 1)
			json_array_append_new(le, json_integer(ft_pause_class_us(i)));
		json_array_append_new(pauses, json_integer((json_int_t)r->ft.stats.pauses[i]));
	}
	return json_pack("{s:o, s:o}", "le_us", le, "pauses", pauses);
}

/* Of all epochs: what the VM stood for. */
static void add_seals(json_t *o, struct run *r)
{
	const struct ft_parts *p = &r->ft.stats.parts;
	struct capture *c = &r->primary.engine.capture;

	json_object_set_new(o, "pause_total_us",
			    json_pack("{s:I, s:I, s:I, s:I}", "stop", (json_int_t)(p->stop / 1000),
				      "bitmap", (json_int_t)(p->bitmap / 1000), "copy",
				      (json_int_t)(p->copy / 1000), "state",
				      (json_int_t)(p->state / 1000)));
	json_object_set_new(o, "pause_classes", pause_classes(r));
	json_object_set_new(o, "staging_pages", json_integer(c->nbufs));
	json_object_set_new(o, "staging_used_pages", json_integer(capture_used(c)));
}

static json_t *seals(const struct ft_stats *s)
{
	json_t *o = json_object();

	for (enum ft_seal why = FT_SEAL_NONE + 1; why < FT_SEALS; why++)
		json_object_set_new(o, ft_seal_name(why), json_integer((json_int_t)s->seals[why]));
	return o;
}

static void add_epochs(json_t *o, struct run *r)
{
	const struct ft_stats *s = &r->ft.stats;
	uint64_t n = s->nsamples;

	json_object_set_new(o, "epoch",
			    json_integer(r->secondary.has_vm && !r->has_vm
						 ? r->secondary.stage.committed
						 : r->primary.engine.epoch));
	json_object_set_new(o, "sealing", json_boolean(r->primary.engine.state == ENGINE_SEALING));
	json_object_set_new(o, "epochs_total", json_integer(s->epochs));
	json_object_set_new(o, "seals", seals(s));
	json_object_set_new(o, "pause_us",
			    json_pack("{s:i, s:i}", "p50", ft_percentile(s->pause_us, n, 50), "p99",
				      ft_percentile(s->pause_us, n, 99)));
	json_object_set_new(o, "ack_lag_us", json_integer(ft_percentile(s->ack_us, n, 50)));
	json_object_set_new(o, "ack_lag_p99_us", json_integer(ft_percentile(s->ack_us, n, 99)));
	json_object_set_new(o, "dirty_pages", json_integer(s->last_pages));
	json_object_set_new(o, "dirty_pages_p50", json_integer(ft_percentile(s->npages, n, 50)));
	json_object_set_new(o, "pages_total", json_integer(s->pages));
	json_object_set_new(o, "hot_pages_total", json_integer(s->hot_pages));
	json_object_set_new(o, "page_bytes_total", json_integer(s->page_bytes));
	json_object_set_new(o, "send_total_us", json_integer((json_int_t)(s->send_ns / 1000)));
	json_object_set_new(o, "ack_total_us", json_integer((json_int_t)(s->ack_ns / 1000)));
	json_object_set_new(o, "throttled_total", json_integer(s->throttled));
	add_seals(o, r);
	json_object_set_new(o, "takeover_us", json_integer(s->takeover_ns / 1000));
	json_object_set_new(o, "first_run_mono_ns", json_integer(s->first_run_mono_ns));
	json_object_set_new(
		o, "first_entry_mono_ns",
		json_integer(__atomic_load_n(&r->vm.run.first_entry_ns, __ATOMIC_RELAXED)));
}

/* How far the first sync is that is under way. */
static void add_sync(json_t *o, struct run *r)
{
	const struct sync *s = r->primary.engine.sync;

	if (r->ft.cover != FT_SYNCING || !s || !s->begun_ns)
		return;
	json_object_set_new(o, "sync",
			    json_pack("{s:I, s:I, s:I, s:I}", "bytes",
				      (json_int_t)(get(&s->bytes) - s->begun_bytes), "pages",
				      (json_int_t)(get(&s->pages) - s->begun_pages), "memory_pages",
				      (json_int_t)(r->vm.mem.bytes >> MEM_PAGE_SHIFT), "time_us",
				      (json_int_t)((loop_now_ns() - s->begun_ns) / 1000)));
}

/* What the other side, or an image here, does not have yet. */
static void add_behind(json_t *o, struct run *r)
{
	const struct engine *g = &r->primary.engine;
	const struct arbiter_record *last = r->ft.arbiter ? arbiter_last(r->ft.arbiter) : NULL;
	uint64_t waits_ns = g->in_flight ? loop_now_ns() - g->sealed_ns : 0;

	if (last && *last->holder)
		json_object_set_new(o, "holder", json_string(last->holder));
	json_object_set_new(o, "unacked_us", json_integer((json_int_t)(waits_ns / 1000)));
	json_object_set_new(o, "disklog_bytes", json_integer((json_int_t)g->disklog.bytes));
	json_object_set_new(o, "images_behind", json_boolean(r->ft.images_behind));
	json_object_set_new(o, "images_behind_bytes",
			    json_integer((json_int_t)r->secondary.disks.queue.bytes));
	json_object_set_new(o, "images_failed", json_boolean(r->secondary.disks.error != 0));
	json_object_set_new(o, "verify_failures_total",
			    json_integer((json_int_t)r->ft.stats.unequal));
}

/* How often a field of a device was another here, of so many looks. */
static json_t *sources_status(const struct sources *s)
{
	json_t *fields = json_object();

	for (unsigned i = 0; i < s->n; i++)
		json_object_set_new(fields, s->fields[i].name,
				    json_integer((json_int_t)s->fields[i].count));
	return json_pack("{s:I, s:o, s:I}", "looks_total", (json_int_t)s->looks, "fields", fields,
			 "others_total", (json_int_t)s->others);
}

/* What is compared with what the other side's guest puts out. */
static json_t *twin_status(const struct lockstep *l, const struct sources *s)
{
	static const char *const whys[] = {[COMPARE_BYTES] = "bytes",
					   [COMPARE_FLAGS] = "flags",
					   [COMPARE_EXTRA] = "extra",
					   [COMPARE_OVERDUE] = "overdue",
					   [COMPARE_FULL] = "full"};
	static const char *const aparts[] = {
		[APART_ENDED] = "ended", [APART_HOST] = "host", [APART_SPACE] = "space"};
	json_t *differences = json_object();

	for (unsigned i = COMPARE_BYTES; i <= COMPARE_FULL; i++)
		json_object_set_new(differences, whys[i],
				    json_integer((json_int_t)l->stats.differences[i]));
	json_object_set_new(differences, "connections",
			    json_integer((json_int_t)l->stats.unmapped));
	for (unsigned i = 0; i < APART_WHYS; i++)
		json_object_set_new(differences, aparts[i],
				    json_integer((json_int_t)l->stats.apart[i]));
	json_object_set_new(differences, "disk", json_integer((json_int_t)l->stats.reads));
	json_object_set_new(differences, "log", json_integer((json_int_t)l->stats.log_full));
	json_object_set_new(differences, "load", json_integer((json_int_t)l->stats.not_loaded));
	json_object_set_new(differences, "input", json_integer((json_int_t)l->stats.not_taken));
	/* Not "state": scripts look for that of the VM by text. */
	return json_pack("{s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:o, s:o}", "phase",
			 lockstep_state_name(l->state), "last_difference", l->why,
			 "checkpoints_total", (json_int_t)l->stats.checkpoints, "let_total",
			 (json_int_t)l->stats.let, "inputs_total", (json_int_t)l->stats.inputs,
			 "load_us", (json_int_t)(l->stats.load_ns / 1000), "asked_us",
			 (json_int_t)(l->stats.asked_ns / 1000), "asked_max_us",
			 (json_int_t)(l->stats.asked_max_ns / 1000), "mapped_total",
			 (json_int_t)l->stats.connections, "differences", differences, "sources",
			 sources_status(s));
}

/* How long events waited because of what else the loop did, since the start. */
static void add_loop(json_t *o, const struct loop *l)
{
	json_object_set_new(o, "loop_away_us",
			    json_pack("{s:I, s:I, s:I}", "p50",
				      (json_int_t)(loop_away_ns(l, 50) / 1000), "p99",
				      (json_int_t)(loop_away_ns(l, 99) / 1000), "max",
				      (json_int_t)(loop_away_max_ns(l) / 1000)));
}

static void add_balloon(json_t *o, struct vm *vm)
{
	struct device *d = vm_find_device(vm, MDEV_BALLOON);

	if (!d)
		return;
	json_object_set_new(o, "balloon_target_bytes",
			    json_integer(virtio_balloon_target(d) << MEM_PAGE_SHIFT));
	json_object_set_new(o, "balloon_bytes",
			    json_integer(virtio_balloon_actual(d) << MEM_PAGE_SHIFT));
}

static void add_vsock(json_t *o, struct vm *vm)
{
	struct device *d = vm_find_device(vm, MDEV_VSOCK);
	const struct vsock_host_stats *h = &vm->devices.vsock.stats;
	struct virtio_vsock_stats s;

	if (!d)
		return;
	virtio_vsock_get_stats(d, &s);
	json_object_set_new(o, "vsock",
			    json_pack("{s:i, s:I, s:I, s:I, s:I, s:I}", "connections",
				      s.connections, "from_host", (json_int_t)h->accepted,
				      "from_host_refused", (json_int_t)h->refused, "from_guest",
				      (json_int_t)h->connected, "from_guest_failed",
				      (json_int_t)h->failed, "bad_packets", (json_int_t)s.tx_bad));
}

static const char *const role_name[] = {
	[ROLE_PLAIN] = "plain",
	[ROLE_PRIMARY] = "primary",
	[ROLE_SECONDARY] = "secondary",
};

json_t *run_state_event(struct run *r, const char *from)
{
	json_t *o = json_pack("{s:s}", "event", "ft-state");

	if (from)
		json_object_set_new(o, "old", json_string(from));
	json_object_set_new(o, "new", json_string(ft_word(&r->ft)));
	json_object_set_new(o, "role", json_string(role_name[r->role]));
	json_object_set_new(o, "generation", json_integer((json_int_t)r->ft.generation));
	json_object_set_new(o, "note", json_string(r->ft.note));
	return o;
}

json_t *run_status(struct run *r)
{
	const struct obuf *ob = &r->vm.obuf;
	const struct sync *sync = r->primary.engine.syncs;
	json_t *o = json_object(), *under_way;

	json_object_set_new(o, "name", json_string(r->cfg.name));
	json_object_set_new(o, "role", json_string(role_name[r->role]));
	json_object_set_new(o, "state", json_string(ft_word(&r->ft)));
	json_object_set_new(o, "cover", json_string(ft_cover_name(r->ft.cover)));
	json_object_set_new(o, "note", json_string(r->ft.note));
	json_object_set_new(
		o, "mode",
		json_string(r->role == ROLE_PLAIN ? "none" : policy_of(r->cfg.ft)->name));
	json_object_set_new(o, "generation", json_integer(r->ft.generation));
	json_object_set_new(o, "peer", json_string(r->ft.peer));
	json_object_set_new(o, "paused", json_boolean((r->ft.stands & FT_STAND_USER) != 0));
	json_object_set_new(o, "pid", json_integer(getpid()));
	add_epochs(o, r);
	add_behind(o, r);
	add_sync(o, r);
	if ((under_way = run_snapshot_status(r)))
		json_object_set_new(o, "snapshot", under_way);
	if ((under_way = run_lazy_status(r)))
		json_object_set_new(o, "lazy", under_way);
	if (r->role != ROLE_PLAIN)
		json_object_set_new(
			o, "twin",
			twin_status(&r->primary.mirroring.lockstep, &r->secondary.twin.sources));
	add_loop(o, &r->loop);
	json_object_set_new(o, "held_packets", json_integer(ob->held));
	json_object_set_new(o, "held_bytes", json_integer(ob->bytes));
	json_object_set_new(o, "output_limit_bytes", json_integer((json_int_t)r->cfg.output_bytes));
	json_object_set_new(o, "epoch_ns", json_integer((json_int_t)r->cfg.epoch_ns));
	json_object_set_new(o, "released_packets_total", json_integer(ob->released));
	json_object_set_new(o, "dropped_packets_total", json_integer(ob->dropped));
	json_object_set_new(o, "console_dropped_bytes_total",
			    json_integer((json_int_t)r->vm.devices.console.dropped));
	json_object_set_new(o, "sync_bytes",
			    json_integer((json_int_t)(get(&sync[0].bytes) + get(&sync[1].bytes))));
	json_object_set_new(o, "sync_pages",
			    json_integer((json_int_t)(get(&sync[0].pages) + get(&sync[1].pages))));
	json_object_set_new(o, "resets_total", json_integer(r->vm.resets));
	json_object_set_new(o, "disk_errors_total", disk_errors(&r->vm));
	json_object_set_new(o, "images_differ",
			    json_boolean(r->primary.engine.disklog.differs != 0));
	json_object_set_new(o, "disks", run_disk_status(r));
	json_object_set_new_nocheck(o, "migration", run_migrate_status(r));
	if (!r->vm.loop)
		return o;
	add_balloon(o, &r->vm);
	add_vsock(o, &r->vm);
	json_object_set_new(o, "device_faults", device_faults(&r->vm));
	return o;
}

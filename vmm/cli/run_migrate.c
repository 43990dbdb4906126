/* Migration, as a `run` process has it: what is asked for, what is told. */
#include <errno.h>
#include <string.h>

#include "vmm/base/log.h"
#include "vmm/cli/run.h"
#include "vmm/cli/run_command.h"
#include "vmm/wire/chan.h"

#define PROGRESS_NS 100000000ull

/* --- the status object: words of QEMU's query-migrate, and what they mean there
 * -------------------
 */

static const char *const result_word[] = {
	[SOURCE_NONE] = "none",	     [SOURCE_ACTIVE] = "active", [SOURCE_CANCELLING] = "cancelling",
	[SOURCE_DONE] = "completed", [SOURCE_FAILED] = "failed", [SOURCE_CANCELLED] = "cancelled",
	[SOURCE_UNSURE] = "unsure",
};

static uint64_t get(const uint64_t *stat)
{
	return __atomic_load_n(stat, __ATOMIC_RELAXED);
}

static json_t *milliseconds(uint64_t ns)
{
	return json_integer((json_int_t)((ns + 500000) / 1000000));
}

static json_t *microseconds(uint64_t from_ns, uint64_t to_ns)
{
	return json_integer(from_ns && to_ns > from_ns ? (json_int_t)((to_ns - from_ns) / 1000)
						       : 0);
}

static json_t *ram_status(const struct passes_stats *st, const struct vm *vm)
{
	uint64_t done = get(&st->pages) - get(&st->begun), todo = get(&st->todo);
	uint64_t left = todo > done ? todo - done : 0;
	json_t *o = json_object();

	json_object_set_new(o, "transferred", json_integer((json_int_t)get(&st->bytes)));
	json_object_set_new(o, "remaining", json_integer((json_int_t)(left << MEM_PAGE_SHIFT)));
	json_object_set_new(o, "total", json_integer((json_int_t)vm->mem.bytes));
	json_object_set_new(o, "page-size", json_integer(MEM_PAGE_SIZE));
	json_object_set_new(o, "pages", json_integer((json_int_t)get(&st->pages)));
	json_object_set_new(o, "pages-per-second", json_integer((json_int_t)get(&st->page_rate)));
	json_object_set_new(o, "dirty-pages-rate", json_integer((json_int_t)get(&st->dirty_rate)));
	json_object_set_new(o, "dirty-sync-count", json_integer((json_int_t)get(&st->pass)));
	json_object_set_new(o, "mbps", json_real((double)get(&st->byte_rate) * 8 / 1e6));
	return o;
}

/* Of images that are copied, when any is. */
static void add_disk_status(json_t *o, uint64_t transferred, uint64_t left, uint64_t total)
{
	json_t *disk = total ? json_object() : NULL;

	if (!disk)
		return;
	json_object_set_new(disk, "transferred", json_integer((json_int_t)transferred));
	json_object_set_new(disk, "remaining", json_integer((json_int_t)left));
	json_object_set_new(disk, "total", json_integer((json_int_t)total));
	json_object_set_new(o, "disk", disk);
}

/* Where the downtime went, us. */
static json_t *downtime_parts(const struct source *s)
{
	const struct passes_stats *st = &s->passes.stats;
	const struct source_times *at = &s->at;
	json_t *o = json_object();

	json_object_set_new(o, "stop", microseconds(at->stop, at->stopped));
	json_object_set_new(o, "disks", microseconds(at->stopped, at->drained));
	json_object_set_new(o, "last-blocks",
			    json_integer((json_int_t)(get(&st->last_disk_ns) / 1000)));
	json_object_set_new(
		o, "last-pages",
		json_integer((json_int_t)((get(&st->last_ns) - get(&st->last_disk_ns)) / 1000)));
	json_object_set_new(o, "state", json_integer((json_int_t)(get(&st->state_ns) / 1000)));
	json_object_set_new(o, "images", json_integer((json_int_t)(s->ready.lock_ns / 1000)));
	json_object_set_new(o, "load", json_integer((json_int_t)(s->ready.load_ns / 1000)));
	json_object_set_new(o, "run", microseconds(at->ready, at->runs));
	json_object_set_new(o, "total", microseconds(at->stop, at->runs));
	return o;
}

static json_t *source_status(const struct source *s)
{
	const struct source_times *at = &s->at;
	bool over = s->result > SOURCE_CANCELLING && s->result != SOURCE_UNSURE;
	uint64_t now = over ? at->ended : loop_now_ns();
	json_t *o = json_object(), *ram;

	json_object_set_new(o, "status", json_string(result_word[s->result]));
	json_object_set_new(o, "direction", json_string("out"));
	json_object_set_new(o, "phase", json_string(source_desc.states[s->fsm.state]));
	json_object_set_new(o, "uri", json_string(s->conf.uri));
	json_object_set_new(o, "total-time", milliseconds(now - at->begun));
	json_object_set_new(o, "setup-time",
			    milliseconds(at->passes ? at->passes - at->begun : now - at->begun));
	json_object_set_new(o, "expected-downtime",
			    milliseconds(get(&s->passes.stats.expected_ns)));
	ram = ram_status(&s->passes.stats, s->vm);
	run_postcopy_out(ram, s);
	json_object_set_new(o, "ram", ram);
	add_disk_status(o, get(&s->passes.stats.disk_bytes), get(&s->passes.stats.disk_left),
			get(&s->passes.stats.disk_total));
	if (at->runs) {
		json_object_set_new(o, "downtime", milliseconds(at->runs - at->stop));
		json_object_set_new(o, "downtime-us", downtime_parts(s));
	}
	if (*s->why)
		json_object_set_new(o, "error-desc", json_string(s->why));
	return o;
}

static json_t *dest_status(struct dest *d)
{
	const struct dest_stats *st = &d->stats;
	bool here = d->fsm.state == DST_RUNS || d->fsm.state == DST_HERE;
	bool listens = d->fsm.state == DST_LISTEN;
	bool stands = d->fsm.state == DST_ORPHAN;
	json_t *o = json_object(), *ram = json_object();

	json_object_set_new(o, "status",
			    json_string(here		     ? "completed"
					: listens && *d->why ? "failed"
					: listens	     ? "none"
					: stands	     ? "postcopy-paused"
							     : "active"));
	json_object_set_new(o, "direction", json_string("in"));
	json_object_set_new(o, "phase", json_string(dest_desc.states[d->fsm.state]));
	json_object_set_new(o, "uri", json_string(d->ft->cfg->incoming));
	json_object_set_new(o, "total-time",
			    milliseconds(!st->begun_ns	? 0
					 : st->ended_ns ? st->ended_ns - st->begun_ns
							: loop_now_ns() - st->begun_ns));
	json_object_set_new(ram, "transferred", json_integer((json_int_t)st->bytes));
	json_object_set_new(ram, "total",
			    json_integer(d->vm->loop ? (json_int_t)d->vm->mem.bytes : 0));
	json_object_set_new(ram, "page-size", json_integer(MEM_PAGE_SIZE));
	run_postcopy_in(o, ram, d);
	json_object_set_new(o, "ram", ram);
	add_disk_status(o, st->disk_bytes, d->images.queue.bytes, st->disk_total);
	if (*d->why && listens)
		json_object_set_new(o, "error-desc", json_string(d->why));
	return o;
}

/* Not the VM goes there: a secondary takes the place of the one in step. */
static json_t *move_status(const struct primary *p)
{
	static const char *const word[] = {
		[MOVE_NEVER] = "none",	  [MOVE_ACTIVE] = "active",	  [MOVE_DONE] = "completed",
		[MOVE_FAILED] = "failed", [MOVE_CANCELLED] = "cancelled",
	};
	const struct move *m = &p->move;
	bool active = m->result == MOVE_ACTIVE;
	uint64_t bytes = active ? engine_follow_bytes(&p->engine) : m->bytes;
	json_t *o = json_object();

	json_object_set_new(o, "status", json_string(word[m->result]));
	json_object_set_new(o, "direction", json_string("secondary"));
	json_object_set_new(o, "phase", json_string(move_desc.states[m->fsm.state]));
	json_object_set_new(o, "uri", json_string(m->uri));
	json_object_set_new(o, "total-time",
			    milliseconds((active ? loop_now_ns() : m->ended_ns) - m->begun_ns));
	json_object_set_new(o, "ram",
			    json_pack("{s:I, s:I}", "transferred", (json_int_t)bytes, "total",
				      (json_int_t)p->vm->mem.bytes));
	if (*m->why)
		json_object_set_new(o, "error-desc", json_string(m->why));
	return o;
}

json_t *run_migrate_status(struct run *r)
{
	if (r->primary.ft && r->primary.move.result != MOVE_NEVER)
		return move_status(&r->primary);
	if (r->source.ft && r->source.result != SOURCE_NONE)
		return source_status(&r->source);
	return r->dest.ft ? dest_status(&r->dest) : NULL;
}

/* --- events ----------------------------------------------------------------------------------- */

static void tell(struct run *r)
{
	json_t *o = run_migrate_status(r);

	json_object_set_new(o, "event", json_string("migration"));
	ctl_event(r->ctl, o);
}

static void progress(struct loop_op *op, int res)
{
	struct run *r = op->arg;

	tell(r);
	loop_timer_set(&r->loop, &r->progress_op, PROGRESS_NS);
}

static void news(void *arg)
{
	struct run *r = arg;

	if (r->source.result == SOURCE_ACTIVE || r->source.result == SOURCE_CANCELLING ||
	    r->primary.move.result == MOVE_ACTIVE)
		loop_timer_set(&r->loop, &r->progress_op, PROGRESS_NS);
	else
		loop_timer_del(&r->loop, &r->progress_op);
	tell(r);
}

/* --- interface -------------------------------------------------------------------------------- */

void run_migrate_init(struct run *r)
{
	r->progress_op = (struct loop_op){.fn = progress, .arg = r};
	source_init(&r->source, &r->ft, &r->vm, news, r);
}

static void came(void *arg)
{
	tell(arg);
}

static void runs_here(void *arg)
{
	struct run *r = arg;

	r->has_vm = true;
	run_end_watch(r);
	run_disk_watch(r);
	run_migrate_init(r);
}

int run_migrate_listen(struct run *r, struct err *e)
{
	r->dest.news = came;
	return dest_start(&r->dest, &r->ft, &r->vm, runs_here, r, e);
}

void run_migrate_stop(struct run *r)
{
	struct err e = {0};

	loop_timer_del(&r->loop, &r->progress_op);
	source_done(&r->source);
	dest_stop(&r->dest);
	err_set(&e, -ECANCELED, "this process ends");
	ctl_answer(&r->carried_out, NULL, &e);
	ctl_answer(&r->carried_in, NULL, &e);
	ctl_answer(&r->arrived, NULL, &e);
}

static int start(struct run *r, const struct migrate_conf *conf, struct err *e)
{
	if (r->role != ROLE_PLAIN)
		return err_set(e, -EOPNOTSUPP,
			       "migrate: a VM with fault tolerance moves to its secondary: ftvmm "
			       "failover %s; to another host with migrate --secondary URI before "
			       "that",
			       r->cfg.name);
	if (!r->has_vm)
		return err_set(e, -EBUSY, "migrate: this side does not run the VM (state %s)",
			       ft_word(&r->ft));
	if (dest_fills(&r->dest))
		return err_set(e, -EBUSY,
			       "migrate: the VM's memory still comes in; again when ftvmm status "
			       "says that it is complete");
	if (run_lazy_missing(r))
		return err_set(e, -EBUSY,
			       "migrate: not before all memory of the lazy restore is here (ftvmm "
			       "status %s)",
			       r->cfg.name);
	if (run_snapshot_busy(r))
		return err_set(e, -EBUSY,
			       "migrate: not while snapshot '%s' is being written; again when that "
			       "has ended",
			       r->snapshot.path);
	if (r->stopping)
		return err_set(e, -EBUSY, "migrate: the VM is being stopped");
	return source_start(&r->source, conf, e);
}

/* --- recovery by hand ------------------------------------------------------------------------- */

static void carried(struct run *r, struct ctl_later *who, const struct err *e)
{
	if (e)
		log_warn("migrate: --recover: %s", e->msg);
	ctl_answer(who, e ? NULL : run_migrate_status(r), e);
}

static void carried_out(void *arg, const struct err *e)
{
	struct run *r = arg;

	carried(r, &r->carried_out, e);
}

static void carried_in(void *arg, const struct err *e)
{
	struct run *r = arg;

	carried(r, &r->carried_in, e);
}

static void arrived(void *arg, const struct err *e)
{
	struct run *r = arg;

	if (e)
		log_warn("snapshot: arrived: %s", e->msg);
	ctl_answer(&r->arrived,
		   e ? NULL : json_pack("{s:I}", "missing_pages", (json_int_t)r->missing), e);
}

void run_write_arrived(struct run *r, const char *path, struct err *e)
{
	if (!dest_write_arrived(&r->dest, path, arrived, r, &r->missing, e))
		ctl_later(r->ctl, &r->arrived);
}

/* The source writes it, the destination reads it; answered when that is done. */
static int carry(struct run *r, const char *path, bool out, struct err *e)
{
	int code;

	if (path[0] != '/')
		return err_set(e, -EINVAL,
			       "migrate: --recover: the path of the file must be absolute");
	code = out ? source_write_file(&r->source, path, carried_out, r, e)
		   : dest_take_file(&r->dest, path, carried_in, r, e);
	if (!code)
		ctl_later(r->ctl, out ? &r->carried_out : &r->carried_in);
	return code;
}

/*
 * The same word at both sides: this is where the other one is, or where it may come in; or the file
 * that goes from one to the other.
 */
static json_t *recover(struct run *r, const struct migrate_conf *conf, struct err *e)
{
	bool out = source_busy(&r->source) || !r->dest.ft;
	struct chan_uri uri;
	int code = chan_parse(conf->uri, &uri, e);

	if (!code && uri.kind == CHAN_FILE) {
		carry(r, uri.path, out, e);
		return NULL;
	}
	if (!code)
		code = out ? source_recover(&r->source, conf->uri, e)
			   : dest_recover(&r->dest, conf->uri, e);
	return code ? NULL : run_migrate_status(r);
}

static json_t *move(struct run *r, const struct migrate_conf *conf, struct err *e)
{
	int code;

	if (conf->cancel) {
		code = primary_move_cancel(&r->primary, e);
	} else if (r->stopping) {
		code = err_set(e, -EBUSY, "migrate: the VM is being stopped");
	} else {
		if (!r->progress_op.fn)
			r->progress_op = (struct loop_op){.fn = progress, .arg = r};
		r->primary.move.news = news;
		r->primary.move.arg = r;
		code = primary_move(&r->primary, conf->uri, e);
	}
	if (code)
		return NULL;
	news(r);
	ctl_follow(r->ctl);
	return move_status(&r->primary);
}

json_t *serve_migrate(struct run *r, json_t *request, struct err *e)
{
	struct migrate_conf conf;
	int code = migrate_conf_request(&conf, request, e);

	if (!code && !conf.cancel && !conf.insecure && !r->cfg.insecure &&
	    config_check_private(conf.uri, e))
		code = err_wrap(e, "migrate");
	if (!code && r->role == ROLE_PRIMARY && r->primary.ft && (conf.cancel || conf.secondary[0]))
		return move(r, &conf, e);
	if (!code && conf.secondary[0])
		code = err_set(e, -EOPNOTSUPP,
			       "migrate: --secondary is for the side that runs a protected VM");
	if (!code && conf.recover[0])
		return recover(r, &conf, e);
	if (!code && conf.cancel)
		code = source_cancel(&r->source, conf.force, "cancelled by the user", e);
	else if (!code)
		code = start(r, &conf, e);
	if (code)
		return NULL;
	ctl_follow(r->ctl);
	return source_status(&r->source);
}

/*
 * What there is to tell of memory that comes while the VM runs. What QEMU's query-migrate has under
 * the same name means the same there.
 */
#include "vmm/cli/run.h"

static void set(json_t *o, const char *key, uint64_t n)
{
	json_object_set_new(o, key, json_integer((json_int_t)n));
}

static uint64_t milliseconds(uint64_t ns)
{
	return (ns + 500000) / 1000000;
}

static uint64_t average(const struct faults_sum *s)
{
	return s->ended ? s->blocked_ns / s->ended : 0;
}

static json_t *sum_json(const struct faults_sum *s)
{
	json_t *o = json_object();

	set(o, "faults", s->count);
	set(o, "blocked-us", s->blocked_ns / 1000);
	set(o, "max-us", s->max_ns / 1000);
	return o;
}

/* [n]: 2^n us and more, below 2^(n+1); below 1 us in the first. */
static json_t *distribution(const struct faults_stats *s)
{
	json_t *list = json_array();

	for (unsigned octave = 0; octave < FAULTS_OCTAVES; octave++) {
		uint64_t n = 0;

		for (unsigned i = octave ? FAULTS_STEPS * (octave + 1) : 0;
		     i < FAULTS_STEPS * (octave + 2); i++)
			n += s->took[i];
		json_array_append_new(list, json_integer((json_int_t)n));
	}
	return list;
}

static void add_vcpus(json_t *o, const struct faults_stats *s, unsigned vcpus)
{
	json_t *blocked = json_array(), *latency = json_array(), *sums = json_array();

	for (unsigned i = 0; i < vcpus; i++) {
		const struct faults_sum *sum = &s->sum[i];

		json_array_append_new(blocked,
				      json_integer((json_int_t)milliseconds(sum->blocked_ns)));
		json_array_append_new(latency, json_integer((json_int_t)average(sum)));
		json_array_append_new(sums, sum_json(sum));
	}
	json_object_set_new(o, "postcopy-vcpu-blocktime", blocked);
	json_object_set_new(o, "postcopy-vcpu-latency", latency);
	json_object_set_new(o, "postcopy-vcpus", sums);
}

static void add_faults(json_t *o, const struct faults_stats *s, unsigned vcpus)
{
	const struct faults_sum *others = &s->sum[FAULTS_OTHERS];
	json_t *took = json_object();

	set(o, "postcopy-blocktime", milliseconds(s->all_blocked_ns));
	set(o, "postcopy-latency", average(&s->all));
	set(o, "postcopy-non-vcpu-latency", average(others));
	json_object_set_new(o, "postcopy-latency-dist", distribution(s));
	set(took, "p50", faults_percentile_ns(s, 50) / 1000);
	set(took, "p99", faults_percentile_ns(s, 99) / 1000);
	set(took, "max", s->all.max_ns / 1000);
	json_object_set_new(o, "postcopy-latency-us", took);
	add_vcpus(o, s, vcpus);
	json_object_set_new(o, "postcopy-others", sum_json(others));
}

static json_t *pages_json(const struct fill_counts *n)
{
	json_t *o = json_object();

	set(o, "urgent", n->urgent);
	set(o, "background", n->pushed);
	set(o, "zero", n->zero);
	set(o, "duplicate", n->twice);
	set(o, "removed", n->removed);
	return o;
}

static void add_pages(json_t *ram, const struct pager_stats *s)
{
	json_t *pending = json_object();

	set(ram, "remaining", s->left << MEM_PAGE_SHIFT);
	set(ram, "postcopy-requests", s->counts.wants);
	set(ram, "postcopy-faults", s->faults.all.count);
	set(ram, "postcopy-bytes", s->counts.bytes);
	json_object_set_new(ram, "postcopy-pages", pages_json(&s->counts));
	set(pending, "pages", s->asked);
	set(pending, "threads", s->waiting);
	set(pending, "threads-max", s->faults.most);
	json_object_set_new(ram, "postcopy-pending", pending);
}

void run_postcopy_in(json_t *o, json_t *ram, struct dest *d)
{
	struct pager_stats s;

	if (!dest_get_stats(d, &s))
		return;
	add_faults(o, &s.faults, d->vm->machine.vcpus);
	add_pages(ram, &s);
}

void run_postcopy_out(json_t *ram, const struct source *s)
{
	uint64_t before = __atomic_load_n(&s->passes.stats.bytes, __ATOMIC_RELAXED), after;
	struct fill_counts n = {
		.urgent = __atomic_load_n(&s->urgent.pages, __ATOMIC_RELAXED),
		.pushed = __atomic_load_n(&s->push.pages, __ATOMIC_RELAXED),
		.zero = __atomic_load_n(&s->push.zero, __ATOMIC_RELAXED),
		.removed = __atomic_load_n(&s->urgent.removed, __ATOMIC_RELAXED),
	};

	if (!s->at.runs || !s->passes.lazy)
		return;
	after = __atomic_load_n(&s->urgent.bytes, __ATOMIC_RELAXED) +
		__atomic_load_n(&s->push.bytes, __ATOMIC_RELAXED);
	set(ram, "transferred", before + after);
	set(ram, "remaining", __atomic_load_n(&s->unsent.left, __ATOMIC_RELAXED) << MEM_PAGE_SHIFT);
	set(ram, "precopy-bytes", before);
	set(ram, "postcopy-bytes", after);
	set(ram, "postcopy-requests", __atomic_load_n(&s->urgent.wants, __ATOMIC_RELAXED));
	json_object_set_new(ram, "postcopy-pages", pages_json(&n));
}

#include "postcopy/faults.h"

#include <string.h>

#include "vmm/base/lock.h"

void faults_init(struct faults *f)
{
	memset(f, 0, sizeof(*f));
	lock_init(&f->lock);
}

void faults_of_vcpus(struct faults *f, unsigned vcpus, int (*find)(void *arg, uint32_t tid),
		     void *arg)
{
	f->vcpus = vcpus;
	f->find = find;
	f->arg = arg;
}

static unsigned whose(const struct faults *f, uint32_t tid)
{
	int vcpu = f->find ? f->find(f->arg, tid) : -1;

	return vcpu < 0 ? FAULTS_OTHERS : (unsigned)vcpu;
}

/* --- how long they took ----------------------------------------------------------------------- */

static unsigned bucket(uint64_t ns)
{
	uint64_t us = ns / 1000;
	unsigned octave = us ? 63 - (unsigned)__builtin_clzll(us) : 0;

	if (octave >= FAULTS_OCTAVES)
		return FAULTS_BUCKETS - 1;
	return FAULTS_STEPS * octave + (unsigned)(ns * FAULTS_STEPS / 1000 >> octave);
}

/* The least that is in the next one. */
static uint64_t above_ns(unsigned at)
{
	unsigned next = at + 1, octave = next < FAULTS_STEPS ? 0 : next / FAULTS_STEPS - 1;

	return ((uint64_t)(next - FAULTS_STEPS * octave) << octave) * 1000 / FAULTS_STEPS;
}

uint64_t faults_percentile_ns(const struct faults_stats *s, unsigned percent)
{
	uint64_t rank = (s->all.ended * percent + 99) / 100, n = 0;
	unsigned at = 0;

	if (!s->all.ended)
		return 0;
	while (at + 1 < FAULTS_BUCKETS && (n += s->took[at]) < rank)
		at++;
	return above_ns(at) < s->all.max_ns ? above_ns(at) : s->all.max_ns;
}

static void add(struct faults_sum *s, uint64_t ns)
{
	s->ended++;
	s->blocked_ns += ns;
	if (ns > s->max_ns)
		s->max_ns = ns;
}

/* --- who waits -------------------------------------------------------------------------------- */

static struct faults_wait *find_wait(struct faults *f, uint32_t tid)
{
	for (unsigned i = 0; i < f->nwaits; i++)
		if (f->waits[i].tid == tid)
			return &f->waits[i];
	return NULL;
}

static void begin_wait(struct faults *f, const struct faults_wait *w)
{
	if (f->nwaits == FAULTS_WAITS)
		return;
	f->waits[f->nwaits++] = *w;
	if (f->nwaits > f->stats.most)
		f->stats.most = f->nwaits;
	__atomic_store_n(&f->waiting, f->nwaits, __ATOMIC_RELEASE);
	if (w->whose != FAULTS_OTHERS && ++f->blocked == f->vcpus)
		f->blocked_since_ns = w->since_ns;
}

void faults_begin(struct faults *f, uint32_t tid, uint64_t page, uint64_t now_ns)
{
	struct faults_wait *known, w = {tid, whose(f, tid), page, now_ns};

	pthread_mutex_lock(&f->lock);
	f->stats.sum[w.whose].count++;
	f->stats.all.count++;
	known = find_wait(f, tid);
	/* After a signal the kernel tells of a fault again, or the thread wants another page. */
	if (known)
		known->page = page;
	else
		begin_wait(f, &w);
	pthread_mutex_unlock(&f->lock);
}

static void end_wait(struct faults *f, struct faults_wait *w, uint64_t now_ns)
{
	uint64_t ns = now_ns - w->since_ns;

	add(&f->stats.sum[w->whose], ns);
	add(&f->stats.all, ns);
	f->stats.took[bucket(ns)]++;
	if (w->whose != FAULTS_OTHERS && f->blocked-- == f->vcpus)
		f->stats.all_blocked_ns += now_ns - f->blocked_since_ns;
	*w = f->waits[--f->nwaits];
	__atomic_store_n(&f->waiting, f->nwaits, __ATOMIC_RELEASE);
}

void faults_end(struct faults *f, uint64_t page, uint64_t now_ns)
{
	pthread_mutex_lock(&f->lock);
	for (unsigned i = f->nwaits; i--;)
		if (f->waits[i].page == page)
			end_wait(f, &f->waits[i], now_ns);
	pthread_mutex_unlock(&f->lock);
}

uint32_t faults_vcpus(struct faults *f)
{
	uint32_t waiting = 0;

	pthread_mutex_lock(&f->lock);
	for (unsigned i = 0; i < f->nwaits; i++)
		if (f->waits[i].whose != FAULTS_OTHERS)
			waiting |= 1u << f->waits[i].whose;
	pthread_mutex_unlock(&f->lock);
	return waiting;
}

void faults_get(struct faults *f, struct faults_stats *ret)
{
	pthread_mutex_lock(&f->lock);
	*ret = f->stats;
	pthread_mutex_unlock(&f->lock);
}

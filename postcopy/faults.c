#include "postcopy/faults.h"

#include <stdlib.h>
#include <string.h>

#include "vmm/base/lock.h"

void faults_init(struct faults *f)
{
	memset(f, 0, sizeof(*f));
	lock_init(&f->lock);
}

static struct faults_thread *find(struct faults *f, uint32_t tid)
{
	for (unsigned i = 0; i < f->nthreads; i++)
		if (f->threads[i].tid == tid)
			return &f->threads[i];
	if (f->nthreads == FAULTS_THREADS)
		return &f->threads[FAULTS_THREADS - 1];
	f->threads[f->nthreads].tid = tid;
	return &f->threads[f->nthreads++];
}

void faults_begin(struct faults *f, uint32_t tid, uint64_t page, uint64_t now_ns)
{
	struct faults_thread *t;

	pthread_mutex_lock(&f->lock);
	t = find(f, tid);
	__atomic_fetch_add(&f->count, 1, __ATOMIC_RELEASE);
	t->count++;
	/* The kernel may tell of one fault twice, after a signal. */
	if (!t->since_ns) {
		t->page = page;
		t->since_ns = now_ns;
		__atomic_fetch_add(&f->waiting, 1, __ATOMIC_RELEASE);
	}
	pthread_mutex_unlock(&f->lock);
}

static void end_one(struct faults *f, struct faults_thread *t, uint64_t now_ns)
{
	uint64_t ns = now_ns - t->since_ns;

	t->blocked_ns += ns;
	t->since_ns = 0;
	f->ring[f->done++ % FAULTS_RING] = ns > UINT32_MAX ? UINT32_MAX : (uint32_t)ns;
	if (ns > f->max_ns)
		__atomic_store_n(&f->max_ns, ns, __ATOMIC_RELEASE);
	__atomic_fetch_sub(&f->waiting, 1, __ATOMIC_RELEASE);
}

void faults_end(struct faults *f, uint64_t page, uint64_t now_ns)
{
	pthread_mutex_lock(&f->lock);
	for (unsigned i = 0; i < f->nthreads; i++)
		if (f->threads[i].since_ns && f->threads[i].page == page)
			end_one(f, &f->threads[i], now_ns);
	pthread_mutex_unlock(&f->lock);
}

static int compare(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return (x > y) - (x < y);
}

uint64_t faults_percentile_ns(struct faults *f, unsigned percent)
{
	uint32_t ring[FAULTS_RING];
	uint64_t n;

	pthread_mutex_lock(&f->lock);
	n = f->done < FAULTS_RING ? f->done : FAULTS_RING;
	memcpy(ring, f->ring, n * sizeof(ring[0]));
	pthread_mutex_unlock(&f->lock);
	if (!n)
		return 0;
	qsort(ring, n, sizeof(ring[0]), compare);
	return ring[(n - 1) * percent / 100];
}

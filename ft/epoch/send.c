#define _GNU_SOURCE
#include "ft/epoch/send.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ft/common/steps.h"
#include "ft/epoch/sync.h"
#include "vmm/base/lock.h"
#include "vmm/base/loop.h"

/* Of a frame of the sync, of a whole epoch. A dead peer is noticed much earlier, by its silence. */
#define SEND_DEADLINE 30000000000ull

static void notify(struct send *s)
{
	uint64_t one = 1;

	if (write(s->notify_fd, &one, sizeof(one)) < 0)
		return; /* the counter is at its maximum: the loop will look anyway */
}

static void tell_room(struct send *s)
{
	if (__atomic_exchange_n(&s->wanted, false, __ATOMIC_ACQ_REL))
		notify(s);
}

static int write_frame(struct send *s, enum frame_type type, uint64_t epoch, const void *data,
		       size_t len)
{
	struct iovec iov = {(void *)data, len};

	return stream_send(s->stream, type, epoch, &iov, len ? 1 : 0, s->out.until_ns);
}

static int write_pages(struct send *s, struct send_job *j)
{
	uint32_t put = 0;
	int r = 0;

	s->out.epoch = j->epoch;
	for (uint32_t i = 0; i < j->batch.n; i++) {
		struct capture_page *p = &j->batch.pages[i];
		bool full = !r && page_out_add(&s->out, p->page, p->now, p->base);

		if (!full && i + 1 < j->batch.n)
			continue;
		capture_put(s->capture, j->batch.pages + put, i + 1 - put);
		tell_room(s);
		put = i + 1;
		if (r)
			continue;
		r = page_out_flush(&s->out);
		step_reached(STEP_SEND_PAGES);
	}
	j->batch.n = 0;
	return r;
}

static int write_disklog(struct send *s, struct send_job *j)
{
	for (struct disk_write *en = j->disklog.head; en; en = en->next) {
		struct iovec iov[2] = {{&en->wire, sizeof(en->wire)}, {en->data, en->wire.data}};
		int r = stream_send(s->stream, FRAME_DISKLOG, j->epoch, iov, en->wire.data ? 2 : 1,
				    s->out.until_ns);

		if (r)
			return r;
		step_reached(STEP_SEND_DISKLOG);
	}
	return 0;
}

static int write_end(struct send *s, struct send_job *j)
{
	struct iovec iov[] = {{&j->end, sizeof(j->end)}, {&j->places, sizeof(j->places)}};

	return stream_send(s->stream, FRAME_EPOCH_END, j->epoch, iov, j->has_places ? 2 : 1,
			   s->out.until_ns);
}

static int write_parts(struct send *s, struct send_job *j)
{
	int r = 0;

	if (j->first) {
		step_reached(STEP_SEND_BEGIN);
		s->out.until_ns = loop_now_ns() + SEND_DEADLINE;
		r = write_frame(s, FRAME_EPOCH_BEGIN, j->epoch, NULL, 0);
	}
	if (!r)
		r = write_pages(s, j);
	if (r || !j->last)
		return r;
	r = write_disklog(s, j);
	if (!r)
		r = write_frame(s, FRAME_STATE, j->epoch, j->state, j->state_len);
	step_reached(STEP_SEND_STATE);
	s->ending_ns = loop_now_ns();
	__atomic_store_n(&s->ending, j->epoch, __ATOMIC_RELEASE);
	return r ? r : write_end(s, j);
}

/* All frames of a small epoch are one write, and wake the peer once. */
static int write_job(struct send *s, struct send_job *j)
{
	uint64_t begun = loop_now_ns();
	int r, flushed;

	stream_gather(s->stream);
	r = write_parts(s, j);
	flushed = stream_flush(s->stream, s->out.until_ns);
	__atomic_fetch_add(&s->busy_ns, loop_now_ns() - begun, __ATOMIC_RELAXED);
	if (j->last)
		step_reached(STEP_SEND_END);
	return r ? r : flushed;
}

static struct send_job *next_job(struct send *s)
{
	struct send_job *j;

	pthread_mutex_lock(&s->lock);
	while (!s->queue && !s->stop)
		pthread_cond_wait(&s->work, &s->lock);
	j = s->stop ? NULL : s->queue;
	if (j) {
		s->queue = j->next;
		if (!s->queue)
			s->tail = &s->queue;
	}
	pthread_mutex_unlock(&s->lock);
	return j;
}

static void recycle(struct send *s, struct send_job *j)
{
	pthread_mutex_lock(&s->lock);
	j->next = s->free;
	s->free = j;
	s->nfree++;
	pthread_cond_signal(&s->idle);
	pthread_mutex_unlock(&s->lock);
	tell_room(s);
}

static void fail(struct send *s, int error)
{
	pthread_mutex_lock(&s->lock);
	s->error = error;
	pthread_cond_signal(&s->idle);
	pthread_mutex_unlock(&s->lock);
	notify(s);
}

static void *thread(void *arg)
{
	struct send *s = arg;
	struct send_job *j;
	int r;

	pthread_setname_np(pthread_self(), "ftsend");
	r = sync_run(s->sync, &s->out);
	s->out.sent = &s->page_bytes;
	if (r) {
		fail(s, r);
		return NULL;
	}
	__atomic_store_n(&s->synced, true, __ATOMIC_RELEASE);
	notify(s);
	while ((j = next_job(s))) {
		r = write_job(s, j);
		if (r)
			fail(s, r);
		recycle(s, j); /* who waits for it sees the error */
		if (r)
			break;
	}
	return NULL;
}

static int make_jobs(struct send *s)
{
	for (unsigned i = 0; i < SEND_JOBS; i++) {
		struct send_job *j = &s->jobs[i];

		j->batch.cap = s->capture->nbufs;
		j->batch.pages = calloc(j->batch.cap, sizeof(*j->batch.pages));
		j->state = malloc(s->state_cap);
		if (!j->batch.pages || !j->state)
			return -ENOMEM;
		j->next = s->free;
		s->free = j;
	}
	s->nfree = SEND_JOBS;
	return 0;
}

int send_start(struct send *s, struct err *e)
{
	int r;

	s->tail = &s->queue;
	lock_init(&s->lock);
	pthread_cond_init(&s->work, NULL);
	pthread_cond_init(&s->idle, NULL);
	if (page_out_init(&s->out, s->stream, SEND_DEADLINE) || make_jobs(s))
		return err_set(e, -ENOMEM, "sender: out of memory");
	r = pthread_create(&s->thread, NULL, thread, s);
	s->started = r == 0;
	return r ? err_set(e, -r, "sender: thread: %s", strerror(r)) : 0;
}

void send_stop(struct send *s)
{
	if (!s->stream)
		return;
	pthread_mutex_lock(&s->lock);
	s->stop = true;
	pthread_cond_broadcast(&s->work);
	pthread_mutex_unlock(&s->lock);
	if (s->started)
		pthread_join(s->thread, NULL);
	for (unsigned i = 0; i < SEND_JOBS; i++) {
		free(s->jobs[i].batch.pages);
		free(s->jobs[i].state);
	}
	page_out_done(&s->out);
	pthread_mutex_destroy(&s->lock);
	pthread_cond_destroy(&s->work);
	pthread_cond_destroy(&s->idle);
	memset(s, 0, sizeof(*s));
}

struct send_job *send_get_job(struct send *s)
{
	struct send_job *j;

	pthread_mutex_lock(&s->lock);
	j = s->error ? NULL : s->free;
	if (j) {
		s->free = j->next;
		s->nfree--;
	}
	pthread_mutex_unlock(&s->lock);
	if (j) {
		j->next = NULL;
		j->batch.n = 0;
		j->first = j->last = false;
		j->state_len = 0;
		j->disklog = (struct disk_writes){0};
	}
	return j;
}

void send_want_room(struct send *s)
{
	__atomic_store_n(&s->wanted, true, __ATOMIC_RELEASE);
}

void send_push(struct send *s, struct send_job *j)
{
	pthread_mutex_lock(&s->lock);
	*s->tail = j;
	s->tail = &j->next;
	pthread_cond_signal(&s->work);
	pthread_mutex_unlock(&s->lock);
}

bool send_is_broken(struct send *s)
{
	bool broken;

	pthread_mutex_lock(&s->lock);
	broken = s->error != 0;
	pthread_mutex_unlock(&s->lock);
	return broken;
}

void send_drain(struct send *s)
{
	pthread_mutex_lock(&s->lock);
	while (s->nfree < SEND_JOBS && !s->error)
		pthread_cond_wait(&s->idle, &s->lock);
	pthread_mutex_unlock(&s->lock);
}

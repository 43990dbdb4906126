#define _GNU_SOURCE
#include "ft/common/mirror.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "vmm/base/lock.h"

/* The other guest may take its input slowly; one that takes none for so long is no twin. */
#define WRITE_NS 10000000000ull
#define PRIORITY 1 /* as the loop's: each output of either guest waits for this thread */

struct mirror_entry {
	struct mirror_entry *next;
	uint64_t epoch;
	enum frame_type type;
	uint32_t len;
	uint8_t data[];
};

static uint64_t cost(uint32_t len)
{
	return sizeof(struct mirror_entry) + len;
}

/* --- the thread that writes ------------------------------------------------------------------- */

static void tell(struct mirror *m)
{
	uint64_t one = 1;

	if (write(m->tell_fd, &one, sizeof(one)) < 0)
		return; /* the counter is at its maximum: the loop will look anyway */
}

static void free_list(struct mirror_entry *list)
{
	while (list) {
		struct mirror_entry *next = list->next;

		free(list);
		list = next;
	}
}

/* All that waits, or NULL when it is to end. */
static struct mirror_entry *take_all(struct mirror *m)
{
	struct mirror_entry *list;

	pthread_mutex_lock(&m->lock);
	while (!m->head && !m->quit)
		pthread_cond_wait(&m->work, &m->lock);
	list = m->quit ? NULL : m->head;
	if (list) {
		m->head = NULL;
		m->tail = &m->head;
	}
	pthread_mutex_unlock(&m->lock);
	return list;
}

/* Written, or on its way in the stream. */
static void account(struct mirror *m, const struct mirror_entry *en)
{
	bool was_high, is_low;

	pthread_mutex_lock(&m->lock);
	was_high = m->bytes > MIRROR_LIMIT / 2;
	m->bytes -= cost(en->len);
	is_low = m->bytes <= MIRROR_LIMIT / 2;
	pthread_mutex_unlock(&m->lock);
	if (was_high && is_low)
		tell(m);
}

static void fail(struct mirror *m, int error)
{
	pthread_mutex_lock(&m->lock);
	m->error = error;
	pthread_mutex_unlock(&m->lock);
	tell(m);
}

static int write_one(struct mirror *m, const struct mirror_entry *en)
{
	struct iovec iov = {(void *)en->data, en->len};

	return stream_send(&m->stream, en->type, en->epoch, &iov, en->len ? 1 : 0,
			   loop_now_ns() + WRITE_NS);
}

static int write_list(struct mirror *m, struct mirror_entry *list)
{
	int r = 0;

	stream_gather(&m->stream);
	while (list && !r) {
		struct mirror_entry *next = list->next;

		r = write_one(m, list);
		account(m, list);
		free(list);
		list = next;
	}
	free_list(list);
	if (!r)
		r = stream_flush(&m->stream, loop_now_ns() + WRITE_NS);
	if (r)
		fail(m, r);
	return r;
}

static void *thread(void *arg)
{
	struct mirror *m = arg;
	struct mirror_entry *list;

	pthread_setname_np(pthread_self(), "mirror");
	loop_raise_priority(PRIORITY);
	while ((list = take_all(m)))
		if (write_list(m, list))
			break;
	return NULL;
}

/* --- the loop --------------------------------------------------------------------------------- */

static void lose(struct mirror *m, const char *why)
{
	char text[200];

	snprintf(text, sizeof(text), "%s", why);
	mirror_stop(m);
	m->lost(m->arg, text);
}

static int error_of(struct mirror *m, bool *low)
{
	int r;

	pthread_mutex_lock(&m->lock);
	r = m->error;
	*low = m->bytes <= MIRROR_LIMIT / 2;
	pthread_mutex_unlock(&m->lock);
	return r;
}

static void told(struct loop_op *op, int res)
{
	struct mirror *m = op->arg;
	uint64_t n;
	int error;
	bool low;

	if (read(m->tell_fd, &n, sizeof(n)) < 0)
		return;
	error = error_of(m, &low);
	if (error) {
		lose(m, error == -ETIMEDOUT ? "what is put in is not taken"
					    : stream_trouble(&m->stream, error));
	} else if (m->starved && low) { /* it may have been filled since: then we are told again */
		m->starved = false;
		if (m->room)
			m->room(m->arg);
	}
}

static void stop_reading(struct mirror *m)
{
	if (!m->reading)
		return;
	m->reading = false;
	loop_poll_del(m->loop, &m->read_op);
}

static bool read_turn(struct loop_work *w)
{
	struct mirror *m = w->arg;
	struct frame f;
	int r = 1;

	while (m->loop && m->reading && (r = stream_recv(&m->stream, &f)) == 1) {
		bool more = m->frame(m->arg, &f);

		if (m->loop && !more)
			stop_reading(m);
		if (m->loop && loop_should_yield(m->loop))
			return m->reading;
	}
	if (m->loop && r < 0)
		lose(m, stream_trouble(&m->stream, r));
	return false;
}

static void readable(struct loop_op *op, int res)
{
	struct mirror *m = op->arg;

	loop_work_add(m->loop, &m->read_work);
}

void mirror_read_on(struct mirror *m)
{
	if (!m->loop || m->reading)
		return;
	m->reading = true;
	loop_poll_add(m->loop, &m->read_op, m->stream.fd, POLLIN);
	loop_work_add(m->loop, &m->read_work); /* it may be in the stream's buffer already */
}

/* --- queue ------------------------------------------------------------------------------------ */

bool mirror_is_full(struct mirror *m)
{
	bool full;

	pthread_mutex_lock(&m->lock);
	full = m->bytes >= MIRROR_LIMIT && !m->error;
	pthread_mutex_unlock(&m->lock);
	m->starved |= full;
	return full;
}

static struct mirror_entry *make_entry(const struct iovec *iov, int niov)
{
	struct mirror_entry *en;
	size_t len = 0, at = 0;

	for (int i = 0; i < niov; i++)
		len += iov[i].iov_len;
	en = malloc(sizeof(*en) + len);
	if (!en)
		return NULL;
	en->next = NULL;
	en->len = (uint32_t)len;
	for (int i = 0; i < niov; i++) {
		if (iov[i].iov_len)
			memcpy(en->data + at, iov[i].iov_base, iov[i].iov_len);
		at += iov[i].iov_len;
	}
	return en;
}

int mirror_put(struct mirror *m, enum frame_type type, uint64_t epoch, const struct iovec *iov,
	       int niov)
{
	struct mirror_entry *en;
	int r;

	if (niov && mirror_is_full(m))
		return -EAGAIN;
	en = make_entry(iov, niov);
	if (!en)
		return -ENOMEM;
	en->type = type;
	en->epoch = epoch;
	pthread_mutex_lock(&m->lock);
	r = m->error ? -EPIPE : 0;
	if (!r) {
		*m->tail = en;
		m->tail = &en->next;
		m->bytes += cost(en->len);
		pthread_cond_signal(&m->work);
	}
	pthread_mutex_unlock(&m->lock);
	if (r)
		free(en);
	else
		m->put_frames++;
	return r;
}

/* --- begin and end ---------------------------------------------------------------------------- */

static int begin(struct mirror *m, struct err *e)
{
	int r;

	m->told_op = (struct loop_op){.fn = told, .arg = m};
	m->read_op = (struct loop_op){.fn = readable, .arg = m};
	m->read_work = (struct loop_work){.fn = read_turn, .arg = m};
	if (loop_poll_add(m->loop, &m->told_op, m->tell_fd, POLLIN) < 0)
		return err_set(e, -ENOSPC, "event loop is full");
	r = pthread_create(&m->thread, NULL, thread, m);
	if (r) {
		loop_poll_del(m->loop, &m->told_op);
		return err_set(e, -r, "mirror: thread: %s", strerror(r));
	}
	mirror_read_on(m);
	return 0;
}

int mirror_start(struct mirror *m, struct loop *l, struct stream *st, struct err *e)
{
	int r = 0;

	m->stream = *st;
	memset(st, 0, sizeof(*st));
	st->fd = -1;
	m->head = NULL;
	m->tail = &m->head;
	m->bytes = m->put_frames = 0;
	m->quit = m->starved = m->reading = false;
	m->error = 0;
	m->loop = l;
	lock_init(&m->lock);
	pthread_cond_init(&m->work, NULL);
	m->tell_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	r = m->tell_fd < 0 ? err_sys(e, "mirror: eventfd") : begin(m, e);
	if (!r)
		return 0;
	if (m->tell_fd >= 0)
		close(m->tell_fd);
	m->loop = NULL;
	stream_done(&m->stream);
	return r;
}

void mirror_stop(struct mirror *m)
{
	struct loop *l = m->loop;

	if (!l)
		return;
	m->loop = NULL;
	pthread_mutex_lock(&m->lock);
	m->quit = true;
	pthread_cond_signal(&m->work);
	pthread_mutex_unlock(&m->lock);
	chan_shut(&m->stream.chan);
	pthread_join(m->thread, NULL);
	if (m->reading)
		loop_poll_del(l, &m->read_op);
	m->reading = false;
	loop_work_del(l, &m->read_work);
	loop_poll_del(l, &m->told_op);
	close(m->tell_fd);
	free_list(m->head);
	m->head = NULL;
	stream_done(&m->stream);
	pthread_cond_destroy(&m->work);
	pthread_mutex_destroy(&m->lock);
}

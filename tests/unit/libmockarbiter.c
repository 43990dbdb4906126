#include "tests/unit/libmockarbiter.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static int answer(void *self, const struct arbiter_question *q, struct arbiter_record *ret,
		  struct err *e)
{
	struct mock_arbiter *m = self;
	int r;

	pthread_mutex_lock(&m->lock);
	m->question = *q;
	m->asked++; /* last: who sees the count reads the question without the lock */
	pthread_cond_broadcast(&m->changed);
	while (m->hold)
		pthread_cond_wait(&m->changed, &m->lock);
	r = m->code ? err_set(e, m->code, "mock: %s", strerror(-m->code)) : 0;
	if (!r && q->what != ARBITER_READ)
		m->record = q->record;
	*ret = m->record;
	m->answered++;
	pthread_cond_broadcast(&m->changed);
	pthread_mutex_unlock(&m->lock);
	return r;
}

static void closed(void *self)
{
	struct mock_arbiter *m = self;

	pthread_mutex_lock(&m->lock);
	m->closed++;
	pthread_cond_broadcast(&m->changed);
	pthread_mutex_unlock(&m->lock);
}

struct arbiter *mock_arbiter_open(struct mock_arbiter *m, struct loop *l, unsigned deadline_ms)
{
	struct arbiter_backend b = {&m->ops, m};
	struct arbiter *a;

	memset(m, 0, sizeof(*m));
	pthread_mutex_init(&m->lock, NULL);
	pthread_cond_init(&m->changed, NULL);
	m->ops = (struct arbiter_ops){
		.answer = answer, .close = closed, .deadline_ms = deadline_ms, .shared = true};
	if (arbiter_open_on(&a, l, &b, "mock", "me", NULL))
		abort();
	return a;
}

void mock_arbiter_hold(struct mock_arbiter *m, bool hold)
{
	pthread_mutex_lock(&m->lock);
	m->hold = hold;
	pthread_cond_broadcast(&m->changed);
	pthread_mutex_unlock(&m->lock);
}

void mock_arbiter_set(struct mock_arbiter *m, int code, const struct arbiter_record *record)
{
	pthread_mutex_lock(&m->lock);
	m->code = code;
	if (record)
		m->record = *record;
	pthread_mutex_unlock(&m->lock);
}

void mock_arbiter_wait(struct mock_arbiter *m, const atomic_uint *counter, unsigned n)
{
	pthread_mutex_lock(&m->lock);
	while (*counter < n)
		pthread_cond_wait(&m->changed, &m->lock);
	pthread_mutex_unlock(&m->lock);
}

#include "tests/unit/libmockchan.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/base/loop.h"

static size_t least(size_t a, size_t b)
{
	return a < b ? a : b;
}

static ssize_t mock_write(struct chan *c, const struct iovec *iov, int niov)
{
	struct mock_chan *m = c->self;
	size_t may = least(m->take, m->room), n = 0;

	m->writes++;
	while (m->hold)
		poll(NULL, 0, 1);
	if (m->nsent >= m->fail_write_at)
		return m->write_error;
	if (!m->room)
		return -EAGAIN;
	may = least(may, m->fail_write_at - m->nsent);
	for (int i = 0; i < niov && n < may; i++) {
		size_t part = least(iov[i].iov_len, may - n);

		m->sent = realloc(m->sent, m->nsent + part + 1);
		if (!m->sent)
			abort();
		if (part)
			memcpy(m->sent + m->nsent, iov[i].iov_base, part);
		m->nsent += part;
		n += part;
	}
	if (m->room != MOCK_NEVER)
		m->room -= n;
	return (ssize_t)n;
}

static int mock_wait(struct chan *c, uint64_t deadline_ns)
{
	struct mock_chan *m = c->self;

	m->waits++;
	if (m->now_ns + m->stall_ns >= deadline_ns) {
		m->now_ns = deadline_ns > m->now_ns ? deadline_ns : m->now_ns;
		return -ETIMEDOUT;
	}
	m->now_ns += m->stall_ns;
	m->room = m->more;
	return 0;
}

static ssize_t mock_read(struct chan *c, void *buf, size_t len)
{
	struct mock_chan *m = c->self;
	size_t n = least(least(len, m->give), least(m->nin, m->fail_read_at) - m->at);

	m->reads++;
	if (m->at == m->stop_at) {
		m->stop_at = MOCK_NEVER;
		return -EAGAIN;
	}
	if (m->stop_at > m->at)
		n = least(n, m->stop_at - m->at);
	if (!n)
		return m->read_error;
	memcpy(buf, m->in + m->at, n);
	m->at += n;
	return (ssize_t)n;
}

static void mock_close(struct chan *c)
{
	struct mock_chan *m = c->self;

	m->closed++;
}

static uint64_t mock_rate(const struct chan *c)
{
	return ((const struct mock_chan *)c->self)->rate;
}

static void mock_shut(struct chan *c)
{
	struct mock_chan *m = c->self;

	m->shut++;
}

struct chan mock_chan_open(struct mock_chan *m)
{
	static const struct chan_ops ops = {.read = mock_read,
					    .write = mock_write,
					    .wait = mock_wait,
					    .close = mock_close,
					    .rate = mock_rate,
					    .shut = mock_shut};

	*m = (struct mock_chan){.take = MOCK_NEVER,
				.room = MOCK_NEVER,
				.more = MOCK_NEVER,
				.now_ns = loop_now_ns(),
				.fail_write_at = MOCK_NEVER,
				.give = MOCK_NEVER,
				.stop_at = MOCK_NEVER,
				.fail_read_at = MOCK_NEVER,
				.read_error = -EAGAIN};
	return (struct chan){.ops = &ops, .fd = -1, .self = m};
}

void mock_chan_feed(struct mock_chan *m, const void *in, size_t n)
{
	m->in = in;
	m->nin = n;
	m->at = 0;
}

void mock_chan_done(struct mock_chan *m)
{
	free(m->sent);
	m->sent = NULL;
}

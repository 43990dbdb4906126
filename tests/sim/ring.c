/* io_uring: requests are carried out some time after they were submitted, in any order. */
#define _GNU_SOURCE
#include <errno.h>
#include <liburing.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include "tests/sim/cover.h"
#include "tests/sim/file.h"
#include "tests/sim/real.h"

#define RING_BIG 4096u

struct request {
	struct io_uring_sqe sqe;
	uint64_t due;
	struct request *next;
};

struct ring {
	struct request *first;
	uint64_t looked, due; /* nothing is due while world_changes is that, until then */
	unsigned sq_head, sq_tail, cq_head, cq_tail, flags;
	struct io_uring_sqe *sqes;
	struct io_uring_cqe *cqes;
};

static void ring_close(struct fd *f);
static const struct fd_ops ring_ops = {.name = "ring", .close = ring_close};

static struct ring *ring_of(struct io_uring *u)
{
	return fd_find(u->ring_fd)->of;
}

/* What it may do, and that it may begin. */
int __wrap_io_uring_register(unsigned fd, unsigned opcode, const void *arg, unsigned n)
{
	return fd_of((int)fd, &ring_ops) ? 0 : -EBADF;
}

int __wrap_io_uring_queue_init(unsigned entries, struct io_uring *u, unsigned flags)
{
	struct ring *r = calloc(1, sizeof(*r));

	memset(u, 0, sizeof(*u));
	r->sqes = calloc(entries, sizeof(*r->sqes));
	r->cqes = calloc(RING_BIG, sizeof(*r->cqes));
	u->sq.khead = &r->sq_head;
	u->sq.ktail = &r->sq_tail;
	u->sq.kflags = &r->flags;
	u->sq.sqes = r->sqes;
	u->sq.ring_entries = entries;
	u->sq.ring_mask = entries - 1;
	u->cq.khead = &r->cq_head;
	u->cq.ktail = &r->cq_tail;
	u->cq.cqes = r->cqes;
	u->cq.ring_entries = RING_BIG;
	u->cq.ring_mask = RING_BIG - 1;
	u->features = IORING_FEAT_EXT_ARG;
	u->ring_fd = fd_new(&ring_ops, r);
	return 0;
}

/* --- one request ------------------------------------------------------------------------------ */

static int32_t file_io(const struct io_uring_sqe *q, struct fd *f)
{
	void *buf = (void *)(uintptr_t)q->addr;
	bool reads = q->opcode == IORING_OP_READ;
	struct iovec iov = {buf, q->len};

	if (f->ops != &file_ops)
		return (int32_t)(reads ? fd_read(f, buf, q->len) : fd_write(f, &iov, 1));
	if (rnd_one_in(storage[f->proc->host->index].io_error))
		return -EIO;
	return (int32_t)(reads ? file_read_at(f, buf, q->len, q->off)
			       : file_write_at(f, buf, q->len, q->off));
}

static int32_t carry_out(const struct io_uring_sqe *q)
{
	struct fd *f = fd_find(q->fd);

	if (!f)
		return -EBADF;
	switch (q->opcode) {
	case IORING_OP_READ:
	case IORING_OP_WRITE:
		return file_io(q, f);
	case IORING_OP_FSYNC:
		return file_sync(f);
	case IORING_OP_FALLOCATE:
		return file_allocate(f, (int)q->len, q->off, q->addr);
	default:
		return -EINVAL;
	}
}

static bool is_due(const struct request *r)
{
	struct fd *f;

	if (r->sqe.opcode != IORING_OP_POLL_ADD)
		return r->due <= world_now();
	f = fd_find(r->sqe.fd);
	return f && fd_ready(f) & r->sqe.poll32_events;
}

static void complete(struct ring *r, uint64_t key, int32_t res)
{
	r->cqes[r->cq_tail++ & (RING_BIG - 1)] =
		(struct io_uring_cqe){.user_data = key, .res = res};
}

/* All that are due; returns how many completions are to be seen. */
static unsigned reap(struct ring *r)
{
	if (world_is_still(r->looked) && world_now() < r->due)
		return r->cq_tail - r->cq_head;
	r->looked = world_changes; /* what is carried out below is a change */
	r->due = NEVER;
	for (struct request **at = &r->first; *at;) {
		struct request *q = *at;

		if (!is_due(q)) {
			if (q->sqe.opcode != IORING_OP_POLL_ADD && q->due < r->due)
				r->due = q->due;
			at = &q->next;
			continue;
		}
		*at = q->next;
		complete(r, q->sqe.user_data,
			 q->sqe.opcode == IORING_OP_POLL_ADD
				 ? (int32_t)(fd_ready(fd_find(q->sqe.fd)) & q->sqe.poll32_events)
				 : carry_out(&q->sqe));
		free(q);
	}
	return r->cq_tail - r->cq_head;
}

/* The end of a process: the kernel has some of it under way and finishes that, or not. */
static void ring_close(struct fd *f)
{
	struct ring *r = f->of;

	while (r->first) {
		struct request *q = r->first;

		r->first = q->next;
		if (q->sqe.opcode == IORING_OP_WRITE && f->proc->host->up && rnd_one_in(2))
			carry_out(&q->sqe);
		free(q);
	}
	free(r->sqes);
	free(r->cqes);
	free(r);
}

/* --- calls ------------------------------------------------------------------------------------ */

static void cancel(struct ring *r, uint64_t key)
{
	struct request **at = &r->first;

	while (*at && (*at)->sqe.user_data != key)
		at = &(*at)->next;
	if (*at) {
		struct request *q = *at;

		*at = q->next;
		complete(r, key, -ECANCELED);
		free(q);
	}
}

static void take(struct ring *r, const struct io_uring_sqe *sqe)
{
	struct request *q, **at = &r->first;
	uint64_t io_ns = storage[proc_now()->host->index].io_ns;

	if (sqe->opcode == IORING_OP_POLL_REMOVE || sqe->opcode == IORING_OP_ASYNC_CANCEL) {
		cancel(r, sqe->addr);
		complete(r, sqe->user_data, 0);
		return;
	}
	r->looked = 0;
	q = calloc(1, sizeof(*q));
	q->sqe = *sqe;
	q->due = world_now() + 10 * US + rnd_below(io_ns);
	if (sqe->opcode != IORING_OP_POLL_ADD)
		world_at(q->due, NULL, NULL);
	while (*at && (*at)->due <= q->due)
		at = &(*at)->next;
	q->next = *at;
	*at = q;
}

int __wrap_io_uring_submit(struct io_uring *u)
{
	struct ring *r = ring_of(u);
	unsigned n = 0;

	while (u->sq.sqe_head != u->sq.sqe_tail) {
		take(r, &r->sqes[u->sq.sqe_head++ & u->sq.ring_mask]);
		n++;
	}
	r->sq_head = r->sq_tail = u->sq.sqe_head;
	fiber_maybe(8);
	return (int)n;
}

static bool has_some(void *arg)
{
	return reap(arg) > 0;
}

int __wrap_io_uring_submit_and_wait_timeout(struct io_uring *u, struct io_uring_cqe **cqe,
					    unsigned n, struct __kernel_timespec *ts,
					    sigset_t *mask)
{
	uint64_t ns = ts ? (uint64_t)ts->tv_sec * SEC + (uint64_t)ts->tv_nsec : NEVER;
	int sent = __wrap_io_uring_submit(u);

	if (ns)
		fiber_wait(has_some, ring_of(u),
			   ns < NEVER - world_now() ? world_now() + ns : NEVER);
	else
		fiber_maybe(2);
	proc_now()->woke_at = world_now();
	cover_look(proc_now());
	return reap(ring_of(u)) ? sent : -ETIME;
}

int __wrap_io_uring_submit_and_wait(struct io_uring *u, unsigned n)
{
	return __wrap_io_uring_submit_and_wait_timeout(u, NULL, n, NULL, NULL);
}

int __wrap___io_uring_get_cqe(struct io_uring *u, struct io_uring_cqe **cqe, unsigned submit,
			      unsigned wait, sigset_t *mask)
{
	return -EAGAIN;
}

void __wrap_io_uring_queue_exit(struct io_uring *u)
{
	__wrap_close(u->ring_fd);
}

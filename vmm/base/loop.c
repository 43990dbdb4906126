#define _GNU_SOURCE
#include "vmm/base/loop.h"

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "vmm/base/log.h"

/*
 * The kernel knows an operation by slot index and generation, never by pointer: a completion that
 * arrives after its op was deleted (and perhaps freed) finds another generation and is ignored.
 */
struct loop_slot {
	struct loop_op *op; /* NULL: deleted, its completion is still to come */
	uint32_t gen;
	uint32_t next, prev; /* 1 + index: of the free list, or among timers */
	uint64_t due_ns;     /* of a timer, */
	uint64_t set_in;     /* and the round that set it */
};

#define SLOTS_BYTES  (LOOP_MAX_OPS * sizeof(struct loop_slot))
#define UNSENT_BYTES (256u << 10)
#define SMALL_BYTES  4096u /* what a request costs besides its bytes, in bytes */

uint64_t loop_now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000ull + ts.tv_nsec;
}

uint64_t loop_round_ns(const struct loop *l)
{
	return __atomic_load_n(&l->round_ns, __ATOMIC_RELAXED);
}

static void note_round(struct loop *l)
{
	l->now_ns = l->clock();
	__atomic_store_n(&l->round_ns, l->now_ns, __ATOMIC_RELAXED);
}

static void epoll_ready(struct loop_op *ep_op, int res);
static int arm_poll(struct loop *l, struct loop_op *op);

static int open_epoll(struct loop *l, struct err *e)
{
	l->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (l->epoll_fd < 0) {
		int r = err_sys(e, "epoll");

		loop_done(l);
		return r;
	}
	l->epoll_op = (struct loop_op){
		.fn = epoll_ready, .arg = l, .fd = l->epoll_fd, .events = EPOLLIN, .by_ring = true};
	return arm_poll(l, &l->epoll_op);
}

/* A ring opens files and sockets past any list of system calls: this one does what is below. */
static int restrict_ring(struct io_uring *ring)
{
	static const uint8_t ops[] = {
		IORING_OP_NOP,	     IORING_OP_POLL_ADD, IORING_OP_POLL_REMOVE,
		IORING_OP_READ,	     IORING_OP_WRITE,	 IORING_OP_FSYNC,
		IORING_OP_FALLOCATE, IORING_OP_TIMEOUT,	 IORING_OP_ASYNC_CANCEL};
	struct io_uring_restriction rows[sizeof(ops)] = {0};
	int r;

	for (unsigned i = 0; i < sizeof(ops); i++) {
		rows[i].opcode = IORING_RESTRICTION_SQE_OP;
		rows[i].sqe_op = ops[i];
	}
	r = io_uring_register((unsigned)ring->ring_fd, IORING_REGISTER_RESTRICTIONS, rows,
			      sizeof(ops));
	if (!r)
		r = io_uring_register((unsigned)ring->ring_fd, IORING_REGISTER_ENABLE_RINGS, NULL,
				      0);
	if (r)
		io_uring_queue_exit(ring);
	return r;
}

static int open_ring(struct io_uring *ring)
{
	unsigned flags = IORING_SETUP_CLAMP | IORING_SETUP_R_DISABLED;
	unsigned best = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN;
	int r = io_uring_queue_init(256, ring, best | flags);

	if (r == -EINVAL) /* kernel before 6.1 */
		r = io_uring_queue_init(256, ring, flags);
	return r ? r : restrict_ring(ring);
}

int loop_init(struct loop *l, struct err *e)
{
	int r;

	memset(l, 0, sizeof(*l));
	r = open_ring(&l->ring);
	if (r < 0)
		return err_set(e, r,
			       "io_uring: %s; Linux 5.19 or later with io_uring enabled is needed "
			       "(sysctl kernel.io_uring_disabled)",
			       strerror(-r));
	/* Not from the heap, which may have to be cleared: most of this is never touched. */
	l->slots =
		mmap(NULL, SLOTS_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (l->slots == MAP_FAILED) {
		l->slots = NULL;
		io_uring_queue_exit(&l->ring);
		return err_set(e, -ENOMEM, "event loop: out of memory");
	}
	l->clock = loop_now_ns;
	l->work_tail = &l->work;
	note_round(l);
	return open_epoll(l, e);
}

void loop_done(struct loop *l)
{
	if (!l->slots)
		return;
	io_uring_queue_exit(&l->ring);
	close(l->epoll_fd);
	munmap(l->slots, SLOTS_BYTES);
	memset(l, 0, sizeof(*l));
}

/* A slot for op, or -ENOSPC. Slots never used lie behind the free list: most are never touched. */
static int take_slot(struct loop *l, struct loop_op *op)
{
	if (l->free_slot) {
		op->slot = l->free_slot;
		l->free_slot = l->slots[op->slot - 1].next;
	} else if (l->nslots < LOOP_MAX_OPS) {
		op->slot = ++l->nslots;
	} else {
		return -ENOSPC;
	}
	l->slots[op->slot - 1].op = op;
	return 0;
}

static struct io_uring_sqe *get_sqe(struct loop *l)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&l->ring);

	if (!sqe) {
		io_uring_submit(&l->ring);
		sqe = io_uring_get_sqe(&l->ring);
	}
	VMM_BUG_ON(!sqe);
	return sqe;
}

static uint64_t slot_key(const struct loop *l, uint32_t slot)
{
	return (uint64_t)l->slots[slot - 1].gen << 32 | slot;
}

/* Bind op to a free slot; the caller prepares the returned sqe, then calls key_sqe(). */
static struct io_uring_sqe *arm(struct loop *l, struct loop_op *op)
{
	VMM_BUG_ON(op->slot);
	if (take_slot(l, op))
		return NULL;
	return get_sqe(l);
}

static int key_sqe(struct loop *l, struct loop_op *op, struct io_uring_sqe *sqe)
{
	io_uring_sqe_set_data64(sqe, slot_key(l, op->slot));
	return 0;
}

static void free_slot(struct loop *l, uint32_t slot)
{
	struct loop_slot *s = &l->slots[slot - 1];

	s->op = NULL;
	s->gen++;
	s->next = l->free_slot;
	l->free_slot = slot;
}

/* Forget op; its slot is freed when the (cancelled) completion arrives. */
static uint64_t detach(struct loop *l, struct loop_op *op)
{
	uint64_t key = slot_key(l, op->slot);

	l->slots[op->slot - 1].op = NULL;
	op->slot = 0;
	return key;
}

static int arm_poll(struct loop *l, struct loop_op *op)
{
	struct io_uring_sqe *sqe = arm(l, op);

	if (!sqe)
		return -ENOSPC;
	io_uring_prep_poll_add(sqe, op->fd, op->events);
	return key_sqe(l, op, sqe);
}

int loop_poll_add(struct loop *l, struct loop_op *op, int fd, uint32_t events)
{
	struct epoll_event ev = {.events = events}; /* EPOLLIN is POLLIN, and so on */
	int r;

	op->fd = fd;
	op->events = events;
	op->slot = 0;
	op->by_ring = false;
	r = take_slot(l, op);
	if (r)
		return r;
	ev.data.u64 = slot_key(l, op->slot);
	if (epoll_ctl(l->epoll_fd, EPOLL_CTL_ADD, fd, &ev) == 0)
		return 0;
	r = -errno;
	free_slot(l, op->slot);
	op->slot = 0;
	if (r != -EEXIST && r != -EPERM)
		return r;
	/* The same descriptor twice, or one that epoll does not know. */
	op->by_ring = true;
	return arm_poll(l, op);
}

void loop_poll_del(struct loop *l, struct loop_op *op)
{
	struct io_uring_sqe *sqe;

	op->events = 0;
	if (!op->slot || !l->slots)
		return;
	if (!op->by_ring) {
		epoll_ctl(l->epoll_fd, EPOLL_CTL_DEL, op->fd, NULL);
		free_slot(l, op->slot);
		op->slot = 0;
		return;
	}
	sqe = get_sqe(l);
	io_uring_prep_poll_remove(sqe, detach(l, op));
	io_uring_sqe_set_data64(sqe, 0);
}

/* The ring says that the epoll set has something. */
static void epoll_ready(struct loop_op *ep_op, int res)
{
	struct loop *l = ep_op->arg;
	struct epoll_event ev[64];
	int n = epoll_wait(l->epoll_fd, ev, 64, 0);

	for (int i = 0; i < n && !l->stop; i++) {
		uint32_t slot = (uint32_t)ev[i].data.u64;
		struct loop_slot *s = &l->slots[slot - 1];

		/* A callback before this one may have deleted the poll. */
		if (s->gen == (uint32_t)(ev[i].data.u64 >> 32) && s->op)
			s->op->fn(s->op, ev[i].events);
	}
}

/* --- timers ----------------------------------------------------------------------------------- */

/* From the end: most delays are as long as those set before. */
static void insert_timer(struct loop *l, uint32_t slot)
{
	struct loop_slot *s = &l->slots[slot - 1];
	uint32_t after = l->last_timer;

	while (after && l->slots[after - 1].due_ns > s->due_ns)
		after = l->slots[after - 1].prev;
	s->prev = after;
	s->next = after ? l->slots[after - 1].next : l->first_timer;
	*(after ? &l->slots[after - 1].next : &l->first_timer) = slot;
	*(s->next ? &l->slots[s->next - 1].prev : &l->last_timer) = slot;
}

static void remove_timer(struct loop *l, uint32_t slot)
{
	struct loop_slot *s = &l->slots[slot - 1];

	*(s->prev ? &l->slots[s->prev - 1].next : &l->first_timer) = s->next;
	*(s->next ? &l->slots[s->next - 1].prev : &l->last_timer) = s->prev;
	free_slot(l, slot);
}

int loop_timer_set(struct loop *l, struct loop_op *op, uint64_t delay_ns)
{
	struct loop_slot *s;

	loop_timer_del(l, op);
	op->events = 0;
	if (take_slot(l, op))
		return -ENOSPC;
	s = &l->slots[op->slot - 1];
	s->due_ns = l->clock() + delay_ns;
	s->set_in = l->rounds;
	insert_timer(l, op->slot);
	return 0;
}

void loop_timer_del(struct loop *l, struct loop_op *op)
{
	if (!op->slot || !l->slots)
		return;
	remove_timer(l, op->slot);
	op->slot = 0;
}

/* Those that were due when the round began; one that is set again has its turn in the next. */
static void run_timers(struct loop *l)
{
	while (l->first_timer && !l->stop) {
		const struct loop_slot *s = &l->slots[l->first_timer - 1];
		struct loop_op *op = s->op;

		if (s->due_ns > l->now_ns || s->set_in == l->rounds)
			return;
		remove_timer(l, l->first_timer);
		op->slot = 0;
		op->fn(op, -ETIME);
	}
}

/* --- file I/O --------------------------------------------------------------------------------- */

static void send_io(struct loop *l)
{
	if (l->unsent)
		io_uring_submit(&l->ring);
	l->unsent = 0;
}

/*
 * The kernel serves what is in its page cache while it is told, so it is told now and then: that
 * time is the asker's, who looks at the clock, and not all at once behind the round.
 */
static int key_io(struct loop *l, struct loop_op *op, struct io_uring_sqe *sqe, uint32_t len)
{
	key_sqe(l, op, sqe);
	l->unsent += SMALL_BYTES + (len < UNSENT_BYTES ? len : UNSENT_BYTES);
	if (l->unsent >= UNSENT_BYTES)
		send_io(l);
	return 0;
}

int loop_read(struct loop *l, struct loop_op *op, int fd, void *buf, uint32_t len, uint64_t off)
{
	struct io_uring_sqe *sqe = arm(l, op);

	if (!sqe)
		return -ENOSPC;
	op->events = 0;
	io_uring_prep_read(sqe, fd, buf, len, off);
	return key_io(l, op, sqe, len);
}

int loop_write(struct loop *l, struct loop_op *op, int fd, const void *buf, uint32_t len,
	       uint64_t off)
{
	struct io_uring_sqe *sqe = arm(l, op);

	if (!sqe)
		return -ENOSPC;
	op->events = 0;
	io_uring_prep_write(sqe, fd, buf, len, off);
	return key_io(l, op, sqe, len);
}

void loop_io_abandon(struct loop *l, struct loop_op *op)
{
	struct io_uring_sqe *sqe;

	if (!op->slot || !l->slots)
		return;
	sqe = get_sqe(l);
	io_uring_prep_cancel64(sqe, detach(l, op), 0);
	io_uring_sqe_set_data64(sqe, 0);
}

int loop_fdatasync(struct loop *l, struct loop_op *op, int fd)
{
	struct io_uring_sqe *sqe = arm(l, op);

	if (!sqe)
		return -ENOSPC;
	op->events = 0;
	io_uring_prep_fsync(sqe, fd, IORING_FSYNC_DATASYNC);
	return key_sqe(l, op, sqe);
}

int loop_fallocate(struct loop *l, struct loop_op *op, int fd, int mode, uint64_t off, uint64_t len)
{
	struct io_uring_sqe *sqe = arm(l, op);

	if (!sqe)
		return -ENOSPC;
	op->events = 0;
	io_uring_prep_fallocate(sqe, fd, mode, off, len);
	return key_sqe(l, op, sqe);
}

static void dispatch(struct loop *l, uint64_t key, int res)
{
	uint32_t slot = (uint32_t)key;
	struct loop_slot *s;
	struct loop_op *op;

	if (!slot || slot > LOOP_MAX_OPS) /* a removal's own completion */
		return;
	s = &l->slots[slot - 1];
	if (s->gen != (uint32_t)(key >> 32))
		return;
	op = s->op;
	free_slot(l, slot);
	if (!op)
		return;
	op->slot = 0;
	uint32_t polled = op->by_ring ? op->events : 0;

	/* Armed again before the callback, so that the callback may delete or free the op. */
	if (polled && res >= 0 && arm_poll(l, op) < 0)
		log_error("event loop: more than %d operations at once", LOOP_MAX_OPS);
	op->fn(op, res);
}

/* --- work in turn ----------------------------------------------------------------------------- */

void loop_work_add(struct loop *l, struct loop_work *w)
{
	if (w->waits)
		return;
	w->waits = true;
	w->next = NULL;
	*l->work_tail = w;
	l->work_tail = &w->next;
}

void loop_work_del(struct loop *l, struct loop_work *w)
{
	struct loop_work **at = &l->work;

	if (!w->waits)
		return;
	while (*at && *at != w)
		at = &(*at)->next;
	VMM_BUG_ON(!*at);
	*at = w->next;
	if (l->work_tail == &w->next)
		l->work_tail = at;
	w->waits = false;
}

bool loop_should_yield(const struct loop *l)
{
	return l->clock() >= l->yield_ns;
}

/* Events are looked at after a turn of each, or when the budget is used up. */
static void run_work(struct loop *l)
{
	unsigned n = 0;

	for (struct loop_work *w = l->work; w; w = w->next)
		n++;
	l->yield_ns = l->clock() + LOOP_BUDGET_NS;
	while (n-- && l->work && !l->stop) {
		struct loop_work *w = l->work;

		loop_work_del(l, w);
		if (w->fn(w))
			loop_work_add(l, w);
		if (loop_should_yield(l))
			return;
	}
}

/* --- rounds ----------------------------------------------------------------------------------- */

static unsigned away_bucket(uint64_t ns)
{
	unsigned e = 63 - (unsigned)__builtin_clzll(ns | 8), b = (e - 3) * 8 + (ns >> (e - 3));

	return b < LOOP_AWAY_BUCKETS ? b : LOOP_AWAY_BUCKETS - 1;
}

static uint64_t away_bucket_end(unsigned b)
{
	return b < 8 ? b : ((9ull + b % 8) << (b / 8 - 1)) - 1;
}

uint64_t loop_away_max_ns(const struct loop *l)
{
	return l->away_max_ns;
}

uint64_t loop_away_ns(const struct loop *l, unsigned pct)
{
	uint64_t all = 0, n = 0, end;
	unsigned b = 0;

	for (unsigned i = 0; i < LOOP_AWAY_BUCKETS; i++)
		all += l->away[i];
	for (n = l->away[0]; n * 100 < all * pct; n += l->away[b])
		b++;
	end = away_bucket_end(b);
	return end < l->away_max_ns ? end : l->away_max_ns;
}

/* The round is over; returns the time. */
static uint64_t end_round(struct loop *l)
{
	uint64_t now, away;

	send_io(l);
	now = l->clock();
	away = now - (l->over_ns < l->now_ns ? l->over_ns : l->now_ns);
	l->away[away_bucket(away)]++;
	if (away > l->away_max_ns)
		l->away_max_ns = away;
	return now;
}

/* For an event, a timer, or timeout_ns (UINT64_MAX: for ever). 0 or a negative errno. */
static int wait_for_events(struct loop *l, uint64_t timeout_ns)
{
	uint64_t now = l->rounds ? end_round(l) : l->clock();
	uint64_t due = l->first_timer ? l->slots[l->first_timer - 1].due_ns : UINT64_MAX;
	struct __kernel_timespec ts;
	struct io_uring_cqe *cqe;
	int r;

	if (l->work || due <= now)
		timeout_ns = 0;
	else if (due - now < timeout_ns && l->first_timer)
		timeout_ns = due - now;
	l->over_ns = timeout_ns < UINT64_MAX - now ? now + timeout_ns : UINT64_MAX;
	ts.tv_sec = (long long)(timeout_ns / 1000000000ull);
	ts.tv_nsec = (long long)(timeout_ns % 1000000000ull);
	if (timeout_ns == UINT64_MAX)
		r = io_uring_submit_and_wait(&l->ring, 1);
	else
		r = io_uring_submit_and_wait_timeout(&l->ring, &cqe, 1, &ts, NULL);
	l->unsent = 0;
	return r >= 0 || r == -ETIME || r == -EINTR || r == -EAGAIN || r == -EBUSY ? 0 : r;
}

static void run_round(struct loop *l)
{
	struct io_uring_cqe *cqe;
	unsigned n = io_uring_cq_ready(&l->ring);

	l->rounds++;
	note_round(l);
	l->yield_ns = l->now_ns + LOOP_BUDGET_NS;
	while (n-- && !l->stop && io_uring_peek_cqe(&l->ring, &cqe) == 0) {
		uint64_t key = cqe->user_data;
		int res = cqe->res;

		io_uring_cqe_seen(&l->ring, cqe);
		dispatch(l, key, res);
	}
	run_timers(l);
	run_work(l);
}

int loop_run(struct loop *l)
{
	l->stop = false;
	l->now_ns = l->over_ns = l->clock(); /* nobody waited for events until now */
	while (!l->stop) {
		int r = wait_for_events(l, UINT64_MAX);

		if (r)
			return r;
		run_round(l);
	}
	return 0;
}

int loop_run_once(struct loop *l, uint64_t timeout_ns)
{
	bool stopping = l->stop;
	int r = wait_for_events(l, timeout_ns);

	if (r)
		return r;
	l->stop = false;
	run_round(l);
	/* Inside a callback of loop_run(): a stop asked for before is still to happen. */
	l->stop = l->stop || stopping;
	return 0;
}

void loop_stop(struct loop *l)
{
	l->stop = true;
}

int loop_raise_priority(int priority)
{
	struct sched_param p = {.sched_priority = priority};

	return sched_setscheduler(0, SCHED_RR | SCHED_RESET_ON_FORK, &p) < 0 ? -errno : 0;
}

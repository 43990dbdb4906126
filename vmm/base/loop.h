/*
 * The event loop: one io_uring, one thread (the "loop" thread), callbacks. Everything here is
 * called from the loop thread only.
 *
 * A round: wait; callbacks of what is ready; timers that were due when the wait ended, so that what
 * arrived before a deadline counts; then work in turn, for LOOP_BUDGET_NS. What may take long, as
 * all that a guest asks for, is work: however much there is, events and timers are not kept
 * waiting.
 *
 * Readiness of descriptors comes through an epoll set that the ring polls: a ring holds references
 * to the files it polls, and after SIGKILL it is taken down late (10-30 ms), which would delay the
 * end of the connections by which a peer sees that we are dead, and keep taps and ports busy.
 *
 * An op is owned by its caller and must stay alive until its callback ran for the last time (for
 * polls: until loop_poll_del() returned).
 */
#ifndef VMM_LOOP_H
#define VMM_LOOP_H

#include <liburing.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "vmm/base/err.h"

struct loop;
struct loop_op;
struct loop_work;
/* res: the operation's result (negative errno on failure); for polls the ready event mask. */
typedef void loop_fn(struct loop_op *op, int res);

struct loop_op {
	loop_fn *fn;
	void *arg;
	/* private to loop.c */
	uint32_t slot; /* 1 + index while something is under way, else 0 */
	int fd;
	uint32_t events; /* not 0: a poll */
	bool by_ring;	 /* a poll that epoll cannot take: armed again after each callback */
};

/*
 * Something that has its turn soon, and again for as long as fn returns true. fn does at least a
 * piece of it, then as much as loop_should_yield() lets it. Turns go round: nobody has a second one
 * before all others that wait had theirs.
 */
typedef bool loop_work_fn(struct loop_work *w);

struct loop_work {
	loop_work_fn *fn;
	void *arg;
	/* private to loop.c */
	struct loop_work *next;
	bool waits;
};

#define LOOP_MAX_OPS	  4096 /* polls, timers and I/O under way at once */
#define LOOP_BUDGET_NS	  2000000ull
#define LOOP_AWAY_BUCKETS 328 /* eight for each doubling, up to an hour */

struct loop_slot;

struct loop {
	struct io_uring ring;
	int epoll_fd;
	struct loop_op epoll_op;
	struct loop_slot *slots;
	uint32_t free_slot; /* head of the free list, 1 + index */
	uint32_t nslots;    /* ever used */
	bool stop;
	uint64_t (*clock)(void); /* loop_now_ns(); a test may step one of its own */
	uint64_t now_ns;	 /* by it, when this round of callbacks began */
	uint64_t yield_ns;	 /* when the budget is used up */
	uint64_t round_ns;	 /* atomic: as now_ns */
	uint64_t rounds;
	uint32_t first_timer, last_timer;    /* 1 + index, the next one first */
	uint32_t unsent;		     /* of file I/O that the kernel has not been told of */
	struct loop_work *work, **work_tail; /* waiting for their turns */
	uint64_t over_ns;		     /* when the last wait was to be over */
	uint64_t away_max_ns;
	uint64_t away[LOOP_AWAY_BUCKETS]; /* rounds, by how long they took */
};

int loop_init(struct loop *l, struct err *e);
void loop_done(struct loop *l);
/* Run until loop_stop(). Returns 0 or a negative errno from io_uring. */
int loop_run(struct loop *l);
void loop_stop(struct loop *l);
/* Wait at most timeout_ns for one round of callbacks. For tests and orderly shutdown. */
int loop_run_once(struct loop *l, uint64_t timeout_ns);
/*
 * How long the loop was away between two looks at its events: at most, and in pct of 100 rounds.
 * A wait that ended late counts as well: work or a timer was due, and the host let nobody run.
 */
uint64_t loop_away_max_ns(const struct loop *l);
uint64_t loop_away_ns(const struct loop *l, unsigned pct);

/* Nothing when w waits already / does not. */
void loop_work_add(struct loop *l, struct loop_work *w);
void loop_work_del(struct loop *l, struct loop_work *w);
/* Is the budget of this round used up? Whoever has more to do goes on in a turn of its work. */
bool loop_should_yield(const struct loop *l);

/* Call fn whenever fd is ready for `events` (POLLIN, POLLOUT); level-triggered until removed. */
int loop_poll_add(struct loop *l, struct loop_op *op, int fd, uint32_t events);
void loop_poll_del(struct loop *l, struct loop_op *op);
/* One-shot timer; re-arm by calling again. Del is safe when not armed. */
int loop_timer_set(struct loop *l, struct loop_op *op, uint64_t delay_ns);
void loop_timer_del(struct loop *l, struct loop_op *op);
/* File I/O; buf must stay valid until fn. fdatasync for flush. */
int loop_read(struct loop *l, struct loop_op *op, int fd, void *buf, uint32_t len, uint64_t off);
int loop_write(struct loop *l, struct loop_op *op, int fd, const void *buf, uint32_t len,
	       uint64_t off);
/* fn will not be called. What is read from or written to must stay: the kernel may be at it still.
 */
void loop_io_abandon(struct loop *l, struct loop_op *op);
int loop_fdatasync(struct loop *l, struct loop_op *op, int fd);
int loop_fallocate(struct loop *l, struct loop_op *op, int fd, int mode, uint64_t off,
		   uint64_t len);

/*
 * Let the calling thread run before ordinary ones, and before those of a lower real-time priority
 * (1 is the loop's), as far as the host allows (root or CAP_SYS_NICE): a side that waits for its
 * turn on a busy host looks dead. Threads it makes do not inherit this. 0 or a negative errno.
 */
int loop_raise_priority(int priority);
/* When the last round of callbacks began, by its clock: is the loop away? Any thread. */
uint64_t loop_round_ns(const struct loop *l);
uint64_t loop_now_ns(void); /* CLOCK_MONOTONIC, any thread */

#endif

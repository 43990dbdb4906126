#define _GNU_SOURCE
#include "postcopy/lazy.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "postcopy/lazy_file.h"
#include "postcopy/pager.h"
#include "postcopy/uffd.h"
#include "vmm/base/job.h"
#include "vmm/base/loop.h"

#define SESSION	    1 /* of both ends of the link */
#define SEND_NS	    60000000000ull
#define NO_DEADLINE (UINT64_MAX / 4)

/* The thread's, which may be in a call to storage that does not come back. */
struct feeder {
	struct job job; /* first */
	struct lazy_file file;
	struct stream link;
	bool closed; /* by the other end: not an error */
	struct err err;

	/* Of the loop, until it lets go. */
	pthread_mutex_t lock;
	struct lazy *lazy; /* under lock; NULL: let go */
	bool failed;	   /* under lock; err says why */
};

struct lazy {
	struct feeder *feeder; /* NULL: its thread is over, and was told of */
	struct pager pager;
	struct stream urgent;
	struct vm *vm;
	int notify_fd;
	struct loop_op op;
	bool watched, feeding, told_once;
	bool going; /* under feeder->lock: the loop waits for no page */
	void (*told)(void *arg, const struct err *e);
	void *arg;
	struct err err; /* of the feeder */
};

/* --- the thread ------------------------------------------------------------------------------- */

static int link_failed(struct feeder *f, int r)
{
	f->closed = true;
	return r;
}

static int send_frame(struct feeder *f, uint32_t frame)
{
	struct iovec iov;
	int r = lazy_file_read(&f->file, frame, &iov, &f->err);

	if (r || !iov.iov_len)
		return r;
	r = stream_send(&f->link, FRAME_PAGES, 0, &iov, 1, loop_now_ns() + SEND_NS);
	return r ? link_failed(f, r) : 0;
}

static int answer(struct feeder *f, const struct frame *want)
{
	for (uint32_t at = 0; at + sizeof(uint64_t) <= want->length; at += sizeof(uint64_t)) {
		uint64_t page;
		int64_t frame;
		int r;

		memcpy(&page, want->data + at, sizeof(page));
		frame = lazy_file_frame(&f->file, page);
		r = frame < 0 ? 0 : send_frame(f, (uint32_t)frame);
		if (r)
			return r;
	}
	return 0;
}

static int answer_all(struct feeder *f)
{
	struct frame want;
	int r;

	while ((r = stream_recv(&f->link, &want)) == 1) {
		r = want.type == FRAME_WANT ? answer(f, &want) : 0;
		if (r)
			return r;
	}
	return r ? link_failed(f, r) : 0;
}

/* Before the first instruction the loop may wait for a page that will not come. */
static void fail(struct feeder *f)
{
	pthread_mutex_lock(&f->lock);
	f->failed = true;
	if (f->lazy && !f->lazy->going)
		uffd_unregister(f->lazy->pager.uffd, f->lazy->pager.mem);
	pthread_mutex_unlock(&f->lock);
}

static int feed(struct job *job)
{
	struct feeder *f = (struct feeder *)job;
	int r = 0;

	pthread_setname_np(pthread_self(), "lazy");
	while (!r) {
		int64_t next = lazy_file_next(&f->file);
		struct pollfd p = {.fd = f->link.fd, .events = POLLIN};

		if (poll(&p, 1, next < 0 ? -1 : 0) < 0 && errno != EINTR)
			r = err_sys(&f->err, "poll");
		if (!r && p.revents)
			r = answer_all(f);
		if (!r && next >= 0)
			r = send_frame(f, (uint32_t)next);
	}
	if (f->closed)
		return 0;
	fail(f);
	/* Its end, seen by the pager, is what the loop hears of. */
	shutdown(f->link.fd, SHUT_RDWR);
	return r == -ETIMEDOUT ? -EIO : r;
}

static void feeder_release(struct feeder *f)
{
	lazy_file_done(&f->file);
	stream_done(&f->link);
	pthread_mutex_destroy(&f->lock);
	free(f);
}

static void feeder_drop(struct job *job)
{
	feeder_release((struct feeder *)job);
}

static void feeder_told(struct job *job, int result)
{
	struct feeder *f = (struct feeder *)job;

	if (result == -ETIMEDOUT) /* there is no deadline */
		return;
	f->lazy->err = f->err;
	f->lazy->feeder = NULL;
	feeder_release(f);
}

/* --- the pages of a snapshot ------------------------------------------------------------------ */

static int take(void *arg, struct vm *vm, const struct stream *st, const struct frame *f,
		struct err *e)
{
	struct lazy *l = arg;

	return lazy_file_add(&l->feeder->file, st, vm->mem.npages, f, e);
}

static int make_link(struct lazy *l, struct err *e)
{
	int fd[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fd))
		return err_sys(e, "socketpair");
	stream_init(&l->urgent, fd[0], STREAM_URGENT, SESSION);
	stream_init(&l->feeder->link, fd[1], STREAM_URGENT, SESSION);
	return 0;
}

static int start_feeder(struct lazy *l, struct err *e)
{
	struct job *job = &l->feeder->job;
	int r;

	job->run = feed;
	job->told = feeder_told;
	job->drop = feeder_drop;
	r = job_start_on(job, l->vm->loop, NO_DEADLINE);
	l->feeding = !r;
	return r ? err_set(e, r, "thread: %s", strerror(-r)) : 0;
}

static int taken(void *arg, struct vm *vm, const struct stream *st, struct err *e)
{
	struct lazy *l = arg;
	int r = lazy_file_taken(&l->feeder->file, st, vm->mem.npages, e);

	l->vm = vm;
	if (!r)
		r = make_link(l, e);
	if (!r)
		r = pager_open(&l->pager, &vm->mem, l->notify_fd, e);
	if (r)
		return r;
	for (uint64_t p = 0; p < vm->mem.npages; p++)
		if (!lazy_file_has(&l->feeder->file, p))
			have_came(&l->pager.have, p, true);
	r = pager_start(&l->pager, &l->urgent, e);
	return r ? r : start_feeder(l, e);
}

/* The VM is taken down; nobody faults any more. */
static void undo(void *arg)
{
	struct lazy *l = arg;

	if (l->feeder) {
		pthread_mutex_lock(&l->feeder->lock);
		l->going = true;
		pthread_mutex_unlock(&l->feeder->lock);
	}
	pager_drop(&l->pager);
}

struct snapshot_pages lazy_pages(struct lazy *l)
{
	return (struct snapshot_pages){take, taken, undo, l};
}

/* --- on the loop ------------------------------------------------------------------------------ */

int lazy_new(struct lazy **ret, struct err *e)
{
	struct lazy *l;
	int r = pager_probe(e);

	if (r)
		return r;
	l = calloc(1, sizeof(*l));
	if (l)
		l->feeder = calloc(1, sizeof(*l->feeder));
	if (!l || !l->feeder) {
		free(l);
		return err_set(e, -ENOMEM, "out of memory");
	}
	l->urgent.fd = l->feeder->link.fd = -1;
	lazy_file_init(&l->feeder->file);
	l->feeder->lazy = l;
	pthread_mutex_init(&l->feeder->lock, NULL);
	l->notify_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (l->notify_fd < 0) {
		r = err_sys(e, "eventfd");
		lazy_free(l);
		return r;
	}
	*ret = l;
	return 0;
}

int lazy_go(struct lazy *l, struct err *e)
{
	struct feeder *f = l->feeder;
	bool failed = l->err.code;

	if (f) {
		pthread_mutex_lock(&f->lock);
		failed = f->failed;
		l->going = !failed;
		pthread_mutex_unlock(&f->lock);
	}
	if (!failed)
		return 0;
	return err_set(e, -EIO, "pages cannot be had: %s", f ? f->err.msg : l->err.msg);
}

static void tell(struct lazy *l, const struct err *e)
{
	if (l->told_once)
		return;
	l->told_once = true;
	l->told(l->arg, e);
}

/* The thread's own reason, when it has one, is the better one. */
static void tell_lost(struct lazy *l)
{
	struct err e = {0};
	char why[256];

	pager_why(&l->pager, why, sizeof(why));
	pager_cut(&l->pager);
	if (l->feeder) {
		pthread_mutex_lock(&l->feeder->lock);
		if (l->feeder->failed)
			e = l->feeder->err;
		pthread_mutex_unlock(&l->feeder->lock);
	} else {
		e = l->err;
	}
	err_set(&e, -EIO, "%s", why);
	tell(l, &e);
}

static void notified(struct loop_op *op, int res)
{
	struct lazy *l = op->arg;
	unsigned events = pager_events(&l->pager);
	uint64_t n;

	if (read(l->notify_fd, &n, sizeof(n)) < 0 && errno != EAGAIN)
		return;
	events |= pager_events(&l->pager);
	if (events & PAGER_ARRIVED)
		vm_arrived(l->vm);
	if (!pager_left(&l->pager))
		tell(l, NULL); /* which may free it */
	else if (events & (PAGER_LOST | PAGER_FAILED))
		tell_lost(l);
}

int lazy_watch(struct lazy *l, void (*told)(void *arg, const struct err *e), void *arg,
	       struct err *e)
{
	uint64_t one = 1;
	int r;

	l->told = told;
	l->arg = arg;
	l->op = (struct loop_op){.fn = notified, .arg = l};
	r = loop_poll_add(l->vm->loop, &l->op, l->notify_fd, POLLIN);
	l->watched = !r;
	/* There may have been nothing to wait for. */
	if (!r && write(l->notify_fd, &one, sizeof(one)) < 0)
		r = -errno;
	return r ? err_set(e, r, "lazy restore: %s", strerror(-r)) : 0;
}

void lazy_stats(struct lazy *l, struct lazy_stats *ret)
{
	struct faults_stats f;

	faults_get(&l->pager.faults, &f);
	*ret = (struct lazy_stats){.left = pager_left(&l->pager),
				   .faults = f.all.count,
				   .fault_p50_ns = faults_percentile_ns(&f, 50),
				   .fault_max_ns = f.all.max_ns};
}

void lazy_free(struct lazy *l)
{
	struct feeder *f;

	if (!l)
		return;
	f = l->feeder;
	if (l->watched)
		loop_poll_del(l->vm->loop, &l->op);
	if (f) {
		pthread_mutex_lock(&f->lock);
		f->lazy = NULL;
		pthread_mutex_unlock(&f->lock);
	}
	pager_drop(&l->pager);
	stream_done(&l->urgent); /* the thread sees that, and ends */
	if (f && l->feeding)
		job_abandon(&f->job);
	else if (f)
		feeder_release(f);
	if (l->notify_fd >= 0)
		close(l->notify_fd);
	free(l);
}

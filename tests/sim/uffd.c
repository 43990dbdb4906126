/*
 * userfaultfd over the guest's memory, which is a real file: a page that has nothing there is
 * missing, and a vCPU that touches it waits until it is filled. If the program itself touches one,
 * there are zeros, which no fill replaces: as with the real one the guest finds them.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/sim/file.h"
#include "tests/sim/guest.h"
#include "tests/sim/real.h"

#define PAGE	4096ull
#define ASK_MAX 64

struct uffd {
	uint64_t start, len; /* 0: nothing is registered */
	int memory;
	struct uffd_msg asked[ASK_MAX];
	unsigned nasked, wakes;
};

static ssize_t uffd_read_msgs(struct fd *f, void *buf, size_t len)
{
	struct uffd *u = f->of;
	unsigned n = (unsigned)(len / sizeof(struct uffd_msg));

	n = n < u->nasked ? n : u->nasked;
	if (!n)
		return -EAGAIN;
	memcpy(buf, u->asked, n * sizeof(struct uffd_msg));
	u->nasked -= n;
	memmove(u->asked, u->asked + n, u->nasked * sizeof(struct uffd_msg));
	return (ssize_t)(n * sizeof(struct uffd_msg));
}

static uint32_t uffd_ready(struct fd *f)
{
	return ((struct uffd *)f->of)->nasked ? POLLIN : 0;
}

static void uffd_close(struct fd *f)
{
	struct uffd *u = f->of;

	if (f->proc->uffd == u)
		f->proc->uffd = NULL;
	free(u);
}

static const struct fd_ops dev_ops = {.name = "userfaultfd"};
static const struct fd_ops uffd_ops = {"uffd", uffd_read_msgs, NULL, uffd_ready, uffd_close};

int proc_uffd_open(void)
{
	return fd_new(&dev_ops, NULL);
}

/* --- presence --------------------------------------------------------------------------------- */

static bool is_present(const struct uffd *u, uint64_t at)
{
	off_t off = (off_t)(at - u->start);

	return REAL(lseek)(u->memory, off, SEEK_DATA) == off;
}

struct wait {
	const struct proc *proc;
	uint64_t page;
	unsigned wakes;
};

static bool may_go_on(void *arg)
{
	const struct wait *w = arg;
	const struct uffd *u = w->proc->uffd;

	return !u || !u->len || u->wakes != w->wakes || is_present(u, w->page);
}

/* No such page, and nobody waits for one any more: a vCPU that has a signal does not go on then. */
static bool is_given_up(const struct proc *me)
{
	return (!me->uffd || !me->uffd->len) && fiber_now->signalled;
}

static void wait_for(struct proc *me, struct uffd *u, uint64_t page)
{
	struct wait w = {me, page, u->wakes};

	world_changes++;
	if (u->nasked < ASK_MAX)
		u->asked[u->nasked++] = (struct uffd_msg){
			.event = UFFD_EVENT_PAGEFAULT,
			.arg.pagefault = {.address = page, .feat.ptid = fiber_now->id}};
	fiber_wait(may_go_on, &w, NEVER);
	if (is_given_up(me)) {
		fiber_now->signalled = false;
		longjmp(*fiber_now->out, 1);
	}
}

void uffd_touch(const void *p, size_t len)
{
	struct proc *me = proc_now();
	uint64_t first = (uintptr_t)p & ~(PAGE - 1), end = (uintptr_t)p + len;

	for (uint64_t at = first; at < end; at += PAGE)
		while (me->uffd && at - me->uffd->start < me->uffd->len &&
		       !is_present(me->uffd, at))
			wait_for(me, me->uffd, at);
}

/* --- calls ------------------------------------------------------------------------------------ */

static long enroll(struct fd *f, struct uffdio_register *r)
{
	struct uffd *u = f->of;
	struct mem *m = &f->proc->run->vm.mem;

	if (r->range.start != (uintptr_t)m->base)
		return -EINVAL;
	u->start = r->range.start;
	u->len = r->range.len;
	u->memory = m->fd;
	f->proc->uffd = u;
	r->ioctls = 1ull << _UFFDIO_COPY | 1ull << _UFFDIO_ZEROPAGE | 1ull << _UFFDIO_WAKE;
	return 0;
}

/* A page at a time, as the kernel may. */
static long fill(struct uffd *u, uint64_t to, const void *from, int64_t *done)
{
	if (is_present(u, to)) {
		*done = -EEXIST;
		return -EEXIST;
	}
	if (from)
		memcpy((void *)(uintptr_t)to, from, PAGE);
	else
		*(volatile uint8_t *)(uintptr_t)to = 0;
	*done = (int64_t)PAGE;
	u->wakes++;
	return 0;
}

static long copy(struct uffd *u, struct uffdio_copy *c)
{
	int64_t done;
	long r = fill(u, c->dst, (const void *)(uintptr_t)c->src, &done);

	c->copy = done;
	return !r && c->len > PAGE ? -EAGAIN : r;
}

static long zero(struct uffd *u, struct uffdio_zeropage *z)
{
	int64_t done;
	long r = fill(u, z->range.start, NULL, &done);

	z->zeropage = done;
	return r;
}

static long uffd_call(struct fd *f, unsigned long request, void *arg)
{
	struct uffd *u = f->of;

	switch (request) {
	case UFFDIO_API:
		return 0;
	case UFFDIO_REGISTER:
		return enroll(f, arg);
	case UFFDIO_UNREGISTER:
		u->len = 0;
		return 0;
	case UFFDIO_COPY:
		return copy(u, arg);
	case UFFDIO_ZEROPAGE:
		return zero(u, arg);
	case UFFDIO_WAKE:
		u->wakes++;
		return 0;
	default:
		return -EINVAL;
	}
}

bool uffd_ioctl(struct fd *f, unsigned long request, void *arg, long *ret)
{
	if (f->ops == &dev_ops)
		*ret = fd_new(&uffd_ops, calloc(1, sizeof(struct uffd)));
	else if (f->ops == &uffd_ops)
		*ret = uffd_call(f, request, arg);
	else
		return false;
	fiber_maybe(8);
	return true;
}

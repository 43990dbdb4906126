#define _GNU_SOURCE
#include "postcopy/carry_in.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "vmm/base/job.h"
#include "vmm/base/log.h"
#include "vmm/wire/chan.h"
#include "vmm/wire/stream.h"

#define IDLE_NS 60000000000ull /* storage that gives nothing for so long is away */
#define SEND_NS 60000000000ull /* the loop takes a frame much sooner */

struct carry_in {
	struct job job; /* first */
	struct carry_in **slot;
	struct carry_in_plan plan;
	char path[CHAN_FILE_PATH_MAX + 1];
	bool answered;
	uint64_t frames; /* atomic: that were passed on */
	uint64_t seen;	 /* loop: of these when it was looked at last */
	/* The thread's, while it runs. */
	struct stream file, link;
	struct err err;
};

/* --- the thread ------------------------------------------------------------------------------- */

/* What the destination has to say: nothing more comes of it but this. */
static int answer_of(struct carry_in *c)
{
	struct pollfd p = {.fd = c->link.fd, .events = POLLIN};
	char text[400];
	struct frame f;
	int r;

	for (;;) {
		r = stream_recv(&c->link, &f);
		if (r < 0)
			return err_set(&c->err, -ECANCELED,
				       "not needed any more: the link is back, or the VM ends");
		if (r == 1 && f.type == FRAME_EOC)
			return 0;
		if (r == 1 && f.type == FRAME_REFUSE) {
			stream_text(&f, "", text, sizeof(text));
			return err_set(&c->err, -EBADMSG, "%s", text);
		}
		if (!r && poll(&p, 1, -1) < 0 && errno != EINTR)
			return err_sys(&c->err, "poll");
	}
}

static int next(struct carry_in *c, struct frame *f)
{
	int r = stream_recv(&c->file, f);

	if (r != 1)
		return err_set(&c->err, r ? r : -EIO, "%s",
			       r == -EBADMSG ? c->file.why
			       : r == -EPIPE ? "it ends too early"
					     : strerror(r ? -r : EIO));
	if (c->file.session != c->plan.session)
		return err_set(&c->err, -EBADMSG, "it is not of this migration");
	if (f->type != FRAME_PAGES && f->type != FRAME_MAP && f->type != FRAME_EOS)
		return err_set(&c->err, -EBADMSG, "%s where it does not belong",
			       stream_frame_name(f->type));
	return 0;
}

static int pass_on(struct carry_in *c)
{
	struct frame f = {0};
	int r = 0;

	while (!r && f.type != FRAME_EOS) {
		struct iovec iov;

		r = next(c, &f);
		if (r)
			return r;
		iov = (struct iovec){(void *)f.data, f.length};
		r = stream_send(&c->link, f.type, 0, &iov, 1, loop_now_ns() + SEND_NS);
		__atomic_fetch_add(&c->frames, 1, __ATOMIC_RELAXED);
	}
	return answer_of(c);
}

static int run(struct job *job)
{
	struct carry_in *c = (struct carry_in *)job;
	int fd = chan_file_open(c->path, &c->err), r = fd;

	job_be_ordinary();
	pthread_setname_np(pthread_self(), "carry");
	if (fd >= 0) {
		stream_init(&c->file, fd, STREAM_FILE, 0);
		r = pass_on(c);
	}
	if (r) {
		struct iovec iov = {c->err.msg, strlen(c->err.msg)};

		stream_send(&c->link, FRAME_BYE, 0, &iov, 1, loop_now_ns() + SEND_NS);
	}
	stream_done(&c->link);
	return r == -ETIMEDOUT ? -EIO : r;
}

/* --- on the loop ------------------------------------------------------------------------------ */

static void release(struct carry_in *c)
{
	stream_done(&c->file);
	stream_done(&c->link);
	free(c);
}

static void drop(struct job *job)
{
	release((struct carry_in *)job);
}

static void answer(struct carry_in *c, const struct err *e)
{
	if (!c->answered)
		c->plan.told(c->plan.arg, e);
	c->answered = true;
}

static void is_late(struct carry_in *c)
{
	uint64_t frames = __atomic_load_n(&c->frames, __ATOMIC_RELAXED);
	bool stuck = frames == c->seen;
	struct err e = {0};

	c->seen = frames;
	if (!job_expect(&c->job, IDLE_NS) && !stuck)
		return;
	err_set(&e, -ETIMEDOUT, "file '%s': nothing came for %llu s: is its storage away?", c->path,
		(unsigned long long)(IDLE_NS / 1000000000));
	answer(c, &e);
}

static void told(struct job *job, int result)
{
	struct carry_in *c = (struct carry_in *)job;

	if (result == -ETIMEDOUT) {
		is_late(c);
		return;
	}
	*c->slot = NULL;
	if (result)
		err_wrap(&c->err, "file '%s'", c->path);
	answer(c, result ? &c->err : NULL);
	release(c);
}

static int start(struct carry_in *c, struct err *e)
{
	int r;

	c->job.run = run;
	c->job.told = told;
	c->job.drop = drop;
	r = job_start_on(&c->job, c->plan.loop, IDLE_NS);
	return r ? err_set(e, r, "thread: %s", strerror(-r)) : 0;
}

static int check_idle(const struct carry_in *c, const char *path, struct err *e)
{
	if (c)
		return err_set(e, -EBUSY, "file '%s' %s", c->path,
			       c->answered ? "was given up, but its storage has not let it go yet"
					   : "is being read; wait for that");
	return strlen(path) > CHAN_FILE_PATH_MAX
		       ? err_set(e, -ENAMETOOLONG, "the path must have %d bytes at most",
				 CHAN_FILE_PATH_MAX)
		       : 0;
}

int carry_in_start(struct carry_in **slot, const struct carry_in_plan *plan, int *ret_fd,
		   struct err *e)
{
	int r = check_idle(*slot, plan->path, e), fd[2];
	struct carry_in *c;

	if (r)
		return r;
	c = calloc(1, sizeof(*c));
	if (!c)
		return err_set(e, -ENOMEM, "out of memory");
	c->plan = *plan;
	strcpy(c->path, plan->path);
	c->slot = slot;
	c->file.fd = c->link.fd = -1;
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fd)) {
		free(c);
		return err_sys(e, "socketpair");
	}
	stream_init(&c->link, fd[1], STREAM_MIGRATE, plan->session);
	r = start(c, e);
	if (r) {
		close(fd[0]);
		release(c);
		return r;
	}
	*slot = c;
	*ret_fd = fd[0];
	return 0;
}

bool carry_in_is_owed(const struct carry_in *c)
{
	return c && !c->answered;
}

void carry_in_stop(struct carry_in **slot)
{
	struct carry_in *c = *slot;

	if (!c)
		return;
	*slot = NULL;
	job_abandon(&c->job);
}

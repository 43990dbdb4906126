#define _GNU_SOURCE /* sync_file_range */
#include "vmm/copy/file_out.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "vmm/base/lock.h"

#define SYNC_BYTES (32ull << 20) /* written out together, so that the last fsync() has little */

int file_out_init(struct file_out *f, const char *path, struct err *e)
{
	*f = (struct file_out){.stream.fd = -1};
	if (strlen(path) > CHAN_FILE_PATH_MAX)
		return err_set(e, -ENAMETOOLONG, "the path must have %d bytes at most",
			       CHAN_FILE_PATH_MAX);
	strcpy(f->path, path);
	lock_init(&f->lock);
	return 0;
}

void file_out_done(struct file_out *f)
{
	if (f->opened)
		stream_done(&f->stream);
	pthread_mutex_destroy(&f->lock);
}

void file_out_give_up(struct file_out *f)
{
	/* First without the lock, so that it is given back soon. */
	__atomic_store_n(&f->given_up, true, __ATOMIC_RELEASE);
	pthread_mutex_lock(&f->lock);
	pthread_mutex_unlock(&f->lock);
}

bool file_out_stuck(struct file_out *f)
{
	uint64_t before = f->seen;

	f->seen = file_out_written(f);
	return f->seen == before;
}

/* --- in the thread ---------------------------------------------------------------------------- */

/* The page cache takes a file faster than its disk does: what is old goes out before more comes. */
static void write_back(struct file_out *f, int fd)
{
	uint64_t end = file_out_written(f);

	if (end - f->synced < SYNC_BYTES)
		return;
	sync_file_range(fd, (off_t)f->synced, (off_t)(end - f->synced), SYNC_FILE_RANGE_WRITE);
	if (f->synced >= SYNC_BYTES)
		sync_file_range(fd, (off_t)(f->synced - SYNC_BYTES), (off_t)SYNC_BYTES,
				SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE |
					SYNC_FILE_RANGE_WAIT_AFTER);
	f->synced = end;
}

/* Storage has its turn: guest memory is let go, and perhaps gone when this comes back. */
static ssize_t file_write(struct chan *c, const struct iovec *iov, int niov)
{
	struct file_out *f = c->self;
	ssize_t n;

	pthread_mutex_unlock(&f->lock);
	do
		n = writev(c->fd, iov, niov);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		n = -errno;
	else
		__atomic_fetch_add(&f->written, (uint64_t)n, __ATOMIC_RELAXED);
	write_back(f, c->fd);
	pthread_mutex_lock(&f->lock);
	return file_out_given_up(f) ? -ECANCELED : n;
}

static void file_close(struct chan *c)
{
	close(c->fd);
}

static const struct chan_ops file_ops = {.write = file_write, .close = file_close};

int file_out_open(struct file_out *f, uint64_t session, struct err *e)
{
	struct chan c = {.ops = &file_ops, .blocking = true, .self = f};

	c.fd = chan_file_create(f->path, e);
	if (c.fd < 0)
		return c.fd;
	f->opened = true;
	stream_init_on(&f->stream, &c, STREAM_FILE, session);
	return 0;
}

/* This may take long; so whether it is given up is asked once more before the name is. */
int file_out_commit(struct file_out *f, struct err *e)
{
	if (fdatasync(f->stream.fd))
		return -errno;
	if (file_out_given_up(f))
		return -ECANCELED;
	return chan_file_commit(f->stream.fd, f->path, e);
}

/* Storage's own timeout is an answer, too. */
int file_out_fail(struct file_out *f, int r, struct err *e)
{
	if (!e->code)
		err_set(e, r, "%s", strerror(-r));
	if (f->opened)
		chan_file_drop(f->stream.fd, f->path);
	return r == -ETIMEDOUT ? -EIO : r;
}

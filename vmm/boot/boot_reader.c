#define _GNU_SOURCE
#include "vmm/boot/boot_reader.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define READ_SECONDS 30

struct boot_reader {
	char kernel[512], initrd[512]; /* the thread's own: it may outlive its caller's */
	const char *given[2];	       /* the same, the caller's */
	struct loop *loop;
	struct loop_op done_op, late_op;
	boot_reader_fn *fn;
	void *arg;
	int done_fd;

	/* Under lock: whoever comes second, the thread or the loop, frees it all. */
	pthread_mutex_t lock;
	bool done, dropped;
	int code;
	struct boot_files files;
	struct err err;
};

static void release(struct boot_reader *b)
{
	pthread_mutex_destroy(&b->lock);
	boot_files_free(&b->files);
	close(b->done_fd);
	free(b);
}

static void *thread_main(void *arg)
{
	struct boot_reader *b = arg;
	uint64_t one = 1;
	bool dropped;

	pthread_setname_np(pthread_self(), "bootread");
	b->code = boot_files_read(&b->files, b->kernel, b->initrd, &b->err);
	pthread_mutex_lock(&b->lock);
	b->done = true;
	dropped = b->dropped;
	if (!dropped && write(b->done_fd, &one, sizeof(one)) < 0)
		b->code = -errno; /* cannot be: the counter is 0 */
	pthread_mutex_unlock(&b->lock);
	if (dropped)
		release(b);
	return NULL;
}

static int start_thread(struct boot_reader *b)
{
	sigset_t all, old;
	pthread_t thread;
	int r;

	/* Signals are the main thread's business. */
	sigfillset(&all);
	pthread_sigmask(SIG_BLOCK, &all, &old);
	r = pthread_create(&thread, NULL, thread_main, b);
	if (!r)
		pthread_detach(thread);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return -r;
}

void boot_reader_drop(struct boot_reader *b)
{
	bool done;

	if (!b)
		return;
	loop_poll_del(b->loop, &b->done_op);
	loop_timer_del(b->loop, &b->late_op);
	pthread_mutex_lock(&b->lock);
	b->dropped = true;
	done = b->done;
	pthread_mutex_unlock(&b->lock);
	if (done)
		release(b);
}

static void done(struct loop_op *op, int res)
{
	struct boot_reader *b = op->arg;
	struct boot_files files;
	boot_reader_fn *fn = b->fn;
	void *arg = b->arg;
	struct err err;
	int code;

	pthread_mutex_lock(&b->lock);
	code = b->code;
	err = b->err;
	files = b->files;
	b->files = (struct boot_files){0};
	pthread_mutex_unlock(&b->lock);
	files.kernel.path = b->given[0];
	files.initrd.path = b->given[1];
	boot_reader_drop(b);
	fn(arg, code, &files, &err);
}

static void late(struct loop_op *op, int res)
{
	struct boot_reader *b = op->arg;
	struct boot_files none = {0};
	boot_reader_fn *fn = b->fn;
	void *arg = b->arg;
	struct err err = {0};

	err_set(&err, -ETIMEDOUT, "kernel '%s': not read within %d s: is its storage away?",
		b->kernel, READ_SECONDS);
	boot_reader_drop(b);
	fn(arg, -ETIMEDOUT, &none, &err);
}

struct boot_reader *boot_reader_start(struct loop *l, const char *kernel, const char *initrd,
				      boot_reader_fn *fn, void *arg, struct err *e)
{
	struct boot_reader *b = calloc(1, sizeof(*b));
	int r = 0;

	if (!b) {
		err_set(e, -ENOMEM, "kernel '%s': out of memory", kernel);
		return NULL;
	}
	snprintf(b->kernel, sizeof(b->kernel), "%s", kernel);
	snprintf(b->initrd, sizeof(b->initrd), "%s", initrd);
	b->given[0] = kernel;
	b->given[1] = initrd;
	b->loop = l;
	b->fn = fn;
	b->arg = arg;
	b->done_op = (struct loop_op){.fn = done, .arg = b};
	b->late_op = (struct loop_op){.fn = late, .arg = b};
	pthread_mutex_init(&b->lock, NULL);
	b->done_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (b->done_fd < 0)
		r = -errno;
	if (!r)
		r = loop_poll_add(l, &b->done_op, b->done_fd, POLLIN);
	if (r >= 0)
		r = loop_timer_set(l, &b->late_op, READ_SECONDS * 1000000000ull);
	if (r >= 0)
		r = start_thread(b);
	if (r >= 0)
		return b;
	b->done = true; /* no thread: it is all ours */
	boot_reader_drop(b);
	err_set(e, r, "kernel '%s': reading it: %s", kernel, strerror(-r));
	return NULL;
}

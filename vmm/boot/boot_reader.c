#define _GNU_SOURCE
#include "vmm/boot/boot_reader.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/base/job.h"

struct boot_reader {
	struct job job;
	char kernel[512], initrd[512]; /* the thread's own: it may outlive its caller's */
	struct boot_read what;
	/* The thread's until the job has ended. */
	struct boot_files files;
	struct err err;
};

static int read_files(struct job *job)
{
	struct boot_reader *b = (struct boot_reader *)job;
	int r;

	pthread_setname_np(pthread_self(), "bootread");
	r = boot_files_read(&b->files, b->kernel, b->initrd, &b->err);
	/* A network file system's own timeout is an answer. */
	return r == -ETIMEDOUT ? -EIO : r;
}

static void release(struct job *job)
{
	struct boot_reader *b = (struct boot_reader *)job;

	boot_files_free(&b->files);
	free(b);
}

static void tell_late(struct boot_reader *b)
{
	struct boot_files none = {0};
	struct err e = {0};

	err_set(&e, -ETIMEDOUT, "kernel '%s': not read within %llu s: is its storage away?",
		b->kernel, (unsigned long long)(b->what.deadline_ns / 1000000000));
	b->what.fn(b->what.arg, -ETIMEDOUT, &none, &e);
}

static void told(struct job *job, int code)
{
	struct boot_reader *b = (struct boot_reader *)job;
	struct boot_read what = b->what;
	struct boot_files files;
	struct err e;

	if (code == -ETIMEDOUT) {
		tell_late(b);
		return;
	}
	files = b->files;
	files.kernel.path = what.kernel;
	files.initrd.path = what.initrd;
	e = b->err;
	free(b);
	what.fn(what.arg, code, &files, &e);
}

int boot_reader_start(struct boot_reader **ret, struct loop *l, const struct boot_read *what,
		      struct err *e)
{
	struct boot_reader *b = *ret;
	int r;

	if (b) {
		r = job_expect(&b->job, what->deadline_ns);
		return r ? err_set(e, r, "kernel '%s': %s", b->kernel, strerror(-r)) : 0;
	}
	b = calloc(1, sizeof(*b));
	if (!b)
		return err_set(e, -ENOMEM, "kernel '%s': out of memory", what->kernel);
	snprintf(b->kernel, sizeof(b->kernel), "%s", what->kernel);
	snprintf(b->initrd, sizeof(b->initrd), "%s", what->initrd);
	b->what = *what;
	b->job.run = read_files;
	b->job.drop = release;
	b->job.told = told;
	r = job_start_on(&b->job, l, what->deadline_ns);
	if (r) {
		free(b);
		return err_set(e, r, "kernel '%s': reading it: %s", what->kernel, strerror(-r));
	}
	*ret = b;
	return 0;
}

void boot_reader_drop(struct boot_reader *b)
{
	if (b)
		job_abandon(&b->job);
}

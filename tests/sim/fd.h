/*
 * Descriptors of the simulated kernel; numbers below FD_FIRST are the real kernel's (the guest's
 * memory, the file of its kernel).
 */
#ifndef TESTS_SIM_FD_H
#define TESTS_SIM_FD_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "tests/sim/proc.h"

#define FD_FIRST 1000

struct fd;

struct fd_ops {
	const char *name;
	/* -EAGAIN when it would wait; NULL: -EINVAL. */
	ssize_t (*read)(struct fd *f, void *buf, size_t len);
	ssize_t (*write)(struct fd *f, const struct iovec *iov, int niov);
	uint32_t (*ready)(struct fd *f); /* poll events; NULL: always all */
	void (*close)(struct fd *f);
};

struct fd {
	const struct fd_ops *ops;
	struct proc *proc;
	int number;
	bool blocking;
	void *of; /* what it stands for */
};

int fd_new(const struct fd_ops *ops, void *of);
/* NULL: not one of ours. */
struct fd *fd_find(int number);
struct fd *fd_of(int number, const struct fd_ops *ops);
/* At its end. */
void fd_close_all(struct proc *p);
uint32_t fd_ready(struct fd *f);
/* Never waits. */
ssize_t fd_read(struct fd *f, void *buf, size_t len);
ssize_t fd_write(struct fd *f, const struct iovec *iov, int niov);
/* -1 with errno, or the result. */
int fail(int error);
ssize_t result(ssize_t n);

int __wrap_close(int number);
extern const struct fd_ops eventfd_ops, stdout_ops;
bool eventfd_add(int number, uint64_t n);

#endif

/*
 * Files below /sim: /sim/A and /sim/B are the disks of the hosts, which lose what was not synced
 * when the power goes; /sim/shared is a network file system, which may be slow, hang, carry
 * something out late, or carry it out and say that it failed.
 */
#ifndef TESTS_SIM_FILE_H
#define TESTS_SIM_FILE_H

#include <fcntl.h>

#include "tests/sim/fd.h"

#define FILE_ROOT   "/sim/"
#define FILE_DISKS  "/sim/disks/" /* storage that both hosts have, and that does not fail */
#define FILE_SHARED "/sim/shared" /* not -disk, which nothing happens to */

/* How it is for one host. */
struct storage {
	bool hangs;
	uint64_t delay_ns;  /* of each call, at most */
	unsigned eio, lost; /* one call in so many; 0: none */
	/* Of its own disk: */
	uint64_t io_ns;
	unsigned io_error;
};

extern struct storage storage[HOSTS];

void file_make(const char *path, size_t size);
/* tests/sim/kvm.c */
int proc_kvm_open(void);
/* tests/sim/uffd.c */
int proc_uffd_open(void);
uint8_t *file_data(const char *path, size_t *size);
/* What is on its medium for sure. */
const uint8_t *file_synced(const char *path, size_t *size);
void file_power_lost(const struct host *h);
/* Whoever serves the shared folder: what was not synced there may be gone. */
void file_server_restarts(void);

/* As if by the kernel for the ring: 0 or more, or a negative errno. */
ssize_t file_read_at(struct fd *f, void *buf, size_t len, uint64_t off);
ssize_t file_write_at(struct fd *f, const void *buf, size_t len, uint64_t off);
int file_sync(struct fd *f);
int file_allocate(struct fd *f, int mode, uint64_t off, uint64_t len);
int file_dup(struct fd *f);
int file_lock(struct fd *f, int cmd, struct flock *fl);
extern const struct fd_ops file_ops;

#endif

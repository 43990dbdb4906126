/*
 * A file that a thread writes from guest memory. It has memory only under a lock, which it gives
 * back while storage has its turn: whoever takes memory away does not wait for storage. Written
 * beside its name, and renamed when it is whole and on disk.
 */
#ifndef VMM_FILE_OUT_H
#define VMM_FILE_OUT_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "vmm/base/err.h"
#include "vmm/wire/chan.h"
#include "vmm/wire/stream.h"

struct file_out {
	pthread_mutex_t lock; /* held by the thread while it may touch guest memory */
	bool given_up;	      /* atomic; set under lock: not another look at it */
	uint64_t written;     /* atomic: bytes */
	/* The thread's. */
	char path[CHAN_FILE_PATH_MAX + 1];
	struct stream stream;
	bool opened;
	uint64_t synced; /* bytes told to go to disk */
	/* The owner's. */
	uint64_t seen;
};

/* -ENAMETOOLONG, or 0. */
int file_out_init(struct file_out *f, const char *path, struct err *e);
void file_out_done(struct file_out *f); /* no thread is at it */
/*
 * The file is not to be, and memory is let go; the thread, whose next send fails, may still wait
 * for its storage. Any thread.
 */
void file_out_give_up(struct file_out *f);
static inline bool file_out_given_up(const struct file_out *f)
{
	return __atomic_load_n(&f->given_up, __ATOMIC_ACQUIRE);
}
static inline uint64_t file_out_written(const struct file_out *f)
{
	return __atomic_load_n(&f->written, __ATOMIC_RELAXED);
}
/* Has nothing been written since this was asked last? */
bool file_out_stuck(struct file_out *f);

/* --- in the thread --- */

/* Open it. What is sent on f->stream, with any deadline, is sent under lock. */
int file_out_open(struct file_out *f, uint64_t session, struct err *e);
/* Without the lock: all of it is written. */
int file_out_commit(struct file_out *f, struct err *e);
/* It came to nothing, because of r: what there is of it is removed, and e says why. For a job. */
int file_out_fail(struct file_out *f, int r, struct err *e);

#endif

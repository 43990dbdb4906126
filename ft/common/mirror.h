/*
 * The third connection of a pair whose both sides run the guest: what the primary's guest was given
 * goes to the twin, and what the twin puts out comes back. Frames carry the number of the epoch in
 * which it happened, so they need no order to what is on the main link.
 *
 * Writes go through a queue, bounded, and a thread of their own: whoever puts in never waits. Reads
 * may be stopped by whoever takes the frames; then the other side's queue fills, and its guest gets
 * no input, or cannot put out any more. Nothing is lost on the way but with the connection.
 *
 * Owner: the loop. All functions and callbacks: loop thread.
 */
#ifndef FT_MIRROR_H
#define FT_MIRROR_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "vmm/base/err.h"
#include "vmm/base/loop.h"
#include "vmm/wire/stream.h"

#define MIRROR_LIMIT (4u << 20) /* bytes that wait to be written, one frame more at most */

struct mirror_entry;

struct mirror {
	struct loop *loop; /* NULL: not started */
	struct stream stream;
	struct loop_op read_op, told_op;
	struct loop_work read_work;
	bool reading;
	/* A frame; false: no more of them until mirror_read_on(). */
	bool (*frame)(void *arg, const struct frame *f);
	void (*room)(void *arg); /* there is some after -EAGAIN; may be NULL */
	/* It is of no use any more; told once, never from within mirror_put(). */
	void (*lost)(void *arg, const char *why);
	void *arg;
	bool starved;
	uint64_t put_frames;
	/* Shared with the thread. */
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t work;
	int tell_fd;
	struct mirror_entry *head, **tail;
	uint64_t bytes;
	bool quit;
	int error;
};

/* Takes the stream over, also when it fails. The callbacks and arg are the caller's, set before. */
int mirror_start(struct mirror *m, struct loop *l, struct stream *st, struct err *e);
/* What waits is thrown away. Safe twice, and on a zeroed one. */
void mirror_stop(struct mirror *m);
static inline bool mirror_is_up(const struct mirror *m)
{
	return m->loop != NULL;
}
/*
 * 0: it is copied, and on its way. -EAGAIN: too much waits, but never for a bare word (niov 0), of
 * which there are few from checkpoint to checkpoint. -ENOMEM: it is not. -EPIPE: lost() is near.
 */
int mirror_put(struct mirror *m, enum frame_type type, uint64_t epoch, const struct iovec *iov,
	       int niov);
/* Would a put say -EAGAIN? Then room() comes. */
bool mirror_is_full(struct mirror *m);
void mirror_read_on(struct mirror *m);

#endif

/*
 * The sender: a thread that first brings the peer into step (ft/epoch/sync.c), then encodes and
 * writes one epoch after the other from staging. It is the only writer of the main stream after the
 * handshake. Everything it tells the loop goes through one eventfd.
 */
#ifndef FT_SEND_H
#define FT_SEND_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "ft/epoch/capture.h"
#include "ft/epoch/disklog.h"
#include "vmm/copy/page_out.h"
#include "ft/common/wire.h"
#include "vmm/machine/mem_places.h"
#include "vmm/wire/stream.h"

struct sync;

/* All that one epoch sends. Owner: loop while filling, sender from send_epoch() until sent. */
struct send_job {
	struct send_job *next;
	uint64_t epoch;
	bool first, last; /* of the epoch: a capture may be pushed in parts */
	struct capture_batch batch;
	struct disk_writes disklog;
	uint8_t *state;
	uint32_t state_len;
	struct wire_end end;
	struct mem_places places; /* with verify; goes behind the end */
	bool has_places;
};

#define SEND_JOBS 3

struct send {
	/* The caller's, set before send_start(); the rest is zero. */
	struct stream *stream;
	struct capture *capture;
	struct sync *sync;
	size_t state_cap; /* of a job's state, bytes */
	int notify_fd;	  /* eventfd: look at synced, error */

	pthread_t thread;
	bool started;
	pthread_mutex_t lock;
	pthread_cond_t work, idle;
	struct send_job *queue, **tail;
	struct send_job *free;
	unsigned nfree;
	struct send_job jobs[SEND_JOBS];
	bool stop;
	bool wanted;	     /* atomic: the loop waits for a buffer or a job */
	bool synced;	     /* the peer has all but what the first epoch brings */
	int error;	     /* negative errno: the stream is broken */
	uint64_t ending;     /* atomic: the last epoch whose end went out, or is about to */
	struct page_out out; /* sender only */
	uint64_t ending_ns;  /* when that was; written before it */
	/* Of epochs, since the loop took them: atomic. */
	uint64_t page_bytes; /* encoded */
	uint64_t busy_ns;    /* encoding and writing */
};

/* When it fails, send_stop() is still to be called. */
int send_start(struct send *s, struct err *e);
/* Ends the thread; shut the socket down first, so that it does not wait for the peer. */
void send_stop(struct send *s);
/* An empty job; NULL: none is free now, or there was an error. Loop. */
struct send_job *send_get_job(struct send *s);
/*
 * Have notify_fd say when the next buffer or job is given back. It may have been already: try again
 * after this. Loop.
 */
void send_want_room(struct send *s);
void send_push(struct send *s, struct send_job *j);
bool send_is_broken(struct send *s);
/*
 * Wait until the sender has nothing in hand: after that the loop may write to the stream. An ack
 * alone does not say so, it can overtake the last lines of the write. Loop.
 */
void send_drain(struct send *s);

#endif

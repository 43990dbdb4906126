/*
 * A disk: a raw image through io_uring. Requests come from virtio-blk, with a buffer of their own
 * (never guest memory, so the guest cannot change bytes on their way to disk and peer). A hook sees
 * every change: fault tolerance logs it. Owner: the loop thread.
 */
#ifndef DEVICES_DISK_H
#define DEVICES_DISK_H

#include <stdbool.h>
#include <stdint.h>

#include "devices/disk_block.h"
#include "vmm/base/err.h"
#include "vmm/base/loop.h"

enum disk_op { DISK_READ, DISK_WRITE, DISK_FLUSH, DISK_ZERO, DISK_DISCARD };

/* Ways to write zeros, best first. */
enum disk_how { DISK_HOW_ZERO_RANGE, DISK_HOW_PUNCH, DISK_HOW_WRITE };

struct disk_req {
	enum disk_op kind;
	uint64_t off; /* bytes, multiple of 512, and of the image's block.align */
	uint32_t len; /* bytes, the same; 0 for flush */
	uint8_t *buf; /* READ and WRITE; 4096-aligned; owned by the caller until done() */
	bool sparse;  /* ZERO: rather a hole than reserved space */
	void (*done)(struct disk_req *r, int res); /* res: 0 or negative errno */
	void *arg;
	/* private to disk.c */
	struct loop_op io;
	struct disk *disk;
	struct disk_req *next;
	uint32_t pos;
	struct disk_req *kept; /* for whoever took it by failed() */
	uint8_t how;	       /* enum disk_how */
	bool canceled;
	int res;
};

enum disk_verdict {
	DISK_GO,
	DISK_HOLD, /* not now: it and all behind it wait for disk_hold(d, false), and are asked
		      again */
};

/* Sees changes (WRITE, ZERO, DISCARD, FLUSH). Loop thread. */
struct disk_hook {
	/* Before the change goes to the image. The bytes are final and may be copied now. */
	enum disk_verdict (*submit)(void *arg, struct disk *d, const struct disk_req *r);
	/* After it is in the image (or failed). */
	void (*done)(void *arg, struct disk *d, const struct disk_req *r, int res);
	void *arg;
	/* The image failed it; may be NULL. True: it stays under way until disk_settle(). */
	bool (*failed)(void *arg, struct disk *d, struct disk_req *r, int res);
};

/*
 * Stands between the requests of one disk and its image (devices/overlay.h); aliases are below it.
 * Loop thread. While there is one, requests that overlap, one of them a change, are under way one
 * after the other, in the order of submit: reads too.
 */
struct disk_layer {
	/* May r, which is checked, begin? If not it and all behind it wait for disk_go_on(). */
	bool (*may)(void *arg, const struct disk_req *r);
	/* True: the layer does it, and ends it by disk_end(), or disk_end_later() from in here.
	 * False: the image does it. */
	bool (*begin)(void *arg, struct disk_req *r);
	/* The image did it. True: the layer has more to do with it, as with begin(). */
	bool (*more)(void *arg, struct disk_req *r, int res);
	/* One is not under way any more. */
	void (*ended)(void *arg);
	void *arg;
};

struct disk {
	char id[32];
	int fd;
	uint64_t bytes;
	struct disk_block block;
	bool readonly;
	bool direct, sync; /* sync: DISK_OPEN_SYNC */
	struct loop *loop;
	struct disk_hook hook;		/* all NULL when nobody looks */
	const struct disk_layer *layer; /* or NULL */
	unsigned inflight;		/* requests at the kernel, or the layer */
	bool held;			/* new requests queue up instead of going out */
	void (*drained)(void *arg);	/* see disk_drain() */
	void *drained_arg;
	/*
	 * The image failed a request; NULL: its owner is told. True: it stays under way, and so in
	 * the state of whoever asked for it, until disk_fail(). Not of what is canceled.
	 */
	bool (*failed)(void *arg, struct disk_req *r, int res);
	void *failed_arg;
	struct disk_req *ranges; /* of the changes under way; with a layer, of reads, too */
	struct disk_req *queue, **queue_tail;
	struct loop_work work; /* a turn at the queue */
	uint64_t errors;       /* requests that the image failed */
	uint64_t error_told;   /* log_may() */
	int error;	       /* of the last one that did, or 0 */
	bool failing;	       /* none was done since */
	/* One is logged; not more often than that. May be NULL. */
	void (*told)(void *arg, const struct disk *d, const struct disk_req *r, int res);
	void *told_arg;
};

enum {
	DISK_OPEN_RO = 1,
	DISK_OPEN_DIRECT = 2,
	DISK_OPEN_CREATE = 4,
	DISK_OPEN_UNLOCKED = 8,
	DISK_OPEN_SYNC = 16, /* what is done, another host sees, whatever becomes of this one */
	DISK_OPEN_TRY =
		32, /* could it be locked? It is not, nor made; nobody else is kept from it */
};

/*
 * Open and lock an image (OFD lock; shared when read-only) of a size that is a multiple of 512.
 * DISK_OPEN_CREATE makes a missing file (0600, 0 bytes allowed; see disk_resize()). The message of
 * a busy image says so and what to do. l: NULL for one that gets no requests.
 */
int disk_open(struct disk *d, struct loop *l, const char *id, const char *path, int flags,
	      struct err *e);
/*
 * Can it serve a guest whose blocks have so many bytes? If not e says why, and what to do. The page
 * cache takes any; O_DIRECT and larger blocks below it do not.
 */
int disk_serves(const struct disk *d, uint32_t block, struct err *e);
/*
 * The lock of one that was opened unlocked, or was unlocked: once, without waiting for its holder.
 * -EBUSY: another process has the image.
 */
int disk_lock(struct disk *d, struct err *e);
/* Another process may have the image; nothing is written here until disk_lock(). */
void disk_unlock(struct disk *d);
/* Is an image that is not locked here open for this use, or any, at another process? */
bool disk_is_elsewhere(const struct disk *d);
/* A second queue to the same open image, without its hook, layer and hold. d must outlive it. */
void disk_alias(struct disk *alias, const struct disk *d);
/* fd is -1 afterwards. Held requests are done with -ECANCELED; wait for those under way before. */
void disk_close(struct disk *d);
/* Set the size (secondary, before the first sync); fails when the existing size differs and is not
 * 0. */
int disk_resize(struct disk *d, uint64_t bytes, struct err *e);
/* Start a request; done() is called later from the loop, never from inside. Checks range and mode.
 */
void disk_submit(struct disk *d, struct disk_req *r);
/* Hold new requests (takeover: log not applied yet; FT: log full), or let them go on in order. */
void disk_hold(struct disk *d, bool hold);
/*
 * No request goes out from here on, and fn is called when none is at the kernel any more: at once
 * if there is none. disk_hold(d, false) lets them go on, and takes the question back.
 */
void disk_drain(struct disk *d, void (*fn)(void *arg), void *arg);
/*
 * What is not done yet is done with -ECANCELED: what waits in here, so that it changes nothing; the
 * rest when the kernel or the layer gives it back.
 */
void disk_cancel(struct disk *d);
/* The last word on one that disk.failed() took; the hook may have one yet. */
void disk_fail(struct disk_req *r, int res);
/* The last word on one that the hook's failed() took. */
void disk_settle(struct disk_req *r, int res);
const char *disk_op_name(enum disk_op op);

/* For a layer. The last word on r, whose owner may reuse it at once. */
void disk_end(struct disk_req *r, int res);
void disk_end_later(struct disk_req *r, int res);
/* The image does r after all. */
void disk_below(struct disk_req *r);
void disk_go_on(struct disk *d);
/*
 * r, with kind, off and len of a change, keeps requests away from its range until disk_leave().
 * Those under way there go on: disk_is_alone() says when they have ended.
 */
void disk_enter(struct disk *d, struct disk_req *r);
bool disk_is_alone(const struct disk *d, const struct disk_req *r);
void disk_leave(struct disk *d, struct disk_req *r);

/*
 * What is at the beginning of an image that is only a part of one, as a copy to it has not come to
 * its end: disk_open() refuses such an image, unless it is to be filled (CREATE, UNLOCKED), and no
 * boot loader nor file system takes it for its own.
 */
#define DISK_PART_BYTES 4096u
void disk_part_fill(uint8_t *sector); /* DISK_PART_BYTES */
bool disk_is_part(const struct disk *d);

#endif

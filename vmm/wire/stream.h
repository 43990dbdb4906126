/*
 * The framed stream: the same for fault tolerance, migration and snapshot files. A preface names
 * protocol, version and session; then frames, each with type, length, sequence number and XXH3
 * over header and payload. Lengths are capped per type before anything is allocated.
 *
 * Writing and reading are independent: one thread may write while another reads.
 */
#ifndef VMM_STREAM_H
#define VMM_STREAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "vmm/base/err.h"
#include "vmm/wire/chan_io.h"

#define STREAM_MAGIC	 "ftvmm\r\n\x1a"
#define STREAM_VERSION	 1
#define STREAM_MAX_IOV	 16
#define STREAM_MAX_FRAME (4u << 20) /* largest payload of any type */

enum stream_link {
	STREAM_ANY = 0, /* only when receiving: learnt from the preface */
	STREAM_MAIN = 1,
	STREAM_HEART = 2,
	STREAM_FILE = 3,
	STREAM_MIGRATE = 4,
	STREAM_URGENT = 5, /* of a migration: pages that the guest waits for */
	STREAM_MIRROR = 6, /* of a pair: what both guests are given, and what the twin puts out */
	STREAM_LINK_MAX,
};

/* On the wire, little-endian, 32 bytes, once, before the first frame of whoever connected. */
struct stream_preface {
	char magic[8];
	uint32_t version;
	uint32_t link;
	uint64_t session;
	uint64_t sum; /* XXH3-64 over the bytes before it */
};

enum frame_type {
	FRAME_HELLO = 1,   /* machine description (FDT) and parameters; primary -> secondary */
	FRAME_WELCOME,	   /* secondary can be that machine */
	FRAME_REFUSE,	   /* text: why not */
	FRAME_HEART,	   /* struct heart: liveness, either way */
	FRAME_PAGES,	   /* encoded pages (vmm/copy/pages.h) */
	FRAME_DISK,	   /* a part of a disk image (vmm/copy/disk_wire.h) */
	FRAME_DISKLOG,	   /* disk log entries of an epoch */
	FRAME_STATE,	   /* encoded device state (vmm/machine/state.h) */
	FRAME_EPOCH_BEGIN, /* an epoch's data follows */
	FRAME_EPOCH_END,   /* counts and digests of what belongs to the epoch */
	FRAME_ACK,	   /* epoch is whole, verified, cannot fail to apply */
	FRAME_BYE,	   /* orderly end: the sender stopped; nobody is to take over */
	FRAME_HAND_OVER,   /* orderly end: the receiver is to run the VM */
	/* To a bye: all that was acknowledged is in the images. To a flush: all that has come is.
	 */
	FRAME_DONE,
	FRAME_RUNS,	  /* to a hand-over: the VM runs here, its output is held */
	FRAME_GONE,	  /* to that: the VM is the receiver's alone */
	FRAME_GENERATION, /* the sender runs the VM under this one now */
	FRAME_LEAVE,	  /* the sender has another secondary now */
	FRAME_OFFER,	  /* machine description (FDT) and parameters; source -> destination */
	FRAME_SWITCH,	  /* the source's VM stands, and all that was to come first has come */
	FRAME_READY,	  /* to that: the VM is loaded, and can no longer fail to run */
	FRAME_GO,	  /* to that: the receiver is to run the VM */
	FRAME_ASK,	  /* after a lost link: did it go? RUNS, BYE or REFUSE */

	/* Pages on request (postcopy/wire.h). */
	FRAME_MAP,     /* runs of pages that are zero, or void */
	FRAME_WANT,    /* pages that somebody waits for */
	FRAME_REMOVED, /* runs of pages that need not be sent */
	FRAME_EOS,     /* no page is left to send */
	FRAME_EOC,     /* to that: all of them have come */
	FRAME_HAVE,    /* to an ask: it runs, and has these pages */

	/* Both sides run the guest (ft/common/mirror.h). */
	FRAME_MIRROR, /* what this connection is for */
	FRAME_INPUT,  /* the primary's guest was given this */
	FRAME_OUTPUT, /* the twin put this out */
	FRAME_LOADED, /* the twin runs, from the state of this epoch on */
	FRAME_MAPPED, /* its numbers of a TCP connection; to that: it will translate them */

	FRAME_SUMS,   /* what blocks of an image are at the sender (vmm/copy/disk_wire.h) */
	FRAME_DIFFER, /* to that: which are others here */

	FRAME_APART, /* the twin is no twin any more, until the next checkpoint */
	FRAME_READ,  /* the twin read this from its disks, having written it */

	FRAME_DISMISS, /* the sender goes on without a secondary; to that: DONE */
	FRAME_TYPE_MAX,
};

/* On the wire, little-endian, 40 bytes. */
struct frame_hdr {
	uint16_t type;
	uint16_t flags;
	uint32_t length; /* payload bytes that follow */
	uint64_t seq;	 /* 0, 1, 2... per direction and connection */
	uint64_t epoch;
	uint64_t session; /* both sides know it since the preface; a replayed frame has another */
	uint64_t sum;	  /* XXH3-64 over the header with sum = 0, then the payload */
};

struct frame {
	uint16_t type;
	uint16_t flags;
	uint64_t epoch;
	uint32_t length;
	const uint8_t *data; /* valid until the next stream_recv() on this stream */
};

struct stream {
	struct chan chan;
	int fd; /* the channel's, to wait on */
	uint64_t session;
	enum stream_link link;
	uint64_t send_seq, recv_seq;
	uint64_t sent_bytes, recv_bytes;
	uint8_t *buf; /* receive buffer, grown up to one capped frame */
	size_t cap, have, used;
	bool got_preface;
	bool eof;
	bool drained;
	int send_error; /* a write failed: nothing more may be written */
	uint8_t *out;	/* frames that wait for each other */
	size_t out_len;
	bool gathers;
	char why[160]; /* what the last -EBADMSG was about */
};

/*
 * Takes the channel, or the fd, over. session 0 on the accepting side: learnt from the peer's
 * preface, which must name `link` (unless STREAM_ANY). Whoever sends the preface gives a session
 * that is not 0.
 */
void stream_init_on(struct stream *s, const struct chan *c, enum stream_link link,
		    uint64_t session);
void stream_init(struct stream *s, int fd, enum stream_link link, uint64_t session);
void stream_done(struct stream *s); /* closes the channel; safe on a zeroed stream and twice */
/* Sent once, by the side that connected (or writes a file), before its first frame. */
int stream_send_preface(struct stream *s, uint64_t deadline_ns);
/* Little waits in its channel from here on (chan_shallow()). Nothing for one that has ended. */
void stream_shallow(struct stream *s);
/*
 * Write one whole frame before deadline_ns, from at most STREAM_MAX_IOV parts that nobody changes
 * meanwhile. -EINVAL or -EMSGSIZE: nothing was written; after any other error every later send
 * returns it again.
 */
int stream_send(struct stream *s, enum frame_type type, uint64_t epoch, const struct iovec *iov,
		int niov, uint64_t deadline_ns);
/*
 * Frames wait for each other, 64 KiB of them at most, until stream_flush(), which is as a send:
 * many small ones go out by one write, and wake whoever reads them once. After one that fails
 * frames are lost that had been sent without an error. For the thread that writes.
 */
void stream_gather(struct stream *s);
int stream_flush(struct stream *s, uint64_t deadline_ns);
/*
 * Next frame without blocking: 1 and *f, 0 when more bytes must arrive first, -EPIPE at the end of
 * the stream, -EBADMSG when the peer broke a rule (why says which), or an errno of the socket.
 * On a blocking channel it blocks in its read(). Call it until it does not return 1, then
 * wait for the fd, level-triggered.
 */
int stream_recv(struct stream *s, struct frame *f);
/* What an error of stream_recv() or stream_send() is to be called; until the next of them. */
const char *stream_trouble(const struct stream *s, int error);
/* How many bytes of the channel the frames so far have taken, preface and headers included. */
uint64_t stream_read_bytes(const struct stream *s);
/* A peer's words: `before`, then the payload, cut off at cap; what is not printable is a '?'. */
void stream_text(const struct frame *f, const char *before, char *to, size_t cap);
/* The channel goes on at another place, with frame seq: what was read ahead is dropped. */
void stream_seek(struct stream *s, uint64_t seq);
/* Largest payload allowed for a type; 0 for an unknown type. */
uint32_t stream_max_length(uint16_t type);
const char *stream_frame_name(uint16_t type);

#endif

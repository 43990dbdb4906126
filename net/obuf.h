/*
 * The output buffer: the only way from the guest to the outside (network frames, console bytes).
 * While holding, what the guest puts out belongs to the open epoch and stays here until that epoch
 * is released, or is dropped. Nothing else may write to a tap or to the console on behalf of the
 * guest: this file is where the output rule is kept.
 *
 * Owner: the loop thread.
 */
#ifndef NET_OBUF_H
#define NET_OBUF_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

enum obuf_kind {
	OBUF_NET,
	OBUF_DISK,
	OBUF_CONSOLE,
	OBUF_VSOCK,
	/*
	 * Few and short notes, of this side alone: no bound holds for them, so none is lost for
	 * want of room, and nobody waits for the same from a guest that runs elsewhere.
	 */
	OBUF_EVENT,
	OBUF_KINDS,
};

#define OBUF_MAX_SINKS	   16
#define OBUF_CONSOLE_BYTES (64u << 10) /* held for the console, by each of its devices */

/*
 * Deliver one frame (or run of console bytes) to the outside. May drop (a full tap), never blocks.
 * False: this was taken, and what is held already would be, but no more is to be put until
 * obuf_room().
 */
typedef bool obuf_sink_fn(void *arg, const void *data, uint32_t len);
/* There is room again after obuf_put() said -EAGAIN. */
typedef void obuf_room_fn(void *arg);

struct obuf_entry;

/* The first output of the open epoch is held: somebody outside waits. Only notes it: no obuf call.
 */
typedef void obuf_held_fn(void *arg);

/* Released output is left: call obuf_continue() soon, after other work. */
typedef void obuf_later_fn(void *arg);

/* An entry of the open epoch is held; it stays where it is until it leaves or is thrown away. */
typedef void obuf_kept_fn(void *arg, struct obuf_entry *en, int sink, const void *data,
			  uint32_t len);

/* Takes an output elsewhere: 0, or what obuf_put() is to say. -EAGAIN: until obuf_room(). */
typedef int obuf_divert_fn(void *arg, int sink, const struct iovec *iov, int niov);

struct loop;

struct obuf {
	struct {
		obuf_sink_fn *deliver;
		obuf_room_fn *room;
		void *arg;
		bool starved;
		bool full; /* deliver() said so */
		enum obuf_kind kind;
		uint64_t bytes, limit; /* held, and how much may be; 0: as much as of all */
	} sinks[OBUF_MAX_SINKS];
	unsigned nsinks;
	bool holding;
	bool closed;	      /* fenced: everything put is thrown away */
	uint64_t epoch;	      /* the open epoch that new output belongs to */
	uint64_t may;	      /* the last epoch that may leave */
	uint64_t told;	      /* the last epoch whose first output was told */
	enum obuf_kind first; /* of that output */
	obuf_held_fn *on_held;
	void *on_held_arg;
	obuf_kept_fn *on_kept;
	void *on_kept_arg;
	obuf_divert_fn *divert;
	void *divert_arg;
	struct loop *loop; /* whose budget a release is part of */
	obuf_later_fn *later;
	void *later_arg;
	uint64_t bytes, limit;
	struct obuf_entry *head, **tail;
	uint64_t held;	   /* entries waiting now */
	uint64_t released; /* entries delivered since start */
	uint64_t dropped;  /* entries thrown away since start */
};

/* limit_bytes: held payload above it gives -EAGAIN (back-pressure on the guest, not loss). */
void obuf_init(struct obuf *ob, uint64_t limit_bytes);
void obuf_done(struct obuf *ob);
/* room may be NULL: a sink that cannot wait. Returns the sink or -ENOSPC. */
int obuf_add_sink(struct obuf *ob, enum obuf_kind kind, obuf_sink_fn *deliver, obuf_room_fn *room,
		  void *arg);
/* While it runs: what is held stays, and who waits for room is told when there is. */
void obuf_set_limit(struct obuf *ob, uint64_t limit_bytes);
/* A bound of its own for what is held of a sink. */
void obuf_limit_sink(struct obuf *ob, int sink, uint64_t bytes);
/* Those whose deliver() said false have room. */
void obuf_room(struct obuf *ob);
/*
 * Without this a release delivers everything at once; with it, an entry at least and what the
 * round's budget allows before it asks for obuf_continue(): a full buffer must not keep the loop.
 */
void obuf_set_later(struct obuf *ob, struct loop *l, obuf_later_fn *later, void *arg);
void obuf_continue(struct obuf *ob);
/* NULL: nobody wants to know. */
void obuf_on_held(struct obuf *ob, obuf_held_fn *fn, void *arg);
/* NULL: nobody wants to know. Only notes it: no obuf call from within. */
void obuf_on_kept(struct obuf *ob, obuf_kept_fn *fn, void *arg);
/*
 * The other side has produced the same as this entry, in the same epoch: it leaves, before others
 * that were put before it. It is gone then.
 */
void obuf_let(struct obuf *ob, struct obuf_entry *en);
/* Has all left of the epochs before the open one? */
bool obuf_is_turn(const struct obuf *ob);
/*
 * It has, but may not leave yet, as it is in doubt whether this side owns the VM, or it is not its
 * turn: the entry waits for obuf_let_marked() with a number (from 1) that is not lower. Later marks
 * have no lower numbers.
 */
void obuf_mark(struct obuf *ob, struct obuf_entry *en, uint32_t number);
void obuf_let_marked(struct obuf *ob, uint32_t up_to);
/* What is put from here on goes there, and neither out nor into the buffer; NULL: as before. */
void obuf_divert(struct obuf *ob, obuf_divert_fn *fn, void *arg);
/* 0 delivered or held (copied), -EAGAIN over a limit, or the sink is full; -ENOMEM, -ENODEV unknown
 * sink. */
int obuf_put(struct obuf *ob, int sink, const struct iovec *iov, int niov);
/* Would it be put? If not, room is offered when it would. */
bool obuf_takes(struct obuf *ob, int sink, uint32_t len);
/* Is some output of the open epoch held? */
bool obuf_waits(const struct obuf *ob);
/* From now on output is held and belongs to `epoch`. */
void obuf_hold(struct obuf *ob, uint64_t epoch);
/* Close the open epoch; later output belongs to `epoch` (must be greater). vCPUs are stopped. */
void obuf_seal(struct obuf *ob, uint64_t epoch);
/* The peer holds `epoch` whole: everything of it and of those before is delivered, in order. */
void obuf_release(struct obuf *ob, uint64_t epoch);
/* Protection ended and this side owns the VM: everything is delivered in order, nothing held. */
void obuf_pass(struct obuf *ob);
/* The VM ends in order: deliver what may leave now, however long that takes. */
void obuf_flush(struct obuf *ob);
/* This side does not own the VM any more: throw everything away, now and from now on. */
void obuf_drop(struct obuf *ob);

#endif

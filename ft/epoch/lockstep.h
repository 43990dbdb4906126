/*
 * The primary's half of COLO: its guest and the twin at the secondary run from the same state on
 * the same inputs. What the guest is given, frames (net/netdev.h) and all else (devices/inputs.h),
 * goes to the twin as well; what it puts out is held until the twin has put out the same, or a
 * checkpoint is acknowledged.
 *
 * The output rule: an entry of the open epoch leaves when the twin, which runs from the epoch
 * before, is known to have produced it. A secondary that takes over goes on with that twin, unless
 * it has acknowledged the next epoch, which is of a state behind that output. So what left is known
 * there either way. Nothing is let go while this side is suspect (ft/common/heart.h), ahead of what
 * was put out before the last checkpoint, or of a TCP connection whose numbers the twin has not
 * yet: its client could not go on with the twin.
 *
 * Owner: the loop.
 */
#ifndef FT_LOCKSTEP_H
#define FT_LOCKSTEP_H

#include <stdbool.h>
#include <stdint.h>

#include "ft/common/ft.h"
#include "ft/common/heart.h"
#include "ft/common/mirror.h"
#include "ft/common/wire.h"
#include "ft/epoch/disklog.h"
#include "ft/epoch/written.h"
#include "net/compare.h"
#include "vmm/vm/vm.h"

enum lockstep_news {
	LOCKSTEP_DIFFERS, /* only a checkpoint helps: l->why */
	LOCKSTEP_LATE,	  /* and the twin does not keep up: better none for a while; l->why */
	LOCKSTEP_LOST,	  /* the connection is: it has ended; l->why */
};

enum lockstep_state {
	LOCKSTEP_OFF,
	LOCKSTEP_ALONE,	  /* connected; the open epoch is not one that a twin runs */
	LOCKSTEP_LOADING, /* it is; the twin does not run yet */
	LOCKSTEP_RUNS,
	LOCKSTEP_DIFFERED, /* until the next checkpoint */
};
#define LOCKSTEP_STATES (LOCKSTEP_DIFFERED + 1)

/* How long is waited for the twin; what is late is not its word any more. */
struct lockstep_bounds {
	uint64_t overdue_ns; /* one side without the other's output */
	uint64_t load_ns;    /* the ack to LOADED */
	uint64_t input_ns;   /* this side's guest is given nothing, as the twin takes nothing */
};

struct lockstep_stats {
	uint64_t checkpoints;	    /* with a twin behind them */
	uint64_t differences[6];    /* by enum compare_why */
	uint64_t apart[APART_WHYS]; /* as the twin's side said */
	uint64_t log_full;
	uint64_t reads;			/* of a disk, of what only the twin wrote */
	uint64_t not_loaded, not_taken; /* bounds that the twin did not keep: load_ns, input_ns */
	uint64_t connections;		/* with other numbers at the twin, or that bear none */
	uint64_t unmapped;		/* of them: that needed a checkpoint */
	uint64_t let;			/* outputs that left by comparison */
	uint64_t inputs;
	uint64_t load_ns; /* of the last checkpoint: seal to the twin's run */
	/* From the second of two outputs that differ to the seal: of the last, and the longest. */
	uint64_t asked_ns, asked_max_ns;
};

struct lockstep {
	struct vm *vm;
	struct heart *heart;
	struct mirror mirror;
	struct compare compare;
	struct disklog *disklog; /* where the guest's writes are seen; the caller's, as bounds */
	struct written written;
	enum lockstep_state state;
	struct loop_op due_op, trust_op, load_op, input_op, read_op;
	bool due_set, load_set, input_set, read_set;
	/* Of this epoch, from 1: the next connection's number, and the first that the twin has not.
	 */
	uint32_t told, agreed;
	uint32_t room;	 /* numbers that the twin could map in it */
	uint32_t given;	 /* inputs in it so far */
	uint32_t marked; /* what waits until it may leave is marked up to this; 0: nothing does */
	struct lockstep_bounds bounds;
	uint64_t sealed_ns, loaded_ns;
	uint64_t loaded;      /* the last epoch that it said it runs from */
	uint64_t compared_ns; /* what is compared came at that time */
	uint64_t differed_ns; /* and it was what differs; 0: nothing does, or it is sealed */
	char why[200];
	enum ft_seal asks; /* the same, while a checkpoint is wanted */
	struct lockstep_stats stats;
	void (*news)(void *arg, enum lockstep_news what);
	void *arg;
};

/*
 * Takes the stream over. bounds, disklog, news and arg are the caller's, set before; the rest is
 * zero, or as lockstep_end() left it.
 */
int lockstep_begin(struct lockstep *l, struct vm *vm, struct heart *heart, struct stream *st,
		   struct err *e);
/* What is held waits for an ack, as without a twin. Safe on a zeroed one, and twice. */
void lockstep_end(struct lockstep *l);
/* A seal begins, whatever for. */
void lockstep_seals(struct lockstep *l);
/*
 * An epoch was sealed, the VM stands. runs: a twin is to run from it on, so that what is put out
 * from here on is compared. Right after engine_seal(), before the loop's next turn.
 */
void lockstep_sealed(struct lockstep *l, bool runs);
/* The last one was acknowledged: what both have put out since may leave now. */
void lockstep_acked(struct lockstep *l);
static inline bool lockstep_is_up(const struct lockstep *l)
{
	return l->state != LOCKSTEP_OFF;
}
/* As `status --json` and a metric have it. */
const char *lockstep_state_name(enum lockstep_state s);
/* Is a checkpoint wanted? */
static inline bool lockstep_wants(const struct lockstep *l)
{
	return l->state == LOCKSTEP_DIFFERED;
}
/* And what for? FT_SEAL_NONE: it is not. */
static inline enum ft_seal lockstep_asks(const struct lockstep *l)
{
	return lockstep_wants(l) ? l->asks : FT_SEAL_NONE;
}
/* Is what is put out now compared? */
static inline bool lockstep_compares(const struct lockstep *l)
{
	return l->state == LOCKSTEP_LOADING || l->state == LOCKSTEP_RUNS;
}

#endif

/*
 * Who may run the VM: a compare-and-set on a generation number, at the moments that change it. No
 * clocks, no leases. Whoever wins generation n+1 from n may run; whoever loses stops.
 *
 * "file:PATH": PATH on storage that both hosts share is the prefix of files PATH.<generation>; see
 *   ft/common/arbiter_file.h. Every answer takes at most the deadline (2 s): the storage may hang.
 * "none": every claim wins. A broken link then makes two VMs out of one; for tests, and for links
 *   that cannot break while both hosts live.
 *
 * A claim that failed or timed out is not won: the caller must stay fenced, and may ask again. Each
 * handle has an identity, written into its records: a claim that the storage carried out late, or
 * whose answer was lost, is recognised when it is asked for again, and won.
 *
 * One thread at a time; with a loop, the loop thread.
 */
#ifndef FT_ARBITER_H
#define FT_ARBITER_H

#include <stdbool.h>
#include <stdint.h>

#include "vmm/base/err.h"
#include "vmm/base/loop.h"

#define ARBITER_DEADLINE_MS 2000

struct arbiter;

/* How the run under a generation ended, if it did. */
enum arbiter_end {
	ARBITER_HELD,	 /* not, as far as anybody knows: its holder may be running the VM */
	ARBITER_STOPPED, /* in order, but the other side may lack writes: the same side may start */
	ARBITER_RELEASED, /* in order, and both sides' images have everything: either may start */
};

struct arbiter_record {
	uint64_t generation; /* 0: nobody ever claimed this VM */
	char holder[128];
	int64_t time; /* seconds since 1970 on the holder's clock; for people only */
	enum arbiter_end end;
	uint64_t claim; /* identity of the handle that claimed it; 0 in records of old versions */
	uint64_t side;	/* whose images the holder wrote (ft/common/side.h), 0: nobody's */
	uint64_t peer;	/* released: whose images have the same, 0: unknown, or nobody writes any */
	uint64_t token; /* of the hand-over that it was claimed for, 0: none */
};

/* Who claims: a side that goes on with a VM that runs, or one that starts it. */
enum arbiter_why { ARBITER_GO_ON, ARBITER_START };

/*
 * l: where answers are given; NULL: by the blocking calls only. It must outlive the arbiter.
 * holder: names this side to people, at most 127 bytes. Touches no storage yet.
 */
int arbiter_open(struct arbiter **ret, struct loop *l, const char *uri, const char *vm,
		 const char *holder, struct err *e);
/* Also within an answer. NULL is fine; releases nothing. */
void arbiter_close(struct arbiter *a);
/* What the records of this handle say from now on about their images. */
void arbiter_set_side(struct arbiter *a, uint64_t side);
uint64_t arbiter_side(const struct arbiter *a);
/* What the next ends carry: the other side whose images have everything; 0: none. */
void arbiter_set_peer(struct arbiter *a, uint64_t side);
/* What the next claims carry for the side that handed over to tell them by; 0: nothing. */
void arbiter_set_token(struct arbiter *a, uint64_t token);
/* Is there a record that others see, too? Not with "none". */
bool arbiter_is_shared(const struct arbiter *a);
/* The record seen by the last question that got an answer. */
const struct arbiter_record *arbiter_last(const struct arbiter *a);

struct arbiter_answer {
	int code;		    /* 0, or as said at the question; then err says why */
	struct arbiter_record last; /* as arbiter_last() */
	struct err err;
};

/* The answer is valid during the call, which may ask the next question. */
typedef void arbiter_done(void *arg, const struct arbiter_answer *answer);

/*
 * Questions. They never block: done is called once, from the loop, never from within, at the latest
 * after the deadline, unless arbiter_forget() or arbiter_close() comes first. One at a time: -EBUSY
 * while another one is without its answer (-ENOSPC: the loop is full); done will not be called
 * then.
 *
 * Besides its own codes each answer may be: the arbiter cannot be asked (-ETIMEDOUT and others),
 * its records are damaged (-EBADMSG) or gone (-ENODATA). Nobody may go on then.
 */
/* The record of the highest generation. */
int arbiter_ask_read(struct arbiter *a, arbiter_done *done, void *arg);
/*
 * from -> from + 1. 0: won, and the answer's record is this side's. -ESTALE: lost, the answer's
 * record says to whom. -ECANCELED: to go on, but the VM was stopped in order.
 */
int arbiter_ask_claim(struct arbiter *a, uint64_t from, enum arbiter_why why, arbiter_done *done,
		      void *arg);
/* The run under a generation that this handle claimed is over. -ESTALE: another one is current. */
int arbiter_ask_end(struct arbiter *a, uint64_t generation, enum arbiter_end end,
		    arbiter_done *done, void *arg);
/* There was no run under a generation that this handle claimed: it ends as the one before did. */
int arbiter_ask_put_back(struct arbiter *a, uint64_t generation,
			 const struct arbiter_record *before, arbiter_done *done, void *arg);
/*
 * The answer is not wanted any more. What was asked for may happen all the same: ask again to know.
 */
void arbiter_forget(struct arbiter *a);

/* The same questions, and wait for the answer; *ret_generation is from + 1 when it is won. */
int arbiter_read(struct arbiter *a, struct arbiter_record *ret, struct err *e);
int arbiter_claim(struct arbiter *a, uint64_t from, enum arbiter_why why, uint64_t *ret_generation,
		  struct err *e);
int arbiter_end(struct arbiter *a, uint64_t generation, enum arbiter_end end, struct err *e);
int arbiter_put_back(struct arbiter *a, uint64_t generation, const struct arbiter_record *before,
		     struct err *e);

#endif

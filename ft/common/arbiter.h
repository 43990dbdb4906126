/*
 * Who may run the VM: a compare-and-set on a generation number, at the moments that change it. No
 * clocks, no leases. Whoever wins generation n+1 from n may run; whoever loses stops.
 *
 * "file:PATH": PATH on storage that both hosts share is the prefix of files PATH.<generation>; see
 *   ft/common/arbiter_file.h. Every call takes at most the deadline (2 s): the storage may hang.
 * "none": every claim wins. A broken link then makes two VMs out of one; for tests, and for links
 *   that cannot break while both hosts live.
 *
 * A claim that failed or timed out is not won: the caller must stay fenced, and may ask again. Each
 * handle has an identity, written into its records: a claim that the storage carried out late, or
 * whose answer was lost, is recognised when it is asked for again, and won.
 *
 * One thread at a time.
 */
#ifndef FT_ARBITER_H
#define FT_ARBITER_H

#include <stdbool.h>
#include <stdint.h>

#include "vmm/base/err.h"

#define ARBITER_DEADLINE_MS 2000

struct arbiter;

/* How the run under a generation ended, if it did. */
enum arbiter_end {
	ARBITER_HELD,	 /* not, as far as anybody knows: its holder may be running the VM */
	ARBITER_STOPPED, /* in order, but the other side may lack writes: the same side may start */
	ARBITER_RELEASED, /* in order, and no image is older than another: anyone may start */
};

struct arbiter_record {
	uint64_t generation; /* 0: nobody ever claimed this VM */
	char holder[128];
	int64_t time; /* seconds since 1970 on the holder's clock; for people only */
	enum arbiter_end end;
	uint64_t claim; /* identity of the handle that claimed it; 0 in records of old versions */
	uint64_t side;	/* whose images the holder wrote (ft/common/side.h), 0: nobody's */
	uint64_t token; /* of the hand-over that it was claimed for, 0: none */
};

/* Who claims: a side that goes on with a VM that runs, or one that starts it. */
enum arbiter_why { ARBITER_GO_ON, ARBITER_START };

/* holder: names this side to people, at most 127 bytes. Touches no storage yet. */
int arbiter_open(struct arbiter **ret, const char *uri, const char *vm, const char *holder,
		 struct err *e);
void arbiter_close(struct arbiter *a); /* NULL is fine; releases nothing */
/* The record of the highest generation. */
int arbiter_read(struct arbiter *a, struct arbiter_record *ret, struct err *e);
/* What the records of this handle say from now on about their images. */
void arbiter_set_side(struct arbiter *a, uint64_t side);
uint64_t arbiter_side(const struct arbiter *a);
/* What the next claims carry for the side that handed over to tell them by; 0: nothing. */
void arbiter_set_token(struct arbiter *a, uint64_t token);
/*
 * from -> from + 1. 0: won, *ret_generation is from + 1. -ESTALE: lost, arbiter_last() says to
 * whom. -ECANCELED: to go on, but the VM was stopped in order. Anything else: the arbiter cannot be
 * asked (-ETIMEDOUT), or its records are damaged (-EBADMSG) or gone (-ENODATA): nobody may go on.
 */
int arbiter_claim(struct arbiter *a, uint64_t from, enum arbiter_why why, uint64_t *ret_generation,
		  struct err *e);
/* The run under a generation that this handle claimed is over. -ESTALE: another one is current. */
int arbiter_end(struct arbiter *a, uint64_t generation, enum arbiter_end end, struct err *e);
/* There was no run under a generation that this handle claimed: it ends as the one before did. */
int arbiter_put_back(struct arbiter *a, uint64_t generation, const struct arbiter_record *before,
		     struct err *e);
/* Is there a record that others see, too? Not with "none". */
bool arbiter_is_shared(const struct arbiter *a);
/* The record seen by the last call that got an answer. */
const struct arbiter_record *arbiter_last(const struct arbiter *a);

#endif

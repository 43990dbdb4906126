/*
 * Who may run the VM: a compare-and-set on a generation number, at the moments that change it. No
 * clocks, no leases. Whoever wins generation n+1 from n may run; whoever loses stops.
 *
 * "file:PATH": PATH on storage that both hosts share is the prefix of files PATH.<generation>; see
 *   ft/arbiter_file.h. Every call takes at most the deadline (2 s): the storage may hang.
 * "none": every claim wins. A broken link then makes two VMs out of one; for tests, and for links
 *   that cannot break while both hosts live.
 *
 * A claim that fails or times out is not won, even if the storage carries it out later: the caller
 * must stay fenced. Such a claim is marked released as soon as the storage answers, so the VM can
 * be started again without force; until then it takes --claim.
 *
 * One thread at a time.
 */
#ifndef FT_ARBITER_H
#define FT_ARBITER_H

#include <stdbool.h>
#include <stdint.h>

#include "vmm/err.h"

#define ARBITER_DEADLINE_MS 2000

struct arbiter;

struct arbiter_record {
	uint64_t generation; /* 0: nobody ever claimed this VM */
	char holder[128];
	int64_t time;  /* seconds since 1970 on the holder's clock; for people only */
	bool released; /* the holder stopped in order: the next claim needs no force */
};

/* holder: names this side to people, at most 127 bytes. Touches no storage yet. */
int arbiter_open(struct arbiter **ret, const char *uri, const char *vm, const char *holder,
		 struct err *e);
void arbiter_close(struct arbiter *a); /* NULL is fine; releases nothing */
/* The record of the highest generation. */
int arbiter_read(struct arbiter *a, struct arbiter_record *ret, struct err *e);
/*
 * from -> from + 1. 0: won, *ret_generation is from + 1. -ESTALE: lost, arbiter_last() says to
 * whom. Anything else: the arbiter cannot be asked (-ETIMEDOUT), or its records are damaged
 * (-EBADMSG) or gone (-ENODATA): nobody may go on.
 */
int arbiter_claim(struct arbiter *a, uint64_t from, uint64_t *ret_generation, struct err *e);
/* Orderly stop of whoever holds `generation`. -ESTALE when it is not the current one any more. */
int arbiter_release(struct arbiter *a, uint64_t generation, struct err *e);
/* Is there a record that others see, too? Not with "none". */
bool arbiter_is_shared(const struct arbiter *a);
/* The record seen by the last call that got an answer. */
const struct arbiter_record *arbiter_last(const struct arbiter *a);

#endif

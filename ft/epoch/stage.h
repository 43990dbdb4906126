/*
 * Staging at the secondary: all that an epoch brings is kept apart until it is whole and verified;
 * then it is committed by plain copies that cannot fail, or thrown away. Grows up to one copy of
 * guest RAM plus the announced disk log, never more.
 *
 * Owner: the loop.
 */
#ifndef FT_STAGE_H
#define FT_STAGE_H

#include <stdbool.h>
#include <stdint.h>

#include "vmm/copy/diskapply.h"
#include "ft/common/wire.h"
#include "vmm/base/err.h"
#include "vmm/copy/page_in.h"
#include "vmm/machine/mem_places.h"
#include "vmm/wire/stream.h"
#include "vmm/vm/vm.h"

/* An epoch's frames come in this order; every part may be absent but the last two. */
enum stage_part { STAGE_PAGES, STAGE_DISKLOG, STAGE_STATE, STAGE_END, STAGE_COMMIT };

struct stage {
	struct vm *vm;
	struct diskapply *disks;
	uint64_t disklog_limit;
	bool open; /* between EPOCH_BEGIN and its commit */
	uint64_t epoch;
	uint64_t committed;   /* last committed epoch, 0: none */
	uint64_t paused;      /* 1: of the committed one: its VM was paused by the user */
	uint64_t runs;	      /* 1: likewise: the guest is to run here from it on */
	enum stage_part part; /* which the open epoch has reached */
	struct page_in pages;
	struct disk_writes disklog;
	struct wire_end end;
	struct mem_places places; /* of the primary, with --verify */
	bool has_places;
};

int stage_init(struct stage *s, struct vm *vm, struct diskapply *disks, uint64_t disklog_limit);
void stage_done(struct stage *s);
/*
 * Take one frame of the main stream. 1: the epoch is whole and verified: ack it, then
 * stage_commit(). 0: go on. -EBADMSG (e says why): drop the link, nothing of the open epoch counts.
 */
int stage_frame(struct stage *s, const struct frame *f, struct err *e);
/*
 * Bring the whole epoch into memory, state and disks. Cannot fail, nor wait: the memory for it is
 * there. In turns: for as long as the loop's budget lets it, and true when all is done. In between
 * no frame may be given, and memory is neither the old nor the new one.
 */
void stage_commit(struct stage *s);
bool stage_commit_turn(struct stage *s);
static inline bool stage_is_committing(const struct stage *s)
{
	return s->part == STAGE_COMMIT;
}
/* Drop the open epoch. One whose commit has begun was promised: the rest of it is done. */
void stage_abort(struct stage *s);
/*
 * With --verify, right after a commit: do RAM and state equal the primary's at the seal? -EBADMSG:
 * e names the page, or those between which all that differ are; or device, field and both values.
 */
int stage_verify(struct stage *s, struct err *e);
/* Behind a twin's roll back: does its guest see that memory? */
int stage_verify_view(struct stage *s, struct err *e);

#endif

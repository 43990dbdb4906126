#include "vmm/vm/replica.h"

#include <string.h>

#include "vmm/base/log.h"
#include "vmm/machine/mem_split.h"

int replica_begin(struct replica *r, struct kvm *kvm, struct mem *mem, struct err *e)
{
	int err;

	memset(r, 0, sizeof(*r));
	err = dirty_start(&r->dirty, kvm, mem, e);
	if (err)
		return err;
	err = mem_split(mem, e);
	if (err) {
		dirty_stop(&r->dirty);
		return err;
	}
	/* That is in the checkpoint. */
	dirty_forget_host(&r->dirty);
	return 0;
}

/* Which pages are this side's own? */
static void begin(struct replica *r, enum replica_part part)
{
	struct dirty *d = &r->dirty;
	int err = dirty_get(d);

	r->blind = err != 0;
	if (r->blind) {
		log_warn("dirty log: %s; all of memory counts as written", strerror(-err));
		memset(d->bits, 0xff, d->nwords * sizeof(uint64_t));
	}
	r->own_pages = 0;
	for (uint64_t w = 0; w < d->nwords; w++)
		r->own_pages += (uint64_t)__builtin_popcountll(d->bits[w]);
	r->part = part;
	r->at = 0;
}

/* What is dropped is followed anew. What was not read, or cannot be cleared, is reported again. */
static void protect(struct replica *r)
{
	struct dirty *d = &r->dirty;

	if (r->blind)
		memset(d->clear, 0, d->nwords * sizeof(uint64_t));
	else
		memcpy(d->clear, d->bits, d->nwords * sizeof(uint64_t));
	r->part = REPLICA_PROTECTS;
	r->at = 0;
}

bool replica_roll_back(struct replica *r)
{
	struct dirty *d = &r->dirty;

	switch (r->part) {
	case REPLICA_RUNS:
		begin(r, REPLICA_DROPS);
		return false;
	case REPLICA_DROPS:
		if (mem_roll_back(d->mem, d->bits, &r->at))
			protect(r);
		return false;
	default:
		VMM_BUG_ON(r->part != REPLICA_PROTECTS);
		if (!dirty_clear_piece(d, &r->at))
			return false;
		r->part = REPLICA_RUNS;
		return true;
	}
}

bool replica_end(struct replica *r)
{
	struct dirty *d = &r->dirty;

	VMM_BUG_ON(r->part != REPLICA_RUNS && r->part != REPLICA_JOINS);
	if (r->part == REPLICA_RUNS)
		begin(r, REPLICA_JOINS);
	if (!mem_join(d->mem, d->bits, &r->at))
		return false;
	dirty_stop(d);
	r->part = REPLICA_RUNS;
	return true;
}

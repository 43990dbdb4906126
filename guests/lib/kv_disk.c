#include "guests/lib/kv_disk.h"

#define KV_DISK_CHUNK 64 /* sectors read at once in recovery */

static void kv_disk_replay(struct kv_disk *d)
{
	struct kv_store *s = d->store;
	struct kv_sector *buf = mem_alloc(KV_DISK_CHUNK * BLK_SECTOR / PAGE_SIZE);
	uint64_t left;
	uint32_t n, i;

	do {
		left = s->sectors - s->open;
		n = left < KV_DISK_CHUNK ? (uint32_t)left : KV_DISK_CHUNK;
		if (n && blk_read(d->blk, s->open, buf, n))
			guest_die(1, "kv: cannot read the journal");
		for (i = 0; i < n && kv_store_replay(s, &buf[i]); i++)
			;
	} while (n && i == n);
}

void kv_disk_open(struct kv_disk *d, struct kv_store *store)
{
	*d = (struct kv_disk){.blk = blk_open(0), .store = store};
	kv_store_init(store, d->blk ? blk_sectors(d->blk) : 0);
	if (!store->sectors) {
		print("kv volatile\n");
		return;
	}
	if (blk_readonly(d->blk))
		guest_die(1, "kv: the disk is read-only");
	kv_disk_replay(d);
	print("kv recovered %lu records\n", store->records);
}

/* Begins a commit of all sectors that have records. */
static void kv_disk_begin(struct kv_disk *d)
{
	kv_store_seal(d->store);
	d->next = d->store->durable;
	d->end = d->store->open;
	if (d->next < d->end)
		d->state = KV_DISK_WRITE;
}

static void kv_disk_submit(struct kv_disk *d)
{
	d->req = (struct blk_req){.op = BLK_FLUSH};
	if (d->state == KV_DISK_WRITE)
		d->req = (struct blk_req){
			.op = BLK_WRITE,
			.nsect = 1,
			.sector = d->next,
			.buf = (void *)kv_store_sector(d->store, d->next),
		};
	d->submitted = blk_submit(d->blk, &d->req) == 0;
}

/* The request that was with the device succeeded. */
static void kv_disk_advance(struct kv_disk *d)
{
	if (d->state == KV_DISK_WRITE && ++d->next < d->end)
		return;
	if (d->state == KV_DISK_WRITE && blk_can(d->blk, BLK_FLUSH)) {
		d->state = KV_DISK_FLUSH;
		return;
	}
	d->store->durable = d->end;
	d->state = KV_DISK_IDLE;
}

bool kv_disk_poll(struct kv_disk *d)
{
	if (!d->store->sectors)
		return false;
	for (;;) {
		if (d->submitted) {
			blk_poll(d->blk);
			if (!d->req.done)
				return false;
			d->submitted = false;
			if (d->req.result) {
				/* Nothing was promised yet: keep trying, for as long as it takes.
				 */
				if (!d->complained)
					print("kv: disk error, retrying\n");
				d->complained = true;
				return true;
			}
			kv_disk_advance(d);
		}
		if (d->state == KV_DISK_IDLE)
			kv_disk_begin(d);
		if (d->state == KV_DISK_IDLE)
			return false;
		kv_disk_submit(d);
		if (!d->submitted)
			return true;
	}
}

/*
 * Disk replication, secondary side: changes that were committed (or belong to the first sync) go to
 * the images one after the other, in their order. Bounded by whoever feeds it: see pending_bytes.
 *
 * Owner: the loop.
 */
#ifndef FT_DISKAPPLY_H
#define FT_DISKAPPLY_H

#include <stdbool.h>
#include <stdint.h>

#include "devices/disk.h"
#include "ft/wire.h"
#include "vmm/err.h"
#include "vmm/machine.h"

struct diskapply_entry {
	struct diskapply_entry *next;
	struct wire_disk wire;
	uint8_t *data; /* 4096-aligned, wire.data bytes, or NULL */
};

struct diskapply_list {
	struct diskapply_entry *head, *last;
	uint64_t count, bytes;
};

struct diskapply {
	const struct machine *machine;
	struct disk disks[MACHINE_MAX_DEVS]; /* aliases: a hold on the guest's requests does not
						hold these */
	struct diskapply_list queue;
	uint64_t pending_bytes;
	struct disk_req req;
	bool busy;
	int error; /* first failure of an image: this side is no use as a secondary any more */
	void (*moved)(void *arg); /* an entry was finished, or error was set */
	void *arg;
};

void diskapply_init(struct diskapply *da, const struct machine *m, struct disk *disks,
		    void (*moved)(void *arg), void *arg);
/* Parse and check one wire entry into list. -EBADMSG with e, or -ENOMEM. */
int diskapply_parse(const struct diskapply *da, const uint8_t *p, uint32_t len,
		    struct diskapply_list *list, struct err *e);
/* Append the whole list to what is applied; list becomes empty. Cannot fail. */
void diskapply_push(struct diskapply *da, struct diskapply_list *list);
bool diskapply_idle(const struct diskapply *da);
void diskapply_free(struct diskapply_list *list);
/* Forget what waits (link lost before the first commit). The one in flight goes on. */
void diskapply_drop(struct diskapply *da);
/* Wait (at most 5 s) until nothing of it is at the kernel: before the images are closed. */
void diskapply_drain(struct diskapply *da);

#endif

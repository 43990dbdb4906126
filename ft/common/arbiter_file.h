/*
 * The file back end. PREFIX.<generation> is a record, made whole or not at all: written and synced
 * under another name in the same folder, then link(2)ed, which fails when the name exists. The
 * highest generation counts. Works on local file systems, NFS and cluster file systems.
 *
 * Calls may block as long as the storage does.
 */
#ifndef FT_ARBITER_FILE_H
#define FT_ARBITER_FILE_H

#include <stdatomic.h>

#include "ft/common/arbiter.h"

/*
 * Records kept behind the current one. While the record of a generation exists it cannot be won
 * twice; a claimer that slept through more than this finds out by looking again after its link.
 */
#define ARBITER_FILE_KEEP 8

struct arbiter_file {
	char folder[512];
	char prefix[256]; /* file name without folder */
	char vm[64];
	char holder[128];
	uint64_t claim, side, token; /* of the records that are made here */
};

/* Split PATH; no storage is touched. */
int arbiter_file_init(struct arbiter_file *f, const char *path, const char *vm, const char *holder,
		      struct err *e);
int arbiter_file_read(const struct arbiter_file *f, struct arbiter_record *ret, struct err *e);
/* abandoned: when it turns true before the link, nothing is claimed. ret: the record seen last. */
int arbiter_file_claim(const struct arbiter_file *f, uint64_t from, enum arbiter_why why,
		       const atomic_bool *abandoned, struct arbiter_record *ret, struct err *e);
/* as: what the record of as->generation, which must be ours and the current one, is to say. */
int arbiter_file_end(const struct arbiter_file *f, const struct arbiter_record *as,
		     struct arbiter_record *ret, struct err *e);

#endif

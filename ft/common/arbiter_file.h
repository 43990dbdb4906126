/*
 * The file back end. PREFIX.<generation> is a record, made whole or not at all: written and synced
 * under another name in the same folder, then link(2)ed, which fails when the name exists. The
 * highest generation counts. Works on local file systems, NFS and cluster file systems.
 */
#ifndef FT_ARBITER_FILE_H
#define FT_ARBITER_FILE_H

#include "ft/common/arbiter_record.h"

/*
 * Records kept behind the current one. While the record of a generation exists it cannot be won
 * twice; a claimer that slept through more than this finds out by looking again after its link.
 */
#define ARBITER_FILE_KEEP 8

/* What its operations are called with. */
struct arbiter_file {
	char folder[512];
	char prefix[256]; /* file name without folder */
	char vm[64];
	char name[560];
	struct arbiter_place place; /* for what errors say */
};

/* PATH is split; no storage is touched. The caller's to close until an arbiter has it. */
int arbiter_file_open(struct arbiter_backend *ret, const char *path, const char *vm, struct err *e);

#endif

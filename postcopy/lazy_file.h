/*
 * Where the pages of a snapshot file are: which frame has each of them last, and where that frame
 * is. Filled by the loop while the file is read once; then one thread's.
 */
#ifndef POSTCOPY_LAZY_FILE_H
#define POSTCOPY_LAZY_FILE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "vmm/base/err.h"
#include "vmm/wire/stream.h"

struct lazy_frame {
	uint64_t offset; /* of its header in the file */
	uint64_t digest; /* of its payload: is it the same when it is read again? */
};

struct lazy_file {
	uint32_t *where; /* by page: 1 + frame; 0: zero, or in none */
	uint64_t npages;
	struct lazy_frame *frames; /* as they are in the file, the first one behind HELLO */
	uint32_t nframes, cap;
	uint32_t next; /* no frame before this one is still to be read */
	bool *read;    /* by frame: once is enough */
	int fd;	       /* of its own: the path may be another file's by now */
	uint64_t pos;
	struct stream stream;
	uint8_t *out; /* what was last read, without what comes again */
};

void lazy_file_init(struct lazy_file *l);
void lazy_file_done(struct lazy_file *l);
/* A FRAME_PAGES that st has just read. */
int lazy_file_add(struct lazy_file *l, const struct stream *st, uint64_t npages,
		  const struct frame *f, struct err *e);
/* That was all of them. */
int lazy_file_taken(struct lazy_file *l, const struct stream *st, uint64_t npages, struct err *e);

static inline bool lazy_file_has(const struct lazy_file *l, uint64_t page)
{
	return l->where && l->where[page];
}
/* The frame of a page, if it is still to be read, else -1. */
int64_t lazy_file_frame(const struct lazy_file *l, uint64_t page);
/* The next frame that is still to be read, -1: there is none. */
int64_t lazy_file_next(struct lazy_file *l);
/*
 * The entries of a frame that no later frame has again, maybe none: *ret, until the next call. *e:
 * the file is not what it was.
 */
int lazy_file_read(struct lazy_file *l, uint32_t frame, struct iovec *ret, struct err *e);

#endif

/*
 * What an image of a fault tolerant VM says of itself, in its extended attribute user.ftvmm: whose
 * it is, in which generation, and whether it may be older than another one, or is half another's.
 * It goes where the file goes (mv, cp --preserve=xattr); a copy without it is a backup, which says
 * nothing. Block devices, and file systems without such attributes, have none.
 */
#ifndef FT_MARK_H
#define FT_MARK_H

#include <stdint.h>

#include "vmm/base/err.h"
#include "vmm/conf/config.h"

#define MARK_ATTRIBUTE "user.ftvmm"

enum mark_word {
	MARK_NONE,
	MARK_HALF, /* a first sync writes it, or was broken off: neither the old nor the new one */
	MARK_BEHIND, /* a secondary's: what the primary acknowledged last may be missing */
	MARK_RUN,    /* of a side that runs, or ran, the VM */
	MARK_WHOLE,  /* the VM was stopped, and both sides' images had everything */
	MARK_WORDS,
};

struct mark {
	enum mark_word word;
	uint64_t generation;
	char vm[sizeof(((struct config *)0)->name)];
};

const char *mark_word_name(enum mark_word w);
/* Any thread. MARK_NONE when there is none, nor a file. -EBADMSG: not one that this version knows.
 */
int mark_read(const char *path, struct mark *ret, struct err *e);
/*
 * Any thread. MARK_HALF is on the medium when it returns: what it warns of follows. All others may
 * be lost with the host; what is there then promises less. MARK_NONE takes it off. -EOPNOTSUPP:
 * this image can have none.
 */
int mark_write(int fd, const struct mark *m);

#endif

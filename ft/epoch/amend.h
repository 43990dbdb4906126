/*
 * A change that the image of the primary failed. It is in the log by then, perhaps at the peer, and
 * will be in the peer's image; what is in the image here nobody knows: the old bytes, the new ones,
 * some of each. So that both images are alike, what is here is read back and logged behind it, as
 * far as it can be read, and only then the guest is told. Until then the request is under way, and
 * whoever takes over does it again. What cannot be read, or a flush, leaves the images unlike: the
 * log knows that.
 *
 * Owner: the loop, and the log; a read that is at the kernel keeps its buffer beyond that.
 */
#ifndef FT_AMEND_H
#define FT_AMEND_H

#include <stdbool.h>

#include "devices/disk.h"
#include "vmm/copy/disk_wire.h"

struct amend;

/* Those that are under way, and the log that they are for. */
struct amends {
	struct amend *first;
	/* Behind all that is in the log: w, without its disk. */
	void (*put)(void *log, const struct disk *d, const struct wire_disk *w, const void *data);
	bool (*has_room)(void *log);
	/* What the image has after r is not known, or not to be had. */
	void (*unknown)(void *log, const struct disk *d, const struct disk_req *r);
	void *log;
};

/* True: r stays under way until disk_settle() with res. False: the images are unlike there. */
bool amend_begin(struct amends *l, struct disk *d, struct disk_req *r, int res);
/* There is room in the log again. */
void amend_go_on(struct amends *l);
/* The log ends: all that are under way are settled soon, with nothing more read. */
void amend_stop(struct amends *l);

#endif

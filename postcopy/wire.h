/*
 * Payloads of the migration frames: little-endian structs without padding holes. Pages and state
 * have formats of their own (vmm/copy/pages.h, vmm/machine/state.h).
 */
#ifndef POSTCOPY_WIRE_H
#define POSTCOPY_WIRE_H

#include <stdint.h>

/* Of an offer: what it may become; of a switch: what it is. */
enum migrate_mode {
	MIGRATE_PRECOPY = 1,  /* all has come when the VM runs */
	MIGRATE_POSTCOPY = 2, /* the rest comes afterwards */
};

/* FRAME_OFFER: followed by nimages struct wire_image, and by the machine description. */
struct wire_offer {
	uint32_t mode; /* enum migrate_mode */
	uint32_t fdt_bytes;
	uint32_t nimages; /* that may be copied; 0: none is to be */
	uint32_t pad;
};

enum wire_image_kind { WIRE_IMAGE_FILE = 1, WIRE_IMAGE_DEVICE = 2 };

/* What the source's image is, so that the destination can tell whether its own is the same one. */
struct wire_image {
	uint32_t disk;	/* index in machine.devs */
	uint32_t kind;	/* enum wire_image_kind */
	uint64_t inode; /* 0: a device, or its file system does not tell one file from another */
	int64_t born_s; /* when the file was made; 0: the file system does not know */
	uint64_t born_ns;
};

/* FRAME_WELCOME to an offer */
struct wire_welcome {
	uint64_t copied; /* bit i: the image of machine.devs[i] is to come */
};

/* FRAME_SWITCH */
struct wire_switch {
	uint32_t mode;
	uint32_t paused;     /* 1: by the user; it stays so */
	uint64_t stopped_ns; /* for so long the guest stood when this was written */
};

/* FRAME_READY */
struct wire_ready {
	uint64_t lock_ns; /* so long it took to have the images, also those that were copied, */
	uint64_t load_ns; /* and to load the state */
};

/* FRAME_RUNS */
struct wire_runs {
	uint64_t run_ns; /* from GO to the first vCPU let go */
};

/* FRAME_HAVE: followed by nwords * 8 bytes; a bit for each page, from word * 64 on. */
struct wire_have {
	uint64_t word;
	uint32_t nwords;
	uint32_t last; /* 1: there are no more of these frames */
};

#define WIRE_HAVE_WORDS 256u /* at most, in one frame: who asks wants to see that it goes on */

/* --- pages on request: pager, urgent, push -------------------------------------------------- */

enum wire_map_kind {
	WIRE_MAP_DROP = 1, /* what was sent of these is void; only before the switch */
	WIRE_MAP_ZERO = 2, /* zeros, and not sent otherwise */
};

#define WIRE_MAP_PAGES (64u << 10) /* at most in all runs of a frame: bounds the time for it */

/* FRAME_MAP: a row of these. count > 0. */
struct wire_map {
	uint64_t page, count;
	uint32_t kind; /* enum wire_map_kind */
	uint32_t pad;
};

#define WIRE_MAPS  4096u /* at most, in one frame */
#define WIRE_WANTS 1024u /* FRAME_WANT: a row of so many page numbers at most, 8 bytes each */
#define WIRE_RUNS  1024u

/* FRAME_REMOVED: a row of these; pages that the guest gave back and that need not be sent. */
struct wire_run {
	uint64_t page, count; /* count > 0 */
};

/* FRAME_EOS: nothing is left to send. Counts of this pair of links, from their first frame on. */
struct wire_eos {
	uint64_t urgent; /* entries in FRAME_PAGES of the urgent link */
	uint64_t pushed; /* the same of the main link, since the switch */
	uint64_t zero;	 /* pages in WIRE_MAP_ZERO, since the switch */
	uint64_t removed;
};

#endif

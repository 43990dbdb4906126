/*
 * The images of a VM that goes elsewhere, or may come back: nothing is under way and all that was
 * written is on the medium before the other side may have them. Owner: the loop.
 */
#ifndef POSTCOPY_IMAGES_H
#define POSTCOPY_IMAGES_H

#include "vmm/vm/vm.h"

struct images;

struct image {
	struct images *all;
	struct disk *disk;
	bool copied;
	struct loop_op sync_op;
};

struct images {
	struct vm *vm;
	unsigned pending; /* not drained and synced yet */
	int error;
	struct image each[MACHINE_MAX_DEVS];
	void (*drained)(void *arg, int r); /* 0, or what an image failed with */
	void *arg;
};

/*
 * No request goes out any more; drained() is called once, perhaps before this returns. copied: see
 * struct copies; of these the medium does not matter.
 */
void images_drain(struct images *im, struct vm *vm, uint32_t copied,
		  void (*drained)(void *arg, int r), void *arg);
/* The guest's requests go on; drained() is not called any more. */
void images_go_on(struct images *im);
/* The process ends, and the image may be another's: what is held never goes out. */
void images_forget(struct images *im);
/* Those that are copied stay this side's. */
void images_unlock(struct vm *vm, uint32_t copied);
/* All of the others, or none. Never waits. */
int images_lock(struct vm *vm, uint32_t copied, struct err *e);
/*
 * Is each image that the guest writes open at the other side, too? A lock that it holds is seen
 * here: else this is another file, or on storage without locks. A block device may be either. Those
 * that are copied are not asked.
 */
int images_check_shared(struct vm *vm, uint32_t copied, struct err *e);

#endif

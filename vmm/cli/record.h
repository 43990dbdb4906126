/* Do the arbiter's record and the images' marks let this side start the VM? */
#ifndef VMM_RECORD_H
#define VMM_RECORD_H

#include "ft/common/arbiter.h"
#include "vmm/conf/config.h"

/*
 * Reads it, within the arbiter's deadline, and tells the arbiter which side this is. -ESTALE:
 * another side may run the VM, or has the newer image, by the record or by what an image says of
 * itself. The images must be there.
 */
int record_allows(const struct config *cfg, struct arbiter *a, struct arbiter_record *ret,
		  struct err *e);

#endif

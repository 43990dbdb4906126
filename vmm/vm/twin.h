/* The machine that a peer describes, as this side can be it. */
#ifndef VMM_TWIN_H
#define VMM_TWIN_H

#include <stddef.h>

#include "vmm/base/err.h"
#include "vmm/conf/config.h"

/*
 * Parse and check a description from the wire: what -d says here about an image binds the peer,
 * too, and --max-memory and --max-disk how much it may have. vm_create() builds it. -EPERM: not
 * here, -EBADMSG: it is none.
 */
int twin_parse(struct machine *ret, const struct config *cfg, const void *fdt, size_t len,
	       struct err *e);

#endif

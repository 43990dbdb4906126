/*
 * Which of the two sides this is, as far as images go: a number that stays the same when the side
 * is started again, also after a reboot, and differs between hosts, and between images of a host.
 */
#ifndef FT_SIDE_H
#define FT_SIDE_H

#include <stdint.h>

#include "vmm/conf/config.h"

/*
 * 0: no image that the guest writes and one side alone has, so that no side can be behind. The
 * images must be there.
 */
int side_identity(const struct config *cfg, uint64_t *ret, struct err *e);

#endif

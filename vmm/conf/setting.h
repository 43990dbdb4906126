/*
 * What `ftvmm set` changes while a VM runs: the words, the keys in a request, the limits, which are
 * those at the start. Pure functions.
 */
#ifndef VMM_SETTING_H
#define VMM_SETTING_H

#include <jansson.h>
#include <stdint.h>

#include "vmm/base/err.h"

enum setting { SETTING_FT, SETTING_EPOCH, SETTING_OUTPUT_LIMIT, SETTING_BALLOON, SETTING_MAX };

/* "epoch=10ms", put into a request. */
int setting_add(json_t *request, const char *pair, struct err *e);
/* The value in a request: an enum ft_mode, nanoseconds, bytes. -ENOENT: it is not there. */
int setting_get(enum setting s, json_t *request, uint64_t *ret, struct err *e);
/* "ft, epoch, ...". */
void setting_names(char *ret, size_t cap);

#endif

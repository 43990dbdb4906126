/*
 * What `ftvmm set` changes while a VM runs: the words, the keys in a request, the limits, which are
 * those at the start. Pure
 * functions, but for the look at a name server.
 */
#ifndef VMM_SETTING_H
#define VMM_SETTING_H

#include <jansson.h>
#include <stdint.h>

#include "vmm/base/err.h"
#include "vmm/conf/config.h"

enum setting {
	SETTING_FT,
	SETTING_EPOCH,
	SETTING_OUTPUT_LIMIT,
	SETTING_PEER,
	SETTING_BALLOON,
	SETTING_LIMIT,
	SETTING_MAX
};

/* How fast a disk or a network may be from now on; what is not given is not bounded. */
struct setting_limit {
	char id[32];
	struct limit_rates rates;
};

struct setting_value {
	uint64_t number; /* an enum ft_mode, nanoseconds, bytes; or */
	unsigned npeers;
	char peers[CONFIG_MAX_PEERS][300];
	unsigned nlimits;
	struct setting_limit limits[MACHINE_MAX_DEVS];
};

/* "epoch=10ms", put into a request; of peers the names, too. Limits add up. */
int setting_add(json_t *request, const char *pair, struct err *e);
/* The value in a request. -ENOENT: it is not there. Peers and ids are not looked at. */
int setting_get(enum setting s, json_t *request, struct setting_value *ret, struct err *e);
/* "ft, epoch, ...". */
void setting_names(char *ret, size_t cap);

#endif

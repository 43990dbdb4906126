/*
 * The options of `ftvmm migrate`: one table for the command line and for the control socket, where
 * they are keys of the request.
 */
#ifndef VMM_MIGRATE_CONF_H
#define VMM_MIGRATE_CONF_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "vmm/base/err.h"

#define MIGRATE_PASSES_ANY UINT32_MAX

struct migrate_conf {
	char precopy[300];    /* URI of the destination */
	uint64_t downtime_ns; /* default 50 ms: the VM is switched when the rest takes no longer */
	uint64_t timeout_ns;  /* default 60 s: not switched by then, it is given up */
	uint32_t passes;      /* over memory before it is given up; default: any number */
	uint64_t bandwidth;   /* bytes a second while the guest runs; 0: as fast as it goes */
	bool cancel;	      /* give up the one that is under way */
	bool force;	      /* with cancel: the user says that the VM does not run elsewhere */
};

/* Words behind the VM's name, as "--downtime", "50ms". */
int migrate_conf_words(struct migrate_conf *c, const char *const *words, int n, struct err *e);
/* The same from a request; keys of other names are the caller's. */
int migrate_conf_request(struct migrate_conf *c, json_t *request, struct err *e);
/* As a request; new reference. NULL: not UTF-8. */
json_t *migrate_conf_json(const struct migrate_conf *c);

#endif

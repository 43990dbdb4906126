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

enum migrate_how {
	MIGRATE_HOW_PRECOPY,
	MIGRATE_HOW_POSTCOPY,
	MIGRATE_HOW_AUTO,      /* precopy, and postcopy when that does not converge */
	MIGRATE_HOW_SECONDARY, /* not the VM: what stands by for it */
};

struct migrate_conf {
	/* URI of the destination, in the one that says how; then in uri */
	char precopy[300], postcopy[300], automatic[300], secondary[300];
	char uri[300];
	enum migrate_how how;
	uint64_t downtime_ns; /* default 50 ms: the VM is switched when the rest takes no longer */
	/* Default 60 s, and a day with copy_disks: not switched by then, it is given up. */
	uint64_t timeout_ns;
	/*
	 * Over memory, and then: precopy is given up, postcopy switches. Default: any number, and 0
	 * with postcopy.
	 */
	uint32_t passes;
	bool no_background; /* postcopy: what is not asked for is not sent */
	uint64_t bandwidth; /* bytes a second while the guest runs; 0: as fast as it goes */
	bool copy_disks;    /* images that are not one file at both hosts go along */
	bool cancel;	    /* give up the one that is under way */
	bool force;	    /* with cancel: the user knows what nobody here does */
	bool insecure;	    /* uri may be tcp: to another host */
	char recover[300];  /* go on over this, which may be file:PATH; then in uri, too */
};

/* Words behind the VM's name, as "--downtime", "50ms". */
int migrate_conf_words(struct migrate_conf *c, const char *const *words, int n, struct err *e);
/* The same from a request; keys of other names are the caller's. */
int migrate_conf_request(struct migrate_conf *c, json_t *request, struct err *e);
/* Its options, for --help. */
void migrate_conf_print_help(void);
/* As a request; new reference. NULL: not UTF-8. */
json_t *migrate_conf_json(const struct migrate_conf *c);

#endif

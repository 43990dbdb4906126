/*
 * When an epoch is sealed. A policy is asked at some moments and answers with how long from now the
 * next seal is due, and what for; the answer of the last moment counts. Pure functions.
 */
#ifndef FT_POLICY_H
#define FT_POLICY_H

#include <stdbool.h>
#include <stdint.h>

#include "ft/common/ft.h"
#include "vmm/conf/config.h"

#define POLICY_AS_BEFORE UINT64_MAX

struct policy_view {
	uint64_t epoch_ns;	/* --epoch: the longest that an epoch may be */
	uint64_t since_seal_ns; /* since the last seal began */
	uint64_t pause_ns;	/* how long the VM stood for that */
	enum ft_seal output;  /* the first of the open epoch that is held; FT_SEAL_NONE: nothing */
	bool compared;	      /* and leaves when a twin has put out the same */
	enum ft_seal differs; /* or not, before the next checkpoint; FT_SEAL_NONE: it does */
};

struct policy_due {
	uint64_t ns; /* from now, or POLICY_AS_BEFORE */
	enum ft_seal why;
};

/* Asked on the loop, only when none is in flight. */
struct ft_policy {
	const char *name;
	bool twin; /* the guest is to run at the secondary, too */
	struct policy_due (*acked)(const struct policy_view *v);
	/* The first output of the open epoch is held: somebody waits for it. */
	struct policy_due (*output_held)(const struct policy_view *v);
	/* A paused VM goes on. */
	struct policy_due (*resumed)(const struct policy_view *v);
};

/*
 * mc: from seal to seal, at once when late. kemari: at once when output waits, else as mc. auto: as
 * kemari, but the guest has run for POLICY_RUNS times as long as it stood. colo: with a twin, at
 * once when outputs differ, else after POLICY_COLO epochs; without one as kemari. off: as mc, for
 * as long as it takes to end the protection.
 */
#define POLICY_RUNS 9
#define POLICY_COLO 40
const struct ft_policy *policy_of(enum ft_mode mode); /* that of FT_MODE_NONE is mc */

#endif

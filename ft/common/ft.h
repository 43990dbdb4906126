/*
 * Fault tolerance of one VM: what both roles share. The life of a VM under FT:
 *
 *   primary:   UNPROTECTED -> SYNCING -> PROTECTED -> (peer lost, claim won) DEGRADED -> SYNCING
 * ...
 *                                                  -> (claim lost) FENCED
 *   secondary: STARTING -> SYNCING -> PROTECTED -> (peer lost, claim won) TAKING-OVER -> DEGRADED,
 *              and from there on it is the primary; (claim lost) back to STARTING
 */
#ifndef FT_FT_H
#define FT_FT_H

#include <stdbool.h>
#include <stdint.h>

#include "ft/common/arbiter.h"
#include "vmm/conf/config.h"
#include "vmm/base/loop.h"
#include "vmm/vm/vm.h"

enum ft_state {
	FT_STARTING,
	FT_RUNNING, /* no fault tolerance asked for */
	FT_UNPROTECTED,
	FT_SYNCING,
	FT_PROTECTED,
	FT_DEGRADED, /* was protected, the peer is gone */
	FT_TAKING_OVER,
	FT_FENCED, /* another side runs the VM */
	FT_PAUSED,
	FT_STOPPED,
	FT_STATE_MAX,
};

const char *ft_state_name(enum ft_state s);

#define FT_SAMPLES 4096

/* Owner: loop. Sample rings hold the last FT_SAMPLES values. */
struct ft_stats {
	uint64_t epochs;
	uint64_t pages, hot_pages; /* sent in epochs; of these by comparison, not by fault */
	uint64_t page_bytes;	   /* on the wire for them */
	uint64_t last_pages;
	uint64_t throttled; /* seals that had to wait for staging memory */
	uint64_t nsamples;
	uint32_t pause_us[FT_SAMPLES];
	uint32_t ack_us[FT_SAMPLES]; /* seal to ack */
	uint32_t npages[FT_SAMPLES];
	uint64_t takeover_ns;	    /* loss noticed to first vCPU let go */
	uint64_t first_run_mono_ns; /* CLOCK_MONOTONIC at that moment */
};

struct ft {
	const struct config *cfg;
	struct loop *loop;
	struct arbiter *arbiter;
	enum ft_state state;
	uint64_t generation; /* under which this side runs, or would take over from */
	char peer[300];	     /* who is at the other end, "" for nobody */
	char note[480];	     /* why the state is what it is, for status */
	bool images_behind;  /* after a takeover: the acknowledged disk log is not in the images yet
			      */
	struct ft_stats stats;
	void (*on_state)(void *arg, enum ft_state from, enum ft_state to);
	/* The process is to end with this code (exit codes: README). */
	void (*on_exit)(void *arg, int code);
	void *arg;
};

/* Change the state, log it, tell whoever listens. why may be NULL. */
void ft_set_state(struct ft *ft, enum ft_state s, const char *why);
void ft_note_epoch(struct ft *ft, uint64_t pause_ns, uint64_t pages);
/* Percentile (0..100) of the samples held; 0 when there are none. */
uint32_t ft_percentile(const uint32_t *samples, uint64_t n, unsigned pct);

#endif

/*
 * When an epoch is sealed. A policy is asked at three moments and answers with how long from now
 * the next seal is due; the answer of the last moment counts.
 */
#ifndef FT_POLICY_H
#define FT_POLICY_H

#include <stdint.h>

#define POLICY_AS_BEFORE UINT64_MAX

struct policy_view {
	uint64_t epoch_ns;	/* --epoch */
	uint64_t since_seal_ns; /* since the last seal */
};

/* Nanoseconds from now, or POLICY_AS_BEFORE. Asked on the loop, only when none is in flight. */
struct ft_policy {
	const char *name;
	uint64_t (*acked)(const struct policy_view *v);
	/* The first output of the open epoch is held: somebody waits for it. */
	uint64_t (*output_held)(const struct policy_view *v);
	/* A paused VM goes on. */
	uint64_t (*resumed)(const struct policy_view *v);
};

/* Micro-checkpointing: from seal to seal, at once when late. */
extern const struct ft_policy policy_mc;

#endif

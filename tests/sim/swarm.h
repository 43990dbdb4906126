/*
 * What may happen in this history: each seed switches a part of it on, so that rare things come
 * together and common ones do not always hide them (Groce and others, "Swarm testing", 2012).
 */
#ifndef TESTS_SIM_SWARM_H
#define TESTS_SIM_SWARM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SWARM_FAULTS(X)                                                                            \
	X(KILL, "kill")                                                                            \
	X(STEP, "die-at-step")                                                                     \
	X(POWER, "power-cut")                                                                      \
	X(FREEZE, "freeze")                                                                        \
	X(FREEZE_STEP, "trouble-at-step")                                                          \
	X(RESET, "guest-reset")                                                                    \
	X(EXIT, "guest-exit")                                                                      \
	X(CUT, "cut")                                                                              \
	X(HOLE, "one-way-hole")                                                                    \
	X(BREAK, "break-connections")                                                              \
	X(SLOW_NET, "slow-net")                                                                    \
	X(SPLIT, "split-writes")                                                                   \
	X(SLOW_DISK, "slow-disk")                                                                  \
	X(BAD_DISK, "bad-disk")                                                                    \
	X(SLOW_ARBITER, "slow-arbiter")                                                            \
	X(SILENT_ARBITER, "silent-arbiter")                                                        \
	X(LYING_ARBITER, "lying-arbiter")                                                          \
	X(LOST_ARBITER, "lost-arbiter")                                                            \
	X(CLOCKS, "clocks")                                                                        \
	X(STOP, "stop")                                                                            \
	X(TERM, "sigterm")                                                                         \
	X(FAILOVER, "failover")                                                                    \
	X(PAUSE, "pause")                                                                          \
	X(WRONG_SIDE, "wrong-side")                                                                \
	X(TIGHT, "tight-limits")                                                                   \
	X(VERIFY, "verify")                                                                        \
	X(KEMARI, "kemari")                                                                        \
	X(AUTO, "auto-mode")                                                                       \
	X(CPUS, "several-cpus")                                                                    \
	X(SET, "set")                                                                              \
	X(SHARED, "shared-image")                                                                  \
	X(COLO, "colo")                                                                            \
	X(OFF, "off")

enum swarm_fault {
#define X(name, text) SWARM_##name,
	SWARM_FAULTS(X)
#undef X
		SWARM_MAX
};

struct swarm {
	uint64_t on; /* bits */
	bool moves;  /* a VM that migrates, instead of a pair */
	unsigned theme;
	uint64_t lasts_ns;
	uint64_t mean_ns;    /* between two of a kind */
	uint64_t pace_ns;    /* of the guest, from one thing that it does to the next, at most */
	uint64_t timeout_ns; /* --peer-timeout */
	unsigned hot_step;   /* enum step: where most of what happens at steps happens, */
	unsigned hot_in;     /* one time in so many */
	char epoch[16];
};

extern struct swarm swarm;

/* theme, kind: as if that were drawn; 0: as drawn. Kinds: plan.h. */
void swarm_draw(unsigned theme, char kind);
/* 0: no such name; 0 is none. */
unsigned swarm_theme(const char *name);
const char *swarm_theme_name(unsigned theme);
bool swarm_has(enum swarm_fault f);
const char *swarm_name(enum swarm_fault f);
/* SWARM_MAX: no such name. */
enum swarm_fault swarm_find(const char *name, size_t len);
/* The names of these bits, with commas; how long they are. */
size_t swarm_list(uint64_t on, char *text, size_t cap);
/* And back; "none" is none; false: no such name. */
bool swarm_parse(const char *list, uint64_t *on);

#endif

/*
 * One heart, its loop, and a peer that says and echoes what the test wants. Include with it:
 * libwire.h.
 */
#ifndef TESTS_LIBHEART_H
#define TESTS_LIBHEART_H

#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "ft/common/heart.h"
#include "tests/unit/libwire.h"

#define MS    1000000ull
#define SEC   1000000000ull
#define NEVER (10 * SEC) /* an interval that no test waits for */

struct world {
	struct loop loop;
	struct heart heart;
	struct stream peer;
	uint64_t nonce; /* the peer's last */
	int lost, trusted;
	bool stops; /* a lost() that stops the heart */
	char why[160];
};

/* For heart.lost and heart.trusted; arg is the world. */
void world_lost(void *arg, const char *why);
void world_trusted(void *arg);
/* A new link: the heart's end, which is not started yet, and the peer's. */
void world_connect(struct world *w, struct stream *st);
void world_start(struct world *w, struct stream *st, uint64_t interval_ns, uint64_t timeout_ns);
void world_begin(struct world *w, uint64_t interval_ns, uint64_t timeout_ns);
void world_end(struct world *w);
int world_setup(void **state);
int world_teardown(void **state);

/* --- what the peer does ----------------------------------------------------------------------- */

void peer_say(struct world *w, uint64_t nonce, uint64_t echo, uint64_t away_ns);
/* The next heartbeat. False: none within ms, or the end of the link. */
bool peer_hear(struct world *w, struct wire_heart *h, int ms);
void peer_hear_beat(struct world *w, struct wire_heart *h);
/* A heartbeat of the peer, which is judged before it is answered. */
struct wire_heart peer_answered(struct world *w, uint64_t echo, uint64_t away_ns);
/* The heart has seen that. */
struct wire_heart peer_echo(struct world *w, uint64_t nonce);

/* --- what the loop does ----------------------------------------------------------------------- */

void world_run(struct world *w, unsigned rounds);
void world_run_until_lost(struct world *w);
/* Now it seems to have been away for so long. */
void world_set_away(struct world *w, uint64_t ns);

#define T(f) cmocka_unit_test_setup_teardown(f, world_setup, world_teardown)

#endif

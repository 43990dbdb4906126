/* Between libbadpeer.c and libbadtwin.c: a secondary that breaks the rules. */
#ifndef TESTS_HOSTILE_BADPEER_H
#define TESTS_HOSTILE_BADPEER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "ft/common/wire.h"
#include "vmm/wire/stream.h"

struct peer {
	const char *way;
	int lfd;
	unsigned hold_ms, epoch_ms;
	struct stream main, heart, mirror;
	bool has_heart, has_mirror, over;
	uint64_t beat_ns, nonce, echo;
	unsigned beats;	     /* heard, without answers */
	uint64_t epoch;	     /* the last one that began, */
	uint64_t loaded;     /* and that a twin is said to run from */
	struct wire_end end; /* of the last that ended */
	uint16_t type;	     /* of the last frame */
};

struct bad_way {
	const char *name;
	bool (*run)(struct peer *p); /* false: the primary did not come so far, or did wrong */
};

/* Those that run a twin, libbadtwin.c: they answer for the pair themselves, and hang up. */
extern const struct bad_way bad_twins[];
extern const unsigned bad_ntwins;

void bad_say(const struct peer *p, const char *what);
uint64_t bad_soon(void);
bool bad_answer(struct peer *p, enum frame_type type, uint64_t epoch, const void *data, size_t n);
/* The primary may have gone already. */
void bad_put(int fd, const void *data, size_t n);
/* The next frame of the main link within ms, beating meanwhile. False when none came. */
bool bad_next_frame(struct peer *p, unsigned ms);
bool bad_wait_type(struct peer *p, uint16_t type);
void bad_hold(struct peer *p, unsigned ms);
int bad_accept_one(struct peer *p);
bool bad_welcome(struct peer *p);
void bad_hang_up(struct peer *p);

#endif

/*
 * The other end of the link, gone bad. It speaks the protocol with the program's own framing, so
 * that checksums are right and what is wrong is seen by whoever judges the content.
 */
#ifndef TESTS_HOSTILE_HOSTILE_H
#define TESTS_HOSTILE_HOSTILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "vmm/wire/stream.h"

#define HOSTILE_WAIT_NS 60000000000ull /* only something broken gets there */
#define HOSTILE_TURN_NS 5000000000ull  /* an epoch that will be acknowledged is by then */

/* --- libtape.c: a recorded session of a real primary, and bytes made of it -----------------------
 */

struct shot {
	struct frame_hdr h;
	uint8_t *data; /* h.length bytes, own allocation */
	bool raw;      /* sent as h says, not numbered anew */
};

struct tape {
	struct stream_preface preface;
	unsigned n;
	struct shot *f;
};

struct bytes {
	uint8_t *p;
	size_t len, cap;
};

/* Whole frames only; what was cut off at the end is left out. Exits when the file is no recording.
 */
void tape_load(struct tape *t, const char *path);
void tape_copy(struct tape *to, const struct tape *from);
void tape_free(struct tape *t);
void tape_remove(struct tape *t, unsigned at);
void tape_insert(struct tape *t, unsigned at, const struct shot *s); /* copies s */
void tape_swap(struct tape *t, unsigned a, unsigned b);
void tape_resize(struct shot *s, uint32_t length);
/* First frame of this type at or after `from`; t->n when there is none. */
unsigned tape_find(const struct tape *t, unsigned from, uint16_t type);
/* Epochs whose end is before frame `before`; the first epoch's number. */
unsigned tape_epochs(const struct tape *t, unsigned before);
uint64_t tape_first_epoch(const struct tape *t);
/* Preface and frames, signed; frames that are not raw are numbered 0, 1, ... */
void tape_write(const struct tape *t, struct bytes *out);
void bytes_add(struct bytes *b, const void *data, size_t n);
void bytes_preface(struct bytes *b, uint32_t link, uint64_t session);
/* h's length and sum are made to fit. */
void bytes_frame(struct bytes *b, struct frame_hdr h, const void *data, uint32_t n);
void bytes_free(struct bytes *b);
/* Damage the epoch whose frames are [begin, end]. False when it has no frame of that kind. */
bool tape_damage(struct tape *t, const char *kind, unsigned begin, unsigned end);
/* Forward connections, and record what the first one sends, until SIGTERM. */
int tape_record(const char *listen, const char *to, const char *path);

uint64_t random_next(void);
uint64_t random_below(uint64_t n);
void random_seed(uint64_t seed);

/* --- libcall.c: one connection to a secondary ----------------------------------------------------
 */

struct call {
	bool welcomed, ended;
	char refusal[200];
	unsigned acks;
	bool acks_in_order;
};

int call_connect(const char *uri);
/*
 * Send all bytes, say that this is all, and read what comes until the other side closes. first:
 * the epoch that the first ack must be for. in_turns: as a primary does, each epoch after the ack
 * of the one before; else an end of the connection may overtake an ack. False when it does not
 * close.
 */
bool call_play(const char *uri, const struct bytes *b, uint64_t session, uint64_t first,
	       bool in_turns, struct call *ret);

/* --- the two roles -------------------------------------------------------------------------------
 */

/* libattack.c, libcrowd.c, libhello.c */
struct attack {
	const char *uri;
	struct tape tape;
	unsigned scale; /* multiplies the number of random sessions */
	unsigned sessions, acks;
	const char *name;
	bool failed;
};

void attack_fail(struct attack *a, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Play; at most / exactly so many acks. */
void attack_play(struct attack *a, const struct bytes *b, unsigned max_acks, bool exact,
		 bool must_welcome);
void attack_tape(struct attack *a, const struct tape *t, unsigned max_acks, bool exact);
/* The right session, to the end: whatever was before, this secondary can still protect. */
void attack_golden(struct attack *a);
void attack_hello(struct attack *a);
void attack_heart(struct attack *a);
void attack_second(struct attack *a);
void attack_silent(struct attack *a);
void attack_lone_hello(struct attack *a);
void attack_fdt(struct attack *a);
int attack_list(void);
int attack_run(const char *uri, const char *tape, unsigned scale, char **names, int n);
/* One damaged session; prints the epochs that were acknowledged. */
int attack_once(const char *uri, const char *tape, const char *kind, unsigned epoch);

/* libbadpeer.c: a secondary that breaks the rules, one way per connection. */
int badpeer_run(const char *listen, unsigned hold_ms, unsigned epoch_ms, char **names, int n);
int badpeer_list(void);

#endif

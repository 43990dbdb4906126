/*
 * A primary with a VM that needs no KVM, a secondary that says what the test says, an arbiter that
 * answers when and what it says, and time that goes on when it does. Include with it: libtime.h,
 * libkvm_model.h, liblog.h, libmockarbiter.h, tests/fuzz/vm.h.
 */
#ifndef TESTS_LIBPRIMARY_H
#define TESTS_LIBPRIMARY_H

#include <stdbool.h>
#include <stdint.h>

#include "ft/common/wire.h"
#include "ft/role/primary.h"
#include "tests/unit/libmockarbiter.h"
#include "vmm/machine/fdt.h"

#define RIG_PEERS 3
#define RIG_SIDE  7 /* of the images here */
#define RIG_PEER  9 /* of those of the secondary */
#define RIG_GEN	  5 /* under which the VM starts */
#define EPOCH_NS  25000000ull

struct rig {
	char folder[64];
	struct loop loop;
	struct machine machine;
	struct config cfg;
	struct vm vm;
	struct ft ft;
	struct primary pri;
	struct mock_arbiter mock;
	int *dirty_log_error; /* what KVM's dirty log returns, if not 0 */
	/* The secondary: its ends of the links, and what came on them. */
	int listener[RIG_PEERS]; /* -1: nobody is there */
	struct stream main, heart, mirror;
	unsigned came[FRAME_TYPE_MAX];
	enum frame_type last;
	uint64_t ended; /* the last epoch that came whole */
	struct wire_end end;
	struct mem_places places;   /* with verify */
	uint64_t state_hash;	    /* of the state that came last */
	uint64_t pages, page_bytes; /* of epochs, in all */
	struct wire_hello hello;
	struct wire_heart beat; /* the last one */
	uint64_t beats;		/* its own */
	uint64_t token;
	/* A new one, at the address of the last peer: likewise. */
	struct stream new_main, new_heart;
	unsigned new_came[FRAME_TYPE_MAX];
	uint64_t new_ended, new_state_hash, new_generation;
	struct wire_hello new_hello;
	uint64_t generation; /* that the old one was told */
	uint8_t fdt[FDT_MAX_BYTES];
	/* The outside. */
	unsigned exits;
	int code;
	unsigned changes; /* of the word */
	unsigned told;	  /* what became of hand-overs that were asked for: */
	int told_code;
	char told_why[512];
};

/*
 * For cmocka. One peer listens; the arbiter answers nothing until it is told to. Configuration and
 * machine may be changed before rig_start().
 */
int rig_setup(void **state);
int rig_teardown(void **state);
/* The VM runs, UNPROTECTED, and a peer is tried unless r->ft.images_behind. */
void rig_start(struct rig *r);

/* Go there by the shortest way, from the start. The secondary reads and answers as it should. */
void rig_reach(struct rig *r, enum primary_state s);
/* Have this happen: time passes, the peer says it, ... A row is taken. */
void rig_cause(struct rig *r, enum primary_event ev);
/* From IDLE to the first epoch in flight. */
void rig_sync_again(struct rig *r);
/* As `ftvmm set`, which it must not refuse. */
void rig_set_mode(struct rig *r, enum ft_mode mode);
/* Turns of the loop until it is there. */
void rig_until(struct rig *r, enum primary_state s);
/* "peer NAME: what", as notes and the log have it; the next call overwrites it. */
const char *rig_peer(const struct rig *r, unsigned i, const char *what);
/* The word ft_word(), VM running, output: free, held, dropped. */
void rig_expect(const struct rig *r, enum primary_state s, const char *word, bool runs, char out);

/* For primary_hand_over(). */
void rig_handing(void *arg, int code, const struct err *e);
/* The guest writes a page and prints so many bytes; false: no room. */
bool rig_print(struct rig *r, unsigned n);
/* More than a release lets out at once: its turn is over after one entry. 300 bytes. */
void rig_print_much(struct rig *r);
/* It has left, once, with this code; this is what is shown. */
void rig_expect_left(struct rig *r, const char *word, int code, const char *note);
/* The guest writes n pages from there on, which do not compress. */
void rig_scribble(struct rig *r, unsigned page, unsigned n);

/* --- the secondary --- */
void peer_listens(struct rig *r, unsigned i, bool listens);
/* It takes the connection that came last. */
void peer_takes_main(struct rig *r, unsigned i);
void peer_takes_heart(struct rig *r, unsigned i);
void peer_takes_mirror(struct rig *r, unsigned i);
/* All that has come on both links. */
void peer_reads(struct rig *r);
void peer_says(struct rig *r, enum frame_type type, uint64_t epoch);
void peer_says_text(struct rig *r, enum frame_type type, const void *text, size_t len);
/* On the mirror. */
void peer_mirrors(struct rig *r, enum frame_type type, uint64_t epoch, const void *p, size_t n);
/* A heartbeat that answers the primary's heartbeat of this number. */
void peer_beats(struct rig *r, uint64_t echo);
void peer_hangs_up(struct rig *r);
/* --- the new secondary --- */
const char *new_address(const struct rig *r);
/* It is asked for, and goes so far as this; before MOV_LAST the guest writes 400 KiB. */
void new_reach(struct rig *r, enum move_state s);
void new_goes_on(struct rig *r, enum move_state s); /* from the state before */
void new_reads(struct rig *r);
void new_acks(struct rig *r);
void new_compared(struct rig *r); /* the answer to sums */
void new_hangs_up(struct rig *r);
/* It is gone, before or after it has taken a connection. */
void new_listens(struct rig *r, bool listens);
void new_says(struct rig *r, enum frame_type type, uint64_t epoch);

/* --- the arbiter --- */
/* The question that it has, or is about to have, is answered: 0, or a code and that record. */
void arbiter_says(struct rig *r, int code, const struct arbiter_record *record);
/* It has been asked n questions in all. */
void arbiter_was_asked(struct rig *r, unsigned n);

#define RIG_NET	    4u /* its place among the devices */
#define RIG_TEST(f) cmocka_unit_test_setup_teardown(f, rig_setup, rig_teardown)

#endif

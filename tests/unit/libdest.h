/*
 * A destination whose VM needs no KVM, a source that says what the test says, and time that goes on
 * when it does. Include with it: libtime.h, liblog.h, tests/fuzz/vm.h.
 */
#ifndef TESTS_LIBDEST_H
#define TESTS_LIBDEST_H

#include <stdbool.h>
#include <stdint.h>

#include "postcopy/dest.h"

#define DEST_RIG_SESSION 0x1234567ull
#define DEST_RIG_PAGES	 512
#define DEST_RIG_CLOCK	 7 /* page that loading the second state touches */

struct dest_rig {
	char folder[64], image[96];
	struct loop loop;
	struct machine machine;
	struct config cfg;
	struct vm vm;
	struct ft ft;
	struct dest dest;
	bool lazy;	    /* postcopy is offered */
	struct stream link; /* the source's end, */
	struct stream pair; /* that of the urgent link, */
	struct stream ask;  /* and that of a question */
	int holder;	    /* the source's lock, or -1 */
	unsigned runs;
	/* Of the same machine; the second one's guest has a clock in DEST_RIG_CLOCK. */
	struct dest_rig_state {
		uint8_t data[1 << 20];
		int64_t len;
	} states[2];
};

int dest_rig_setup(void **state);
/* A group's setup, of tests that need userfaults of this host: without, the program ends. */
int dest_rig_skip_all(void **state);
int dest_rig_teardown(void **state);
/* Go there by the shortest way, from the start. lazy is to be set before. */
void dest_rig_reach(struct dest_rig *r, enum dest_state s);
void dest_rig_until(struct dest_rig *r, enum dest_state s);
void dest_rig_expect(struct dest_rig *r, enum dest_state s, const char *word, bool run);

/* --- the source --- */
void here_locks(struct dest_rig *r, bool locks);
void here_dials_at(struct stream *st, const char *path, enum stream_link link, uint64_t session);
void here_dials(struct dest_rig *r, struct stream *st, enum stream_link link, uint64_t session);
void here_says(struct stream *st, enum frame_type type, const void *data, size_t len);
/* The next frame that comes; 0: the link has ended. */
unsigned here_hears(struct dest_rig *r, struct stream *st);
void here_offers(struct dest_rig *r);
/* nimages: of another host's file each. */
void here_offers_images(struct dest_rig *r, uint32_t nimages, uint32_t disk);
void here_pairs(struct dest_rig *r); /* dials, and says that it is the urgent link */
void here_states(struct dest_rig *r, bool clock);
void here_switches(struct dest_rig *r); /* without a lock from here on */
void here_asks(struct dest_rig *r, uint64_t session);
/* n pages in a row, each with its number in all words. */
void here_sends(struct stream *st, uint64_t page, unsigned n);
void here_maps(struct dest_rig *r, uint64_t page, uint64_t n);			     /* zeros */
void here_ends(struct dest_rig *r, uint64_t urgent, uint64_t pushed, uint64_t zero); /* EOS */
void here_hangs_up(struct dest_rig *r);

#define DEST_TEST(f) cmocka_unit_test_setup_teardown(f, dest_rig_setup, dest_rig_teardown)

#endif

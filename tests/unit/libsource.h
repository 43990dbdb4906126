/*
 * A source with a VM that needs no KVM, a destination that says what the test says, and time that
 * goes on when it does. Include with it: libtime.h, libkvm_model.h, liblog.h, tests/fuzz/vm.h.
 */
#ifndef TESTS_LIBSOURCE_H
#define TESTS_LIBSOURCE_H

#include <stdbool.h>
#include <stdint.h>

#include "postcopy/source.h"

#define SOURCE_RIG_WORDS 8

struct source_rig {
	char folder[64], image[96];
	struct loop loop;
	struct machine machine;
	struct config cfg;
	struct migrate_conf conf;
	struct vm vm;
	struct ft ft;
	struct source src;
	bool lazy; /* source_rig_lazy() */
	/* The destination. */
	int listener; /* -1: nobody is there */
	struct stream link, pair;
	unsigned came[FRAME_TYPE_MAX];
	uint64_t had[SOURCE_RIG_WORDS]; /* pages, a bit each */
	unsigned twice;			/* that came although they were there */
	uint64_t session;
	struct wire_switch last;
	unsigned flushes, first_blocks; /* of an image that is copied, in FRAME_DISK */
	int locker;			/* another process that has the image, or -1 */
	/* The outside. */
	unsigned exits, news;
	int code;
};

int source_rig_setup(void **state);
int source_rig_teardown(void **state);
/* Go there by the shortest way, from the start. */
void source_rig_reach(struct source_rig *r, enum source_state s);
/* Have this happen; a row is taken. */
void source_rig_cause(struct source_rig *r, enum source_event ev);
void source_rig_until(struct source_rig *r, enum source_state s);
/* Before it begins: postcopy, without a pass. */
void source_rig_lazy(struct source_rig *r);

/* --- the destination --- */
void there_listens(struct source_rig *r, bool listens);
void there_takes(struct source_rig *r); /* the connection that came last */
void there_reads(struct source_rig *r);
void there_says(struct source_rig *r, enum frame_type type); /* of HAVE: what it has */
void there_sends(struct source_rig *r, enum frame_type type, const void *data, size_t len);
/* On the urgent link; pages that came there. */
void there_wants(struct source_rig *r, uint64_t page);
void there_hangs_up(struct source_rig *r);
/* Another process has the image from now on, or gives it back. */
void there_locks(struct source_rig *r, bool locks);

#define SOURCE_TEST(f) cmocka_unit_test_setup_teardown(f, source_rig_setup, source_rig_teardown)

#endif

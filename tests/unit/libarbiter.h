/*
 * A folder of arbiter records for each test, on storage that does what the test says: it stands in
 * for fsync(), linkat() and renameat().
 */
#ifndef TESTS_LIBARBITER_H
#define TESTS_LIBARBITER_H

#include <stdatomic.h>
#include <stdbool.h>

#include "ft/common/arbiter.h"

struct storage {
	atomic_int wait_fd; /* a link waits for a byte from here; 0: not */
	atomic_int slow_ms; /* so long takes each sync */
	atomic_bool fail_link;
	atomic_bool fail_sync;
	atomic_bool fail_rename;
	atomic_int error;	 /* what a link or sync that fails says; 0: EIO */
	atomic_bool lose_answer; /* a link is carried out, and said to have failed */
	atomic_bool break_after; /* a link is carried out, then syncs fail */
	/* Once, just before. */
	void (*_Atomic before_link)(void);
	void (*_Atomic before_rename)(void);
	void (*_Atomic before_folder_sync)(void);
	/* What was carried out: s, a file is synced; d, a folder; l, a link; r, a rename. */
	char calls[32];
	atomic_uint ncalls;
};

extern struct storage storage;

struct world {
	char folder[64], uri[128];
};

/* For cmocka: *state is a struct world, the folder is empty, the storage a good one. */
int world_setup(void **state);
int world_teardown(void **state);

struct arbiter *open_as(const struct world *w, const char *holder);
void plant(const struct world *w, const char *name, const char *text);
void unplant(const struct world *w, const char *name);
unsigned count_files(const struct world *w, const char *pattern);
unsigned count_threads(void);

#endif

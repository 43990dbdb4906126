/*
 * The phases of a migration, as two tables: the source's, which has the VM, and the destination's,
 * which is to have it. They are the same as in docs/migration.md. What each action does is in
 * postcopy/source_do.h and postcopy/dest_do.h.
 */
#ifndef POSTCOPY_PHASES_H
#define POSTCOPY_PHASES_H

#include "ft/common/fsm.h"

#define SOURCE_STATES(X)                                                                           \
	X(IDLE, "no migration")                                                                    \
	X(CONNECTING, "connecting to the destination")                                             \
	X(OFFERED, "OFFER said")                                                                   \
	X(PAIRING, "postcopy may come of it: the urgent link is connected")                        \
	X(PASSES, "memory goes out while the guest runs")                                          \
	X(DRAIN, "VM stopped: its requests to the disks come to an end")                           \
	X(LAST, "images given up: the last pages and the state go out")                            \
	X(EARLY, "the same, and READY has come already")                                           \
	X(SWITCH, "SWITCH said")                                                                   \
	X(GO, "GO said: the destination is to run the VM")                                         \
	X(SERVE, "the VM runs there: what it lacks is sent")                                       \
	X(ENDING, "EOS said")                                                                      \
	X(QUIT, "given up, the VM runs: the sender comes to an end")                               \
	X(HALT, "given up after the stop: the sender comes to an end")                             \
	X(BACK, "given up after the stop: the images are taken back")                              \
	X(UNSURE, "link lost after GO: does the VM run there?")                                    \
	X(RECONNECT, "the same, connecting")                                                       \
	X(ASKED, "the same, ASK said")                                                             \
	X(CUT, "postcopy: link lost")                                                              \
	X(CUT_CONNECT, "the same, connecting")                                                     \
	X(CUT_ASKED, "the same, ASK said")                                                         \
	X(CUT_PAIRING, "the same: it said what it has; the urgent link is connected")              \
	X(LEFT, "the end")

#define SOURCE_EVENTS(X)                                                                           \
	X(START, "migrate")                                                                        \
	X(CANCEL, "cancel, stop, or the guest has ended")                                          \
	X(FORCE, "`--cancel --force`")                                                             \
	X(RECOVER, "`--recover URI`")                                                              \
	X(END, "stop, or the process ends")                                                        \
	X(TIMER, "timer")                                                                          \
	X(LATE, "`--timeout`")                                                                     \
	X(CONNECTED, "connected")                                                                  \
	X(PAIRED, "no urgent link is needed")                                                      \
	X(CONVERGED, "the rest fits into the downtime, or comes afterwards")                       \
	X(FAILED, "something failed here")                                                         \
	X(ENDED, "the sender has ended")                                                           \
	X(DRAINED, "no request is under way, all is on disk")                                      \
	X(SENT, "all of it is sent")                                                               \
	X(LOCKED, "the images are ours")                                                           \
	X(LOST, "link lost, or REFUSE")                                                            \
	X(WELCOME, "WELCOME")                                                                      \
	X(READY, "READY")                                                                          \
	X(RUNS, "RUNS")                                                                            \
	X(LACKS, "RUNS, and the rest is to come")                                                  \
	X(SOME, "a part of HAVE: it runs")                                                         \
	X(HAVE, "the last part of HAVE: it has so much")                                           \
	X(NEVER, "BYE: it never ran there")                                                        \
	X(EOC, "EOC")

#define DEST_STATES(X)                                                                             \
	X(LISTEN, "no source")                                                                     \
	X(RECEIVING, "memory and state come in")                                                   \
	X(LOADING, "SWITCH came: images are locked, the state is loaded")                          \
	X(READY, "READY said: it can no longer fail to run")                                       \
	X(FILL, "the VM runs here, and its memory comes in")                                       \
	X(CUT, "the same, and the link is lost")                                                   \
	X(ORPHAN, "the same, and nobody has asked: the VM stands")                                 \
	X(MENDING, "there is a new one: HAVE said, the urgent link is awaited")                    \
	X(RUNS, "the VM runs here, and the source has not said that it knows")                     \
	X(HERE, "the VM is this side's alone")                                                     \
	X(OVER, "the end")

#define DEST_EVENTS(X)                                                                             \
	X(OFFER, "OFFER")                                                                          \
	X(ASK, "ASK")                                                                              \
	X(END, "the process ends")                                                                 \
	X(BUILT, "the VM is built")                                                                \
	X(LOADED, "the state is loaded")                                                           \
	X(NOT_LOADED, "an image or the state cannot be had")                                       \
	X(PAIR, "the urgent link")                                                                 \
	X(ARRIVED, "pages that somebody waits for have come")                                      \
	X(WRITTEN, "images that were copied to here are on the medium")                            \
	X(LACKS, "pages are still to come")                                                        \
	X(COMPLETE, "EOS came, and no page is missing")                                            \
	X(FILE, "`--recover file:PATH`")                                                           \
	X(TIMER, "timer")                                                                          \
	X(LOST, "link lost, or BYE")                                                               \
	X(PART, "pages, MAP, state, EOS, DISK")                                                    \
	X(SWITCH, "SWITCH")                                                                        \
	X(GO, "GO")                                                                                \
	X(GONE, "GONE")

enum source_state {
#define X(name, what) SRC_##name,
	SOURCE_STATES(X)
#undef X
		SRC_STATE_MAX
};

enum source_event {
#define X(name, what) SRC_EV_##name,
	SOURCE_EVENTS(X)
#undef X
		SRC_EV_MAX
};

enum dest_state {
#define X(name, what) DST_##name,
	DEST_STATES(X)
#undef X
		DST_STATE_MAX
};

enum dest_event {
#define X(name, what) DST_EV_##name,
	DEST_EVENTS(X)
#undef X
		DST_EV_MAX
};

extern const struct fsm_desc source_desc, dest_desc;

#endif

#include "postcopy/phases.h"

#include "postcopy/dest_do.h"
#include "postcopy/source_do.h"

/* What it does is said as docs/migration.md says it. */

/* --- source ----------------------------------------------------------------------------------- */

#define ROW(state, event, next, action, does)                                                      \
	{                                                                                          \
		SRC_##state, SRC_EV_##event, SRC_##next, action, does                              \
	}

static const struct fsm_row source_rows[] = {
	ROW(IDLE, START, CONNECTING, source_connect, "MIGRATING; connect"),
	ROW(CONNECTING, CONNECTED, OFFERED, source_offer, "preface, OFFER"),
	ROW(OFFERED, WELCOME, PAIRING, source_pair, "postcopy: connect the urgent link"),
	ROW(PAIRING, PAIRED, PASSES, source_begin_passes,
	    "log writes; send all pages, then dirty ones"),
	ROW(PAIRING, CONNECTED, PAIRING, source_open_urgent, "preface, a frame without pages"),
	ROW(PAIRING, WELCOME, PASSES, source_begin_passes,
	    "log writes; send all pages, then dirty ones"),
	ROW(PASSES, CONVERGED, DRAIN, source_stand,
	    "VM stopped, its state saved; no new disk requests"),
	ROW(DRAIN, DRAINED, LAST, source_send_last,
	    "locks given up; send what is dirty, STATE, SWITCH; network down"),
	ROW(LAST, SENT, SWITCH, source_wait_ready, "wait 10 s"),
	ROW(LAST, READY, EARLY, NULL, "its answer overtook the sender's end"),
	ROW(EARLY, SENT, GO, source_go_early, "GO"),
	ROW(SWITCH, READY, GO, source_go, "GO"),
	ROW(GO, RUNS, LEFT, source_leave, "GONE; MIGRATED, exit 3"),
	ROW(GO, LACKS, SERVE, source_serve, "send what has not been asked for"),
	ROW(SERVE, SENT, ENDING, NULL, "EOS has gone out"),
	ROW(SERVE, EOC, LEFT, source_leave, "GONE; MIGRATED, exit 3"),
	ROW(ENDING, EOC, LEFT, source_leave, "GONE; MIGRATED, exit 3"),

	ROW(CONNECTING, TIMER, IDLE, source_late, "given up: 5 s"),
	ROW(CONNECTING, LATE, IDLE, source_timeout, "given up"),
	ROW(CONNECTING, CANCEL, IDLE, source_give_up, "given up"),
	ROW(CONNECTING, LOST, IDLE, source_give_up, "given up"),
	ROW(OFFERED, TIMER, IDLE, source_late, "given up: 10 s"),
	ROW(OFFERED, LATE, IDLE, source_timeout, "BYE; given up"),
	ROW(OFFERED, CANCEL, IDLE, source_give_up, "BYE; given up"),
	ROW(OFFERED, LOST, IDLE, source_give_up, "given up"),

	ROW(PAIRING, TIMER, IDLE, source_late, "BYE; given up: 5 s"),
	ROW(PAIRING, LATE, IDLE, source_timeout, "BYE; given up"),
	ROW(PAIRING, CANCEL, IDLE, source_give_up, "BYE; given up"),
	ROW(PAIRING, LOST, IDLE, source_give_up, "given up"),

	ROW(PASSES, LATE, QUIT, source_quit_late, "the sender is to end"),
	ROW(PASSES, CANCEL, QUIT, source_quit, "the sender is to end"),
	ROW(PASSES, FAILED, QUIT, source_quit, "the sender is to end"),
	ROW(PASSES, LOST, QUIT, source_quit, "the sender is to end"),
	ROW(QUIT, ENDED, IDLE, source_give_up, "BYE; given up"),
	ROW(QUIT, TIMER, QUIT, source_shut, "it hangs at the link: shut that"),
	ROW(QUIT, LOST, QUIT, source_shut, "shut the link"),
	ROW(QUIT, CANCEL, QUIT, NULL, ""),

	ROW(DRAIN, TIMER, IDLE, source_late, "BYE; given up, the VM goes on: 5 s"),
	ROW(DRAIN, LATE, IDLE, source_timeout, "BYE; given up, the VM goes on"),
	ROW(DRAIN, CANCEL, IDLE, source_give_up, "BYE; given up, the VM goes on"),
	ROW(DRAIN, FAILED, IDLE, source_give_up, "BYE; given up, the VM goes on"),
	ROW(DRAIN, LOST, IDLE, source_give_up, "given up, the VM goes on"),

	ROW(LAST, TIMER, HALT, source_halt_late, "link shut; the sender is to end: 30 s"),
	ROW(LAST, LATE, HALT, source_halt_timeout, "link shut; the sender is to end"),
	ROW(LAST, CANCEL, HALT, source_halt, "link shut; the sender is to end"),
	ROW(LAST, FAILED, HALT, source_halt, "link shut; the sender is to end"),
	ROW(LAST, LOST, HALT, source_halt, "link shut; the sender is to end"),
	ROW(EARLY, TIMER, HALT, source_halt_late, "link shut; the sender is to end: 30 s"),
	ROW(EARLY, LATE, HALT, source_halt_timeout, "link shut; the sender is to end"),
	ROW(EARLY, CANCEL, HALT, source_halt, "link shut; the sender is to end"),
	ROW(EARLY, FAILED, HALT, source_halt, "link shut; the sender is to end"),
	ROW(EARLY, LOST, HALT, source_halt, "link shut; the sender is to end"),
	ROW(HALT, ENDED, BACK, source_back, "link closed"),
	ROW(HALT, LOST, HALT, NULL, ""),
	ROW(HALT, CANCEL, HALT, NULL, ""),
	ROW(SWITCH, TIMER, BACK, source_back_late, "BYE"),
	ROW(SWITCH, LATE, BACK, source_back_timeout, "BYE"),
	ROW(SWITCH, CANCEL, BACK, source_back, "BYE"),
	ROW(SWITCH, LOST, BACK, source_back, ""),
	ROW(BACK, TIMER, BACK, source_try_locks, "try again, every 10 ms"),
	ROW(BACK, LOCKED, IDLE, source_give_up, "network up; given up, the VM goes on"),
	ROW(BACK, CANCEL, BACK, NULL, ""),

	ROW(GO, TIMER, UNSURE, source_unsure_late, "PAUSED: 5 s"),
	ROW(GO, LOST, UNSURE, source_unsure, "PAUSED"),
	ROW(GO, CANCEL, GO, NULL, "too late"),
	ROW(GO, END, GO, NULL, "it leaves anyway"),
	ROW(UNSURE, TIMER, RECONNECT, source_connect_again,
	    "connect: after 0.5 s, then twice as long each time, 4 s at most"),
	ROW(UNSURE, CANCEL, UNSURE, NULL, "too late"),
	ROW(UNSURE, FORCE, BACK, source_back_forced, "it does not run there"),
	ROW(UNSURE, END, LEFT, source_leave_unsure, "exit 5"),
	ROW(UNSURE, RECOVER, RECONNECT, source_recover_by, "connect there, from now on"),
	ROW(RECONNECT, CONNECTED, ASKED, source_ask, "preface with the same session, ASK"),
	ROW(RECONNECT, TIMER, UNSURE, source_unsure_again, "2 s"),
	ROW(RECONNECT, LOST, UNSURE, source_unsure_again, ""),
	ROW(RECONNECT, CANCEL, RECONNECT, NULL, "too late"),
	ROW(RECONNECT, FORCE, BACK, source_back_forced, "it does not run there"),
	ROW(RECONNECT, END, LEFT, source_leave_unsure, "exit 5"),
	ROW(RECONNECT, RECOVER, RECONNECT, source_recover_by, "connect there, from now on"),
	ROW(ASKED, RUNS, LEFT, source_leave, "GONE; MIGRATED, exit 3"),
	ROW(ASKED, NEVER, BACK, source_back_never, "it is this side's"),
	ROW(ASKED, TIMER, UNSURE, source_unsure_again, "2 s"),
	ROW(ASKED, LOST, UNSURE, source_unsure_again, ""),
	ROW(ASKED, CANCEL, ASKED, NULL, "too late"),
	ROW(ASKED, FORCE, BACK, source_back_forced, "it does not run there"),
	ROW(ASKED, END, LEFT, source_leave_unsure, "exit 5"),
	ROW(ASKED, RECOVER, RECONNECT, source_recover_by, "connect there, from now on"),
	ROW(ASKED, SOME, CUT_ASKED, source_known, "it is never this side's again"),

	ROW(SERVE, TIMER, SERVE, source_urgent_lost, "the urgent link ended 0.2 s ago"),
	ROW(SERVE, LOST, CUT, source_cut, "it keeps all; PAUSED"),
	ROW(SERVE, CANCEL, SERVE, NULL, "too late"),
	ROW(SERVE, END, SERVE, source_stays, "not before all has gone out"),
	ROW(ENDING, TIMER, ENDING, NULL, "the main link will tell"),
	ROW(ENDING, LOST, CUT, source_cut, "it keeps all; PAUSED"),
	ROW(ENDING, CANCEL, ENDING, NULL, "too late"),
	ROW(ENDING, END, ENDING, source_stays, "not before all is there"),
	ROW(CUT, TIMER, CUT_CONNECT, source_connect_again, "connect, likewise"),
	ROW(CUT, CANCEL, CUT, NULL, "too late"),
	ROW(CUT, END, CUT, source_stays, "the VM needs what is here"),
	ROW(CUT, FORCE, LEFT, source_let_go, "nobody needs what is here; exit 3"),
	ROW(CUT, RECOVER, CUT_CONNECT, source_recover_by, "connect there, from now on"),
	ROW(CUT_CONNECT, CONNECTED, CUT_ASKED, source_ask, "preface with the same session, ASK"),
	ROW(CUT_CONNECT, TIMER, CUT, source_cut_again, "2 s"),
	ROW(CUT_CONNECT, LOST, CUT, source_cut_again, ""),
	ROW(CUT_CONNECT, CANCEL, CUT_CONNECT, NULL, "too late"),
	ROW(CUT_CONNECT, END, CUT_CONNECT, source_stays, "the VM needs what is here"),
	ROW(CUT_CONNECT, FORCE, LEFT, source_let_go, "nobody needs what is here; exit 3"),
	ROW(CUT_CONNECT, RECOVER, CUT_CONNECT, source_recover_by, "connect there, from now on"),
	ROW(CUT_ASKED, SOME, CUT_ASKED, NULL, ""),
	ROW(CUT_ASKED, HAVE, CUT_PAIRING, source_mend, "connect the urgent link"),
	ROW(CUT_ASKED, RUNS, LEFT, source_leave, "GONE; MIGRATED, exit 3"),
	ROW(CUT_ASKED, TIMER, CUT, source_cut_again, "2 s"),
	ROW(CUT_ASKED, LOST, CUT, source_cut_again, ""),
	ROW(CUT_ASKED, CANCEL, CUT_ASKED, NULL, "too late"),
	ROW(CUT_ASKED, END, CUT_ASKED, source_stays, "the VM needs what is here"),
	ROW(CUT_ASKED, FORCE, LEFT, source_let_go, "nobody needs what is here; exit 3"),
	ROW(CUT_ASKED, RECOVER, CUT_CONNECT, source_recover_by, "connect there, from now on"),
	ROW(CUT_PAIRING, CONNECTED, CUT_PAIRING, source_open_urgent,
	    "preface, a frame without pages"),
	ROW(CUT_PAIRING, WELCOME, SERVE, source_serve_again, "send what it has not"),
	ROW(CUT_PAIRING, TIMER, CUT, source_cut_again, "2 s"),
	ROW(CUT_PAIRING, LOST, CUT, source_cut_again, ""),
	ROW(CUT_PAIRING, CANCEL, CUT_PAIRING, NULL, "too late"),
	ROW(CUT_PAIRING, END, CUT_PAIRING, source_stays, "the VM needs what is here"),
	ROW(CUT_PAIRING, FORCE, LEFT, source_let_go, "nobody needs what is here; exit 3"),
	ROW(CUT_PAIRING, RECOVER, CUT_CONNECT, source_recover_by, "connect there, from now on"),
};

#undef ROW
#define X(name, what) "SRC_" #name,
static const char *const source_states[] = {SOURCE_STATES(X)};
#undef X
#define X(name, what) what,
static const char *const source_events[] = {SOURCE_EVENTS(X)};
#undef X

const struct fsm_desc source_desc = {
	.name = "source",
	.rows = source_rows,
	.nrows = sizeof(source_rows) / sizeof(source_rows[0]),
	.nstates = SRC_STATE_MAX,
	.nevents = SRC_EV_MAX,
	.states = source_states,
	.events = source_events,
	.first_message = SRC_EV_WELCOME,
	.end = SRC_LEFT,
	.stray = source_stray,
};

/* --- destination ------------------------------------------------------------------------------ */

#define ROW(state, event, next, action, does)                                                      \
	{                                                                                          \
		DST_##state, DST_EV_##event, DST_##next, action, does                              \
	}

static const struct fsm_row dest_rows[] = {
	ROW(LISTEN, OFFER, LISTEN, dest_build, "check it, build the VM; WELCOME, or REFUSE"),
	ROW(LISTEN, BUILT, RECEIVING, dest_welcome, "MIGRATING"),
	ROW(RECEIVING, PART, RECEIVING, dest_take_part,
	    "into memory or an image; state checked and kept"),
	ROW(RECEIVING, SWITCH, LOADING, dest_load,
	    "lock the images, load the state when what that touches is here"),
	ROW(RECEIVING, PAIR, RECEIVING, dest_pair, "WELCOME"),
	ROW(LOADING, ARRIVED, LOADING, dest_try_load,
	    "are all here that the load touches, and the images?"),
	ROW(LOADING, WRITTEN, LOADING, dest_try_load, "the same"),
	ROW(LOADING, LOADED, READY, dest_say_ready, "READY"),
	ROW(READY, GO, RUNS, dest_run, "network up, run, announce; RUNS; RUNNING"),
	ROW(RUNS, LACKS, FILL, dest_begin_fill, "who touches what is missing asks for it"),
	ROW(FILL, PART, FILL, dest_take_part, "into memory that is still missing"),
	ROW(FILL, ARRIVED, FILL, dest_arrived, "devices look again"),
	ROW(FILL, COMPLETE, RUNS, dest_complete, "EOC"),
	ROW(FILL, TIMER, FILL, dest_watch, "every second: who waits, and nothing comes, is noted"),
	ROW(RUNS, GONE, HERE, dest_alone, "listens no more"),

	ROW(RECEIVING, TIMER, LISTEN, dest_silent,
	    "REFUSE; VM destroyed: 30 s without a frame, or 120 s that its images take none"),
	ROW(RECEIVING, LOST, LISTEN, dest_drop, "VM destroyed"),
	ROW(LOADING, NOT_LOADED, LISTEN, dest_refuse, "REFUSE; VM destroyed"),
	ROW(LOADING, TIMER, LISTEN, dest_silent, "REFUSE; VM destroyed: 10 s"),
	ROW(LOADING, LOST, LISTEN, dest_drop, "VM destroyed"),
	ROW(READY, ARRIVED, READY, NULL, ""),
	ROW(READY, TIMER, LISTEN, dest_silent, "REFUSE; VM destroyed: 10 s"),
	ROW(READY, LOST, LISTEN, dest_drop, "VM destroyed"),
	ROW(RUNS, LOST, RUNS, NULL, "the VM runs; the source will ask"),

	ROW(LISTEN, ASK, LISTEN, dest_answer_never, "BYE: never ran; REFUSE when it is not known"),
	ROW(RECEIVING, ASK, RECEIVING, dest_answer_never, "the same"),
	ROW(READY, ASK, LISTEN, dest_drop_and_answer, "VM destroyed; BYE"),
	ROW(RUNS, ASK, RUNS, dest_answer_runs, "RUNS"),

	ROW(FILL, LOST, CUT, dest_cut, "who waits for a page goes on waiting"),
	ROW(FILL, ASK, MENDING, dest_have, "old link closed; HAVE"),
	ROW(CUT, ASK, MENDING, dest_have, "HAVE"),
	ROW(CUT, ARRIVED, CUT, dest_arrived, ""),
	ROW(CUT, COMPLETE, RUNS, dest_complete, "all of it is here: the source will ask"),
	ROW(CUT, FILE, CUT, dest_open_file, "what is in it comes as on a link"),
	ROW(CUT, PART, CUT, dest_take_part, "of the file: into memory that is still missing"),
	ROW(CUT, LOST, CUT, dest_cut, "the file has ended"),
	ROW(CUT, TIMER, ORPHAN, dest_stand,
	    "30 s without ASK: the VM stands; INCOMPLETE, and what that may mean"),
	ROW(ORPHAN, ASK, MENDING, dest_have, "the VM goes on; HAVE"),
	ROW(ORPHAN, ARRIVED, ORPHAN, dest_arrived, ""),
	ROW(ORPHAN, COMPLETE, RUNS, dest_complete, "the VM goes on: the source will ask"),
	ROW(ORPHAN, FILE, CUT, dest_open_file, "the VM goes on; what is in it comes as on a link"),
	ROW(MENDING, PAIR, FILL, dest_mend, "WELCOME; ask again for what was asked for"),
	ROW(MENDING, ASK, MENDING, dest_have, "old link closed; HAVE"),
	ROW(MENDING, LOST, CUT, dest_cut_again, "as before; the log has it already"),
	ROW(MENDING, TIMER, CUT, dest_mend_late, "link closed: 10 s in which it went no further"),
	ROW(MENDING, ARRIVED, MENDING, dest_arrived, ""),

	ROW(LISTEN, END, OVER, NULL, ""),
	ROW(RECEIVING, END, OVER, NULL, ""),
	ROW(LOADING, END, OVER, NULL, ""),
	ROW(READY, END, OVER, NULL, ""),
	ROW(RUNS, END, OVER, NULL, ""),
	ROW(FILL, END, OVER, dest_end_of_fill, "EOC: nobody needs the rest"),
	ROW(CUT, END, OVER, NULL, ""),
	ROW(ORPHAN, END, OVER, NULL, ""),
	ROW(MENDING, END, OVER, NULL, ""),
	ROW(HERE, END, OVER, NULL, ""),
};

#undef ROW
#define X(name, what) "DST_" #name,
static const char *const dest_states[] = {DEST_STATES(X)};
#undef X
#define X(name, what) what,
static const char *const dest_events[] = {DEST_EVENTS(X)};
#undef X

const struct fsm_desc dest_desc = {
	.name = "dest",
	.rows = dest_rows,
	.nrows = sizeof(dest_rows) / sizeof(dest_rows[0]),
	.nstates = DST_STATE_MAX,
	.nevents = DST_EV_MAX,
	.states = dest_states,
	.events = dest_events,
	.first_message = DST_EV_PART,
	.end = DST_OVER,
	.stray = dest_stray,
};

/*
 * Migration, both sides: who may run, whose the images are, and where each page is. Written as
 * postcopy/phases.c is: ROW(state, event, next), then what its action does. README.md says what is
 * not modelled; rows.py compares states, events and rows with the program's.
 */
#ifndef CUTS
#define CUTS 2 /* of a link, or answers that come too late, in one run */
#endif
#ifndef KILLS
#define KILLS 1 /* of a side */
#endif
#define NPAGES 2

/* Planted: 0 is the protocol as it is meant. From the environment, so that one program tries all. */
#define BUG_RESUME 1	/* the source goes on when the link is lost after GO */
#define BUG_NO_GO 2	/* the destination runs on READY, when the link is lost before GO */
#define BUG_NO_CLAIM 3	/* a page that comes twice is filled twice */
#define BUG_FORGET 4	/* new links: what was asked for is not asked for again */
#define BUG_EOS_EARLY 5 /* EOS goes out while an urgent page is not yet written */
#define BUG_EOS_DONE 6	/* a link lost after EOS counts as the end */
#define BUG_BALLOON 7	/* what the guest gives back is not marked */
#define BUG_UNKNOWN 8	/* "not known here" is taken for "never ran" */
#define BUG_WAIT_EOS 9	/* the destination has all, and still waits for EOS */
byte bug;

#define EVERY ((1 << NPAGES) - 1)
#define BIT(p) (1 << (p))

/* --- the network ------------------------------------------------------------------------------ */

/* ALL: the PAGES of all passes, as one. BYE: also "it never ran here". SOME: HAVE's first part. */
mtype = { OFFER, WELCOME, REFUSE, ALL, MAP, SWITCH, READY, GO, RUNS, LACKS, GONE, BYE, ASK, SOME, HAVE, PAIR,
	  PAGES, EOS, EOC, WANT, REMOVED };

/* Both links of one attempt. What is in them can be read until the reader notices a cut. */
chan main_out = [6] of { mtype, byte, byte }; /* source to destination */
chan main_back = [4] of { mtype, byte };
chan urgent_out = [3] of { mtype, byte };
chan urgent_back = [6] of { mtype, byte };
chan door = [1] of { mtype, byte }; /* waits to be taken: its first frame, its attempt */

byte attempt;		   /* the last that the source began */
bool main_up, urgent_up;   /* its links */
bool in_order;		   /* ended by the destination: what it said before is read first */
byte src_at, dst_at;	   /* the attempt whose links a side believes in, 0: none */
byte cuts;
bool calm; /* nothing goes wrong any more, and the guest rests */
bool src_dead, dst_dead, born_again;

#define links_up (main_up && urgent_up)
#define src_cut                                                                                    \
	(src_at != 0 && !(links_up && src_at == attempt) && !(in_order && len(main_back) > 0))
#define dst_cut (dst_at != 0 && !(links_up && dst_at == attempt))
#define dst_linked (dst_at != 0 && dst_at == attempt)
#define SAY(type, a, b) if :: src_at != 0 && main_up -> main_out!type, a, b :: else fi
#define ANSWER(type, a) if :: dst_linked && main_up -> main_back!type, a :: else fi
#define URGENT(type, a)                                                                            \
	if :: dst_linked && urgent_up && dst != DST_MENDING -> urgent_back!type, a :: else fi

inline empty_outs()
{
	do :: main_out?_, _, _ :: empty(main_out) -> break od;
	do :: urgent_out?_, _ :: empty(urgent_out) -> break od
}
inline empty_backs()
{
	do :: main_back?_, _ :: empty(main_back) -> break od;
	do :: urgent_back?_, _ :: empty(urgent_back) -> break od
}

/* --- memory, images, who runs ----------------------------------------------------------------- */

mtype:value = { NOTHING, STALE, FRESH, ZEROS, WRITTEN };
mtype:have = { HAVE_ABSENT, HAVE_ASKED, HAVE_CLAIMED, HAVE_ZERO, HAVE_PAGE };
/* The destination's: what is in memory, what has to be there when something is, what is known. */
mtype:value ram[NPAGES] = NOTHING, right[NPAGES] = FRESH;
mtype:have have[NPAGES] = HAVE_ABSENT;
bool waits[NPAGES], faulted[NPAGES]; /* somebody waits for it; and the pager has seen that */
bool written[NPAGES], discarded[NPAGES];
byte filling, pager_filling; /* claimed and not yet filled by the loop, by the pager: page + 1 */

bool postcopy, background;
bool mishap; /* it may be cancelled, the load may fail, the guest may end */
byte unsent;	       /* the source's */
byte serving, pushing; /* claimed from it and not yet written: page + 1 */
byte sent, got;	       /* pages, by this pair of links */
bool eos;
byte eos_count;

mtype:lock = { NOBODY, SOURCE, DEST };
mtype:lock lock = SOURCE;
bool src_runs = true, dst_runs, dst_ran;
bool go_said;
bool never_ran; /* the destination remembers this session, and that */

mtype:src = { SRC_IDLE, SRC_CONNECTING, SRC_OFFERED, SRC_PAIRING, SRC_PASSES, SRC_DRAIN, SRC_LAST, SRC_EARLY,
	      SRC_SWITCH, SRC_GO, SRC_QUIT, SRC_HALT, SRC_BACK, SRC_UNSURE, SRC_RECONNECT, SRC_ASKED, SRC_SERVE,
	      SRC_ENDING, SRC_CUT, SRC_CUT_CONNECT, SRC_CUT_ASKED, SRC_CUT_PAIRING, SRC_LEFT };
mtype:srcev = { SRC_EV_START, SRC_EV_CANCEL, SRC_EV_TIMER, SRC_EV_CONNECTED, SRC_EV_CONVERGED,
		SRC_EV_FAILED, SRC_EV_ENDED, SRC_EV_DRAINED, SRC_EV_SENT, SRC_EV_LOCKED,
		SRC_EV_LOST, SRC_EV_WELCOME, SRC_EV_READY, SRC_EV_RUNS, SRC_EV_NEVER,
		SRC_EV_LACKS, SRC_EV_SOME, SRC_EV_HAVE, SRC_EV_EOC, SRC_EV_PAIRED };
mtype:dst = { DST_LISTEN, DST_RECEIVING, DST_LOADING, DST_READY, DST_RUNS, DST_FILL, DST_CUT,
	      DST_ORPHAN, DST_MENDING, DST_HERE, DST_OVER };
mtype:dstev = { DST_EV_OFFER, DST_EV_ASK, DST_EV_END, DST_EV_BUILT, DST_EV_LOADED,
		DST_EV_NOT_LOADED, DST_EV_TIMER, DST_EV_LOST, DST_EV_PART, DST_EV_SWITCH,
		DST_EV_GO, DST_EV_GONE, DST_EV_LACKS, DST_EV_PAIR, DST_EV_COMPLETE };
mtype:src src = SRC_IDLE;
mtype:dst dst = DST_LISTEN;

/* --- the source ------------------------------------------------------------------------------- */

inline src_close()
{
	if
	:: src_at != 0 && src_at == attempt -> main_up = false; urgent_up = false
	:: else
	fi;
	src_at = 0;
	serving = 0; pushing = 0; /* their threads have ended */
	empty_backs()
}

inline src_connect(first)
{
	attempt++;
	src_at = attempt;
	main_up = true; urgent_up = true; in_order = false;
	sent = 0;
	do :: door?_, _ :: empty(door) -> break od;
	door!first, attempt
}


inline src_pair()
{
	do :: door?_, _ :: empty(door) -> break od;
	door!PAIR, src_at
}

#define all_written (unsent == 0 && pushing == 0 && (serving == 0 || bug == BUG_EOS_EARLY))
#define before_go                                                                                  \
	(src == SRC_CONNECTING || src == SRC_OFFERED || src == SRC_PAIRING || src == SRC_PASSES || src == SRC_DRAIN ||   \
	 src == SRC_LAST || src == SRC_EARLY || src == SRC_SWITCH)
#define door_open (!dst_dead && dst != DST_HERE && dst != DST_OVER)
#define ROW(s, e, n) :: (src == SRC_##s && ev == SRC_EV_##e) -> src = SRC_##n;

active proctype Source()
{
	mtype:srcev ev;
	byte a, stale, zero, pass;
	bool close, tried, dialled, unknown; /* it was restarted: it will say so each time */
	mtype m;

	atomic {
		c_code { now.bug = getenv("BUG") ? atoi(getenv("BUG")) : 0; };
		select(a: 0 .. 1);
		postcopy = a;
		select(a: 0 .. 1);
		background = a;
		select(a: 0 .. 1);
		mishap = a;
		a = 0
	}
end:	do
	:: atomic {
		if
		:: src == SRC_IDLE && !tried && !src_dead -> tried = true; ev = SRC_EV_START
		:: before_go && mishap -> ev = SRC_EV_CANCEL
		:: (src == SRC_CONNECTING || src == SRC_RECONNECT || src == SRC_CUT_CONNECT) ->
			if :: door_open -> ev = SRC_EV_CONNECTED :: else -> ev = SRC_EV_LOST fi
		:: src == SRC_PAIRING && !postcopy -> ev = SRC_EV_PAIRED
		:: ((src == SRC_PAIRING && postcopy) || src == SRC_CUT_PAIRING) && !dialled ->
			dialled = true; ev = SRC_EV_CONNECTED
		:: src == SRC_PASSES -> ev = SRC_EV_CONVERGED
		:: src == SRC_QUIT || src == SRC_HALT -> ev = SRC_EV_ENDED
		:: src == SRC_DRAIN -> ev = SRC_EV_DRAINED
		:: src == SRC_LAST || src == SRC_EARLY -> ev = SRC_EV_SENT
		:: src == SRC_BACK && lock == NOBODY -> ev = SRC_EV_LOCKED
		:: (src == SRC_UNSURE || src == SRC_CUT) && door_open && !unknown -> ev = SRC_EV_TIMER
		:: (src == SRC_GO || src == SRC_ASKED || src == SRC_CUT_ASKED ||
		    src == SRC_CUT_PAIRING) && !calm && cuts < CUTS ->
			cuts++; ev = SRC_EV_TIMER /* too late an answer */
		:: src == SRC_SERVE && all_written -> ev = SRC_EV_SENT
		:: src_cut -> ev = SRC_EV_LOST
		:: src_at != 0 && nempty(main_back) ->
			main_back?m, a;
			if
			:: m == REFUSE ->
				unknown = (src == SRC_ASKED || src == SRC_CUT_ASKED);
				ev = SRC_EV_LOST
			:: m == WELCOME -> ev = SRC_EV_WELCOME
			:: m == READY -> ev = SRC_EV_READY
			:: m == RUNS -> ev = SRC_EV_RUNS
			:: m == LACKS -> ev = SRC_EV_LACKS
			:: m == BYE -> ev = SRC_EV_NEVER
			:: m == SOME -> ev = SRC_EV_SOME
			:: m == HAVE -> ev = SRC_EV_HAVE
			:: m == EOC -> ev = SRC_EV_EOC
			fi
		fi;
		if
		ROW(IDLE, START, CONNECTING) skip
		ROW(CONNECTING, CONNECTED, OFFERED) src_connect(OFFER)
		ROW(OFFERED, WELCOME, PAIRING) dialled = false
		ROW(PAIRING, PAIRED, PASSES) skip
		ROW(PAIRING, CONNECTED, PAIRING) src_pair()
		ROW(PAIRING, WELCOME, PASSES) skip
		ROW(PASSES, CONVERGED, DRAIN) src_runs = false
		ROW(DRAIN, DRAINED, LAST)
			lock = NOBODY;
			pass = EVERY;
			if
			:: postcopy ->
				/* Each page was never sent, or sent, or written after that, or is zero. */
				select(pass: 0 .. EVERY);
				select(stale: 0 .. EVERY);
				select(zero: 0 .. EVERY);
				stale = stale & pass;
				zero = zero & ~pass
			:: else
			fi;
			SAY(ALL, pass, stale);
			SAY(MAP, stale, zero);
			SAY(SWITCH, 0, 0);
			unsent = EVERY & ~(pass & ~stale) & ~zero;
			pass = 0; stale = 0; zero = 0
		ROW(LAST, SENT, SWITCH) skip
		ROW(SWITCH, READY, GO) go_said = true; SAY(GO, 0, 0)
		ROW(LAST, READY, EARLY) skip
		ROW(EARLY, SENT, GO) go_said = true; SAY(GO, 0, 0)
		ROW(GO, RUNS, LEFT) SAY(GONE, 0, 0); close = true

		ROW(CONNECTING, CANCEL, IDLE) skip
		ROW(CONNECTING, LOST, IDLE) skip
		ROW(OFFERED, CANCEL, IDLE) SAY(BYE, 0, 0); close = true
		ROW(OFFERED, LOST, IDLE) close = true
		ROW(PAIRING, CANCEL, IDLE) SAY(BYE, 0, 0); close = true
		ROW(PAIRING, LOST, IDLE) close = true
		ROW(PASSES, CANCEL, QUIT) skip
		ROW(PASSES, LOST, QUIT) close = true
		ROW(QUIT, ENDED, IDLE) SAY(BYE, 0, 0); close = true
		ROW(QUIT, LOST, QUIT) close = true
		ROW(DRAIN, CANCEL, IDLE) SAY(BYE, 0, 0); close = true; src_runs = true
		ROW(DRAIN, LOST, IDLE) close = true; src_runs = true
		ROW(LAST, CANCEL, HALT) close = true
		ROW(LAST, LOST, HALT) close = true
		ROW(EARLY, CANCEL, HALT) close = true
		ROW(EARLY, LOST, HALT) close = true
		ROW(HALT, ENDED, BACK) skip
		ROW(SWITCH, CANCEL, BACK) SAY(BYE, 0, 0); close = true
		ROW(SWITCH, LOST, BACK) close = true
		ROW(BACK, LOCKED, IDLE) lock = SOURCE; close = true; src_runs = true

		ROW(GO, LOST, UNSURE)
			close = true;
			if :: bug == BUG_RESUME -> src = SRC_BACK :: else fi
		ROW(GO, TIMER, UNSURE) close = true
		ROW(UNSURE, TIMER, RECONNECT) skip
		ROW(RECONNECT, CONNECTED, ASKED) src_connect(ASK)
		ROW(RECONNECT, LOST, UNSURE) skip
		ROW(ASKED, RUNS, LEFT) SAY(GONE, 0, 0); close = true
		ROW(ASKED, NEVER, BACK) close = true
		ROW(ASKED, TIMER, UNSURE) close = true
		ROW(ASKED, LOST, UNSURE)
			close = true;
			if :: bug == BUG_UNKNOWN && unknown -> src = SRC_BACK :: else fi

		ROW(GO, LACKS, SERVE) skip
		ROW(ASKED, SOME, CUT_ASKED) skip
		ROW(SERVE, SENT, ENDING) SAY(EOS, sent, 0)
		ROW(SERVE, EOC, LEFT) SAY(GONE, 0, 0); close = true
		ROW(SERVE, LOST, CUT) close = true
		ROW(ENDING, EOC, LEFT) SAY(GONE, 0, 0); close = true
		ROW(ENDING, LOST, CUT)
			close = true;
			if :: bug == BUG_EOS_DONE -> src = SRC_LEFT :: else fi
		ROW(CUT, TIMER, CUT_CONNECT) skip
		ROW(CUT_CONNECT, CONNECTED, CUT_ASKED) src_connect(ASK)
		ROW(CUT_CONNECT, LOST, CUT) skip
		ROW(CUT_ASKED, SOME, CUT_ASKED) skip
		ROW(CUT_ASKED, HAVE, CUT_PAIRING) unsent = EVERY & ~a; dialled = false
		ROW(CUT_PAIRING, CONNECTED, CUT_PAIRING) src_pair()
		ROW(CUT_PAIRING, WELCOME, SERVE) skip
		ROW(CUT_PAIRING, TIMER, CUT) close = true
		ROW(CUT_PAIRING, LOST, CUT) close = true
		ROW(CUT_ASKED, RUNS, LEFT) SAY(GONE, 0, 0); close = true
		ROW(CUT_ASKED, TIMER, CUT) close = true
		ROW(CUT_ASKED, LOST, CUT) close = true
		:: else -> printf("source: no row\n"); assert(false)
		fi;
		if :: close -> src_close(); close = false :: else fi;
		a = 0; m = 0; ev = 0
	}
	od
}
#undef ROW

/* Two threads. Each claims a page, so that none goes twice, and then writes it. */
#define serve_on                                                                                   \
	(src_at != 0 && (src == SRC_LAST || src == SRC_EARLY || src == SRC_SWITCH ||               \
			 src == SRC_GO || src == SRC_SERVE || src == SRC_ENDING))

active proctype Serve()
{
	byte p;
	mtype m;

end:	do
	:: atomic {
		serve_on && serving == 0 && nempty(urgent_back) ->
		urgent_back?m, p;
		if
		:: m == WANT && (unsent & BIT(p)) -> unsent = unsent & ~BIT(p); serving = p + 1
		:: m == REMOVED -> unsent = unsent & ~BIT(p)
		:: else /* it is on its way */
		fi;
		m = 0; p = 0
	}
	:: atomic {
		serving != 0 ->
		if :: src_at != 0 && urgent_up -> urgent_out!PAGES, serving - 1 :: else fi;
		sent++;
		serving = 0
	}
	od
}

active proctype Push()
{
end:	do
	:: atomic {
		background && src == SRC_SERVE && pushing == 0 && unsent != 0 ->
		if
		:: unsent & BIT(0) -> unsent = unsent & ~BIT(0); pushing = 1
		:: unsent & BIT(1) -> unsent = unsent & ~BIT(1); pushing = 2
		fi
	}
	:: atomic {
		pushing != 0 ->
		SAY(PAGES, pushing - 1, 0);
		sent++;
		pushing = 0
	}
	od
}

/* --- the destination -------------------------------------------------------------------------- */

#define missing(p) (have[p] == HAVE_ABSENT || have[p] == HAVE_ASKED)
#define settled(p) (have[p] == HAVE_ZERO || have[p] == HAVE_PAGE)
#define full (settled(0) && settled(1))

/* A page of either link: claimed once, by whom is the only one to fill it. */
inline dst_claim(p, who)
{
	if
	:: !missing(p) && bug != BUG_NO_CLAIM -> got++ /* late: dropped */
	:: else -> have[p] = HAVE_CLAIMED; who = p + 1
	fi
}

inline dst_fill(who)
{
	have[who - 1] = HAVE_PAGE;
	ram[who - 1] = FRESH;
	waits[who - 1] = false; faulted[who - 1] = false;
	got++;
	who = 0
}

inline dst_unlink()
{
	if
	:: dst_linked -> in_order = main_up; main_up = false; urgent_up = false
	:: else
	fi;
	dst_at = 0;
	eos = false; eos_count = 0; got = 0;
	empty_outs()
}

inline dst_close() { dst_unlink() }
inline dst_take(at) { dst_unlink(); dst_at = at }

/* All of it is gone, and the VM never ran: so it is said when the source asks. */
inline dst_drop()
{
	dst_close();
	for (i : 0 .. NPAGES - 1) {
		ram[i] = NOTHING; right[i] = FRESH; have[i] = HAVE_ABSENT;
		waits[i] = false; faulted[i] = false
	}
	pager_filling = 0;
	if :: lock == DEST -> lock = NOBODY :: else fi;
	never_ran = true
}

inline dst_never(at)
{
	dst_take(at);
	if :: never_ran -> ANSWER(BYE, 0) :: else -> ANSWER(REFUSE, 0) fi;
	dst_close()
}

/* New links: what is here, and on the urgent one everything that is asked for, once more. */
inline dst_have(at)
{
	dst_take(at);
	a = 0;
	for (i : 0 .. NPAGES - 1) {
		if :: !missing(i) -> a = a | BIT(i) :: else fi
	}
	ANSWER(SOME, 0);
	ANSWER(HAVE, a);
}

inline dst_ask_again()
{
	for (i : 0 .. NPAGES - 1) {
		if :: have[i] == HAVE_ASKED && bug != BUG_FORGET -> URGENT(WANT, i) :: else fi
	}
}

inline dst_run() { dst_runs = true; dst_ran = true }

/* What most rows end with; done once behind the table. */
#define DROP after = 2
#define CLOSE after = 1

#define loop_free (filling == 0)
#define pager_idle (pager_filling == 0) /* pager_cut() waits for that */
#define ROW(s, e, n) :: (dst == DST_##s && ev == DST_EV_##e) -> dst = DST_##n;

active proctype Destination()
{
	mtype:dstev ev, then;
	byte a, b, i, after;
	bool asked;
	mtype m;

end:	do
	:: atomic { filling != 0 -> dst_fill(filling) }
	:: atomic {
		if
		:: loop_free && dst == DST_LOADING && !waits[0] && lock != SOURCE ->
			ev = DST_EV_LOADED
		:: loop_free && dst == DST_LOADING && pager_idle && mishap -> ev = DST_EV_NOT_LOADED
		:: loop_free && (dst == DST_RECEIVING || dst == DST_READY || dst == DST_MENDING) && pager_idle &&
		   !calm && cuts < CUTS -> cuts++; ev = DST_EV_TIMER
		:: loop_free && dst == DST_CUT && pager_idle -> ev = DST_EV_TIMER
		:: loop_free && (dst == DST_FILL || dst == DST_CUT || dst == DST_ORPHAN) && full && pager_idle &&
		   (eos || bug != BUG_WAIT_EOS) ->
			ev = DST_EV_COMPLETE
		:: loop_free && (dst == DST_FILL || dst == DST_CUT || dst == DST_ORPHAN || dst == DST_MENDING) &&
		   pager_idle && mishap ->
			ev = DST_EV_END /* the guest has ended */
		:: loop_free && dst_cut && pager_idle -> ev = DST_EV_LOST
		:: loop_free && nempty(door) && pager_idle && door_open ->
			door?m, a;
			if
			:: m == OFFER -> ev = DST_EV_OFFER
			:: m == ASK -> ev = DST_EV_ASK
			:: m == PAIR && a == dst_at -> ev = DST_EV_PAIR
			:: else -> goto idle /* of a link that is gone */
			fi
		:: loop_free && dst_at != 0 && len(main_out) > 0 && (pager_idle || !(main_out?[BYE, 0, 0])) ->
			main_out?m, a, b;
			if
			:: m == ALL || m == MAP || m == PAGES || m == EOS -> ev = DST_EV_PART
			:: m == SWITCH -> ev = DST_EV_SWITCH
			:: m == GO -> ev = DST_EV_GO
			:: m == GONE -> ev = DST_EV_GONE
			:: m == BYE -> ev = DST_EV_LOST
			fi
		fi;
again:		if
		ROW(LISTEN, OFFER, LISTEN)
			dst_take(a);
			never_ran = false;
			if :: then = DST_EV_BUILT :: ANSWER(REFUSE, 0); DROP fi
		ROW(LISTEN, BUILT, RECEIVING) ANSWER(WELCOME, 0)
		ROW(RECEIVING, PART, RECEIVING)
			for (i : 0 .. NPAGES - 1) {
				if
				:: m == ALL && (a & BIT(i)) ->
					have[i] = HAVE_PAGE;
					if :: b & BIT(i) -> ram[i] = STALE :: else -> ram[i] = FRESH fi
				:: m == MAP && (a & BIT(i)) -> have[i] = HAVE_ABSENT; ram[i] = NOTHING
				:: m == MAP && (b & BIT(i)) -> have[i] = HAVE_ZERO; right[i] = ZEROS
				:: else
				fi
			}
		ROW(RECEIVING, PAIR, RECEIVING) ANSWER(WELCOME, 0)
		ROW(RECEIVING, SWITCH, LOADING)
			if :: lock == NOBODY -> lock = DEST :: else fi;
			if :: ram[0] == NOTHING -> waits[0] = true :: else fi
		ROW(LOADING, LOADED, READY) ANSWER(READY, 0)
		ROW(READY, GO, RUNS)
			dst_run();
			if
			:: postcopy -> ANSWER(LACKS, 0); then = DST_EV_LACKS
			:: else -> ANSWER(RUNS, 0)
			fi
		ROW(RUNS, GONE, HERE) CLOSE

		ROW(RECEIVING, TIMER, LISTEN) ANSWER(REFUSE, 0); DROP
		ROW(RECEIVING, LOST, LISTEN) DROP
		ROW(LOADING, NOT_LOADED, LISTEN) ANSWER(REFUSE, 0); DROP
		ROW(LOADING, LOST, LISTEN) DROP
		ROW(READY, TIMER, LISTEN) ANSWER(REFUSE, 0); DROP
		ROW(READY, LOST, LISTEN)
			if
			:: bug == BUG_NO_GO -> dst = DST_CUT; CLOSE; dst_run()
			:: else -> DROP
			fi
		ROW(RUNS, LOST, RUNS) CLOSE

		ROW(LISTEN, ASK, LISTEN) asked = true
		ROW(RECEIVING, ASK, RECEIVING) assert(false) /* before READY nobody says GO */
		ROW(READY, ASK, LISTEN) DROP; asked = true
		ROW(RUNS, ASK, RUNS) dst_take(a); ANSWER(RUNS, 0); CLOSE

		ROW(RUNS, LACKS, FILL) skip
		ROW(FILL, PART, FILL)
			if
			:: m == EOS -> eos = true; eos_count = a
			:: else -> dst_claim(a, filling)
			fi
		ROW(FILL, COMPLETE, RUNS) ANSWER(EOC, 0)
		ROW(RUNS, PART, RUNS) skip /* late: what is not in it was given back */
		ROW(FILL, LOST, CUT) CLOSE
		ROW(FILL, ASK, MENDING) dst_have(a)
		ROW(FILL, END, OVER) ANSWER(EOC, 0); CLOSE; dst_runs = false; lock = NOBODY
		ROW(CUT, ASK, MENDING) dst_have(a)
		ROW(MENDING, ASK, MENDING) dst_have(a)
		ROW(MENDING, PAIR, FILL) ANSWER(WELCOME, 0); dst_ask_again()
		ROW(MENDING, LOST, CUT) CLOSE
		ROW(MENDING, TIMER, CUT) CLOSE
		ROW(MENDING, END, OVER) CLOSE; dst_runs = false; lock = NOBODY
		ROW(CUT, COMPLETE, RUNS) skip
		ROW(CUT, TIMER, ORPHAN) skip /* the guest stands: guest_on */
		ROW(ORPHAN, ASK, MENDING) dst_have(a)
		ROW(ORPHAN, COMPLETE, RUNS) skip
		ROW(ORPHAN, END, OVER) dst_runs = false; lock = NOBODY
		ROW(CUT, END, OVER) dst_runs = false; lock = NOBODY
		:: else -> printf("destination: no row\n"); assert(false)
		fi;
		if
		:: after == 2 -> dst_drop()
		:: after == 1 -> dst_close()
		:: else
		fi;
		if :: asked -> dst_never(a) :: else fi;
		if :: then != 0 -> ev = then; then = 0; goto again :: else fi;
idle:		a = 0; b = 0; m = 0; i = 0; ev = 0; after = 0; asked = false
	}
	od
}
#undef ROW

/* The pager's thread: faults, and pages of the urgent link. */
#define pager_on                                                                                   \
	(dst == DST_LOADING || dst == DST_READY || dst == DST_FILL || dst == DST_CUT ||            \
	 dst == DST_ORPHAN || dst == DST_MENDING ||                                                                     \
	 ((dst == DST_RUNS || dst == DST_HERE) && postcopy)) /* then it is the kernel, with zeros */

inline pager_fault(q)
{
	if
	:: have[q] == HAVE_ABSENT -> have[q] = HAVE_ASKED; faulted[q] = true; URGENT(WANT, q)
	:: have[q] == HAVE_ZERO -> ram[q] = ZEROS; waits[q] = false
	:: else -> faulted[q] = true
	fi
}

active proctype Pager()
{
	byte p;

end:	do
	:: atomic { pager_on && waits[0] && !faulted[0] -> pager_fault(0) }
	:: atomic { pager_on && waits[1] && !faulted[1] -> pager_fault(1) }
	:: atomic {
		pager_on && dst_at != 0 && pager_idle && nempty(urgent_out) ->
		urgent_out?PAGES, p;
		dst_claim(p, pager_filling);
		p = 0
	}
	:: atomic { pager_filling != 0 -> dst_fill(pager_filling) }
	od
}

/* The guest at the destination touches, writes, and gives back to its balloon. */
inline guest_discard(q)
{
	discarded[q] = true;
	/* It is only to spare the source, and has no room at times. */
	if :: missing(q) -> URGENT(REMOVED, q) :: skip fi;
	if :: bug != BUG_BALLOON -> have[q] = HAVE_ZERO :: else fi;
	ram[q] = NOTHING;
	right[q] = ZEROS;
	/* Who waits would wait for ever: the source does not send it any more. */
	if :: waits[q] -> ram[q] = ZEROS; waits[q] = false; faulted[q] = false :: else fi
}

#define guest_on (dst_runs && postcopy && dst != DST_ORPHAN)

active proctype Guest()
{
end:	do
	:: atomic { guest_on && !calm && ram[0] == NOTHING && !waits[0] -> waits[0] = true }
	:: atomic { guest_on && !calm && ram[1] == NOTHING && !waits[1] -> waits[1] = true }
	:: atomic { guest_on && ram[0] != NOTHING && !written[0] ->
		written[0] = true; ram[0] = WRITTEN; right[0] = WRITTEN }
	:: atomic { guest_on && ram[1] != NOTHING && !written[1] ->
		written[1] = true; ram[1] = WRITTEN; right[1] = WRITTEN }
	:: atomic { guest_on && !calm && !discarded[0] && loop_free && have[0] != HAVE_CLAIMED ->
		guest_discard(0) }
	:: atomic { guest_on && !calm && !discarded[1] && loop_free && have[1] != HAVE_CLAIMED ->
		guest_discard(1) }
	od
}

/* --- what goes wrong -------------------------------------------------------------------------- */

active proctype Fate()
{
	byte kills, i;

end:	do
	:: atomic { !calm -> calm = true } /* so that what comes after is waited for */
	:: atomic { !calm && cuts < CUTS && links_up -> cuts++; main_up = false; in_order = false }
	:: atomic { !calm && postcopy && cuts < CUTS && links_up -> cuts++; urgent_up = false }
	:: atomic {
		!calm && kills < KILLS && !src_dead && src != SRC_LEFT && attempt > 0 ->
		kills++;
		src_dead = true; src_runs = false;
		src_close();
		if :: lock == SOURCE -> lock = NOBODY :: else fi;
		src = SRC_LEFT
	}
	:: atomic {
		!calm && kills < KILLS && !dst_dead && dst != DST_OVER && attempt > 0 ->
		kills++;
		do :: door?_, _ -> main_up = false :: empty(door) -> break od;
		dst_drop(); i = 0; in_order = false;
		dst_runs = false; never_ran = false; filling = 0;
		if
		:: dst_dead = true; dst = DST_OVER
		:: born_again = true; dst = DST_LISTEN
		fi
	}
	/* Nobody opens any more: whoever knocks is refused. */
	:: atomic { !door_open && nempty(door) -> door?_, _; main_up = false }
	od
}

/* --- what must hold --------------------------------------------------------------------------- */

#define wrong(p) (ram[p] != NOTHING && ram[p] != right[p])
#define on_its_way(p)                                                                              \
	(urgent_back??[WANT, p] || serving == p + 1 || pushing == p + 1 ||                         \
	 urgent_out??[PAGES, p] || main_out??[PAGES, p, 0])
#define connected (!src_dead && !dst_dead && links_up && src_at == attempt && dst_at == attempt)
#define forgotten(p) (connected && pager_on && dst != DST_MENDING && have[p] == HAVE_ASKED && !on_its_way(p))

#define both_ran (src_runs && dst_ran)
#define images_wrong ((src_runs && lock != SOURCE) || (dst_runs && lock != DEST))
#define page_wrong (dst_runs && (wrong(0) || wrong(1)))
#define not_asked_for (forgotten(0) || forgotten(1))
#define counted_and_not_there (eos && dst == DST_FILL && got == eos_count && !full)

/* Whatever is wrong shows here, with its name, whenever it comes to be. */
active proctype Always()
{
end:	if
	:: atomic { both_ran -> printf("both_ran\n"); assert(false) }
	:: atomic { images_wrong -> printf("images_wrong\n"); assert(false) }
	:: atomic { page_wrong -> printf("page_wrong\n"); assert(false) }
	:: atomic { not_asked_for -> printf("not_asked_for\n"); assert(false) }
	:: atomic { counted_and_not_there -> printf("counted_and_not_there\n"); assert(false) }
	fi
}

/* Nothing can happen any more: is it an end with a name? */
#define nobody_waits (!waits[0] && !waits[1])
#define stays (src == SRC_IDLE && src_runs)
#define on_request                                                                                 \
	(src == SRC_SERVE && dst == DST_FILL && connected && !background && unsent != 0 &&         \
	 !full && nobody_waits)
#define moved                                                                                      \
	(src == SRC_LEFT && dst_runs && full && nobody_waits && (dst == DST_HERE || dst == DST_RUNS))
#define ended_there (dst == DST_OVER && (src == SRC_LEFT || src == SRC_UNSURE || src == SRC_CUT))
#define in_doubt (src == SRC_UNSURE || src == SRC_CUT)

active proctype Judge()
{
end:	atomic {
		timeout ->
		assert(src_dead || go_said || stays); /* before GO a failure changes nothing */
		if
		:: src_dead -> assert(dst_dead || dst == DST_LISTEN || (dst == DST_ORPHAN && !full) || dst == DST_OVER ||
				      (dst_runs && full && nobody_waits))
		:: !src_dead && (dst_dead || born_again) -> assert(stays || src == SRC_LEFT || in_doubt)
		:: else -> assert((stays && dst == DST_LISTEN) || moved || on_request || ended_there)
		fi
	}
}

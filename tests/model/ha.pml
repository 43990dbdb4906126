/*
 * Fault tolerance, its core: an epoch is sealed, acknowledged, released; a lost peer and a hand-over
 * are decided by the arbiter. Rows are some of those of ft/role/primary.c and ft/role/secondary.c;
 * the first sync, stop, disks and images are not here. README.md says more.
 */
#define EPOCHS 3
#define CUTS 1	  /* of the link */
#define KILLS 1	  /* of a side */
#define SILENCE 2 /* questions that the arbiter leaves without an answer */

#define BUG_RELEASE 1	 /* output is released when its epoch is sealed */
#define BUG_BOTH_WIN 2	 /* a claim from an old generation is won, too */
#define BUG_NO_CONFIRM 3 /* a hand-over without GONE: the secondary does not claim again */
#define BUG_CLAIM_IS_RUN 4 /* the secondary's claim is taken for its run: the primary leaves */
byte bug;

mtype = { EPOCH, ACK, HAND_OVER, RUNS, GONE };
chan to_sec = [3] of { mtype, byte };
chan to_pri = [2] of { mtype, byte };
bool calm; /* nothing goes wrong any more */
bool up = true, pri_linked = true, sec_linked = true, pri_dead, sec_dead;
bool sec_ended; /* the end of its stream is behind its last word, which does not count then */

mtype:pri = { PRI_STEADY, PRI_FLIGHT, PRI_ASKED, PRI_ASKED_FLIGHT, PRI_HAND_DUE, PRI_HAND, PRI_HANDED, PRI_CLAIM, PRI_UNANSWERED,
	      PRI_CLAIM_HANDED, PRI_HANDED_UNANSWERED, PRI_IDLE, PRI_LEFT };
mtype:priev = { PRI_EV_TIMER, PRI_EV_HAND_OVER, PRI_EV_ANSWERED, PRI_EV_WON, PRI_EV_CLAIM_LOST, PRI_EV_NO_ANSWER,
		PRI_EV_LOST, PRI_EV_ACK, PRI_EV_RUNS };
mtype:sec = { SEC_STANDBY, SEC_CLAIM, SEC_ACCEPT, SEC_ACCEPT_ALONE, SEC_HELD, SEC_LOCKS, SEC_CONFIRM,
	      SEC_TAKEN, SEC_LISTEN };
mtype:secev = { SEC_EV_WHOLE, SEC_EV_TIMER, SEC_EV_WON, SEC_EV_CLAIM_LOST, SEC_EV_NO_ANSWER,
		SEC_EV_LOADED, SEC_EV_LOST, SEC_EV_HAND_OVER, SEC_EV_GONE, SEC_EV_LOCKED };
mtype:pri pri = PRI_STEADY;
mtype:sec sec = SEC_STANDBY;

byte sealed, released, committed; /* epochs */
bool pri_passes, sec_passes;	  /* the VM runs there, and its output leaves */
bool handing;			  /* there is a hand-over in this run */

/* --- the arbiter ------------------------------------------------------------------------------ */

mtype:side = { PRIMARY, SECONDARY };
byte generation = 1, silent;
mtype:side holder = PRIMARY;
bool tokened;	       /* the record is a claim for the hand-over */
byte pri_gen = 1, sec_gen = 1;
bool pri_asks, sec_asks; /* a question is under way */
bool loaded;		 /* the secondary's VM, and nobody was told yet */

/* Compare and set; one's own claim is recognised. */
inline arbiter_claim(who, from, token, won)
{
	if
	:: generation == from ->
		generation = from + 1; holder = who; tokened = token; won = true
	:: generation == from + 1 && holder == who -> won = true
	:: else -> won = (bug == BUG_BOTH_WIN)
	fi
}

/* --- the primary ------------------------------------------------------------------------------ */

#define pri_says(m, n) if :: pri_linked && up -> to_sec!m, n :: else fi
#define ROW(s, e, n) :: (pri == PRI_##s && ev == PRI_EV_##e) -> pri = PRI_##n;

inline pri_seal()
{
	sealed++;
	pri_says(EPOCH, sealed);
	if :: bug == BUG_RELEASE -> released = sealed :: else fi
}

inline pri_lost()
{
	pri_linked = false; up = false;
	do :: to_pri?_, _ :: empty(to_pri) -> break od;
	pri_asks = true
}

active proctype Primary()
{
	mtype:priev ev;
	mtype m;
	byte n;
	bool won, token;

	atomic {
		c_code { now.bug = getenv("BUG") ? atoi(getenv("BUG")) : 0; };
		select(n: 0 .. 1);
		handing = n;
		n = 0
	}
end:	do
	:: atomic {
		if
		:: (pri == PRI_STEADY || pri == PRI_ASKED) && sealed < EPOCHS -> ev = PRI_EV_TIMER
		:: (pri == PRI_STEADY || pri == PRI_FLIGHT) && handing ->
			handing = false;
			ev = PRI_EV_HAND_OVER
		/* Only whether there is an arbiter: nothing is claimed. */
		:: pri == PRI_ASKED || pri == PRI_ASKED_FLIGHT -> ev = PRI_EV_ANSWERED
		:: (pri == PRI_ASKED || pri == PRI_ASKED_FLIGHT) && !calm && silent < SILENCE ->
			silent++;
			ev = PRI_EV_NO_ANSWER
		:: pri_linked && !up -> ev = PRI_EV_LOST
		:: pri_linked && nempty(to_pri) && !sec_ended ->
			to_pri?m, n;
			if :: m == ACK -> ev = PRI_EV_ACK :: m == RUNS -> ev = PRI_EV_RUNS fi
		:: pri_asks ->
			arbiter_claim(PRIMARY, pri_gen, false, won);
			if
			:: !won && token && generation == pri_gen + 1 && tokened && bug != BUG_CLAIM_IS_RUN ->
				token = false;
				pri_gen++;
				arbiter_claim(PRIMARY, pri_gen, false, won)
			:: else
			fi;
			pri_asks = false;
			if :: won -> ev = PRI_EV_WON :: else -> ev = PRI_EV_CLAIM_LOST fi
		:: pri_asks && !calm && silent < SILENCE ->
			silent++;
			pri_asks = false;
			/* It may have been carried out all the same. */
			if :: arbiter_claim(PRIMARY, pri_gen, false, won) :: skip fi;
			ev = PRI_EV_NO_ANSWER
		:: (pri == PRI_UNANSWERED || pri == PRI_HANDED_UNANSWERED) && !pri_asks ->
			ev = PRI_EV_TIMER
		fi;
		if
		ROW(STEADY, TIMER, FLIGHT) pri_seal()
		ROW(FLIGHT, ACK, STEADY) released = n
		ROW(STEADY, LOST, CLAIM) pri_lost()
		ROW(FLIGHT, LOST, CLAIM) pri_lost()
		ROW(CLAIM, WON, IDLE) pri_gen++; pri_passes = true
		ROW(CLAIM, CLAIM_LOST, LEFT) skip
		ROW(CLAIM, NO_ANSWER, UNANSWERED) skip
		ROW(UNANSWERED, TIMER, UNANSWERED) pri_asks = true
		ROW(UNANSWERED, NO_ANSWER, UNANSWERED) skip
		ROW(UNANSWERED, WON, IDLE) pri_gen++; pri_passes = true
		ROW(UNANSWERED, CLAIM_LOST, LEFT) skip
		ROW(STEADY, HAND_OVER, ASKED) skip
		ROW(FLIGHT, HAND_OVER, ASKED_FLIGHT) skip
		ROW(ASKED, TIMER, ASKED_FLIGHT) pri_seal()
		ROW(ASKED_FLIGHT, ACK, ASKED) released = n
		ROW(ASKED, ANSWERED, HAND) pri_seal()
		ROW(ASKED_FLIGHT, ANSWERED, HAND_DUE) skip
		ROW(ASKED, NO_ANSWER, STEADY) skip
		ROW(ASKED_FLIGHT, NO_ANSWER, FLIGHT) skip
		ROW(ASKED, LOST, CLAIM) pri_lost()
		ROW(ASKED_FLIGHT, LOST, CLAIM) pri_lost()
		ROW(HAND_DUE, ACK, HAND) released = n; pri_seal()
		ROW(HAND_DUE, LOST, CLAIM) pri_lost()
		ROW(HAND, ACK, HANDED) released = n; token = true; pri_says(HAND_OVER, 0)
		ROW(HANDED, RUNS, LEFT) pri_says(GONE, 0); pri_linked = false
		ROW(HAND, LOST, CLAIM) pri_lost()
		ROW(HANDED, LOST, CLAIM_HANDED) pri_lost()
		ROW(CLAIM_HANDED, WON, IDLE) pri_gen++; pri_passes = true
		ROW(CLAIM_HANDED, CLAIM_LOST, LEFT) skip
		ROW(CLAIM_HANDED, NO_ANSWER, HANDED_UNANSWERED) skip
		ROW(HANDED_UNANSWERED, TIMER, HANDED_UNANSWERED) pri_asks = true
		ROW(HANDED_UNANSWERED, NO_ANSWER, HANDED_UNANSWERED) skip
		ROW(HANDED_UNANSWERED, WON, IDLE) pri_gen++; pri_passes = true
		ROW(HANDED_UNANSWERED, CLAIM_LOST, LEFT) skip
		:: else -> printf("primary: no row\n"); assert(false)
		fi;
		m = 0; n = 0; ev = 0; won = false
	}
	od
}
#undef ROW

/* --- the secondary ---------------------------------------------------------------------------- */

#define sec_says(m, n) if :: sec_linked && up -> to_pri!m, n :: else fi
#define ROW(s, e, n) :: (sec == SEC_##s && ev == SEC_EV_##e) -> sec = SEC_##n;

inline sec_cut()
{
	sec_linked = false; up = false;
	do :: to_sec?_, _ :: empty(to_sec) -> break od
}

active proctype Secondary()
{
	mtype:secev ev;
	mtype m;
	byte n;
	bool won, token;

end:	do
	:: atomic {
		if
		:: sec == SEC_LOCKS -> ev = SEC_EV_LOCKED
		:: sec_linked && !up -> ev = SEC_EV_LOST
		:: sec_linked && nempty(to_sec) ->
			to_sec?m, n;
			if
			:: m == EPOCH -> ev = SEC_EV_WHOLE
			:: m == HAND_OVER -> ev = SEC_EV_HAND_OVER
			:: m == GONE -> ev = SEC_EV_GONE
			fi
		:: loaded -> loaded = false; ev = SEC_EV_LOADED
		:: sec_asks ->
			arbiter_claim(SECONDARY, sec_gen, token, won);
			sec_asks = false;
			if
			:: won -> sec_gen++; token = false; ev = SEC_EV_WON
			:: else -> ev = SEC_EV_CLAIM_LOST
			fi
		:: sec_asks && !calm && silent < SILENCE ->
			silent++;
			sec_asks = false;
			if :: arbiter_claim(SECONDARY, sec_gen, token, won) :: skip fi;
			ev = SEC_EV_NO_ANSWER
		:: (sec == SEC_CLAIM || sec == SEC_ACCEPT || sec == SEC_ACCEPT_ALONE ||
		    sec == SEC_CONFIRM) && !sec_asks && !loaded -> ev = SEC_EV_TIMER
		fi;
		if
		ROW(STANDBY, WHOLE, STANDBY) committed = n; sec_says(ACK, n)
		ROW(STANDBY, LOST, CLAIM) sec_cut(); sec_asks = true
		ROW(CLAIM, WON, CLAIM) loaded = true
		ROW(CLAIM, LOADED, TAKEN) sec_passes = true
		ROW(CLAIM, CLAIM_LOST, LISTEN) skip
		ROW(CLAIM, NO_ANSWER, CLAIM) skip
		ROW(CLAIM, TIMER, CLAIM) sec_asks = true
		ROW(STANDBY, HAND_OVER, ACCEPT) token = true; sec_asks = true
		ROW(ACCEPT, WON, ACCEPT) loaded = true
		ROW(ACCEPT, LOADED, HELD) sec_says(RUNS, 0)
		ROW(ACCEPT, CLAIM_LOST, LISTEN) sec_cut()
		ROW(ACCEPT, NO_ANSWER, ACCEPT) skip
		ROW(ACCEPT, TIMER, ACCEPT) sec_asks = true
		ROW(ACCEPT, LOST, ACCEPT_ALONE) sec_cut()
		ROW(ACCEPT_ALONE, WON, CLAIM) sec_asks = true
		ROW(ACCEPT_ALONE, LOADED, CLAIM) sec_asks = true
		ROW(ACCEPT_ALONE, CLAIM_LOST, LISTEN) skip
		ROW(ACCEPT_ALONE, NO_ANSWER, ACCEPT_ALONE) skip
		ROW(ACCEPT_ALONE, TIMER, ACCEPT_ALONE) sec_asks = true
		ROW(HELD, GONE, LOCKS) sec_cut()
		ROW(LOCKS, LOCKED, TAKEN) sec_passes = true
		ROW(HELD, LOST, CONFIRM)
			sec_cut();
			if
			:: bug == BUG_NO_CONFIRM -> sec = SEC_TAKEN; sec_passes = true
			:: else -> sec_asks = true
			fi
		ROW(CONFIRM, WON, TAKEN) sec_passes = true
		ROW(CONFIRM, CLAIM_LOST, LISTEN) skip
		ROW(CONFIRM, NO_ANSWER, CONFIRM) skip
		ROW(CONFIRM, TIMER, CONFIRM) sec_asks = true
		:: else -> printf("secondary: no row\n"); assert(false)
		fi;
		m = 0; n = 0; ev = 0; won = false
	}
	od
}
#undef ROW

/* --- what goes wrong -------------------------------------------------------------------------- */

bool lost_at_owner; /* who has the VM has died: that is the end of it */

active proctype Fate()
{
	byte cuts, kills;

end:	do
	:: atomic { !calm -> calm = true } /* so that what comes after is waited for */
	:: atomic { !calm && up && cuts < CUTS -> cuts++; up = false }
	:: atomic {
		!calm && kills < KILLS && !pri_dead && pri != PRI_LEFT ->
		kills++;
		lost_at_owner = (holder == PRIMARY && generation > 1);
		pri_dead = true; pri = PRI_LEFT; pri_passes = false; pri_asks = false;
		pri_linked = false; up = false
	}
	:: atomic {
		!calm && kills < KILLS && !sec_dead && sec != SEC_LISTEN ->
		kills++;
		/* Its claim for the hand-over is no end while the primary is there, and has no RUNS to believe. */
		lost_at_owner = (holder == SECONDARY && (!tokened || pri == PRI_LEFT || (!up && nempty(to_pri))));
		sec_ended = up;
		sec_dead = true; sec = SEC_LISTEN; sec_passes = false; sec_asks = false; loaded = false;
		sec_linked = false; up = false
	}
	od
}

/* --- what must hold --------------------------------------------------------------------------- */

#define both_pass (pri_passes && sec_passes)
#define released_unknown (sec_passes && released > committed)

active proctype Always()
{
end:	if
	:: atomic { both_pass -> printf("both_pass\n"); assert(false) }
	:: atomic { released_unknown -> printf("released_unknown\n"); assert(false) }
	fi
}

#define in_step (pri == PRI_STEADY && sec == SEC_STANDBY && !pri_dead && !sec_dead && released == committed)

/* Nothing can happen any more: one side has the VM, or who had it has died. */
active proctype Judge()
{
end:	atomic {
		timeout ->
		if
		:: in_step || (pri_passes != sec_passes) || lost_at_owner
		:: else -> printf("nobody_runs\n"); assert(false)
		fi
	}
}

/*
 * The life of a protected VM on two hosts: first sync, epochs, loss, takeover, and the first sync back;
 * a stop, and who may be started after it. Either host is the primary or the secondary, in turn. Rows
 * are some of those of ft/role/primary.c and ft/role/secondary.c; hand-overs are in ha.pml. README.md
 * says more.
 */
#define STATES 4 /* of the VM in one run: the first, and what its guest does after that */
#ifndef FAULTS
#define FAULTS 2 /* in one run, of any kind */
#endif
#define KILLS 1
#define STARTS 2 /* of a process */
#define STOPS 2	 /* that a user asks for */
#define OFFS 1	 /* likewise: ft=off, and back */

/* Planted: 0 is the protocol as it is meant. */
#define BUG_STOP_DROPS 1     /* a stop does not wait for DONE, and the secondary drops what waits */
#define BUG_RELEASED_ALONE 2 /* whoever ran alone gives the VM back for both sides */
#define BUG_NO_IDENTITY 3    /* a claim that landed late is not known for one's own */
#define BUG_EARLY 4	     /* the secondary takes over out of its first sync */
#define BUG_FIRST_FREE 5     /* lost with the first epoch in flight: the primary goes on unasked */
#define BUG_NO_LEASE 6	     /* an ack is acted on by who was away */
#define BUG_IMAGES_LATE 7    /* a stop after a takeover does not wait for the images */
#define BUG_NO_DONE 8	     /* DONE is not said when the images lacked something at BYE */
#define BUG_DISKS_FREE 9     /* after a takeover the guest writes beside what waits for the images */
#define BUG_OFF_UNASKED 10   /* ft=off: output passes when the secondary is told, not when it has answered */
#define BUG_DISMISSED_CLAIMS 11 /* who was dismissed takes over all the same when it loses the link */
byte bug;

mtype:pri = { PRI_IDLE, PRI_CONNECTING, PRI_HELLO, PRI_HEART, PRI_SYNCING, PRI_STEADY, PRI_FLIGHT, PRI_CLAIM, PRI_UNANSWERED,
	      PRI_STOP_DUE, PRI_STOP, PRI_BYE, PRI_CLAIM_STOP,
	      PRI_OFF, PRI_OFF_DUE, PRI_OFF_LAST, PRI_DISMISS, PRI_DISMISS_STOP, PRI_REST, PRI_RECORD, PRI_UNSURE, PRI_LEFT };
mtype:priev = { PRI_EV_TRY, PRI_EV_CONNECTED, PRI_EV_WELCOME, PRI_EV_SYNCED, PRI_EV_TIMER, PRI_EV_ACK, PRI_EV_LOST,
		PRI_EV_WON, PRI_EV_CLAIM_LOST, PRI_EV_NO_ANSWER, PRI_EV_STOP, PRI_EV_DONE, PRI_EV_IMAGES, PRI_EV_RECORDED, PRI_EV_OFF, PRI_EV_ON };
mtype:sec = { SEC_LISTEN, SEC_ASKED, SEC_SYNCING, SEC_STANDBY, SEC_CLAIM, SEC_DRAIN, SEC_DRAIN_ALONE, SEC_DISMISSED, SEC_TAKEN };
mtype:secev = { SEC_EV_HELLO, SEC_EV_FITS, SEC_EV_UNFIT, SEC_EV_BUILT, SEC_EV_WHOLE, SEC_EV_READY, SEC_EV_IMAGES, SEC_EV_LOST,
		SEC_EV_WON, SEC_EV_LOADED, SEC_EV_CLAIM_LOST, SEC_EV_WAS_STOPPED, SEC_EV_NO_ANSWER, SEC_EV_TIMER, SEC_EV_BYE,
		SEC_EV_DISMISS };
mtype:role = { AWAY, PRIMARY, SECONDARY }; /* AWAY: no process */

mtype:role role[2] = AWAY;
mtype:pri pri[2] = PRI_LEFT;
mtype:sec sec[2] = SEC_LISTEN;
bool first[2]; /* the first epoch is in flight */
bool off[2];   /* ft=off */

bool calm;	/* nothing goes wrong any more, and nobody asks for anything */
bool frozen[2]; /* stands still, longer than its peer waits */
byte faults;
bool stop_asked, in_order, lost_at_owner; /* in_order: with a peer in step, or about to be */

/* --- states of the VM --------------------------------------------------------------------------- */

/*
 * A state is a number, higher ones come later. After a takeover the new side's are higher than those that
 * the old one had alone: so a side has what was promised when its number is not below that.
 */
byte last = 1;	    /* the highest */
byte promised;       /* what was let out tells of this state */
byte mem[2];	    /* in memory: run, or committed; 0: none */
byte img[2];	    /* in the images; 0: older than all, or in pieces */
bool passes[2];	    /* the VM runs, and its output leaves at once */
bool late_output;   /* some left elsewhere while it did */

inline let_out(h, n)
{
	if :: n > promised -> promised = n :: else fi;
	if :: passes[1 - h] -> late_output = true :: else fi
}

inline pass(h) { let_out(h, mem[h]); passes[h] = true }

/* --- the arbiter -------------------------------------------------------------------------------- */

mtype:ending = { HELD, STOPPED, RELEASED };
mtype:job = { NO_JOB, CLAIM, END_STOPPED, END_RELEASED };
mtype:answer = { NO_RESULT, WON, LOST, CANCELED, RECORDED };

#define NOBODY 2
byte generation = 1, owner, side; /* owner: the process that claimed it, until that ends */
mtype:ending ending = HELD;
byte gen[2];
mtype:job job[2] = NO_JOB; /* what the storage was asked for, and may still do */
mtype:answer result[2] = NO_RESULT;
bool waits[2]; /* for the answer */

#define may_start(h) (ending == RELEASED || (ending == STOPPED && side == h))

inline carry_out(h)
{
	if
	:: job[h] == CLAIM && generation == gen[h] && ending == HELD ->
		generation++; owner = h; side = h; result[h] = WON;
		if :: role[h] == AWAY -> owner = NOBODY; lost_at_owner = true :: else fi
	:: job[h] == CLAIM && generation == gen[h] && ending != HELD -> result[h] = CANCELED
	:: job[h] == CLAIM && generation == gen[h] + 1 && owner == h && ending == HELD && bug != BUG_NO_IDENTITY ->
		result[h] = WON
	:: job[h] == END_STOPPED || job[h] == END_RELEASED ->
		if
		:: generation == gen[h] && (owner == h || role[h] == AWAY) && side == h && ending == HELD ->
			if :: job[h] == END_STOPPED -> ending = STOPPED :: else -> ending = RELEASED fi
		:: else
		fi;
		result[h] = RECORDED
	:: else -> result[h] = LOST
	fi;
	if :: role[h] == AWAY -> job[h] = NO_JOB; result[h] = NO_RESULT :: else fi
}

/* The same again waits for what hangs; an answer that nobody fetched may be too old by now. */
inline ask(h, what)
{
	if
	:: job[h] == what -> if :: result[h] = NO_RESULT :: result[h] != NO_RESULT fi
	:: job[h] != what && job[h] != NO_JOB && result[h] == NO_RESULT ->
		if :: carry_out(h) :: skip fi;
		job[h] = what; result[h] = NO_RESULT
	:: else -> job[h] = what; result[h] = NO_RESULT
	fi;
	waits[h] = true
}

#define answered(h) (waits[h] && result[h] != NO_RESULT)
#define unanswered(h) (waits[h] && result[h] == NO_RESULT && !calm && faults < FAULTS)

inline fetch(h) { waits[h] = false; job[h] = NO_JOB; result[h] = NO_RESULT }

/* It may be carried out later, or never. */
inline give_up(h)
{
	faults++;
	waits[h] = false;
	if :: job[h] = NO_JOB :: skip fi
}

/* --- the link ----------------------------------------------------------------------------------- */

mtype = { HELLO, WELCOME, EPOCH, ACK, BYE, DISMISS, DONE };
chan q[2] = [2] of { mtype, byte }; /* to that host */
bool linked[2];			    /* believes in it */
bool cut;			    /* nothing passes any more, and nobody is told */
bool suspect[2]; /* its last echo is too old: the peer may have found it silent */

#define say(h, m, n) if :: linked[h] && linked[1 - (h)] && !cut -> assert(nfull(q[1 - (h)])); q[1 - (h)]!m, n :: else fi
#define gone(h) (linked[h] && !linked[1 - (h)] && !cut)
#define silent(h) (linked[h] && (cut || frozen[1 - (h)]))

inline close(h)
{
	linked[h] = false;
	suspect[h] = false;
	do :: q[h]?_, _ :: empty(q[h]) -> break od;
	if :: !linked[1 - h] -> cut = false :: else fi
}

/* Whoever is found silent was suspect before: its lease is shorter than its peer's patience. */
inline lose(h)
{
	if :: silent(h) && linked[1 - h] -> suspect[1 - h] = true :: else fi;
	close(h)
}

/* A process has ended. What it asked the storage for may still be done. */
inline leave(h)
{
	close(h);
	passes[h] = false; frozen[h] = false; first[h] = false; off[h] = false; waits[h] = false;
	mem[h] = 0;
	if :: result[h] != NO_RESULT -> job[h] = NO_JOB :: else -> if :: job[h] = NO_JOB :: skip fi fi;
	result[h] = NO_RESULT;
	if :: owner == h -> owner = NOBODY :: else fi;
	pri[h] = PRI_LEFT; sec[h] = SEC_LISTEN; role[h] = AWAY
}

/* --- the primary -------------------------------------------------------------------------------- */

#define P (role[h] == PRIMARY && !frozen[h])
#define ROW(s, e, n) :: (pri[h] == PRI_##s && ev == PRI_EV_##e) -> pri[h] = PRI_##n;

/* The guest writes to its image itself. */
inline seal(h)
{
	if :: last < STATES && !first[h] -> last++; mem[h] = last; img[h] = last :: else fi;
	say(h, EPOCH, mem[h])
}

#define LOSE lost = true
#define CLOSE shut = true
#define ASK(what) wants = what
#define LEAVE left = true
#define LET_OUT(n) lets = n
#define SEAL seals = true
#define OWN gen[h]++; lets = mem[h]
#define PASS lets = mem[h]; passes[h] = true
#define REST lets = mem[h]; passes[h] = false; CLOSE

/* What most rows end with; done once behind the table. */
inline after_row(h)
{
	if :: lets != 0 -> let_out(h, lets); lets = 0 :: else fi;
	if :: seals -> seal(h); seals = false :: else fi;
	if :: lost -> lose(h); lost = false :: else fi;
	if :: shut -> close(h); shut = false :: else fi;
	if :: wants != 0 -> ask(h, wants); wants = 0 :: else fi;
	if :: left -> leave(h); left = false :: else fi
}

inline primary_step(h)
{
	if
	:: P && pri[h] == PRI_IDLE && off[h] -> ev = PRI_EV_OFF
	:: P && offs < OFFS && !calm && !off[h] &&
	   (pri[h] == PRI_IDLE || pri[h] == PRI_CONNECTING || pri[h] == PRI_HELLO || pri[h] == PRI_HEART || pri[h] == PRI_SYNCING ||
	    pri[h] == PRI_STEADY || pri[h] == PRI_FLIGHT || pri[h] == PRI_CLAIM || pri[h] == PRI_UNANSWERED) ->
		offs++;
		off[h] = true;
		if :: pri[h] == PRI_CLAIM || pri[h] == PRI_UNANSWERED -> goto pri_idle :: else -> ev = PRI_EV_OFF fi
	:: P && pri[h] == PRI_OFF && off[h] && !calm -> off[h] = false; ev = PRI_EV_ON
	:: P && pri[h] == PRI_IDLE && !off[h] && img[h] == mem[h] && role[1 - h] == SECONDARY && sec[1 - h] == SEC_LISTEN &&
	   !linked[h] && !linked[1 - h] && !frozen[1 - h] ->
		ev = PRI_EV_TRY
	:: P && (pri[h] == PRI_CONNECTING || pri[h] == PRI_HEART) -> ev = PRI_EV_CONNECTED
	:: P && pri[h] == PRI_SYNCING -> ev = PRI_EV_SYNCED
	:: P && pri[h] == PRI_STEADY && last < STATES -> ev = PRI_EV_TIMER
	:: P && stops < STOPS && !calm &&
	   (pri[h] == PRI_IDLE || pri[h] == PRI_CONNECTING || pri[h] == PRI_HELLO || pri[h] == PRI_HEART || pri[h] == PRI_SYNCING || pri[h] == PRI_STEADY || pri[h] == PRI_FLIGHT ||
	    pri[h] == PRI_OFF || pri[h] == PRI_OFF_DUE || pri[h] == PRI_OFF_LAST || pri[h] == PRI_DISMISS ||
	    pri[h] == PRI_CLAIM || pri[h] == PRI_UNANSWERED) ->
		stops++; stop_asked = true;
		in_order = (pri[h] == PRI_STEADY || pri[h] == PRI_FLIGHT || pri[h] == PRI_OFF_DUE || pri[h] == PRI_OFF_LAST);
		ev = PRI_EV_STOP
	/* All that came is read before the end of a link is judged; DONE counts, an ack before an end does not. */
	:: P && (gone(h) || silent(h)) && !(q[h]?[DONE, 0]) -> ev = PRI_EV_LOST
	:: P && linked[h] && q[h]?[DONE, 0] -> q[h]?DONE, n; ev = PRI_EV_DONE
	:: P && linked[h] && q[h]?[WELCOME, 0] -> q[h]?WELCOME, n; ev = PRI_EV_WELCOME
	:: P && linked[h] && q[h]?[ACK, n] && !gone(h) && (!suspect[h] || bug == BUG_NO_LEASE) ->
		q[h]?ACK, n;
		ev = PRI_EV_ACK
	:: P && answered(h) ->
		if
		:: result[h] == WON -> ev = PRI_EV_WON
		:: result[h] == RECORDED -> ev = PRI_EV_RECORDED
		:: else -> ev = PRI_EV_CLAIM_LOST
		fi;
		fetch(h)
	:: P && unanswered(h) ->
		give_up(h);
		if
		:: pri[h] == PRI_RECORD || pri[h] == PRI_UNSURE -> ev = PRI_EV_RECORDED
		:: else -> ev = PRI_EV_NO_ANSWER
		fi
	:: P && (pri[h] == PRI_UNANSWERED || pri[h] == PRI_CLAIM_STOP) && !waits[h] -> ev = PRI_EV_TIMER
	:: P && pri[h] == PRI_REST && (img[h] == mem[h] || bug == BUG_IMAGES_LATE) -> ev = PRI_EV_IMAGES
	fi;
	if
	ROW(IDLE, TRY, CONNECTING) linked[h] = true; linked[1 - h] = true
	ROW(CONNECTING, CONNECTED, HELLO) say(h, HELLO, gen[h])
	ROW(HELLO, WELCOME, HEART) skip
	ROW(HEART, CONNECTED, SYNCING) skip
	ROW(SYNCING, SYNCED, FLIGHT) passes[h] = false; first[h] = true; SEAL
	ROW(FLIGHT, ACK, STEADY) assert(n == mem[h]); first[h] = false; LET_OUT(n)
	ROW(STEADY, TIMER, FLIGHT) SEAL
	ROW(CONNECTING, LOST, IDLE) LOSE
	ROW(HELLO, LOST, IDLE) LOSE
	ROW(HEART, LOST, IDLE) LOSE
	ROW(SYNCING, LOST, IDLE) LOSE
	ROW(STEADY, LOST, CLAIM) LOSE; ASK(CLAIM)
	ROW(FLIGHT, LOST, CLAIM)
		if
		:: first[h] && bug == BUG_FIRST_FREE -> pri[h] = PRI_IDLE; LOSE; LET_OUT(mem[h]); passes[h] = true
		:: else -> LOSE; ASK(CLAIM)
		fi;
		first[h] = false
	ROW(CLAIM, WON, IDLE) OWN; passes[h] = true
	ROW(CLAIM, CLAIM_LOST, LEFT) LEAVE
	ROW(CLAIM, NO_ANSWER, UNANSWERED) skip
	ROW(UNANSWERED, TIMER, UNANSWERED) ASK(CLAIM)
	ROW(UNANSWERED, NO_ANSWER, UNANSWERED) skip
	ROW(UNANSWERED, WON, IDLE) OWN; passes[h] = true
	ROW(UNANSWERED, CLAIM_LOST, LEFT) LEAVE
	ROW(IDLE, OFF, OFF) skip
	ROW(CONNECTING, OFF, OFF) CLOSE
	ROW(HELLO, OFF, OFF) CLOSE
	ROW(HEART, OFF, OFF) CLOSE
	ROW(SYNCING, OFF, OFF) CLOSE
	ROW(STEADY, OFF, OFF_LAST) SEAL
	ROW(FLIGHT, OFF, OFF_DUE) skip
	ROW(OFF_DUE, ACK, OFF_LAST) first[h] = false; LET_OUT(n); SEAL
	ROW(OFF_LAST, ACK, DISMISS)
		LET_OUT(n);
		say(h, DISMISS, 0);
		if :: bug == BUG_OFF_UNASKED -> pri[h] = PRI_OFF; CLOSE; PASS :: else fi
	ROW(DISMISS, DONE, OFF) CLOSE; PASS
	ROW(OFF, ON, IDLE) skip
	ROW(OFF_DUE, LOST, CLAIM) first[h] = false; LOSE; ASK(CLAIM)
	ROW(OFF_LAST, LOST, CLAIM) LOSE; ASK(CLAIM)
	ROW(DISMISS, LOST, CLAIM) LOSE; ASK(CLAIM)
	ROW(OFF, STOP, REST) REST
	ROW(OFF_DUE, STOP, STOP_DUE) skip
	ROW(OFF_LAST, STOP, STOP_DUE) skip
	ROW(DISMISS, STOP, DISMISS_STOP) skip
	ROW(DISMISS_STOP, DONE, REST) REST
	ROW(DISMISS_STOP, LOST, CLAIM_STOP) LOSE; ASK(CLAIM)
	ROW(STEADY, STOP, STOP) SEAL
	ROW(FLIGHT, STOP, STOP_DUE) skip
	ROW(STOP_DUE, ACK, STOP) first[h] = false; LET_OUT(n); SEAL
	ROW(STOP, ACK, BYE)
		LET_OUT(n);
		say(h, BYE, 0);
		if :: bug == BUG_STOP_DROPS -> pri[h] = PRI_RECORD; CLOSE; ASK(END_RELEASED) :: else fi
	ROW(BYE, DONE, RECORD) CLOSE; ASK(END_RELEASED)
	ROW(RECORD, RECORDED, LEFT) LEAVE
	ROW(BYE, LOST, UNSURE) LOSE; ASK(END_STOPPED)
	ROW(UNSURE, RECORDED, LEFT) LEAVE
	ROW(STOP_DUE, LOST, CLAIM_STOP) first[h] = false; LOSE; ASK(CLAIM)
	ROW(STOP, LOST, CLAIM_STOP) LOSE; ASK(CLAIM)
	ROW(CLAIM, STOP, CLAIM_STOP) skip
	ROW(UNANSWERED, STOP, LEFT) LEAVE
	ROW(CLAIM_STOP, WON, REST) OWN; REST
	ROW(CLAIM_STOP, CLAIM_LOST, LEFT) LEAVE
	ROW(CLAIM_STOP, NO_ANSWER, CLAIM_STOP) skip
	ROW(CLAIM_STOP, TIMER, CLAIM_STOP) ASK(CLAIM)
	ROW(IDLE, STOP, REST) REST
	ROW(CONNECTING, STOP, REST) REST
	ROW(HELLO, STOP, REST) REST
	ROW(HEART, STOP, REST) REST
	ROW(SYNCING, STOP, REST) REST
	ROW(REST, IMAGES, RECORD)
		if
		:: bug == BUG_RELEASED_ALONE -> ASK(END_RELEASED)
		:: else -> ASK(END_STOPPED)
		fi
	:: else -> printf("primary: no row\n"); assert(false)
	fi;
pri_idle:
	after_row(h)
}
#undef ROW

/* --- the secondary ------------------------------------------------------------------------------ */

#define S (role[h] == SECONDARY && !frozen[h])
#define ROW(s, e, n) :: (sec[h] == SEC_##s && sev == SEC_EV_##e) -> sec[h] = SEC_##n;

/* All is given up. */
#define LISTEN CLOSE; mem[h] = 0; waits[h] = false

inline take_over(h)
{
	role[h] = PRIMARY; pri[h] = PRI_IDLE;
	lets = mem[h]; passes[h] = true
}

inline secondary_step(h)
{
	if
	:: S && linked[h] && nempty(q[h]) ->
		q[h]?m, n;
		if
		:: m == HELLO -> sev = SEC_EV_HELLO
		:: m == EPOCH -> sev = SEC_EV_WHOLE; if :: sec[h] == SEC_SYNCING -> sthen = SEC_EV_READY :: else fi
		:: m == BYE -> sev = SEC_EV_BYE
		:: m == DISMISS -> sev = SEC_EV_DISMISS
		fi
	:: S && sec[h] == SEC_ASKED -> sev = SEC_EV_FITS; sthen = SEC_EV_BUILT
	:: S && sec[h] == SEC_ASKED && !calm && faults < FAULTS -> faults++; sev = SEC_EV_UNFIT /* no answer */
	:: S && sec[h] == SEC_LISTEN && (gone(h) || silent(h)) && empty(q[h]) -> LOSE; goto sec_idle
	:: S && sec[h] != SEC_LISTEN && (gone(h) || silent(h)) && (empty(q[h]) || bug == BUG_STOP_DROPS) -> sev = SEC_EV_LOST
	:: S && img[h] < mem[h] && (sec[h] == SEC_STANDBY || sec[h] == SEC_CLAIM) -> sev = SEC_EV_IMAGES
	:: S && (sec[h] == SEC_DRAIN || sec[h] == SEC_DRAIN_ALONE || sec[h] == SEC_DISMISSED) -> sev = SEC_EV_IMAGES
	:: S && answered(h) ->
		if
		:: result[h] == WON -> sev = SEC_EV_WON; sthen = SEC_EV_LOADED
		:: result[h] == CANCELED -> sev = SEC_EV_WAS_STOPPED
		:: else -> sev = SEC_EV_CLAIM_LOST
		fi;
		fetch(h)
	:: S && unanswered(h) -> give_up(h); sev = SEC_EV_NO_ANSWER
	:: S && sec[h] == SEC_CLAIM && !waits[h] -> sev = SEC_EV_TIMER
	fi;
sec_again:
	if
	ROW(LISTEN, HELLO, ASKED) gen[h] = n
	ROW(ASKED, FITS, ASKED) skip
	ROW(ASKED, BUILT, SYNCING) img[h] = 0; say(h, WELCOME, 0)
	ROW(ASKED, UNFIT, LISTEN) LISTEN
	ROW(ASKED, LOST, LISTEN) LOSE; LISTEN
	ROW(SYNCING, WHOLE, SYNCING) skip
	ROW(SYNCING, READY, STANDBY) mem[h] = n; say(h, ACK, n)
	ROW(SYNCING, LOST, LISTEN)
		LOSE;
		if
		:: bug == BUG_EARLY -> sec[h] = SEC_CLAIM; ASK(CLAIM)
		:: else -> LISTEN
		fi
	ROW(STANDBY, WHOLE, STANDBY) mem[h] = n; say(h, ACK, n)
	ROW(STANDBY, IMAGES, STANDBY) img[h] = mem[h]
	ROW(STANDBY, BYE, DRAIN) skip
	ROW(DRAIN, IMAGES, LISTEN)
		if :: img[h] == mem[h] || bug != BUG_NO_DONE -> say(h, DONE, 0) :: else fi;
		img[h] = mem[h];
		LISTEN
	ROW(DRAIN, LOST, DRAIN_ALONE) LOSE
	ROW(DRAIN_ALONE, IMAGES, LISTEN) img[h] = mem[h]; LISTEN
	ROW(STANDBY, DISMISS, DISMISSED)
		say(h, DONE, 0);
		if
		:: bug == BUG_DISMISSED_CLAIMS -> sec[h] = SEC_STANDBY
		:: else -> CLOSE; if :: owner == NOBODY -> lost_at_owner = true :: else fi
		fi
	ROW(DISMISSED, IMAGES, LISTEN) img[h] = mem[h]; LISTEN
	ROW(STANDBY, LOST, CLAIM) LOSE; ASK(CLAIM)
	ROW(CLAIM, WON, CLAIM) gen[h]++
	ROW(CLAIM, LOADED, TAKEN) take_over(h)
	ROW(CLAIM, CLAIM_LOST, LISTEN) LISTEN
	ROW(CLAIM, WAS_STOPPED, DRAIN_ALONE)
		if :: bug == BUG_STOP_DROPS -> sec[h] = SEC_LISTEN; LISTEN :: else fi
	ROW(CLAIM, NO_ANSWER, CLAIM) skip
	ROW(CLAIM, TIMER, CLAIM) ASK(CLAIM)
	ROW(CLAIM, IMAGES, CLAIM) img[h] = mem[h]
	:: else -> printf("secondary: no row\n"); assert(false)
	fi;
	if :: sthen != 0 -> sev = sthen; sthen = 0; goto sec_again :: else fi;
sec_idle:
	after_row(h)
}
#undef ROW

byte stops, offs;

active [2] proctype Host()
{
	mtype:priev ev;
	mtype:secev sev, sthen;
	mtype m;
	byte n, h, lets;
	bool lost, shut, left, seals;
	mtype:job wants;

	atomic {
		h = _pid;
		if
		:: h == 0 ->
			c_code { now.bug = getenv("BUG") ? atoi(getenv("BUG")) : 0; };
			role[0] = PRIMARY; pri[0] = PRI_IDLE; mem[0] = 1; img[0] = 1; gen[0] = 1;
			pass(0)
		:: else -> role[1] = SECONDARY
		fi
	}
end:	do
	:: atomic { primary_step(h); ev = 0; n = 0 }
	:: atomic { secondary_step(h); sev = 0; m = 0; n = 0 }
	/* The guest goes on alone, with its own images. */
	:: atomic {
		P && passes[h] && (img[h] == mem[h] || bug == BUG_DISKS_FREE) && last < STATES ->
		last++;
		if :: img[h] == mem[h] -> img[h] = last :: else fi;
		mem[h] = last;
		let_out(h, last)
	}
	/* What waited for the images since a takeover. */
	:: atomic { P && img[h] < mem[h] -> img[h] = mem[h] }
	/* The peer heard it after all. */
	:: atomic { role[h] != AWAY && !frozen[h] && suspect[h] && linked[h] && linked[1 - h] && !cut && !frozen[1 - h] ->
		suspect[h] = false }
	:: atomic { job[h] != NO_JOB && result[h] == NO_RESULT -> carry_out(h) }
	od
}

/* --- what goes wrong, and what is asked for ------------------------------------------------------ */

#define may_fail (!calm && faults < FAULTS)
#define can_follow(h) (role[h] == SECONDARY && (sec[h] == SEC_STANDBY || sec[h] == SEC_CLAIM) && gen[h] == generation)

inline kill(h)
{
	faults++; kills++;
	if :: owner == h && !can_follow(1 - h) -> lost_at_owner = true :: else fi;
	leave(h)
}

inline freeze(h) { faults++; frozen[h] = true; if :: linked[h] -> suspect[h] = true :: else fi }

inline start(h)
{
	starts++;
	if
	:: role[h] == AWAY -> role[h] = SECONDARY; job[h] = NO_JOB
	:: may_start(h) ->
		generation++; owner = h; side = h; ending = HELD; job[h] = NO_JOB; result[h] = NO_RESULT;
		gen[h] = generation;
		role[h] = PRIMARY; pri[h] = PRI_IDLE; mem[h] = img[h];
		stop_asked = false; in_order = false;
		pass(h)
	fi
}

#define is_away(h) (role[h] == AWAY || (role[h] == SECONDARY && sec[h] == SEC_LISTEN && !linked[h] && !frozen[h] && may_start(h)))

active proctype Fate()
{
	byte kills, starts, h;

end:	do
	:: atomic { !calm -> calm = true } /* so that what comes after is waited for */
	:: atomic { may_fail && !cut && linked[0] && linked[1] ->
		faults++; cut = true;
		/* What is under way arrives, or not. */
		if :: do :: q[0]?_, _ :: empty(q[0]) -> break od :: skip fi;
		if :: do :: q[1]?_, _ :: empty(q[1]) -> break od :: skip fi }
	:: atomic {
		may_fail && kills < KILLS && (role[0] != AWAY || role[1] != AWAY) ->
		if :: role[0] != AWAY :: role[1] != AWAY -> h = 1 fi;
		kill(h);
		h = 0
	}
	:: atomic { may_fail && !frozen[0] && role[0] != AWAY -> freeze(0) }
	:: atomic { may_fail && !frozen[1] && role[1] != AWAY -> freeze(1) }
	:: atomic { frozen[0] -> frozen[0] = false }
	:: atomic { frozen[1] -> frozen[1] = false }
	:: atomic {
		!calm && starts < STARTS && (is_away(0) || is_away(1)) ->
		if :: is_away(0) :: is_away(1) -> h = 1 fi;
		start(h);
		h = 0
	}
	od
}

/* --- what must hold ----------------------------------------------------------------------------- */

#define both_pass (passes[0] && passes[1])
#define released_unknown (passes[0] && mem[0] < promised || passes[1] && mem[1] < promised)
#define nowhere (img[0] < promised && img[1] < promised)
#define stop_dropped (may_start(0) && img[0] < promised || may_start(1) && img[1] < promised)

active proctype Always()
{
end:	if
	:: atomic { both_pass -> printf("both_pass\n"); assert(false) }
	:: atomic { late_output && !both_pass -> printf("late_output\n"); assert(false) }
	:: atomic { released_unknown -> printf("released_unknown\n"); assert(false) }
	:: atomic { nowhere -> printf("nowhere\n"); assert(false) }
	:: atomic { stop_dropped -> printf("stop_dropped\n"); assert(false) }
	fi
}

#define runs(h) (role[h] == PRIMARY && ((pri[h] == PRI_IDLE || pri[h] == PRI_OFF) && passes[h] || in_step(h)))
#define in_step(h)                                                                                                     \
	(pri[h] == PRI_STEADY && role[1 - (h)] == SECONDARY && sec[1 - (h)] == SEC_STANDBY && mem[h] == mem[1 - (h)] &&      \
	 promised == mem[h] && gen[0] == generation && gen[1] == generation)
#define rests(h) (role[h] == AWAY || runs(h) || role[h] == SECONDARY && (sec[h] == SEC_LISTEN || in_step(1 - h)))

/* Nothing can happen any more. */
active proctype Judge()
{
end:	atomic {
		timeout ->
		if
		:: !rests(0) || !rests(1) -> printf("stuck\n"); assert(false)
		:: !runs(0) && !runs(1) && !stop_asked && !lost_at_owner -> printf("nobody_runs\n"); assert(false)
		:: in_order && faults == 0 && ending != RELEASED -> printf("not_given_back\n"); assert(false)
		:: else
		fi
	}
}

/*
 * The primary's table: each row is taken through the real actions, each event is tried in each
 * state. The list here is the table once more, with what is seen from outside.
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "ft/role/primary_do.h"
#include "tests/fuzz/vm.h"
#include "tests/unit/libkvm_model.h"
#include "tests/unit/liblog.h"
#include "tests/unit/libmockarbiter.h"
#include "tests/unit/libprimary.h"
#include "tests/unit/libtime.h"

/*
 * then: the state when all is done that follows at once. out: of the VM's output, free, held or
 * dropped. asks: the arbiter, whether it is there (q), for a claim, an end that is released or
 * stopped. code: of the process. ms: until the timer fires. hears: the secondary, last.
 */
static const struct expected {
	uint8_t state, event, next, then;
	const char *word;
	bool runs;
	char out, asks;
	int code, ms;
	uint8_t hears;
} list[] = {
#define _ .word
#define ROW(state, event, next, then, ...)                                                         \
	{                                                                                          \
		PRI_##state, PRI_EV_##event, PRI_##next, PRI_##then, __VA_ARGS__                   \
	}
#define GO   true, 'f'
#define WAIT true, 'h'
#define HOLD false, 'h'
#define OVER false, 'f'
#define DROP false, 'd'
	/* clang-format off */
	ROW(IDLE, TIMER, IDLE, CONNECTING, "UNPROTECTED", GO, '-', -1, 1000, 0),
	ROW(IDLE, TRY, CONNECTING, CONNECTING, "UNPROTECTED", GO, '-', -1, 1000, 0),
	ROW(CONNECTING, CONNECTED, HELLO, HELLO, "UNPROTECTED", GO, '-', -1, 5000, FRAME_HELLO),
	ROW(HELLO, WELCOME, HEART, HEART, "UNPROTECTED", GO, '-', -1, 5000, FRAME_HELLO),
	ROW(HEART, CONNECTED, SYNCING, SYNCING, "SYNCING", GO, '-', -1, -1, 0),
	ROW(SYNCING, COMPARED, SYNCING, SYNCING, "SYNCING", GO, '-', -1, -1, 0),
	ROW(SYNCING, SYNCED, FLIGHT, FLIGHT, "SYNCING", WAIT, '-', -1, 30000, FRAME_EPOCH_END),
	ROW(FLIGHT, ACK, STEADY, STEADY, "PROTECTED", WAIT, '-', -1, 25, FRAME_EPOCH_END),
	ROW(STEADY, TIMER, FLIGHT, FLIGHT, "PROTECTED", WAIT, '-', -1, 30000, FRAME_EPOCH_END),
	ROW(STEADY, OUTPUT, STEADY, STEADY, "PROTECTED", WAIT, '-', -1, 25, FRAME_EPOCH_END),
	ROW(STEADY, DIFFER, STEADY, STEADY, "PROTECTED", WAIT, '-', -1, 0, FRAME_EPOCH_END),

	ROW(CONNECTING, TIMER, CONNECTING, IDLE, "UNPROTECTED", GO, '-', -1, 500, 0),
	ROW(HELLO, TIMER, HELLO, IDLE, "UNPROTECTED", GO, '-', -1, 500, FRAME_HELLO),
	ROW(HEART, TIMER, HEART, IDLE, "UNPROTECTED", GO, '-', -1, 500, FRAME_HELLO),
	ROW(CONNECTING, LOST, IDLE, IDLE, "UNPROTECTED", GO, '-', -1, 500, 0),
	ROW(HELLO, LOST, IDLE, IDLE, "UNPROTECTED", GO, '-', -1, 500, 0),
	ROW(HEART, LOST, IDLE, IDLE, "UNPROTECTED", GO, '-', -1, 500, FRAME_HELLO),
	ROW(SYNCING, LOST, IDLE, IDLE, "UNPROTECTED", GO, '-', -1, 500, 0),

	ROW(FLIGHT, TIMER, FLIGHT, CLAIM, "PROTECTED", HOLD, 'c', -1, -1, 0),
	ROW(STEADY, LOST, CLAIM, CLAIM, "PROTECTED", HOLD, 'c', -1, -1, 0),
	ROW(FLIGHT, LOST, CLAIM, CLAIM, "PROTECTED", HOLD, 'c', -1, -1, 0),
	ROW(CLAIM, WON, IDLE, IDLE, "DEGRADED", GO, '-', -1, 500, 0),
	ROW(CLAIM, CLAIM_LOST, LEFT, LEFT, "FENCED", DROP, '-', 5, -1, 0),
	ROW(CLAIM, NO_ANSWER, UNANSWERED, UNANSWERED, "PAUSED", HOLD, '-', -1, 500, 0),
	ROW(UNANSWERED, TIMER, UNANSWERED, UNANSWERED, "PAUSED", HOLD, 'c', -1, -1, 0),
	ROW(UNANSWERED, NO_ANSWER, UNANSWERED, UNANSWERED, "PAUSED", HOLD, 'c', -1, 500, 0),
	ROW(UNANSWERED, WON, IDLE, IDLE, "DEGRADED", GO, 'c', -1, 500, 0),
	ROW(UNANSWERED, CLAIM_LOST, LEFT, LEFT, "FENCED", DROP, 'c', 5, -1, 0),

	ROW(STEADY, OFF, OFF_LAST, OFF_LAST, "PROTECTED", WAIT, '-', -1, 30000, FRAME_EPOCH_END),
	ROW(FLIGHT, OFF, OFF_DUE, OFF_DUE, "PROTECTED", WAIT, '-', -1, 30000, FRAME_EPOCH_END),
	ROW(OFF_DUE, ACK, OFF_LAST, OFF_LAST, "PROTECTED", WAIT, '-', -1, 30000, FRAME_EPOCH_END),
	ROW(OFF_LAST, ACK, DISMISS, DISMISS, "PROTECTED", WAIT, '-', -1, 5000, FRAME_DISMISS),
	ROW(DISMISS, DONE, OFF, OFF, "UNPROTECTED", GO, '-', -1, -1, FRAME_DISMISS),
	ROW(IDLE, OFF, OFF, OFF, "UNPROTECTED", GO, '-', -1, -1, 0),
	ROW(CONNECTING, OFF, OFF, OFF, "UNPROTECTED", GO, '-', -1, -1, 0),
	ROW(HELLO, OFF, OFF, OFF, "UNPROTECTED", GO, '-', -1, -1, FRAME_HELLO),
	ROW(HEART, OFF, OFF, OFF, "UNPROTECTED", GO, '-', -1, -1, FRAME_HELLO),
	ROW(SYNCING, OFF, OFF, OFF, "UNPROTECTED", GO, '-', -1, -1, 0),
	ROW(OFF, ON, IDLE, IDLE, "UNPROTECTED", GO, '-', -1, 0, 0),
	ROW(OFF_DUE, TIMER, OFF_DUE, CLAIM, "PROTECTED", HOLD, 'c', -1, -1, 0),
	ROW(OFF_LAST, TIMER, OFF_LAST, CLAIM, "PROTECTED", HOLD, 'c', -1, -1, 0),
	ROW(DISMISS, TIMER, DISMISS, CLAIM, "PROTECTED", HOLD, 'c', -1, -1, 0),
	ROW(OFF_DUE, LOST, CLAIM, CLAIM, "PROTECTED", HOLD, 'c', -1, -1, 0),
	ROW(OFF_LAST, LOST, CLAIM, CLAIM, "PROTECTED", HOLD, 'c', -1, -1, 0),
	ROW(DISMISS, LOST, CLAIM, CLAIM, "PROTECTED", HOLD, 'c', -1, -1, 0),
	ROW(OFF, STOP, REST, REST, "UNPROTECTED", OVER, '-', -1, 50, 0),
	ROW(OFF_DUE, STOP, STOP_DUE, STOP_DUE, "PROTECTED", HOLD, '-', -1, 30000, FRAME_EPOCH_END),
	ROW(OFF_LAST, STOP, STOP_DUE, STOP_DUE, "PROTECTED", HOLD, '-', -1, 30000, FRAME_EPOCH_END),
	ROW(DISMISS, STOP, DISMISS_STOP, DISMISS_STOP, "PROTECTED", HOLD, '-', -1, 5000, FRAME_DISMISS),
	ROW(DISMISS_STOP, DONE, REST, RECORD, "UNPROTECTED", OVER, 's', -1, -1, FRAME_DISMISS),
	ROW(DISMISS_STOP, TIMER, DISMISS_STOP, CLAIM_STOP, "PROTECTED", HOLD, 'c', -1, -1, 0),
	ROW(DISMISS_STOP, LOST, CLAIM_STOP, CLAIM_STOP, "PROTECTED", HOLD, 'c', -1, -1, 0),
	ROW(OFF_DUE, HOST_FAILED, LEFT, LEFT, "STOPPED", true, 'd', '-', 2, -1, 0),
	ROW(OFF_LAST, HOST_FAILED, LEFT, LEFT, "STOPPED", true, 'd', '-', 2, -1, 0),

	ROW(STEADY, STOP, STOP, STOP, "PROTECTED", HOLD, '-', -1, 30000, FRAME_EPOCH_END),
	ROW(FLIGHT, STOP, STOP_DUE, STOP_DUE, "PROTECTED", HOLD, '-', -1, 30000, FRAME_EPOCH_END),
	ROW(STOP_DUE, ACK, STOP, STOP, "PROTECTED", HOLD, '-', -1, 30000, FRAME_EPOCH_END),
	ROW(STOP, ACK, BYE, BYE, "PROTECTED", HOLD, '-', -1, 30000, FRAME_BYE),
	ROW(BYE, DONE, RECORD, RECORD, "PROTECTED", HOLD, 'r', -1, -1, FRAME_BYE),
	ROW(RECORD, RECORDED, LEFT, LEFT, "STOPPED", HOLD, '-', 0, -1, FRAME_BYE),
	ROW(STOP_DUE, TIMER, STOP_DUE, CLAIM_STOP, "PROTECTED", HOLD, 'c', -1, -1, 0),
	ROW(STOP, TIMER, STOP, CLAIM_STOP, "PROTECTED", HOLD, 'c', -1, -1, 0),
	ROW(BYE, TIMER, BYE, UNSURE, "PROTECTED", HOLD, 's', -1, -1, FRAME_BYE),
	ROW(BYE, LOST, UNSURE, UNSURE, "PROTECTED", HOLD, 's', -1, -1, 0),
	ROW(UNSURE, RECORDED, LEFT, LEFT, "STOPPED", HOLD, '-', 0, -1, 0),

	ROW(STOP_DUE, LOST, CLAIM_STOP, CLAIM_STOP, "PROTECTED", HOLD, 'c', -1, -1, 0),
	ROW(STOP, LOST, CLAIM_STOP, CLAIM_STOP, "PROTECTED", HOLD, 'c', -1, -1, 0),
	ROW(CLAIM, STOP, CLAIM_STOP, CLAIM_STOP, "PROTECTED", HOLD, '-', -1, -1, 0),
	ROW(UNANSWERED, STOP, LEFT, LEFT, "FENCED", DROP, '-', 5, -1, 0),
	ROW(CLAIM_STOP, WON, REST, RECORD, "DEGRADED", OVER, 's', -1, -1, 0),
	ROW(CLAIM_STOP, CLAIM_LOST, LEFT, LEFT, "FENCED", DROP, '-', 5, -1, 0),
	ROW(CLAIM_STOP, NO_ANSWER, CLAIM_STOP, CLAIM_STOP, "PAUSED", HOLD, '-', -1, 500, 0),
	ROW(CLAIM_STOP, TIMER, CLAIM_STOP, CLAIM_STOP, "PAUSED", HOLD, 'c', -1, -1, 0),

	ROW(IDLE, STOP, REST, REST, "UNPROTECTED", OVER, '-', -1, 50, 0),
	ROW(CONNECTING, STOP, REST, RECORD, "UNPROTECTED", OVER, 's', -1, -1, 0),
	ROW(HELLO, STOP, REST, RECORD, "UNPROTECTED", OVER, 's', -1, -1, FRAME_HELLO),
	ROW(HEART, STOP, REST, RECORD, "UNPROTECTED", OVER, 's', -1, -1, FRAME_HELLO),
	ROW(SYNCING, STOP, REST, RECORD, "SYNCING", OVER, 's', -1, -1, 0),
	ROW(REST, TIMER, REST, REST, "UNPROTECTED", OVER, '-', -1, 50, 0),
	ROW(REST, IMAGES, RECORD, RECORD, "UNPROTECTED", OVER, 's', -1, -1, 0),
	ROW(REST, IMAGES_LATE, LEFT, LEFT, "STOPPED", OVER, '-', 2, -1, 0),

	ROW(STEADY, HAND_OVER, ASKED, ASKED, "PROTECTED", WAIT, 'q', -1, 25, FRAME_EPOCH_END),
	ROW(FLIGHT, HAND_OVER, ASKED_FLIGHT, ASKED_FLIGHT, "PROTECTED", WAIT, 'q', -1, 30000, FRAME_EPOCH_END),
	ROW(ASKED, TIMER, ASKED_FLIGHT, ASKED_FLIGHT, "PROTECTED", WAIT, '-', -1, 30000, FRAME_EPOCH_END),
	ROW(ASKED, OUTPUT, ASKED, ASKED, "PROTECTED", WAIT, '-', -1, 25, FRAME_EPOCH_END),
	ROW(ASKED, DIFFER, ASKED, ASKED, "PROTECTED", WAIT, '-', -1, 0, FRAME_EPOCH_END),
	ROW(ASKED_FLIGHT, ACK, ASKED, ASKED, "PROTECTED", WAIT, '-', -1, 25, FRAME_EPOCH_END),
	ROW(ASKED_FLIGHT, TIMER, ASKED_FLIGHT, CLAIM, "PROTECTED", HOLD, '-', -1, -1, 0),
	ROW(ASKED, ANSWERED, HAND, HAND, "PROTECTED", HOLD, '-', -1, 30000, FRAME_EPOCH_END),
	ROW(ASKED_FLIGHT, ANSWERED, HAND_DUE, HAND_DUE, "PROTECTED", HOLD, '-', -1, 30000, FRAME_EPOCH_END),
	ROW(ASKED, NO_ANSWER, STEADY, STEADY, "PROTECTED", WAIT, '-', -1, 25, FRAME_EPOCH_END),
	ROW(ASKED_FLIGHT, NO_ANSWER, FLIGHT, FLIGHT, "PROTECTED", WAIT, '-', -1, 30000, FRAME_EPOCH_END),
	/* The claim is made when the storage has let go of the question. */
	ROW(ASKED, LOST, CLAIM, CLAIM, "PROTECTED", HOLD, '-', -1, -1, 0),
	ROW(ASKED_FLIGHT, LOST, CLAIM, CLAIM, "PROTECTED", HOLD, '-', -1, -1, 0),
	ROW(ASKED, STOP, STOP, STOP, "PROTECTED", HOLD, '-', -1, 30000, FRAME_EPOCH_END),
	ROW(ASKED_FLIGHT, STOP, STOP_DUE, STOP_DUE, "PROTECTED", HOLD, '-', -1, 30000, FRAME_EPOCH_END),
	ROW(HAND_DUE, ACK, HAND, HAND, "PROTECTED", HOLD, '-', -1, 30000, FRAME_EPOCH_END),
	ROW(HAND, ACK, HANDED, HANDED, "PROTECTED", HOLD, '-', -1, 5000, FRAME_HAND_OVER),
	ROW(HANDED, RUNS, LEFT, LEFT, "STOPPED", HOLD, '-', 3, -1, FRAME_GONE),
	ROW(HAND_DUE, TIMER, HAND_DUE, CLAIM, "PROTECTED", HOLD, 'c', -1, -1, 0),
	ROW(HAND, TIMER, HAND, CLAIM, "PROTECTED", HOLD, 'c', -1, -1, 0),
	ROW(HANDED, TIMER, HANDED, CLAIM_HANDED, "PROTECTED", HOLD, 'c', -1, -1, FRAME_HAND_OVER),
	ROW(HAND_DUE, LOST, CLAIM, CLAIM, "PROTECTED", HOLD, 'c', -1, -1, 0),
	ROW(HAND, LOST, CLAIM, CLAIM, "PROTECTED", HOLD, 'c', -1, -1, 0),
	ROW(HANDED, LOST, CLAIM_HANDED, CLAIM_HANDED, "PROTECTED", HOLD, 'c', -1, -1, 0),
	ROW(CLAIM_HANDED, WON, IDLE, IDLE, "DEGRADED", GO, '-', -1, 500, 0),
	ROW(CLAIM_HANDED, CLAIM_LOST, LEFT, LEFT, "STOPPED", DROP, '-', 3, -1, 0),
	ROW(CLAIM_HANDED, NO_ANSWER, HANDED_UNANSWERED, HANDED_UNANSWERED, "PAUSED", HOLD, '-', -1, 500, 0),
	ROW(HANDED_UNANSWERED, TIMER, HANDED_UNANSWERED, HANDED_UNANSWERED, "PAUSED", HOLD, 'c', -1, -1, 0),
	ROW(HANDED_UNANSWERED, NO_ANSWER, HANDED_UNANSWERED, HANDED_UNANSWERED, "PAUSED", HOLD, 'c', -1, 500, 0),
	ROW(HANDED_UNANSWERED, WON, IDLE, IDLE, "DEGRADED", GO, 'c', -1, 500, 0),
	ROW(HANDED_UNANSWERED, CLAIM_LOST, LEFT, LEFT, "STOPPED", DROP, 'c', 3, -1, 0),

	ROW(HAND_DUE, STOP, STOP_DUE, STOP_DUE, "PROTECTED", HOLD, '-', -1, 30000, FRAME_EPOCH_END),
	ROW(HAND, STOP, STOP, STOP, "PROTECTED", HOLD, '-', -1, 30000, FRAME_EPOCH_END),
	ROW(HANDED, STOP, HANDED_STOP, HANDED_STOP, "PROTECTED", HOLD, '-', -1, 5000, FRAME_HAND_OVER),
	ROW(HANDED_STOP, RUNS, LEFT, LEFT, "STOPPED", HOLD, '-', 3, -1, FRAME_GONE),
	ROW(HANDED_STOP, TIMER, HANDED_STOP, CLAIM_HANDED_STOP, "PROTECTED", HOLD, 'c', -1, -1, FRAME_HAND_OVER),
	ROW(HANDED_STOP, LOST, CLAIM_HANDED_STOP, CLAIM_HANDED_STOP, "PROTECTED", HOLD, 'c', -1, -1, 0),
	ROW(CLAIM_HANDED, STOP, CLAIM_HANDED_STOP, CLAIM_HANDED_STOP, "PROTECTED", HOLD, '-', -1, -1, 0),
	ROW(HANDED_UNANSWERED, STOP, LEFT, LEFT, "STOPPED", DROP, '-', 3, -1, 0),
	ROW(CLAIM_HANDED_STOP, WON, REST, RECORD, "DEGRADED", OVER, 's', -1, -1, 0),
	ROW(CLAIM_HANDED_STOP, CLAIM_LOST, LEFT, LEFT, "STOPPED", DROP, '-', 3, -1, 0),
	ROW(CLAIM_HANDED_STOP, NO_ANSWER, CLAIM_HANDED_STOP, CLAIM_HANDED_STOP, "PAUSED", HOLD, '-', -1, 500, 0),
	ROW(CLAIM_HANDED_STOP, TIMER, CLAIM_HANDED_STOP, CLAIM_HANDED_STOP, "PAUSED", HOLD, 'c', -1, -1, 0),
	ROW(CLAIM_HANDED_STOP, STOP, LEFT, LEFT, "STOPPED", DROP, '-', 3, -1, 0),

	/* The VM stands until the new one has read the rest. */
	ROW(STEADY, MOVE, MOVE, MOVE, "PROTECTED", HOLD, 'q', -1, 30000, FRAME_EPOCH_END),
	ROW(FLIGHT, MOVE, MOVE_DUE, MOVE_DUE, "PROTECTED", WAIT, 'q', -1, 30000, FRAME_EPOCH_END),
	ROW(MOVE_DUE, ACK, MOVE, MOVE, "PROTECTED", HOLD, '-', -1, 30000, FRAME_EPOCH_END),
	ROW(MOVE, ACK, MOVE_OLD, MOVE_OLD, "PROTECTED", HOLD, '-', -1, -1, FRAME_EPOCH_END),
	ROW(MOVE, NEW_ACK, MOVE_NEW, MOVE_NEW, "PROTECTED", WAIT, '-', -1, 30000, FRAME_EPOCH_END),
	ROW(MOVE_OLD, NEW_ACK, SWAP, SWAP, "PROTECTED", WAIT, 'c', -1, -1, FRAME_EPOCH_END),
	ROW(MOVE_NEW, ACK, SWAP, SWAP, "PROTECTED", WAIT, 'c', -1, -1, FRAME_EPOCH_END),
	ROW(SWAP, WON, STEADY, STEADY, "PROTECTED", WAIT, '-', -1, 25, FRAME_LEAVE),
	ROW(SWAP, CLAIM_LOST, LEFT, LEFT, "FENCED", DROP, '-', 5, -1, 0),
	ROW(SWAP, NO_ANSWER, SWAP, SWAP, "PROTECTED", WAIT, '-', -1, 500, FRAME_EPOCH_END),
	ROW(SWAP, TIMER, SWAP, SWAP, "PROTECTED", WAIT, 'c', -1, -1, FRAME_EPOCH_END),
	ROW(MOVE_DUE, TIMER, MOVE_DUE, CLAIM, "PROTECTED", HOLD, 'c', -1, -1, 0),
	ROW(MOVE, TIMER, MOVE, CLAIM, "PROTECTED", HOLD, 'c', -1, -1, 0),
	ROW(MOVE_NEW, TIMER, MOVE_NEW, CLAIM, "PROTECTED", HOLD, 'c', -1, -1, 0),
	ROW(MOVE_DUE, NEW_GONE, FLIGHT, FLIGHT, "PROTECTED", WAIT, '-', -1, 30000, FRAME_EPOCH_END),
	ROW(MOVE, NEW_GONE, FLIGHT, FLIGHT, "PROTECTED", WAIT, '-', -1, 30000, FRAME_EPOCH_END),
	ROW(MOVE_OLD, NEW_GONE, STEADY, STEADY, "PROTECTED", WAIT, '-', -1, 25, FRAME_EPOCH_END),
	ROW(MOVE, NEW_LOST, KEEP_FLIGHT, KEEP_FLIGHT, "PROTECTED", WAIT, '-', -1, 30000, FRAME_EPOCH_END),
	ROW(MOVE_NEW, NEW_LOST, KEEP_FLIGHT, KEEP_FLIGHT, "PROTECTED", WAIT, '-', -1, 30000, FRAME_EPOCH_END),
	ROW(MOVE_OLD, NEW_LOST, KEEP, KEEP, "PROTECTED", WAIT, 'c', -1, -1, FRAME_EPOCH_END),
	ROW(SWAP, NEW_LOST, KEEP, KEEP, "PROTECTED", WAIT, '-', -1, -1, FRAME_EPOCH_END),
	ROW(KEEP_FLIGHT, ACK, KEEP, KEEP, "PROTECTED", WAIT, 'c', -1, -1, FRAME_EPOCH_END),
	ROW(KEEP_FLIGHT, TIMER, KEEP_FLIGHT, CLAIM, "PROTECTED", HOLD, 'c', -1, -1, 0),
	ROW(KEEP_FLIGHT, LOST, CLAIM, CLAIM, "PROTECTED", HOLD, 'c', -1, -1, 0),
	ROW(KEEP_FLIGHT, STOP, KEEP_FLIGHT, KEEP_FLIGHT, "PROTECTED", HOLD, '-', -1, 30000, FRAME_EPOCH_END),
	ROW(KEEP_FLIGHT, HOST_FAILED, LEFT, LEFT, "STOPPED", true, 'd', '-', 2, -1, 0),
	ROW(KEEP, WON, STEADY, STEADY, "PROTECTED", WAIT, '-', -1, 25, FRAME_GENERATION),
	ROW(KEEP, CLAIM_LOST, LEFT, LEFT, "FENCED", DROP, '-', 5, -1, 0),
	ROW(KEEP, NO_ANSWER, KEEP, KEEP, "PROTECTED", WAIT, '-', -1, 500, FRAME_EPOCH_END),
	ROW(KEEP, TIMER, KEEP, KEEP, "PROTECTED", WAIT, 'c', -1, -1, FRAME_EPOCH_END),
	ROW(KEEP, LOST, CLAIM, CLAIM, "PROTECTED", HOLD, '-', -1, -1, 0),
	ROW(KEEP, STOP, KEEP, KEEP, "PROTECTED", HOLD, '-', -1, -1, FRAME_EPOCH_END),
	ROW(KEEP, HOST_FAILED, KEEP, KEEP, "PROTECTED", WAIT, '-', -1, -1, FRAME_EPOCH_END),
	ROW(MOVE_DUE, LOST, CLAIM, CLAIM, "PROTECTED", HOLD, 'c', -1, -1, 0),
	ROW(MOVE, LOST, CLAIM, CLAIM, "PROTECTED", HOLD, 'c', -1, -1, 0),
	ROW(MOVE_OLD, LOST, CLAIM, CLAIM, "PROTECTED", HOLD, 'c', -1, -1, 0),
	ROW(MOVE_NEW, LOST, CLAIM, CLAIM, "PROTECTED", HOLD, 'c', -1, -1, 0),
	ROW(SWAP, LOST, SWAP, SWAP, "PROTECTED", WAIT, '-', -1, -1, 0),
	ROW(MOVE_DUE, STOP, STOP_DUE, STOP_DUE, "PROTECTED", HOLD, '-', -1, 30000, FRAME_EPOCH_END),
	ROW(MOVE, STOP, MOVE, MOVE, "PROTECTED", HOLD, '-', -1, 30000, FRAME_EPOCH_END),
	ROW(MOVE_OLD, STOP, MOVE_OLD, MOVE_OLD, "PROTECTED", HOLD, '-', -1, -1, FRAME_EPOCH_END),
	ROW(MOVE_NEW, STOP, MOVE_NEW, MOVE_NEW, "PROTECTED", HOLD, '-', -1, 30000, FRAME_EPOCH_END),
	ROW(SWAP, STOP, SWAP, SWAP, "PROTECTED", HOLD, '-', -1, -1, FRAME_EPOCH_END),
	ROW(MOVE_DUE, HOST_FAILED, LEFT, LEFT, "STOPPED", true, 'd', '-', 2, -1, 0),
	ROW(MOVE, HOST_FAILED, LEFT, LEFT, "STOPPED", DROP, '-', 2, -1, 0),
	ROW(MOVE_OLD, HOST_FAILED, LEFT, LEFT, "STOPPED", DROP, '-', 2, -1, 0),
	ROW(MOVE_NEW, HOST_FAILED, LEFT, LEFT, "STOPPED", true, 'd', '-', 2, -1, 0),
	ROW(SWAP, HOST_FAILED, LEFT, LEFT, "STOPPED", true, 'd', '-', 2, -1, 0),

	ROW(STEADY, HOST_FAILED, LEFT, LEFT, "STOPPED", true, 'd', '-', 2, -1, 0),
	ROW(FLIGHT, HOST_FAILED, LEFT, LEFT, "STOPPED", true, 'd', '-', 2, -1, 0),
	ROW(ASKED, HOST_FAILED, LEFT, LEFT, "STOPPED", true, 'd', '-', 2, -1, 0),
	ROW(ASKED_FLIGHT, HOST_FAILED, LEFT, LEFT, "STOPPED", true, 'd', '-', 2, -1, 0),
	ROW(STOP_DUE, HOST_FAILED, LEFT, LEFT, "STOPPED", DROP, '-', 2, -1, 0),
	ROW(STOP, HOST_FAILED, LEFT, LEFT, "STOPPED", DROP, '-', 2, -1, 0),
	ROW(HAND_DUE, HOST_FAILED, LEFT, LEFT, "STOPPED", DROP, '-', 2, -1, 0),
	ROW(HAND, HOST_FAILED, LEFT, LEFT, "STOPPED", DROP, '-', 2, -1, 0),

	ROW(STOP_DUE, STOP, STOP_DUE, STOP_DUE, "PROTECTED", HOLD, '-', -1, 30000, FRAME_EPOCH_END),
	ROW(STOP, STOP, STOP, STOP, "PROTECTED", HOLD, '-', -1, 30000, FRAME_EPOCH_END),
	ROW(BYE, STOP, BYE, BYE, "PROTECTED", HOLD, '-', -1, 30000, FRAME_BYE),
	ROW(DISMISS_STOP, STOP, DISMISS_STOP, DISMISS_STOP, "PROTECTED", HOLD, '-', -1, 5000, FRAME_DISMISS),
	ROW(HANDED_STOP, STOP, HANDED_STOP, HANDED_STOP, "PROTECTED", HOLD, '-', -1, 5000, FRAME_HAND_OVER),
	ROW(CLAIM_STOP, STOP, CLAIM_STOP, CLAIM_STOP, "PROTECTED", HOLD, '-', -1, -1, 0),
	ROW(REST, STOP, REST, REST, "UNPROTECTED", OVER, '-', -1, 50, 0),
	ROW(RECORD, STOP, RECORD, RECORD, "PROTECTED", HOLD, '-', -1, -1, FRAME_BYE),
	ROW(UNSURE, STOP, UNSURE, UNSURE, "PROTECTED", HOLD, '-', -1, -1, 0),
	/* clang-format on */
};

#define ROWS (sizeof(list) / sizeof(list[0]))

static const struct expected *find(unsigned state, unsigned event)
{
	for (unsigned i = 0; i < ROWS; i++)
		if (list[i].state == state && list[i].event == event)
			return &list[i];
	return NULL;
}

/* --- each row --------------------------------------------------------------------------------- */

/* It was taken since, and the next step, or the state now, is where it leads. */
static bool was_taken(const struct fsm *f, uint64_t since, const struct expected *x)
{
	for (uint64_t i = since; i < f->steps; i++) {
		unsigned to = i + 1 < f->steps ? f->trace[(i + 1) % FSM_TRACE].state : f->state;

		if (f->trace[i % FSM_TRACE].state == x->state &&
		    f->trace[i % FSM_TRACE].event == x->event)
			return to == x->next;
	}
	return false;
}

static void check_question(struct rig *r, char asks, unsigned asked)
{
	struct arbiter_question *q = &r->mock.question;

	if (asks == '-') {
		assert_int_equal(r->mock.asked, asked);
		return;
	}
	arbiter_was_asked(r, asked + 1);
	assert_int_equal(q->what, asks == 'q'	? ARBITER_READ
				  : asks == 'c' ? ARBITER_CLAIM
						: ARBITER_END);
	if (asks == 'c')
		assert_int_equal(q->why, ARBITER_GO_ON);
	if (asks == 's')
		assert_int_equal(q->record.end, ARBITER_STOPPED);
	if (asks == 'r')
		assert_int_equal(q->record.end, ARBITER_RELEASED);
}

/* To be asked again first. */
static void prepare(struct rig *r, const struct expected *x)
{
	rig_reach(r, x->state);
	if (x->event == PRI_EV_TIMER &&
	    (x->state == PRI_CLAIM_STOP || x->state == PRI_CLAIM_HANDED_STOP ||
	     x->state == PRI_SWAP || x->state == PRI_KEEP))
		rig_cause(r, PRI_EV_NO_ANSWER);
}

static void take_row(struct rig *r, const struct expected *x)
{
	uint64_t since;
	unsigned asked;
	int64_t left;

	prepare(r, x);
	since = r->pri.fsm.steps;
	asked = r->mock.asked;
	rig_cause(r, x->event);
	assert_true(was_taken(&r->pri.fsm, since, x));
	rig_expect(r, x->then, x->word, x->runs, x->out);
	check_question(r, x->asks, asked);
	assert_int_equal(r->exits, x->code >= 0);
	assert_int_equal(r->code, x->code);
	left = time_left(&r->pri.timer_op);
	/* What is set is let be in the end. */
	if (x->then != PRI_LEFT)
		assert_int_equal(left, x->ms < 0 ? -1 : x->ms * (int64_t)MS);
	if (x->hears)
		loop_until(&r->loop, (peer_reads(r), r->last == x->hears));
}

static void each_row(void **state)
{
	assert_int_equal(primary_desc.nrows, ROWS);
	for (unsigned i = 0; i < ROWS; i++) {
		print_message("%s, %s\n", primary_desc.states[list[i].state],
			      primary_desc.events[list[i].event]);
		assert_int_equal(rig_setup(state), 0);
		take_row(*state, &list[i]);
		assert_int_equal(rig_teardown(state), 0);
	}
}

/* --- what has no row -------------------------------------------------------------------------- */

/* The process ends; what it says before. */
static void post_in_child(struct rig *r, unsigned event, char *said, size_t cap)
{
	struct rlimit none = {0, 0};
	size_t n = 0;
	ssize_t got;
	int fds[2], status;
	pid_t pid;

	assert_int_equal(pipe(fds), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (!pid) {
		setrlimit(RLIMIT_CORE, &none);
		dup2(fds[1], STDERR_FILENO);
		logged_to_stderr();
		signal(SIGABRT, SIG_DFL);
		fsm_post(&r->pri.fsm, event);
		_exit(0);
	}
	close(fds[1]);
	while ((got = read(fds[0], said + n, cap - 1 - n)) > 0)
		n += (size_t)got;
	said[n] = 0;
	close(fds[0]);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
}

static void own_event_without_row(struct rig *r, unsigned s, unsigned event)
{
	char said[8192], want[128];

	post_in_child(r, event, said, sizeof(said));
	snprintf(want, sizeof(want), "error: primary: in %s came '%s', which has no row\n",
		 primary_desc.states[s], primary_desc.events[event]);
	assert_non_null(strstr(said, want));
	assert_non_null(strstr(said, "primary: step 0: PRI_IDLE, timer\n"));
}

static void own_events_without_row(void **state)
{
	unsigned tried = 0;

	for (unsigned s = 0; s < PRI_LEFT; s++) {
		assert_int_equal(rig_setup(state), 0);
		rig_reach(*state, s);
		for (unsigned e = 0; e < PRI_EV_WELCOME; e++) {
			if (find(s, e))
				continue;
			own_event_without_row(*state, s, e);
			tried++;
		}
		assert_int_equal(rig_teardown(state), 0);
	}
	assert_int_equal(tried + ROWS - 19, PRI_LEFT * PRI_EV_WELCOME); /* 19: of messages */
}

static bool has_link(unsigned s)
{
	return s >= PRI_HELLO && s <= PRI_HANDED_STOP;
}

/* The link is dropped, as if it had been lost. */
static void stray_message(struct rig *r, unsigned s, enum frame_type type)
{
	const struct expected *lost = find(s, PRI_EV_LOST);
	uint64_t steps;

	print_message("%s, %s\n", primary_desc.states[s], stream_frame_name(type));
	/* The heartbeat link is connected at once: what comes with WELCOME is before that. */
	rig_reach(r, s == PRI_HEART ? PRI_HELLO : s);
	peer_reads(r);
	steps = r->pri.fsm.steps + (s == PRI_HEART);
	if (s == PRI_HEART)
		peer_says(r, FRAME_WELCOME, 0);
	/* An acknowledgement of what there is no epoch in flight of. */
	peer_says(r, type, type == FRAME_ACK ? r->ended : 0);
	loop_until(&r->loop, r->pri.fsm.steps > steps);
	assert_int_equal(r->pri.fsm.trace[steps % FSM_TRACE].event, PRI_EV_LOST);
	assert_non_null(lost);
	assert_int_equal(r->pri.fsm.state, lost->then);
	assert_string_equal(r->pri.link->why, "message out of order");
}

static void messages_without_row(void **state)
{
	static const struct {
		unsigned event;
		enum frame_type type;
	} messages[] = {{PRI_EV_WELCOME, FRAME_WELCOME},
			{PRI_EV_ACK, FRAME_ACK},
			{PRI_EV_DONE, FRAME_DONE},
			{PRI_EV_COMPARED, FRAME_DIFFER},
			{PRI_EV_RUNS, FRAME_RUNS}};

	for (unsigned s = 0; s < PRI_LEFT; s++)
		for (unsigned m = 0; m < 5 && has_link(s); m++) {
			if (find(s, messages[m].event))
				continue;
			assert_int_equal(rig_setup(state), 0);
			stray_message(*state, s, messages[m].type);
			assert_int_equal(rig_teardown(state), 0);
		}
}

/* They cannot come: what is posted all the same changes nothing. */
static void messages_without_link(void **state)
{
	for (unsigned s = 0; s < PRI_LEFT; s++) {
		struct rig *r;

		if (has_link(s) || s == PRI_CONNECTING)
			continue;
		assert_int_equal(rig_setup(state), 0);
		r = *state;
		rig_reach(r, s);
		for (unsigned e = PRI_EV_WELCOME; e < PRI_EV_MAX; e++)
			primary_post(&r->pri, e);
		assert_int_equal(r->pri.fsm.state, s);
		assert_int_equal(rig_teardown(state), 0);
	}
}

static void the_end_is_the_end(void **state)
{
	struct rig *r = *state;
	uint64_t steps;

	rig_reach(r, PRI_LEFT);
	steps = r->pri.fsm.steps;
	for (unsigned e = 0; e < PRI_EV_MAX; e++)
		primary_post(&r->pri, e);
	assert_int_equal(r->pri.fsm.steps, steps);
	rig_expect(r, PRI_LEFT, "STOPPED", false, 'h');
	assert_int_equal(r->exits, 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(each_row),
		cmocka_unit_test(own_events_without_row),
		cmocka_unit_test(messages_without_row),
		cmocka_unit_test(messages_without_link),
		RIG_TEST(the_end_is_the_end),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

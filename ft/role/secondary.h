/*
 * The secondary role: listen, become the primary's machine, take epochs, and take over when the
 * primary is lost and the arbiter agrees. The phases and what moves them:
 *
 *   LISTEN -- HELLO --> STANDBY (first sync, then epochs) -- primary lost --> CLAIM
 *   CLAIM -- won --> TAKEN: this side runs the VM       lost, or nothing committed --> LISTEN
 *   STANDBY -- BYE --> DRAIN -- all of it is in the images: DONE --> LISTEN
 *   STANDBY -- HAND_OVER --> ACCEPT -- claim won: RUNS --> HELD -- GONE --> TAKEN
 *   HELD -- primary lost --> CONFIRM -- second claim won --> TAKEN       lost --> LISTEN
 *
 * Owner: the loop.
 */
#ifndef FT_SECONDARY_H
#define FT_SECONDARY_H

#include <stdbool.h>
#include <stdint.h>

#include "ft/epoch/diskapply.h"
#include "ft/common/ft.h"
#include "ft/common/heart.h"
#include "ft/epoch/stage.h"
#include "ft/common/wire.h"
#include "vmm/wire/stream.h"
#include "vmm/vm/vm.h"

#define SECONDARY_MAX_PENDING 4 /* connections that have not said yet what they are */

enum secondary_phase {
	SEC_LISTEN,
	SEC_STANDBY,
	SEC_DRAIN,   /* stopped in order: what waits for the images goes there */
	SEC_CLAIM,   /* the primary is lost */
	SEC_ACCEPT,  /* the primary hands over: a claim that it knows */
	SEC_HELD,    /* the VM runs, output held, until the primary is gone */
	SEC_CONFIRM, /* it did not say so: the VM stands, and is claimed once more */
	SEC_TAKEN,
};

struct secondary;

struct pending_conn {
	struct secondary *owner;
	struct stream stream;
	struct loop_op read_op, timer_op;
	bool used;
	uint64_t since_ns;
};

struct secondary {
	struct ft *ft;
	struct vm *vm; /* the caller's; built at HELLO */
	bool has_vm;
	enum secondary_phase phase;
	int listen_fd;
	struct loop_op listen_op, main_op, again_op, heart_op, claim_op, announce_op;
	struct pending_conn pending[SECONDARY_MAX_PENDING];
	struct stream main;
	struct heart heart;
	bool has_main, verify;
	struct stage stage;
	struct diskapply disks;
	bool reading_stopped; /* the images are slower than the stream */
	char last_refused[480];
	unsigned announces;
	uint64_t lost_ns;
	uint64_t begun_ns, committed_ns; /* when the open, the committed epoch began to arrive */
	/* The VM runs here now. */
	void (*taken_over)(void *arg);
	void *arg;
};

int secondary_start(struct secondary *s, struct ft *ft, struct vm *vm, struct err *e);
/*
 * Ends links; a VM that was taken over stays the caller's. -EIO: the images did not take what was
 * acknowledged.
 */
int secondary_stop(struct secondary *s);

/* ft/role/takeover.c */
void takeover_claim(struct secondary *s);
void takeover_announce(struct secondary *s);
void takeover_accept(struct secondary *s, uint64_t token); /* a hand-over */
void takeover_gone(struct secondary *s);		   /* the old side is: go on */
void takeover_alone(struct secondary *s);		   /* the link broke before that */
/* ft/role/secondary.c, for ft/role/takeover.c */
void secondary_drain(struct secondary *s);
void secondary_close_links(struct secondary *s);
int secondary_reply(struct secondary *s, enum frame_type type, const char *text);
void secondary_lost(struct secondary *s, const char *why);
void secondary_listen_again(struct secondary *s, const char *why);

#endif

/*
 * A secondary around a VM without CPUs, an arbiter that does as told, images that take their writes
 * when the test says so.
 *
 * Include with it: cmocka.h before; libfakeprimary.h, libtime.h, liblog.h, libmockarbiter.h,
 * tests/fuzz/vm.h. It stands in for what WRAP_libsecondary in the Makefile lists, too.
 */
#ifndef TESTS_LIBSECONDARY_H
#define TESTS_LIBSECONDARY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "ft/role/secondary.h"
#include "tests/unit/libfakeprimary.h"
#include "tests/unit/libmockarbiter.h"

#define LAB_IMAGE (1u << 20)
#define LAB_OLD	  0xee /* in the images, from before */
/* By index of machine.devs: */
enum { LAB_MIRROR, LAB_NIC = 4, LAB_SHARED };

struct lab {
	struct loop loop;
	struct vm vm;
	struct machine machine; /* the primary's */
	struct config cfg;	/* the secondary's, as are all below */
	struct ft ft;
	struct secondary sec;
	struct mock_arbiter arbiter; /* at generation 1; won, unless told otherwise */
	char folder[64], image[96], shared[96];
	unsigned nwords;       /* changes of ft_word() */
	char steps[512];       /* of ft/common/steps.h that were reached */
	unsigned exits, taken; /* calls of on_exit() and taken_over() */
	int exit_code;	       /* the last one */
	char leaving; /* the output buffer when taken_over() was called: h held, p passing */
	bool behind;  /* the images then */
	/* Of the images: */
	bool images_wait;	/* writes of the log stay where they are, */
	struct disk_req *write; /* this one, */
	/* until the test says, or the program has waited so long in the middle of something. */
	uint64_t answers_after_ns, waited_ns;
	void (*instead_of_answer)(void); /* called when it would be answered; may be NULL */
	void (*while_building)(void);	 /* called while a VM is built; may be NULL */
	bool long_commits;		 /* half of one uses a turn of the loop up */
	/* What fails. */
	int stage_init, side_identity, heart_start, diskapply_flush, vsock_host_listen;
	struct wire_side welcome; /* what the secondary has said */
	int fallocate_errno;
	int mark_errno;			    /* an image cannot say what it is, */
	bool marks_wait;		    /* or not before lab_marks_go() */
	unsigned marks;			    /* how many were asked for */
	char mark[100];			    /* the last one that was written */
	char marking[100];		    /* that is asked for */
	int options_set_on, options_ms;	    /* the last socket */
	uint64_t reply_ns;		    /* the last reply had so long */
	unsigned asked_guests, vsocks;	    /* to announce; made */
	unsigned splits, roll_backs, joins; /* of memory, which stays one here */
	/* The primary: */
	struct end main, heart, mirror;
	int lock;		 /* of the shared image, or -1, */
	bool keeps_lock;	 /* for longer than it takes to see it */
	struct wire_hello hello; /* what it is to say */
	uint64_t session;
	uint64_t disk_ops, pages; /* in the open epoch */
	uint64_t paused;	  /* 1: the user has the VM paused */
	uint64_t runs;		  /* 1: the guest is to run at the secondary, too */
	uint64_t apart;		  /* 1: that one was none any more */
};

extern struct lab lab;

/* For cmocka: a secondary that listens. */
int lab_setup(void **state);
int lab_teardown(void **state);
/* No image that both hosts write: before there is a primary. Beside one there is no twin. */
void lab_without_shared(void);

/* Turns of the loop until that is true; a failure after 20 s. */
#define lab_until(cond)                                                                            \
	do {                                                                                       \
		uint64_t began_ = 0;                                                               \
		while (!(cond)) {                                                                  \
			assert_true(real_time_left(&began_));                                      \
			lab_turn();                                                                \
		}                                                                                  \
	} while (0)
void lab_turn(void);
/* All that is on its way, and is not held, has arrived. */
void lab_settle(void);
void lab_pass(uint64_t ns);
/* A mark that waits is written. */
void lab_marks_go(void);

/* --- places ----------------------------------------------------------------------------------- */

/*
 * Bring it there. A write of the sync waits for the image in all states if lab.images_wait is set
 * before; SEC_DRAIN, SEC_DRAIN_ALONE, SEC_DISMISSED and SEC_YIELD need that.
 */
void lab_reach(enum secondary_state state);
const char *lab_state(void);
/* Was this pair a step since the lab was set up? */
bool lab_stepped(unsigned state, unsigned event);
/* The arbiter holds its answers back, or answers with that code from now on. */
void lab_arbiter_waits(void);
/* Until it has a question that it holds back. */
void lab_await_question(void);
void lab_arbiter_answers(int code);

/* --- what came of it -------------------------------------------------------------------------- */

/* What waits for the image goes there. */
void lab_images_go(void);
/* Only the one that waits; what it is. */
enum disk_op lab_image_step(void);
/* Bytes that wait for the images, as the secondary counts them. */
uint64_t *lab_queue(void);
/* The write that waits fails. */
void lab_image_fails(void);
/* It listens again and says this; nothing is left of the VM, and nothing left it. */
void lab_check_gave_up(const char *note);
/* Exactly the epochs 1 to n are in memory and state; in the image. */
void lab_check_vm(uint64_t n);
void lab_check_image(uint64_t n);
uint8_t lab_image_byte(const char *path, uint64_t off);
/* The guest puts a byte out. */
void lab_print(void);
/* A write of the guest to the image; done is set when it is there. */
struct lab_write {
	struct disk_req req;
	uint8_t *buf;
	bool done;
	int res;
};
void lab_guest_writes(struct lab_write *w, unsigned dev, uint64_t off, uint8_t byte);
bool lab_end_is_told(void);

#define assert_state(name) assert_string_equal(lab_state(), "SEC_" #name)
#define assert_word(word)  assert_string_equal(ft_word(&lab.ft), word)

#endif

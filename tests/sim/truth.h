/*
 * What really happened, seen from outside of the program, and what must be true of it. Each write
 * that a guest was told is on its disk makes a node, child of the one that it knew before; two
 * copies of one VM make two branches. What leaves to the outside names the node that its guest has.
 *
 * P1: whoever says anything outside has all that was said outside before: no branch, nothing lost;
 *     what a protected VM says was acknowledged by the other side before, or put out there, too.
 * P2: at no time may two sides let output pass.
 * An epoch is committed as it was sealed: memory and registers are equal.
 * P3, P8: the image that a guest starts from has all that was said outside to be on it.
 */
#ifndef TESTS_SIM_TRUTH_H
#define TESTS_SIM_TRUTH_H

#include <stdbool.h>
#include <stdint.h>

#include "ft/common/steps.h"
#include "tests/sim/proc.h"

#define BLOCKS	    8u
#define GUEST_BLOCK 4096u
#define IMAGE_BYTES (BLOCKS * GUEST_BLOCK)

/* Before all else: a new image, of which nothing was said. */
void truth_begin(void);

/*
 * A write is about to be asked for: its value. No other has it, but the same write of the guest's
 * twin: mark is not 0 then, and what both draw from.
 */
uint64_t truth_value(unsigned block, uint32_t node, uint64_t mark);
/* It is done and flushed; the new node. */
uint32_t truth_acked(uint32_t node, unsigned block, uint64_t value);
/* A guest starts from an image with this value in a sector of that block. */
void truth_holds(unsigned block, uint64_t value);
/* A guest started from an image with these values; its first node. */
uint32_t truth_booted(const uint64_t values[BLOCKS], const uint8_t torn[BLOCKS]);
/* Has that image all that was said to be on it? */
bool truth_is_in(const uint8_t *image);
/* A line left p; its clock goes on from line to line while boot is the same. 0: it says none. */
void truth_said(struct proc *p, uint32_t node, uint64_t boot, uint64_t clock);
/* That line was put out by a guest which runs beside p's; nobody is to hear it from there. */
void truth_twin_says(const struct proc *p, uint32_t node, uint64_t boot, uint64_t clock);
/* p is there: what it sealed, acknowledged, committed. */
void truth_step(struct proc *p, enum step s);
/* The other side spoke for the guest since then: nobody will hear what p does until it knows. */
bool truth_is_over(const struct proc *p, uint64_t since);
/* The guest runs there. */
void truth_runs(struct proc *p);

/* So many lines have left. */
uint64_t truth_lines(void);

/* Something that must not be. Does not return. */
void violated(const char *fmt, ...) __attribute__((format(printf, 1, 2), noreturn));

#endif

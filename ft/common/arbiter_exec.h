/*
 * The exec back end: a program keeps the record of each VM, a text.
 *
 *   PROGRAM read VM           prints it, or nothing when it was never set. Exit code 0.
 *   PROGRAM swap VM OLD NEW   in one step: if it is OLD (empty: never set) it is NEW from now on,
 *                             also after a power cut. 0: done. 10: it is another one, and stays.
 *
 * Any other exit code is no answer, and the first line of standard error says why. A program that
 * takes longer than ARBITER_CELL_MS is killed; what it may have done counts.
 */
#ifndef FT_ARBITER_EXEC_H
#define FT_ARBITER_EXEC_H

#include "ft/common/arbiter_ops.h"

/* Runs nothing yet. The caller's to close until an arbiter has it. */
int arbiter_exec_open(struct arbiter_backend *ret, const char *program, const char *vm,
		      struct err *e);

#endif

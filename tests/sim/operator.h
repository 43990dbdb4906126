/*
 * Who starts the sides, stops them, hands the VM over. He starts without force what he likes, the
 * wrong side, too; with --claim only a side whose image really has everything, while no other runs.
 */
#ifndef TESTS_SIM_OPERATOR_H
#define TESTS_SIM_OPERATOR_H

#include <stdbool.h>

#include "tests/sim/proc.h"

void operator_begin(void);
/* That process is no more, by itself or not. */
void operator_hears_end(const struct proc *p);
/* A whim, soon, as p is at a step. */
void operator_strike(const struct proc *p);
/* From here on he only wants it protected again. */
void operator_settle(void);
/* Both sides say PROTECTED. */
bool operator_content(void *arg);
/* Some side has the VM, or is about to: nobody has to boot it anew. */
bool operator_has_vm(void);
/* How often did he boot it? */
uint64_t operator_starts(void);

#endif

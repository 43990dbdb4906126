/*
 * The other kind of history: a VM without fault tolerance on storage that both hosts open, which is
 * moved to and fro. Whoever looks after it does what docs/migration.md tells him to: when nobody
 * knows who runs the VM he finds out, and says so.
 */
#ifndef TESTS_SIM_MOVER_H
#define TESTS_SIM_MOVER_H

#include <stdbool.h>

#define MOVER_IMAGE "/sim/shared-disk/image"

struct proc;
void mover_begin(void);
/* That process is no more. */
void mover_hears_end(const struct proc *p);
/* A whim, soon. */
void mover_strike(void);
/* From here on nobody asks for a migration, a pause, a stop. */
void mover_settle(void);
/* The VM runs at one host, and the other one waits for it. */
bool mover_content(void *arg);
/* One more migration, on which nothing falls; and has it arrived? */
void mover_last_move(void);
bool mover_has_arrived(void *arg);

#endif

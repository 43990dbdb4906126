/*
 * Mappings and memory files, which are the real kernel's. Those of a process go with it;
 * what many ask for is kept, as the
 * memory of guests, of which a page that is all zeros is a hole. Where the guest's memory has two
 * views, or lacks pages that are on their way, it is made anew, and the kernel says what is a hole.
 */
#ifndef TESTS_SIM_MEMORY_H
#define TESTS_SIM_MEMORY_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

struct proc;

void memory_init(void);
/* At its end, or at that of the history. */
void memory_leave(struct proc *p);

/* False: that is no memory file of a guest; *ret: as the call would. */
bool memory_close(int number);
bool memory_truncate(int number, off_t len, int *ret);
bool memory_seal(int number);
bool memory_seek(int number, off_t off, int whence, off_t *ret);

#endif

/*
 * A console's file is put aside, as FILE.1 in place of the one before, when it has grown to a
 * limit, and begun anew: a guest that prints for ever takes twice the limit at most. On a thread of
 * its own, as storage may hang. If something else has put it aside, it is only begun anew.
 */
#ifndef VMM_CONSOLE_FILE_H
#define VMM_CONSOLE_FILE_H

#include "vmm/base/loop.h"

struct console_file;

/*
 * Loop thread. path: absolute; fd: what is open of it. told(arg, fd) once, from the loop: the new
 * file, the caller's, or a negative errno. NULL: no memory, or no thread.
 */
struct console_file *console_file_next(struct loop *l, const char *path, int fd,
				       void (*told)(void *arg, int fd), void *arg);
/* told() will not be called. */
void console_file_forget(struct console_file *f);

#endif

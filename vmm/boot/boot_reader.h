/*
 * Reads kernel and initrd for a reboot in a thread of its own: slow storage must not hold up the
 * loop, or the peer would take the silence for a death.
 */
#ifndef VMM_BOOT_READER_H
#define VMM_BOOT_READER_H

#include "vmm/boot/boot_file.h"
#include "vmm/base/loop.h"

struct boot_reader;

/* On the loop. code 0: the files, the callee's to free. Negative errno: e says why. */
typedef void boot_reader_fn(void *arg, int code, struct boot_files *files, const struct err *e);

/*
 * fn is called once, after 30 s (-ETIMEDOUT) at the latest, unless boot_reader_drop() comes first.
 * The paths must live until the files are freed. The reader is gone when fn is called. NULL: e says
 * why. Loop thread.
 */
struct boot_reader *boot_reader_start(struct loop *l, const char *kernel, const char *initrd,
				      boot_reader_fn *fn, void *arg, struct err *e);
void boot_reader_drop(struct boot_reader *b); /* NULL is fine */

#endif

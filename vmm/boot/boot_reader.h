/*
 * Reads kernel and initrd for a reboot in a thread of its own: slow storage must not hold up the
 * loop, or the peer would take the silence for a death.
 */
#ifndef VMM_BOOT_READER_H
#define VMM_BOOT_READER_H

#include "vmm/boot/boot_file.h"
#include "vmm/base/loop.h"

struct boot_reader;

/*
 * On the loop. code 0: the files, the callee's to free. Negative errno: e says why. -ETIMEDOUT: the
 * storage has not answered yet; the reader is still at it. After any other it is gone.
 */
typedef void boot_reader_fn(void *arg, int code, struct boot_files *files, const struct err *e);

struct boot_read {
	const char *kernel, *initrd; /* paths; must live until the files are freed */
	uint64_t deadline_ns;
	boot_reader_fn *fn;
	void *arg;
};

/*
 * fn is called unless boot_reader_drop() comes first, and always within the deadline. *ret is NULL
 * or a reader that is at it: no second one is started, fn is told of that one. Loop thread.
 */
int boot_reader_start(struct boot_reader **ret, struct loop *l, const struct boot_read *what,
		      struct err *e);
void boot_reader_drop(struct boot_reader *b); /* NULL is fine */

#endif

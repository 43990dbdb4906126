/*
 * A lock between processes of one user, for a moment: a file of its own that no other user can
 * open, so that none can hold it. (Whoever may read a folder may flock() it, and keep it.) The file
 * is there only while the lock is held. Any thread.
 */
#ifndef VMM_LOCKFILE_H
#define VMM_LOCKFILE_H

#include <sys/types.h>

#include "vmm/base/err.h"

/*
 * owner: of the folder, whose files are trusted here beside one's own. A descriptor for
 * lockfile_drop(); -EBUSY when another process holds it for wait_ms, -EPERM when the file is a
 * stranger's, or open to others.
 */
int lockfile_take(const char *path, uid_t owner, unsigned wait_ms, struct err *e);
void lockfile_drop(int fd, const char *path);

#endif

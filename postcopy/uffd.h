/*
 * Userfaultfd over guest memory: what is absent waits, whoever touches it, until it is filled.
 * Any thread. Results below 0 are errnos.
 */
#ifndef POSTCOPY_UFFD_H
#define POSTCOPY_UFFD_H

#include <stdint.h>

#include "vmm/base/err.h"
#include "vmm/machine/mem.h"

struct uffd_fault {
	uint64_t page;
	uint32_t tid;
};

/* A descriptor that reports the kernel's faults, too, as vCPUs make them; or *e says what to do. */
int uffd_open(struct err *e);
int uffd_register(int fd, const struct mem *m);
void uffd_unregister(int fd, const struct mem *m);
/* Faults that nobody has read yet: how many, at most n; 0: none. */
int uffd_read(int fd, const struct mem *m, struct uffd_fault *ret, unsigned n);
/*
 * Fill n pages from buf, or with zeros; who waits goes on. What has memory already stays as it is,
 * and who waits for it goes on, too: that a page is there does not say that the kernel has woken
 * anybody. *exist counts those.
 */
int uffd_copy(int fd, const struct mem *m, uint64_t page, const void *buf, uint64_t n,
	      uint64_t *exist);
int uffd_zero(int fd, const struct mem *m, uint64_t page, uint64_t *exist);
void uffd_wake(int fd, const struct mem *m, uint64_t page, uint64_t n);

#endif

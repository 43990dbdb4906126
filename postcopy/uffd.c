#define _GNU_SOURCE
#include "postcopy/uffd.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "vmm/base/loop.h"

#define AGAIN_NS    1000000000ull /* of -EAGAIN without an end */
#define READ_FAULTS 16

static int make(void)
{
	int dev = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC), fd;

	if (dev >= 0) {
		fd = ioctl(dev, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
		close(dev);
		if (fd >= 0)
			return fd;
	}
	/* Without UFFD_USER_MODE_ONLY, which would leave out what KVM touches. */
	return (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
}

int uffd_open(struct err *e)
{
	struct uffdio_api api = {.api = UFFD_API,
				 .features = UFFD_FEATURE_THREAD_ID | UFFD_FEATURE_MISSING_SHMEM};
	int fd = make(), r;

	if (fd < 0 && errno == ENOSYS)
		return err_set(e, -ENOSYS, "postcopy: this kernel has no userfaultfd");
	if (fd < 0)
		return err_sys(e, "postcopy needs userfaultfd: give access to /dev/userfaultfd, or "
				  "CAP_SYS_PTRACE, or sysctl vm.unprivileged_userfaultfd=1");
	if (!ioctl(fd, UFFDIO_API, &api))
		return fd;
	r = err_sys(e, "postcopy: userfaultfd of this kernel cannot do shared memory");
	close(fd);
	return r;
}

static uint64_t address(const struct mem *m, uint64_t page)
{
	return (uint64_t)(uintptr_t)mem_page(m, page);
}

int uffd_register(int fd, const struct mem *m)
{
	const uint64_t need =
		1ull << _UFFDIO_COPY | 1ull << _UFFDIO_ZEROPAGE | 1ull << _UFFDIO_WAKE;
	struct uffdio_register r = {.range = {address(m, 0), m->bytes},
				    .mode = UFFDIO_REGISTER_MODE_MISSING};

	if (ioctl(fd, UFFDIO_REGISTER, &r))
		return -errno;
	if ((r.ioctls & need) == need)
		return 0;
	uffd_unregister(fd, m);
	return -EOPNOTSUPP;
}

void uffd_unregister(int fd, const struct mem *m)
{
	struct uffdio_range r = {address(m, 0), m->bytes};

	ioctl(fd, UFFDIO_UNREGISTER, &r);
	madvise(m->base, m->bytes, MADV_HUGEPAGE); /* not while pages are missing: pager_start() */
}

int uffd_read(int fd, const struct mem *m, struct uffd_fault *ret, unsigned n)
{
	struct uffd_msg msg[READ_FAULTS];
	ssize_t got;
	int count = 0;

	n = n < READ_FAULTS ? n : READ_FAULTS;
	got = read(fd, msg, n * sizeof(msg[0]));
	if (got < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	for (unsigned i = 0; i < got / sizeof(msg[0]); i++) {
		uint64_t at = msg[i].arg.pagefault.address - address(m, 0);

		if (msg[i].event != UFFD_EVENT_PAGEFAULT || at >= m->bytes)
			continue;
		ret[count++] =
			(struct uffd_fault){at >> MEM_PAGE_SHIFT, msg[i].arg.pagefault.feat.ptid};
	}
	return count;
}

void uffd_wake(int fd, const struct mem *m, uint64_t page, uint64_t n)
{
	struct uffdio_range r = {address(m, page), n << MEM_PAGE_SHIFT};

	ioctl(fd, UFFDIO_WAKE, &r);
}

/*
 * What a call has done that has not done all: bytes, or what is wrong, by kernel in errno or in the
 * result. -EAGAIN: mappings are being changed; again.
 */
static int64_t progress(int64_t done, uint64_t *until_ns)
{
	uint64_t now = loop_now_ns();

	if (done > 0)
		return done;
	if (done < 0)
		errno = (int)-done;
	if (errno != EAGAIN)
		return -errno;
	if (!*until_ns)
		*until_ns = now + AGAIN_NS;
	sched_yield();
	return now < *until_ns ? 0 : -EAGAIN;
}

int uffd_copy(int fd, const struct mem *m, uint64_t page, const void *buf, uint64_t n,
	      uint64_t *exist)
{
	uint64_t done = 0, bytes = n << MEM_PAGE_SHIFT, until_ns = 0;

	while (done < bytes) {
		struct uffdio_copy c = {.dst = address(m, page) + done,
					.src = (uint64_t)(uintptr_t)buf + done,
					.len = bytes - done};
		int64_t r = ioctl(fd, UFFDIO_COPY, &c) ? progress(c.copy, &until_ns) : c.copy;

		if (r == -EEXIST) {
			uffd_wake(fd, m, page + (done >> MEM_PAGE_SHIFT), 1);
			++*exist;
			r = MEM_PAGE_SIZE;
		}
		if (r < 0)
			return (int)r;
		done += (uint64_t)r;
	}
	return 0;
}

int uffd_zero(int fd, const struct mem *m, uint64_t page, uint64_t *exist)
{
	uint64_t until_ns = 0;

	for (;;) {
		struct uffdio_zeropage z = {.range = {address(m, page), MEM_PAGE_SIZE}};
		int64_t r = ioctl(fd, UFFDIO_ZEROPAGE, &z) ? progress(z.zeropage, &until_ns) : 1;

		if (r == -EEXIST) {
			uffd_wake(fd, m, page, 1);
			++*exist;
			return 0;
		}
		if (r)
			return r < 0 ? (int)r : 0;
	}
}

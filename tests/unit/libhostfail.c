#include "tests/unit/libhostfail.h"

#include <errno.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <sys/ioctl.h>

int __real_ioctl(int fd, unsigned long request, ...);
int __real_pthread_create(pthread_t *t, const pthread_attr_t *a, void *(*fn)(void *), void *arg);
int __wrap_ioctl(int fd, unsigned long request, ...);
int __wrap_pthread_create(pthread_t *t, const pthread_attr_t *a, void *(*fn)(void *), void *arg);

static atomic_uint thread_in;
static atomic_bool happened;
static atomic_uint fills;
static int fill_error;
static long fill_done;

void hostfail_thread(unsigned n)
{
	thread_in = n;
	happened = false;
}

bool hostfail_happened(void)
{
	return happened;
}

void hostfail_fill(unsigned count, int error, long done)
{
	fill_error = error;
	fill_done = done;
	fills = count;
}

unsigned hostfail_left(void)
{
	return fills;
}

int __wrap_pthread_create(pthread_t *t, const pthread_attr_t *a, void *(*fn)(void *), void *arg)
{
	if (thread_in && !--thread_in) {
		happened = true;
		return EAGAIN;
	}
	return __real_pthread_create(t, a, fn, arg);
}

/* Two threads may fill at once. */
static bool take_fill(void)
{
	unsigned n = fills;

	while (n && !atomic_compare_exchange_weak(&fills, &n, n - 1))
		;
	return n;
}

int __wrap_ioctl(int fd, unsigned long request, ...)
{
	struct uffdio_copy *c;
	va_list ap;
	void *arg;

	va_start(ap, request);
	arg = va_arg(ap, void *);
	va_end(ap);
	if ((request != UFFDIO_COPY && request != UFFDIO_ZEROPAGE) || !take_fill())
		return __real_ioctl(fd, request, arg);
	if (request == UFFDIO_ZEROPAGE) {
		((struct uffdio_zeropage *)arg)->zeropage = fill_done < 0 ? fill_done : 0;
	} else {
		c = arg;
		if (fill_done > 0 && (unsigned long)fill_done < c->len) {
			unsigned long len = c->len;

			c->len = (unsigned long)fill_done;
			__real_ioctl(fd, request, c);
			c->len = len;
		}
		c->copy = fill_done;
	}
	errno = fill_error;
	return -1;
}

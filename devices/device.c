#include "devices/device.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "vmm/base/lock.h"

int device_init(struct device *d, const struct device_ops *ops, const char *id, bool irq,
		struct err *e)
{
	memset(d, 0, sizeof(*d));
	d->ops = ops;
	d->id = id;
	d->irq_fd = -1;
	d->pod = calloc(1, ops->state->size);
	if (!d->pod)
		return err_set(e, -ENOMEM, "device %s: out of memory", id);
	if (irq) {
		d->irq_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		if (d->irq_fd < 0) {
			int r = err_sys(e, "device %s: interrupt eventfd", id);

			free(d->pod);
			d->pod = NULL;
			return r;
		}
	}
	lock_init(&d->lock);
	return 0;
}

void device_done(struct device *d)
{
	for (unsigned i = 0; i < d->ndoorbells; i++)
		close(d->doorbell[i]);
	d->ndoorbells = 0;
	if (d->irq_fd >= 0)
		close(d->irq_fd);
	d->irq_fd = -1;
	free(d->pod);
	d->pod = NULL;
	pthread_mutex_destroy(&d->lock);
}

int device_add_doorbell(struct device *d)
{
	int fd;

	if (d->ndoorbells == DEVICE_MAX_DOORBELLS)
		return -ENOSPC;
	fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (fd < 0)
		return -errno;
	d->doorbell[d->ndoorbells] = fd;
	return (int)d->ndoorbells++;
}

void device_signal(int eventfd)
{
	uint64_t one = 1;

	/* A full counter is a signal that nobody took yet: nothing is lost. */
	if (eventfd >= 0 && write(eventfd, &one, sizeof(one)) < 0)
		return;
}

void device_drain(int eventfd)
{
	uint64_t n;

	if (eventfd >= 0 && read(eventfd, &n, sizeof(n)) < 0)
		return;
}

int device_add_region(const struct dev_env *env, const char *id, const struct bus_region *r,
		      struct err *e)
{
	int ret = bus_add(env->bus, r);

	if (ret)
		return err_set(e, ret, "device %s: %s 0x%llx+0x%llx %s", id,
			       r->kind == BUS_PIO ? "ports" : "registers",
			       (unsigned long long)r->base, (unsigned long long)r->len,
			       ret == -EEXIST ? "are taken by another device"
					      : "do not fit, the bus is full");
	return 0;
}

#include "devices/pvpanic.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define ALL_EVENTS (PVPANIC_PANICKED | PVPANIC_CRASH_LOADED)

struct pvpanic_state {
	uint8_t seen;
};

static const struct field pvpanic_fields[] = {
	F_U8(struct pvpanic_state, seen, 1, "events that the guest reported", .max = ALL_EVENTS),
};

const struct state_desc pvpanic_desc = {
	.name = "pvpanic",
	.id = 25,
	.version = 1,
	.size = sizeof(struct pvpanic_state),
	.fields = pvpanic_fields,
	.nfields = sizeof(pvpanic_fields) / sizeof(pvpanic_fields[0]),
};

struct pvpanic {
	struct device dev;
	struct pvpanic_state live;
	void (*fn)(void *arg, uint8_t event);
	void *arg;
};

/* Which events are known here. */
static uint64_t pvpanic_read(void *arg, uint64_t off, unsigned size)
{
	return ALL_EVENTS;
}

static void pvpanic_write(void *arg, uint64_t off, unsigned size, uint64_t val)
{
	struct pvpanic *p = arg;

	val &= ALL_EVENTS;
	if (!val)
		return;
	pthread_mutex_lock(&p->dev.lock);
	p->live.seen |= val;
	pthread_mutex_unlock(&p->dev.lock);
	p->fn(p->arg, val);
}

static void pvpanic_save(struct device *d)
{
	memcpy(d->pod, &((struct pvpanic *)d)->live, sizeof(struct pvpanic_state));
}

static void pvpanic_load(struct device *d, const void *pod)
{
	memcpy(&((struct pvpanic *)d)->live, pod, sizeof(struct pvpanic_state));
}

static void pvpanic_resume(struct device *d)
{
	(void)d; /* who listened on the other side has heard it */
}

static void pvpanic_free(struct device *d)
{
	device_done(d);
	free(d);
}

static const struct device_ops pvpanic_ops = {
	.state = &pvpanic_desc,
	.save = pvpanic_save,
	.load = pvpanic_load,
	.resume = pvpanic_resume,
	.free = pvpanic_free,
};

int pvpanic_new(const struct dev_env *env, void (*fn)(void *arg, uint8_t event), void *arg,
		struct device **ret, struct err *e)
{
	struct pvpanic *p = calloc(1, sizeof(*p));
	struct bus_region port = {.kind = BUS_PIO,
				  .base = PVPANIC_PORT,
				  .len = 1,
				  .read = pvpanic_read,
				  .write = pvpanic_write,
				  .arg = p};
	int r;

	if (!p)
		return err_set(e, -ENOMEM, "device pvpanic: out of memory");
	p->fn = fn;
	p->arg = arg;
	r = device_init(&p->dev, &pvpanic_ops, "pvpanic", false, e);
	if (r) {
		free(p);
		return r;
	}
	r = device_add_region(env, "pvpanic", &port, e);
	if (r) {
		pvpanic_free(&p->dev);
		return r;
	}
	*ret = &p->dev;
	return 0;
}

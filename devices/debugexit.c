#include "devices/debugexit.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct debugexit_state {
	uint8_t code;
};

static const struct field debugexit_fields[] = {
	F_U8(struct debugexit_state, code, 1, "last byte written"),
};

const struct state_desc debugexit_desc = {
	.name = "debugexit",
	.id = 23,
	.version = 1,
	.size = sizeof(struct debugexit_state),
	.fields = debugexit_fields,
	.nfields = sizeof(debugexit_fields) / sizeof(debugexit_fields[0]),
};

struct debugexit {
	struct device dev;
	struct debugexit_state live;
	void (*fn)(void *arg, int code);
	void *arg;
};

static uint64_t debugexit_read(void *arg, uint64_t off, unsigned size)
{
	struct debugexit *x = arg;
	uint8_t code;

	(void)off;
	if (size != 1)
		return 0;
	pthread_mutex_lock(&x->dev.lock);
	code = x->live.code;
	pthread_mutex_unlock(&x->dev.lock);
	return code;
}

static void debugexit_write(void *arg, uint64_t off, unsigned size, uint64_t val)
{
	struct debugexit *x = arg;

	(void)off;
	if (size != 1)
		return;
	pthread_mutex_lock(&x->dev.lock);
	x->live.code = (uint8_t)val;
	pthread_mutex_unlock(&x->dev.lock);
	if (x->fn)
		x->fn(x->arg, (uint8_t)val);
}

static void debugexit_save(struct device *d)
{
	memcpy(d->pod, &((struct debugexit *)d)->live, sizeof(struct debugexit_state));
}

static void debugexit_load(struct device *d, const void *pod)
{
	memcpy(&((struct debugexit *)d)->live, pod, sizeof(struct debugexit_state));
}

static void debugexit_resume(struct device *d)
{
	(void)d; /* an exit that was asked for has happened on the other side */
}

static void debugexit_free(struct device *d)
{
	device_done(d);
	free(d);
}

static const struct device_ops debugexit_ops = {
	.state = &debugexit_desc,
	.save = debugexit_save,
	.load = debugexit_load,
	.resume = debugexit_resume,
	.free = debugexit_free,
};

int debugexit_new(const struct dev_env *env, void (*fn)(void *arg, int code), void *arg,
		  struct device **ret, struct err *e)
{
	struct debugexit *x = calloc(1, sizeof(*x));
	struct bus_region port = {.kind = BUS_PIO,
				  .base = DEBUGEXIT_PORT,
				  .len = 1,
				  .read = debugexit_read,
				  .write = debugexit_write,
				  .arg = x};
	int r;

	if (!x)
		return err_set(e, -ENOMEM, "device debugexit: out of memory");
	x->fn = fn;
	x->arg = arg;
	r = device_init(&x->dev, &debugexit_ops, "debugexit", false, e);
	if (r) {
		free(x);
		return r;
	}
	r = device_add_region(env, "debugexit", &port, e);
	if (r) {
		debugexit_free(&x->dev);
		return r;
	}
	*ret = &x->dev;
	return 0;
}

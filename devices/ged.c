#include "devices/ged.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "devices/inputs.h"

#define ALL_EVENTS   (GED_POWER_BUTTON | GED_GENERATION)
#define SLEEP_ENABLE 0x20
#define SLEEP_TYPE   0x1c

struct ged_state {
	uint8_t events;
};

static const struct field ged_fields[] = {
	F_U8(struct ged_state, events, 1, "events not taken yet", .max = ALL_EVENTS),
};

const struct state_desc ged_desc = {
	.name = "ged",
	.id = 24,
	.version = 1,
	.size = sizeof(struct ged_state),
	.fields = ged_fields,
	.nfields = sizeof(ged_fields) / sizeof(ged_fields[0]),
};

struct ged {
	struct device dev;
	struct dev_env env;
	struct ged_state live;
	bool quiet, pressed; /* the button, while quiet */
	void (*off)(void *arg, bool reset);
	void *arg;
};

static uint64_t ged_read(void *arg, uint64_t off, unsigned size)
{
	struct ged *g = arg;
	uint8_t v = 0;

	if (size != 1)
		return 0;
	pthread_mutex_lock(&g->dev.lock);
	if (off == GED_EVENTS) {
		v = g->live.events;
		g->live.events = 0;
	}
	pthread_mutex_unlock(&g->dev.lock);
	return v;
}

static void ged_write(void *arg, uint64_t off, unsigned size, uint64_t val)
{
	struct ged *g = arg;

	if (size != 1)
		return;
	if (off == GED_RESET && val == GED_RESET_VALUE)
		g->off(g->arg, true);
	if (off == GED_SLEEP_CONTROL && val & SLEEP_ENABLE &&
	    (val & SLEEP_TYPE) >> 2 == GED_SLEEP_OFF)
		g->off(g->arg, false);
}

/* Under the lock. */
static void add_events(struct ged *g, uint8_t events)
{
	g->live.events |= events;
	device_signal(g->dev.irq_fd);
}

void ged_raise(struct device *d, uint8_t events)
{
	pthread_mutex_lock(&d->lock);
	add_events((struct ged *)d, events);
	pthread_mutex_unlock(&d->lock);
}

static void press(struct ged *g)
{
	add_events(g, GED_POWER_BUTTON);
	inputs_given(g->env.inputs, &g->dev, &(uint8_t){GED_POWER_BUTTON}, 1);
}

void ged_press(struct device *d)
{
	struct ged *g = (struct ged *)d;

	pthread_mutex_lock(&d->lock);
	if (g->quiet)
		g->pressed = true;
	else
		press(g);
	pthread_mutex_unlock(&d->lock);
}

static void ged_quiet(struct device *d, bool on)
{
	struct ged *g = (struct ged *)d;

	pthread_mutex_lock(&d->lock);
	g->quiet = on;
	if (!on && g->pressed)
		press(g);
	g->pressed &= on;
	pthread_mutex_unlock(&d->lock);
}

static void ged_save(struct device *d)
{
	memcpy(d->pod, &((struct ged *)d)->live, sizeof(struct ged_state));
}

static void ged_load(struct device *d, const void *pod)
{
	struct ged *g = (struct ged *)d;

	memcpy(&g->live, pod, sizeof(g->live));
	g->pressed = false; /* of what was here before */
}

static void ged_resume(struct device *d)
{
	struct ged *g = (struct ged *)d;

	if (g->live.events)
		device_signal(d->irq_fd);
}

static void ged_free(struct device *d)
{
	device_done(d);
	free(d);
}

static const struct device_ops ged_ops = {
	.state = &ged_desc,
	.save = ged_save,
	.load = ged_load,
	.resume = ged_resume,
	.quiet = ged_quiet,
	.free = ged_free,
};

int ged_new(const struct dev_env *env, void (*off)(void *arg, bool reset), void *arg,
	    struct device **ret, struct err *e)
{
	struct ged *g = calloc(1, sizeof(*g));
	struct bus_region ports = {.kind = BUS_PIO,
				   .base = GED_BASE,
				   .len = GED_PORTS,
				   .read = ged_read,
				   .write = ged_write,
				   .arg = g};
	int r;

	if (!g)
		return err_set(e, -ENOMEM, "device ged: out of memory");
	g->env = *env;
	g->off = off;
	g->arg = arg;
	r = device_init(&g->dev, &ged_ops, "ged", true, e);
	if (r) {
		free(g);
		return r;
	}
	g->dev.gsi = GED_GSI;
	r = device_add_region(env, "ged", &ports, e);
	if (r) {
		ged_free(&g->dev);
		return r;
	}
	*ret = &g->dev;
	return 0;
}

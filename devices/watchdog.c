#include "devices/watchdog.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "vmm/base/loop.h"

#define PERIOD_NS (WATCHDOG_PERIOD_MS * 1000000ull)

enum { STOPPED, COUNTING, EXPIRED };

struct watchdog_state {
	uint32_t running;
	uint32_t count;
	uint64_t left_ns;
};

static const struct field watchdog_fields[] = {
	F_U32(struct watchdog_state, running, 1, "counting; or expired, which a reset is to follow",
	      .max = EXPIRED),
	F_U32(struct watchdog_state, count, 2, "what a reset begins with", .min = 1,
	      .max = WATCHDOG_COUNT_MAX),
	F_U64(struct watchdog_state, left_ns, 3, "until it expires, ns",
	      .max = WATCHDOG_COUNT_MAX * PERIOD_NS, .flags = FIELD_UNSTABLE),
};

const struct state_desc watchdog_desc = {
	.name = "watchdog",
	.id = 26,
	.version = 1,
	.size = sizeof(struct watchdog_state),
	.fields = watchdog_fields,
	.nfields = sizeof(watchdog_fields) / sizeof(watchdog_fields[0]),
};

struct watchdog {
	struct device dev;
	struct watchdog_state live; /* left_ns counts from since_ns on */
	uint64_t since_ns;
	bool quiet;	/* time stands still */
	int started_fd; /* a vCPU started it: the loop sets the timer */
	struct loop *loop;
	struct loop_op started_op, timer_op;
	void (*expired)(void *arg, unsigned seconds);
	void *arg;
};

static uint64_t left(const struct watchdog *w)
{
	uint64_t gone = w->quiet || w->live.running != COUNTING ? 0 : loop_now_ns() - w->since_ns;

	return gone < w->live.left_ns ? w->live.left_ns - gone : 0;
}

/* The time until now is taken off. */
static void settle(struct watchdog *w)
{
	w->live.left_ns = left(w);
	w->since_ns = loop_now_ns();
}

static void reset(struct watchdog *w)
{
	w->live.left_ns = w->live.count * PERIOD_NS;
	w->since_ns = loop_now_ns();
}

static uint64_t watchdog_read(void *arg, uint64_t off, unsigned size)
{
	struct watchdog *w = arg;
	uint64_t v = 0;

	if (size != 4)
		return 0;
	pthread_mutex_lock(&w->dev.lock);
	if (off == WATCHDOG_CONTROL)
		v = w->live.running == COUNTING;
	else if (off == WATCHDOG_COUNT)
		v = w->live.count;
	else if (off == WATCHDOG_LEFT)
		v = left(w) / PERIOD_NS;
	pthread_mutex_unlock(&w->dev.lock);
	return v;
}

static void control(struct watchdog *w, bool run)
{
	if (run && w->live.running != COUNTING) {
		reset(w);
		device_signal(w->started_fd);
	}
	w->live.running = run ? COUNTING : STOPPED;
}

static void watchdog_write(void *arg, uint64_t off, unsigned size, uint64_t val)
{
	struct watchdog *w = arg;

	if (size != 4)
		return;
	pthread_mutex_lock(&w->dev.lock);
	if (off == WATCHDOG_CONTROL)
		control(w, val & WATCHDOG_RUNNING);
	else if (off == WATCHDOG_COUNT && val >= 1 && val <= WATCHDOG_COUNT_MAX)
		w->live.count = val;
	else if (off == WATCHDOG_KICK && val == 1)
		reset(w);
	pthread_mutex_unlock(&w->dev.lock);
}

static unsigned seconds_of(const struct watchdog *w)
{
	return w->live.count * WATCHDOG_PERIOD_MS / 1000;
}

/* The timer is not moved at every kick: it looks how much is left, and sleeps on. */
static void look(struct loop_op *op, int res)
{
	struct watchdog *w = op->arg;
	bool over = false;
	unsigned seconds;
	uint64_t rest;

	pthread_mutex_lock(&w->dev.lock);
	rest = left(w);
	seconds = seconds_of(w);
	if (w->live.running == COUNTING && !w->quiet) {
		over = !rest;
		if (over)
			w->live.running = EXPIRED;
		else
			loop_timer_set(w->loop, &w->timer_op, rest);
	}
	pthread_mutex_unlock(&w->dev.lock);
	if (over)
		w->expired(w->arg, seconds);
}

static void started(struct loop_op *op, int res)
{
	struct watchdog *w = op->arg;

	device_drain(w->started_fd);
	look(op, res);
}

static void watchdog_save(struct device *d)
{
	struct watchdog *w = (struct watchdog *)d;

	pthread_mutex_lock(&d->lock);
	settle(w);
	memcpy(d->pod, &w->live, sizeof(w->live));
	pthread_mutex_unlock(&d->lock);
}

static void watchdog_load(struct device *d, const void *pod)
{
	struct watchdog *w = (struct watchdog *)d;

	pthread_mutex_lock(&d->lock);
	memcpy(&w->live, pod, sizeof(w->live));
	w->since_ns = loop_now_ns();
	w->quiet = true; /* until resume */
	pthread_mutex_unlock(&d->lock);
}

static void watchdog_quiet(struct device *d, bool on)
{
	struct watchdog *w = (struct watchdog *)d;

	pthread_mutex_lock(&d->lock);
	settle(w);
	w->quiet = on;
	/* A timer that came meanwhile found nothing to do. */
	if (!on && w->live.running == COUNTING)
		device_signal(w->started_fd);
	pthread_mutex_unlock(&d->lock);
}

/* The side before this one may not have come to the reset. */
static void watchdog_resume(struct device *d)
{
	struct watchdog *w = (struct watchdog *)d;

	watchdog_quiet(d, false);
	if (w->live.running == EXPIRED)
		w->expired(w->arg, seconds_of(w));
}

static void watchdog_free(struct device *d)
{
	struct watchdog *w = (struct watchdog *)d;

	loop_timer_del(w->loop, &w->timer_op);
	loop_poll_del(w->loop, &w->started_op);
	if (w->started_fd >= 0)
		close(w->started_fd);
	device_done(d);
	free(w);
}

static const struct device_ops watchdog_ops = {
	.state = &watchdog_desc,
	.save = watchdog_save,
	.load = watchdog_load,
	.resume = watchdog_resume,
	.quiet = watchdog_quiet,
	.free = watchdog_free,
};

static int set_up(struct watchdog *w, const struct dev_env *env, struct err *e)
{
	struct bus_region ports = {.kind = BUS_PIO,
				   .base = WATCHDOG_BASE,
				   .len = WATCHDOG_PORTS,
				   .read = watchdog_read,
				   .write = watchdog_write,
				   .arg = w};

	w->timer_op = (struct loop_op){.fn = look, .arg = w};
	w->started_op = (struct loop_op){.fn = started, .arg = w};
	w->started_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (w->started_fd < 0 || loop_poll_add(w->loop, &w->started_op, w->started_fd, POLLIN) < 0)
		return err_sys(e, "device watchdog: eventfd");
	return device_add_region(env, "watchdog", &ports, e);
}

int watchdog_new(const struct dev_env *env, void (*expired)(void *arg, unsigned seconds), void *arg,
		 struct device **ret, struct err *e)
{
	struct watchdog *w = calloc(1, sizeof(*w));
	int r;

	if (!w)
		return err_set(e, -ENOMEM, "device watchdog: out of memory");
	w->loop = env->loop;
	w->live.count = WATCHDOG_COUNT_MAX;
	w->expired = expired;
	w->arg = arg;
	r = device_init(&w->dev, &watchdog_ops, "watchdog", false, e);
	if (r) {
		free(w);
		return r;
	}
	r = set_up(w, env, e);
	if (r) {
		watchdog_free(&w->dev);
		return r;
	}
	*ret = &w->dev;
	return 0;
}

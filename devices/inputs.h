/*
 * What a guest is given besides frames (net/netdev.h has these), and that neither its state nor its
 * memory has: random bytes, what is typed, what the operator asks for. Where another side runs the
 * guest, too, its devices are given the same, in the same order, and nothing else.
 *
 * Loop thread; called under the device's lock.
 */
#ifndef DEVICES_INPUTS_H
#define DEVICES_INPUTS_H

#include <stdbool.h>
#include <stdint.h>

struct device;

/* One for all devices of a VM; what is NULL is nobody's business. Changed while they are there. */
struct inputs {
	bool (*ready)(void *arg); /* false: none now that can wait, but later */
	void (*given)(void *arg, const struct device *d, const void *data, uint32_t len);
	void (*room)(void *arg); /* at a twin: a device that was full is not any more */
	void *arg;
};

static inline bool inputs_ready(const struct inputs *in)
{
	return !in || !in->ready || in->ready(in->arg);
}

static inline void inputs_given(const struct inputs *in, const struct device *d, const void *data,
				uint32_t len)
{
	if (in && in->given)
		in->given(in->arg, d, data, len);
}

static inline void inputs_room(const struct inputs *in)
{
	if (in && in->room)
		in->room(in->arg);
}

#endif

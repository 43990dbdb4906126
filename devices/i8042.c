#include "devices/i8042.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Status register */
#define ST_OUT_FULL 0x01
#define ST_SYSTEM   0x04 /* mirrors the bit of the command byte */
#define ST_COMMAND  0x08 /* the last write went to the command port */
#define ST_UNLOCKED 0x10

/* Command byte */
#define CB_SYSTEM  0x04
#define CB_KBD_OFF 0x10
#define CB_AUX_OFF 0x20

enum command {
	CMD_READ_CB = 0x20,
	CMD_WRITE_CB = 0x60,
	CMD_AUX_OFF = 0xa7,
	CMD_AUX_ON = 0xa8,
	CMD_AUX_TEST = 0xa9,
	CMD_SELF_TEST = 0xaa,
	CMD_KBD_TEST = 0xab,
	CMD_KBD_OFF = 0xad,
	CMD_KBD_ON = 0xae,
	CMD_READ_OUTPORT = 0xd0,
	CMD_WRITE_OUTPORT = 0xd1,
	CMD_KBD_LOOP = 0xd2,
	CMD_AUX_LOOP = 0xd3,
	CMD_AUX_SEND = 0xd4,
	CMD_PULSE = 0xf0, /* to 0xff: bits that are 0 pulse a line; line 0 is the reset */
};

#define SELF_TEST_OK  0x55
#define CLOCK_LOW     0x01 /* result of a port's test when nothing is plugged in */
#define OUTPORT_RESET 0x01
#define OUTPORT_A20   0x02

struct i8042_state {
	uint8_t command_byte;
	uint8_t out; /* output buffer */
	uint8_t out_full;
	uint8_t pending; /* command that waits for its data byte, or 0 */
	uint8_t last_was_command;
};

static const struct field i8042_fields[] = {
	F_U8(struct i8042_state, command_byte, 1, "controller command byte"),
	F_U8(struct i8042_state, out, 2, "output buffer"),
	F_U8(struct i8042_state, out_full, 3, "output buffer has a byte", .max = 1),
	F_U8(struct i8042_state, pending, 4, "command that waits for its data"),
	F_U8(struct i8042_state, last_was_command, 5, "status bit 3", .max = 1),
};

const struct state_desc i8042_desc = {
	.name = "i8042",
	.id = 22,
	.version = 1,
	.size = sizeof(struct i8042_state),
	.fields = i8042_fields,
	.nfields = sizeof(i8042_fields) / sizeof(i8042_fields[0]),
};

struct i8042 {
	struct device dev;
	struct i8042_state live;
	void (*reset)(void *arg);
	void *arg;
};

static void answer(struct i8042_state *s, uint8_t v)
{
	s->out = v;
	s->out_full = 1;
}

/* Returns whether the machine is to be reset. */
static bool command(struct i8042_state *s, uint8_t cmd)
{
	s->pending = 0;
	s->last_was_command = 1;
	switch (cmd) {
	case CMD_READ_CB:
		answer(s, s->command_byte);
		break;
	case CMD_SELF_TEST:
		s->command_byte |= CB_SYSTEM;
		answer(s, SELF_TEST_OK);
		break;
	case CMD_AUX_TEST:
	case CMD_KBD_TEST:
		answer(s, CLOCK_LOW);
		break;
	case CMD_AUX_OFF:
		s->command_byte |= CB_AUX_OFF;
		break;
	case CMD_AUX_ON:
		s->command_byte &= (uint8_t)~CB_AUX_OFF;
		break;
	case CMD_KBD_OFF:
		s->command_byte |= CB_KBD_OFF;
		break;
	case CMD_KBD_ON:
		s->command_byte &= (uint8_t)~CB_KBD_OFF;
		break;
	case CMD_READ_OUTPORT:
		answer(s, OUTPORT_RESET | OUTPORT_A20);
		break;
	case CMD_WRITE_CB:
	case CMD_WRITE_OUTPORT:
	case CMD_KBD_LOOP:
	case CMD_AUX_LOOP:
	case CMD_AUX_SEND:
		s->pending = cmd;
		break;
	default:
		return cmd >= CMD_PULSE && !(cmd & OUTPORT_RESET);
	}
	return false;
}

static bool data(struct i8042_state *s, uint8_t v)
{
	uint8_t cmd = s->pending;

	s->pending = 0;
	s->last_was_command = 0;
	switch (cmd) {
	case CMD_WRITE_CB:
		s->command_byte = v;
		return false;
	case CMD_WRITE_OUTPORT:
		return !(v & OUTPORT_RESET);
	case CMD_KBD_LOOP:
		answer(s, v);
		return false;
	case CMD_AUX_LOOP:
		answer(s, (uint8_t)~v); /* no second port: the loop is broken */
		return false;
	default: /* for a keyboard or mouse that is not there */
		return false;
	}
}

static uint64_t data_read(void *arg, uint64_t off, unsigned size)
{
	struct i8042 *k = arg;
	uint8_t v;

	(void)off;
	if (size != 1)
		return 0;
	pthread_mutex_lock(&k->dev.lock);
	v = k->live.out;
	k->live.out_full = 0;
	pthread_mutex_unlock(&k->dev.lock);
	return v;
}

static uint64_t status_read(void *arg, uint64_t off, unsigned size)
{
	struct i8042 *k = arg;
	uint8_t v = ST_UNLOCKED;

	(void)off;
	if (size != 1)
		return 0;
	pthread_mutex_lock(&k->dev.lock);
	v |= k->live.out_full ? ST_OUT_FULL : 0;
	v |= k->live.command_byte & CB_SYSTEM ? ST_SYSTEM : 0;
	v |= k->live.last_was_command ? ST_COMMAND : 0;
	pthread_mutex_unlock(&k->dev.lock);
	return v;
}

static void write_port(struct i8042 *k, unsigned size, uint64_t val,
		       bool (*fn)(struct i8042_state *s, uint8_t v))
{
	bool reset;

	if (size != 1)
		return;
	pthread_mutex_lock(&k->dev.lock);
	reset = fn(&k->live, (uint8_t)val);
	pthread_mutex_unlock(&k->dev.lock);
	if (reset && k->reset)
		k->reset(k->arg);
}

static void data_write(void *arg, uint64_t off, unsigned size, uint64_t val)
{
	(void)off;
	write_port(arg, size, val, data);
}

static void command_write(void *arg, uint64_t off, unsigned size, uint64_t val)
{
	(void)off;
	write_port(arg, size, val, command);
}

static void i8042_save(struct device *d)
{
	memcpy(d->pod, &((struct i8042 *)d)->live, sizeof(struct i8042_state));
}

static void i8042_load(struct device *d, const void *pod)
{
	memcpy(&((struct i8042 *)d)->live, pod, sizeof(struct i8042_state));
}

static void i8042_resume(struct device *d)
{
	(void)d; /* no interrupts, nothing under way */
}

static void i8042_free(struct device *d)
{
	device_done(d);
	free(d);
}

static const struct device_ops i8042_ops = {
	.state = &i8042_desc,
	.save = i8042_save,
	.load = i8042_load,
	.resume = i8042_resume,
	.free = i8042_free,
};

int i8042_new(const struct dev_env *env, void (*reset)(void *arg), void *arg, struct device **ret,
	      struct err *e)
{
	struct i8042 *k = calloc(1, sizeof(*k));
	struct bus_region dp = {.kind = BUS_PIO,
				.base = I8042_DATA,
				.len = 1,
				.read = data_read,
				.write = data_write,
				.arg = k};
	struct bus_region cp = {.kind = BUS_PIO,
				.base = I8042_CMD,
				.len = 1,
				.read = status_read,
				.write = command_write,
				.arg = k};
	int r;

	if (!k)
		return err_set(e, -ENOMEM, "device i8042: out of memory");
	k->reset = reset;
	k->arg = arg;
	r = device_init(&k->dev, &i8042_ops, "i8042", false, e);
	if (r) {
		free(k);
		return r;
	}
	r = device_add_region(env, "i8042", &dp, e);
	if (!r)
		r = device_add_region(env, "i8042", &cp, e);
	if (r) {
		i8042_free(&k->dev);
		return r;
	}
	*ret = &k->dev;
	return 0;
}

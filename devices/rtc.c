#include "devices/rtc.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Registers of the MC146818 */
enum { SEC = 0, MIN = 2, HOUR = 4, WDAY = 6, MDAY = 7, MONTH = 8, YEAR = 9, CENTURY = 0x32 };
enum { REG_A = 10, REG_B = 11, REG_C = 12, REG_D = 13 };
#define A_32KHZ	 0x26
#define B_24H	 0x02
#define B_BINARY 0x04
#define D_VALID	 0x80
#define HOUR_PM	 0x80

struct rtc_state {
	uint8_t index;
	uint8_t reg_b;
};

static const struct field rtc_fields[] = {
	F_U8(struct rtc_state, index, 1, "selected register", .max = 0x7f),
	F_U8(struct rtc_state, reg_b, 2, "format of the time", .max = B_24H | B_BINARY),
};

static int rtc_check(const void *pod, struct err *e)
{
	const struct rtc_state *s = pod;

	if (s->reg_b & ~(B_24H | B_BINARY))
		return err_set(e, -EBADMSG, "rtc: register B is 0x%x", s->reg_b);
	return 0;
}

const struct state_desc rtc_desc = {
	.name = "rtc",
	.id = 21,
	.version = 1,
	.size = sizeof(struct rtc_state),
	.fields = rtc_fields,
	.nfields = sizeof(rtc_fields) / sizeof(rtc_fields[0]),
	.check = rtc_check,
};

struct rtc {
	struct device dev;
	struct rtc_state live;
};

static uint8_t encode(const struct rtc_state *s, int v)
{
	return (uint8_t)(s->reg_b & B_BINARY ? v : v / 10 << 4 | v % 10);
}

static uint8_t encode_hour(const struct rtc_state *s, int hour)
{
	if (s->reg_b & B_24H)
		return encode(s, hour);
	return encode(s, hour % 12 ? hour % 12 : 12) | (hour >= 12 ? HOUR_PM : 0);
}

static uint8_t read_cmos(const struct rtc_state *s)
{
	time_t now = time(NULL);
	struct tm tm;

	gmtime_r(&now, &tm);
	switch (s->index) {
	case SEC:
		return encode(s, tm.tm_sec < 60 ? tm.tm_sec : 59);
	case MIN:
		return encode(s, tm.tm_min);
	case HOUR:
		return encode_hour(s, tm.tm_hour);
	case WDAY:
		return encode(s, tm.tm_wday + 1);
	case MDAY:
		return encode(s, tm.tm_mday);
	case MONTH:
		return encode(s, tm.tm_mon + 1);
	case YEAR:
		return encode(s, tm.tm_year % 100);
	case CENTURY:
		return encode(s, 19 + tm.tm_year / 100);
	case REG_A: /* never "update in progress": each read is of one instant */
		return A_32KHZ;
	case REG_B:
		return s->reg_b;
	case REG_D:
		return D_VALID;
	default:
		return 0;
	}
}

static uint64_t rtc_read(void *arg, uint64_t off, unsigned size)
{
	struct rtc *t = arg;
	uint8_t v = 0xff;

	if (size != 1)
		return 0;
	pthread_mutex_lock(&t->dev.lock);
	if (off == 1)
		v = read_cmos(&t->live);
	pthread_mutex_unlock(&t->dev.lock);
	return v;
}

static void rtc_write(void *arg, uint64_t off, unsigned size, uint64_t val)
{
	struct rtc *t = arg;

	if (size != 1)
		return;
	pthread_mutex_lock(&t->dev.lock);
	if (off == 0)
		t->live.index = val & 0x7f; /* bit 7 masks the NMI, which we have not */
	else if (t->live.index == REG_B)
		t->live.reg_b = val & (B_24H | B_BINARY);
	pthread_mutex_unlock(&t->dev.lock);
}

static void rtc_save(struct device *d)
{
	memcpy(d->pod, &((struct rtc *)d)->live, sizeof(struct rtc_state));
}

static void rtc_load(struct device *d, const void *pod)
{
	memcpy(&((struct rtc *)d)->live, pod, sizeof(struct rtc_state));
}

static void rtc_resume(struct device *d)
{
	(void)d; /* the time is the host's: nothing to catch up with */
}

static void rtc_free(struct device *d)
{
	device_done(d);
	free(d);
}

static const struct device_ops rtc_ops = {
	.state = &rtc_desc,
	.save = rtc_save,
	.load = rtc_load,
	.resume = rtc_resume,
	.free = rtc_free,
};

int rtc_new(const struct dev_env *env, struct device **ret, struct err *e)
{
	struct rtc *t = calloc(1, sizeof(*t));
	struct bus_region ports = {.kind = BUS_PIO,
				   .base = RTC_BASE,
				   .len = 2,
				   .read = rtc_read,
				   .write = rtc_write,
				   .arg = t};
	int r;

	if (!t)
		return err_set(e, -ENOMEM, "device rtc: out of memory");
	t->live.reg_b = B_24H;
	r = device_init(&t->dev, &rtc_ops, "rtc", false, e);
	if (r) {
		free(t);
		return r;
	}
	r = device_add_region(env, "rtc", &ports, e);
	if (r) {
		rtc_free(&t->dev);
		return r;
	}
	*ret = &t->dev;
	return 0;
}

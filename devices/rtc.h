/* The PC's CMOS clock at 0x70/0x71: shows CLOCK_REALTIME in UTC; it cannot be set, has no alarm. */
#ifndef DEVICES_RTC_H
#define DEVICES_RTC_H

#include "devices/device.h"

#define RTC_BASE 0x70

int rtc_new(const struct dev_env *env, struct device **ret, struct err *e);

extern const struct state_desc rtc_desc;

#endif

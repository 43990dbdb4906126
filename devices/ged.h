/*
 * What the ACPI tables point at besides the devices proper (ACPI 6.4): the generic event device
 * (5.6.9), sleep control (4.8.3.7) and the reset register (4.8.3.6). Ports 0x600 to 0x603.
 */
#ifndef DEVICES_GED_H
#define DEVICES_GED_H

#include "devices/device.h"

#define GED_BASE 0x600
#define GED_GSI	 9

enum { GED_EVENTS = 0, GED_SLEEP_CONTROL, GED_SLEEP_STATUS, GED_RESET, GED_PORTS };
enum { GED_POWER_BUTTON = 1, GED_GENERATION = 2 }; /* bits of GED_EVENTS; reading clears */

#define GED_SLEEP_OFF	5 /* sleep type of S5 */
#define GED_RESET_VALUE 1

/*
 * off(arg, reset) is called on a vCPU thread: it must only leave a note for others. Also at resume,
 * when the guest had asked on another side.
 */
int ged_new(const struct dev_env *env, void (*off)(void *arg, bool reset), void *arg,
	    struct device **ret, struct err *e);
/* Raise events; they wait for a guest that does not listen yet. Loop thread. */
void ged_raise(struct device *d, uint8_t events);

/* Press the power button: an input (devices/inputs.h). While quiet, as soon as it is not. */
void ged_press(struct device *d);

extern const struct state_desc ged_desc;

#endif

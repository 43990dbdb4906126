/*
 * ACPI tables of a machine (ACPI 6.4, hardware-reduced): RSDP, XSDT, FADT, MADT, WDAT and DSDT. The
 * DSDT holds COM1, the clock, virtio-mmio devices (LNRO0005), the event device with its power
 * button and VM generation ID, and pvpanic. Pure functions.
 */
#ifndef VMM_ACPI_H
#define VMM_ACPI_H

#include <stddef.h>
#include <stdint.h>

#include "vmm/base/err.h"
#include "vmm/machine/machine.h"

/*
 * Build all tables into buf, which the guest will see at gpa (16-byte aligned); the RSDP comes
 * first. genid_gpa: the page of the generation ID. Bytes used, or a negative errno.
 */
int acpi_build(const struct machine *m, void *buf, size_t cap, uint64_t gpa, uint64_t genid_gpa,
	       struct err *e);

#endif

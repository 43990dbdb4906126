/* The DSDT's body: what of the machine a guest cannot find out by asking. */
#ifndef VMM_ACPI_DSDT_H
#define VMM_ACPI_DSDT_H

#include "vmm/boot/aml.h"
#include "vmm/machine/machine.h"

void acpi_dsdt_body(struct aml *a, const struct machine *m, uint64_t genid_gpa);

#endif

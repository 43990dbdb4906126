#include "vmm/boot/acpi_dsdt.h"

#include <stdio.h>

#include "devices/ged.h"
#include "devices/pvpanic.h"
#include "devices/rtc.h"
#include "devices/serial.h"

static void hid(struct aml *a, const char *id)
{
	aml_name(a, "_HID");
	aml_string(a, id);
}

static void hid_pnp(struct aml *a, const char *id)
{
	aml_name(a, "_HID");
	aml_eisa_id(a, id);
}

static void uid(struct aml *a, unsigned n)
{
	aml_name(a, "_UID");
	aml_int(a, n);
}

static void add_com1(struct aml *a)
{
	size_t dev = aml_begin_device(a, "COM1");
	struct aml_crs crs = {0};

	hid_pnp(a, "PNP0501");
	uid(a, 1);
	aml_crs_io(&crs, SERIAL_BASE, 8);
	aml_crs_irq_edge(&crs, SERIAL_GSI);
	aml_crs_put(a, &crs);
	aml_end(a, dev);
}

/* It has no alarm, hence no interrupt. */
static void add_rtc(struct aml *a)
{
	size_t dev = aml_begin_device(a, "RTC");
	struct aml_crs crs = {0};

	hid_pnp(a, "PNP0B00");
	aml_crs_io(&crs, RTC_BASE, 2);
	aml_crs_put(a, &crs);
	aml_end(a, dev);
}

static void add_virtio(struct aml *a, const struct mdev *d, unsigned n)
{
	struct aml_crs crs = {0};
	char name[5];
	size_t dev;

	snprintf(name, sizeof(name), "VR%02u", n % 100);
	dev = aml_begin_device(a, name);
	hid(a, "LNRO0005");
	uid(a, n);
	aml_name(a, "_CCA"); /* coherent */
	aml_int(a, 1);
	aml_crs_memory(&crs, d->gpa, MACHINE_MMIO_STEP);
	aml_crs_irq_edge(&crs, d->gsi);
	aml_crs_put(a, &crs);
	aml_end(a, dev);
}

static void add_power_button(struct aml *a)
{
	size_t dev = aml_begin_device(a, "PWRB");

	hid_pnp(a, "PNP0C0C");
	uid(a, 0);
	aml_end(a, dev);
}

/*
 * The ID of "Virtual Machine Generation ID" (Microsoft, 2012). Drivers match one of the compatible
 * IDs, in this or that spelling.
 */
static void add_generation(struct aml *a, uint64_t gpa)
{
	static const char *const ids[] = {"VM_Gen_Counter", "VM_GEN_COUNTER", "VMGENCTR"};
	size_t dev = aml_begin_device(a, "VGEN"), pkg;

	hid(a, "FTVM0001");
	aml_name(a, "_CID");
	pkg = aml_begin_package(a, 3);
	for (unsigned i = 0; i < 3; i++)
		aml_string(a, ids[i]);
	aml_end(a, pkg);
	aml_name(a, "_DDN");
	aml_string(a, "VM_Gen_Counter");
	aml_name(a, "ADDR");
	pkg = aml_begin_package(a, 2);
	aml_int(a, (uint32_t)gpa);
	aml_int(a, gpa >> 32);
	aml_end(a, pkg);
	aml_end(a, dev);
}

static void notify_if(struct aml *a, uint8_t event, const char *object)
{
	size_t block = aml_begin_if(a);

	aml_and_local0(a, event);
	aml_notify(a, object, 0x80);
	aml_end(a, block);
}

/* Generic event device (section 5.6.9): reading the events takes them. */
static void add_events(struct aml *a)
{
	size_t dev = aml_begin_device(a, "GED"), method;
	struct aml_crs crs = {0};

	hid(a, "ACPI0013");
	uid(a, 0);
	aml_crs_irq_edge(&crs, GED_GSI);
	aml_crs_put(a, &crs);
	aml_io_byte(a, "EREG", GED_BASE + GED_EVENTS, "EVTS");
	method = aml_begin_method(a, "_EVT", 1);
	aml_store_local0(a, "EVTS");
	notify_if(a, GED_POWER_BUTTON, "PWRB");
	notify_if(a, GED_GENERATION, "VGEN");
	aml_end(a, method);
	aml_end(a, dev);
}

static void add_pvpanic(struct aml *a)
{
	size_t dev = aml_begin_device(a, "PEVT");
	struct aml_crs crs = {0};

	hid(a, "QEMU0001"); /* docs/specs/pvpanic of QEMU: the one interface that drivers know */
	aml_crs_io(&crs, PVPANIC_PORT, 1);
	aml_crs_put(a, &crs);
	aml_end(a, dev);
}

/* Sleep type of "off": the value that the sleep control register gets. */
static void add_s5(struct aml *a)
{
	size_t pkg;

	aml_name(a, "_S5");
	pkg = aml_begin_package(a, 4);
	aml_int(a, GED_SLEEP_OFF);
	for (unsigned i = 0; i < 3; i++)
		aml_int(a, 0);
	aml_end(a, pkg);
}

void acpi_dsdt_body(struct aml *a, const struct machine *m, uint64_t genid_gpa)
{
	size_t sb;

	add_s5(a);
	sb = aml_begin_scope(a, "_SB");
	add_com1(a);
	add_rtc(a);
	add_power_button(a);
	add_generation(a, genid_gpa);
	add_events(a);
	add_pvpanic(a);
	for (unsigned i = 0; i < m->ndevs; i++)
		add_virtio(a, &m->devs[i], i);
	aml_end(a, sb);
}

#include "vmm/boot/acpi.h"

#include <errno.h>
#include <string.h>

#include "devices/ged.h"
#include "devices/watchdog.h"
#include "vmm/boot/acpi_dsdt.h"

#define LAPIC_GPA  0xfee00000u
#define IOAPIC_GPA 0xfec00000u

/* --- layouts (ACPI 6.4, section 5.2) ---------------------------------------------------------- */

struct __attribute__((packed)) rsdp {
	char signature[8];
	uint8_t checksum;
	char oem_id[6];
	uint8_t revision;
	uint32_t rsdt;
	uint32_t length;
	uint64_t xsdt;
	uint8_t ext_checksum;
	uint8_t reserved[3];
};

struct __attribute__((packed)) header {
	char signature[4];
	uint32_t length;
	uint8_t revision;
	uint8_t checksum;
	char oem_id[6];
	char oem_table_id[8];
	uint32_t oem_revision;
	char creator_id[4];
	uint32_t creator_revision;
};

struct __attribute__((packed)) address {
	uint8_t space; /* 1: system I/O */
	uint8_t bits;
	uint8_t bit_offset;
	uint8_t access; /* 1: byte, 3: dword */
	uint64_t at;
};

struct __attribute__((packed)) fadt {
	struct header head;
	uint8_t legacy1[73]; /* firmware control to century: none of it in a reduced machine */
	uint16_t boot_arch;
	uint8_t reserved;
	uint32_t flags;
	struct address reset_reg;
	uint8_t reset_value;
	uint16_t arm_boot_arch;
	uint8_t minor_version;
	uint64_t x_firmware_ctrl;
	uint64_t x_dsdt;
	struct address legacy2[8];
	struct address sleep_control;
	struct address sleep_status;
	uint64_t hypervisor_vendor;
};

enum {
	BOOT_NO_VGA = 1 << 2,
	BOOT_NO_MSI = 1 << 3,
	BOOT_NO_ASPM = 1 << 4,
	FADT_WBINVD = 1 << 0,
	FADT_NO_FIXED_POWER_BUTTON = 1 << 4,
	FADT_NO_FIXED_SLEEP_BUTTON = 1 << 5,
	FADT_RESET_REG = 1 << 10,
	FADT_HW_REDUCED = 1 << 20,
};

struct __attribute__((packed)) madt {
	struct header head;
	uint32_t lapic;
	uint32_t flags; /* bit 0: a PIC that must be masked */
};

struct __attribute__((packed)) madt_lapic {
	uint8_t type, length;
	uint8_t uid, apic_id;
	uint32_t flags; /* bit 0: enabled */
};

struct __attribute__((packed)) madt_ioapic {
	uint8_t type, length;
	uint8_t id, reserved;
	uint32_t gpa, gsi_base;
};

struct __attribute__((packed)) madt_nmi {
	uint8_t type, length;
	uint8_t uid; /* 0xff: all */
	uint16_t flags;
	uint8_t lint;
};

/* "Hardware Watchdog Timers Design Specification" (Microsoft, 2006) */
struct __attribute__((packed)) wdat {
	struct header head;
	uint32_t header_length;
	uint16_t pci_segment;
	uint8_t pci_bus, pci_device, pci_function;
	uint8_t reserved1[3];
	uint32_t period_ms, max_count, min_count;
	uint8_t flags; /* bit 0: enabled */
	uint8_t reserved2[3];
	uint32_t nentries;
};

struct __attribute__((packed)) wdat_entry {
	uint8_t action, instruction;
	uint16_t reserved;
	struct address reg;
	uint32_t value, mask;
};

/* --- building --------------------------------------------------------------------------------- */

struct tables {
	struct aml out; /* bytes of any kind */
	uint64_t gpa;
};

static uint8_t sum(const void *p, size_t n)
{
	const uint8_t *b = p;
	uint8_t s = 0;

	while (n--)
		s += *b++;
	return -s;
}

static void align(struct tables *t)
{
	while (t->out.len % 16 && !t->out.full)
		aml_byte(&t->out, 0);
}

static struct header make_header(const char *signature, uint8_t revision)
{
	struct header h = {.revision = revision, .oem_revision = 1, .creator_revision = 1};

	memcpy(h.signature, signature, 4);
	memcpy(h.oem_id, "FTVMM ", 6);
	memcpy(h.oem_table_id, "FTVMM   ", 8);
	memcpy(h.creator_id, "FTVM", 4);
	return h;
}

/* The table that began at `begin` is complete: its length and checksum. Returns its address. */
static uint64_t finish(struct tables *t, size_t begin)
{
	struct header h;
	uint8_t *p = t->out.buf + begin;

	if (t->out.full)
		return 0;
	memcpy(&h, p, sizeof(h));
	h.length = t->out.len - begin;
	h.checksum = 0;
	memcpy(p, &h, sizeof(h));
	h.checksum = sum(p, h.length);
	memcpy(p, &h, sizeof(h));
	return t->gpa + begin;
}

static uint64_t put_dsdt(struct tables *t, const struct machine *m, uint64_t genid_gpa)
{
	struct header h = make_header("DSDT", 2);
	size_t begin;

	align(t);
	begin = t->out.len;
	aml_bytes(&t->out, &h, sizeof(h));
	acpi_dsdt_body(&t->out, m, genid_gpa);
	return finish(t, begin);
}

static struct address io(uint16_t port, unsigned bytes)
{
	return (struct address){1, bytes * 8, 0, bytes == 4 ? 3 : 1, port};
}

static uint64_t put_fadt(struct tables *t, uint64_t dsdt)
{
	struct fadt f = {
		.head = make_header("FACP", 6),
		.boot_arch = BOOT_NO_VGA | BOOT_NO_MSI | BOOT_NO_ASPM,
		.flags = FADT_WBINVD | FADT_NO_FIXED_POWER_BUTTON | FADT_NO_FIXED_SLEEP_BUTTON |
			 FADT_RESET_REG | FADT_HW_REDUCED,
		.reset_reg = io(GED_BASE + GED_RESET, 1),
		.reset_value = GED_RESET_VALUE,
		.minor_version = 4,
		.x_dsdt = dsdt,
		.sleep_control = io(GED_BASE + GED_SLEEP_CONTROL, 1),
		.sleep_status = io(GED_BASE + GED_SLEEP_STATUS, 1),
	};
	size_t begin;

	_Static_assert(sizeof(f) == 276, "FADT of revision 6");
	memcpy(&f.hypervisor_vendor, "FTVMM\0\0", 8);
	align(t);
	begin = t->out.len;
	aml_bytes(&t->out, &f, sizeof(f));
	return finish(t, begin);
}

static uint64_t put_madt(struct tables *t, const struct machine *m)
{
	struct madt head = {.head = make_header("APIC", 5), .lapic = LAPIC_GPA};
	struct madt_ioapic ioapic = {1, sizeof(ioapic), 0, 0, IOAPIC_GPA, 0};
	struct madt_nmi nmi = {4, sizeof(nmi), 0xff, 0, 1};
	size_t begin;

	align(t);
	begin = t->out.len;
	aml_bytes(&t->out, &head, sizeof(head));
	for (unsigned i = 0; i < m->vcpus; i++) {
		struct madt_lapic lapic = {0, sizeof(lapic), i, i, 1};

		aml_bytes(&t->out, &lapic, sizeof(lapic));
	}
	aml_bytes(&t->out, &ioapic, sizeof(ioapic));
	aml_bytes(&t->out, &nmi, sizeof(nmi));
	return finish(t, begin);
}

enum {
	WDAT_READ_VALUE = 0,
	WDAT_READ_COUNT = 1,
	WDAT_WRITE_VALUE = 2,
	WDAT_WRITE_COUNT = 3,
};

static uint64_t put_wdat(struct tables *t)
{
	static const struct {
		uint8_t action, instruction, offset, value;
	} rows[] = {
		{0x01, WDAT_WRITE_VALUE, WATCHDOG_KICK, 1},  /* reset the count */
		{0x04, WDAT_READ_COUNT, WATCHDOG_LEFT, 0},   /* what is left */
		{0x05, WDAT_READ_COUNT, WATCHDOG_COUNT, 0},  /* what it begins with */
		{0x06, WDAT_WRITE_COUNT, WATCHDOG_COUNT, 0}, /* set that */
		{0x08, WDAT_READ_VALUE, WATCHDOG_CONTROL, WATCHDOG_RUNNING}, /* is it running? */
		{0x09, WDAT_WRITE_VALUE, WATCHDOG_CONTROL, WATCHDOG_RUNNING},
		{0x0a, WDAT_READ_VALUE, WATCHDOG_CONTROL, 0}, /* is it stopped? */
		{0x0b, WDAT_WRITE_VALUE, WATCHDOG_CONTROL, 0},
	};
	const unsigned n = sizeof(rows) / sizeof(rows[0]);
	struct wdat head = {
		.head = make_header("WDAT", 1),
		.header_length = sizeof(struct wdat) - sizeof(struct header),
		.pci_segment = 0xff,
		.pci_bus = 0xff,
		.pci_device = 0xff,
		.pci_function = 0xff,
		.period_ms = WATCHDOG_PERIOD_MS,
		.max_count = WATCHDOG_COUNT_MAX,
		.min_count = 1,
		.flags = 1,
		.nentries = n,
	};
	size_t begin;

	align(t);
	begin = t->out.len;
	aml_bytes(&t->out, &head, sizeof(head));
	for (unsigned i = 0; i < n; i++) {
		struct wdat_entry en = {
			.action = rows[i].action,
			.instruction = rows[i].instruction,
			.reg = io(WATCHDOG_BASE + rows[i].offset, 4),
			.value = rows[i].value,
			.mask = 0xffffffff,
		};

		aml_bytes(&t->out, &en, sizeof(en));
	}
	return finish(t, begin);
}

static uint64_t put_xsdt(struct tables *t, const uint64_t *list, unsigned n)
{
	struct header h = make_header("XSDT", 1);
	size_t begin;

	align(t);
	begin = t->out.len;
	aml_bytes(&t->out, &h, sizeof(h));
	aml_bytes(&t->out, list, n * sizeof(*list));
	return finish(t, begin);
}

static void write_rsdp(void *buf, uint64_t xsdt)
{
	struct rsdp r = {.revision = 2, .length = sizeof(r), .xsdt = xsdt};

	memcpy(r.signature, "RSD PTR ", 8);
	memcpy(r.oem_id, "FTVMM ", 6);
	r.checksum = sum(&r, 20);
	r.ext_checksum = sum(&r, sizeof(r));
	memcpy(buf, &r, sizeof(r));
}

int acpi_build(const struct machine *m, void *buf, size_t cap, uint64_t gpa, uint64_t genid_gpa,
	       struct err *e)
{
	struct tables t = {{.buf = buf, .cap = cap}, gpa};
	struct rsdp place = {0};
	uint64_t list[3], dsdt, xsdt;

	aml_bytes(&t.out, &place, sizeof(place));
	dsdt = put_dsdt(&t, m, genid_gpa);
	list[0] = put_fadt(&t, dsdt);
	list[1] = put_madt(&t, m);
	list[2] = put_wdat(&t);
	xsdt = put_xsdt(&t, list, 3);
	if (t.out.full)
		return err_set(e, -ENOSPC, "ACPI tables: more than %zu bytes", cap);
	write_rsdp(buf, xsdt);
	return t.out.len;
}

/*
 * A machine description from outside. The first byte picks: the rest is the device tree; or a list
 * of edits {u16 place, u8 value} to a good one. What is accepted is within all limits, and says the
 * same when it is built and parsed again.
 */
#include <stdlib.h>
#include <string.h>

#include "vmm/machine/fdt.h"
#include "vmm/machine/mem.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static size_t build_good(uint8_t *out)
{
	static const struct mdev devs[] = {
		{.kind = MDEV_CONSOLE, .id = "console"},
		{.kind = MDEV_RNG, .id = "rng"},
		{.kind = MDEV_BLK, .id = "d0", .bytes = 1 << 20, .ft = DISK_FT_MIRROR, .queues = 8},
		{.kind = MDEV_BLK,
		 .id = "d1",
		 .bytes = 512,
		 .ft = DISK_FT_NONE,
		 .readonly = true,
		 .queues = 1},
		{.kind = MDEV_NET,
		 .id = "n0",
		 .mac = {2, 1, 2, 3, 4, 5},
		 .no_offload = true,
		 .queues = 2},
		{.kind = MDEV_BALLOON, .id = "balloon"},
		{.kind = MDEV_VSOCK, .id = "vsock", .cid = 3},
	};
	struct machine m = {
		.name = "vm", .mem_bytes = 5ull << 30, .vcpus = 3, .cmdline = "a=b", .ndevs = 7};
	int n;

	memcpy(m.devs, devs, sizeof(devs));
	for (unsigned i = 0; i < m.ndevs; i++) {
		m.devs[i].gpa = MACHINE_MMIO_BASE + i * MACHINE_MMIO_STEP;
		m.devs[i].gsi = MACHINE_GSI_BASE + i;
	}
	m.tsc_khz = 2000000;
	m.cpu = CPU_V2;
	m.ncpuid = 3;
	m.cpuid[0] = (struct machine_cpuid){.eax = 7, .ebx = 0x756e6547};
	m.cpuid[1] = (struct machine_cpuid){.function = 1, .edx = 0xffffffff};
	m.cpuid[2] = (struct machine_cpuid){.function = 7, .index = 1, .flags = 1, .eax = 1};
	n = fdt_build(&m, out, FDT_MAX_BYTES, NULL);
	if (n < 0)
		abort();
	return (size_t)n;
}

static void require(bool c)
{
	if (!c)
		abort();
}

static void check_accepted(const struct machine *m)
{
	static uint8_t buf[FDT_MAX_BYTES] __attribute__((aligned(8)));
	struct machine again;
	int n;

	require(m->vcpus >= 1 && m->vcpus <= MACHINE_MAX_VCPUS && m->ndevs <= MACHINE_MAX_DEVS);
	require(m->mem_bytes >= MEM_MIN_BYTES && m->mem_bytes % (2u << 20) == 0);
	require(memchr(m->name, 0, sizeof(m->name)) && memchr(m->cmdline, 0, sizeof(m->cmdline)));
	for (unsigned i = 0; i < m->ndevs; i++) {
		const struct mdev *d = &m->devs[i];

		require(d->kind >= MDEV_BLK && d->kind <= MDEV_VSOCK);
		require(d->id[0] && memchr(d->id, 0, sizeof(d->id)) && !strchr(d->id, '/'));
		require(d->gpa == MACHINE_MMIO_BASE + i * MACHINE_MMIO_STEP);
		require(d->gsi == MACHINE_GSI_BASE + i);
		require((d->kind != MDEV_BLK && d->kind != MDEV_NET) ||
			(d->queues && d->queues <= MACHINE_MAX_QUEUES));
		require(d->kind != MDEV_VSOCK ||
			(d->cid >= MACHINE_CID_MIN && d->cid <= MACHINE_CID_MAX));
		require(d->kind != MDEV_BLK || (d->bytes && d->bytes % 512 == 0 && d->ft));
	}
	require(m->ncpuid >= 2 && m->ncpuid <= MACHINE_MAX_CPUID && m->cpu <= CPU_V3);
	require(m->tsc_khz >= 10000);
	n = fdt_build(m, buf, sizeof(buf), NULL);
	require(n > 0 && !fdt_parse(buf, (size_t)n, &again, NULL));
	require(!memcmp(m, &again, sizeof(again)));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static uint8_t good[FDT_MAX_BYTES] __attribute__((aligned(8)));
	static size_t good_len;
	struct machine m;
	struct err e = {0};
	uint8_t *buf;
	size_t len;
	int r;

	if (!good_len)
		good_len = build_good(good);
	if (!size)
		return 0;
	len = data[0] & 1 ? size - 1 : good_len;
	/* Of its exact size, so that every byte read beyond it is seen. */
	if (posix_memalign((void **)&buf, 8, len ? len : 1))
		abort();
	if (data[0] & 1) {
		memcpy(buf, data + 1, len);
	} else {
		memcpy(buf, good, len);
		for (size_t i = 1; i + 3 <= size; i += 3)
			buf[(data[i] | data[i + 1] << 8) % len] = data[i + 2];
	}
	r = fdt_parse(buf, len, &m, &e);
	if (!r)
		check_accepted(&m);
	else
		require(e.code == r && e.msg[0]);
	free(buf);
	return 0;
}

/*
 * What the guest sees, as plain data: built from the configuration, turned into a flattened device
 * tree (vmm/fdt.c) for the guest and for the handshake, and back into this struct by the peer.
 * Host things (paths, taps) are not in here.
 */
#ifndef VMM_MACHINE_H
#define VMM_MACHINE_H

#include <stdbool.h>
#include <stdint.h>

#include "vmm/err.h"

#define MACHINE_MAX_VCPUS  8
#define MACHINE_MAX_QUEUES 8 /* of a disk; pairs of a NIC */
#define MACHINE_MAX_DEVS   8 /* virtio devices: one IOAPIC pin each, 16..23 */
#define MACHINE_MMIO_BASE  0xd0000000ull
#define MACHINE_MMIO_STEP  0x1000ull
#define MACHINE_GSI_BASE   16

enum mdev_kind { MDEV_BLK = 1, MDEV_NET, MDEV_CONSOLE, MDEV_RNG, MDEV_BALLOON };
enum disk_ft { DISK_FT_MIRROR = 1, DISK_FT_SHARED, DISK_FT_NONE };

struct mdev {
	enum mdev_kind kind;
	char id[32];
	uint64_t gpa; /* of the virtio-mmio registers */
	uint32_t gsi;
	uint64_t bytes;	 /* blk: size of the disk */
	bool readonly;	 /* blk */
	enum disk_ft ft; /* blk */
	uint8_t mac[6];	 /* net */
	bool no_offload; /* net: the guest does all checksums and segments itself */
	uint32_t queues; /* blk: request queues, net: pairs; 0 is 1 */
};

struct machine {
	char name[64];
	uint64_t mem_bytes;
	uint32_t vcpus;
	char cmdline[2048];
	uint32_t ndevs;
	struct mdev devs[MACHINE_MAX_DEVS];
};

#endif

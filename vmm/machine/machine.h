/*
 * What the guest sees, as plain data: built from the configuration, turned into a flattened device
 * tree (vmm/machine/fdt.c) for the guest and for the handshake, and back into this struct by the
 * peer. Host things (paths, taps) are not in here.
 */
#ifndef VMM_MACHINE_H
#define VMM_MACHINE_H

#include <stdbool.h>
#include <stdint.h>

#include "vmm/base/err.h"

#define MACHINE_MAX_VCPUS  8
#define MACHINE_MAX_QUEUES 8 /* of a disk; pairs of a NIC */
#define MACHINE_MAX_DEVS   8 /* virtio devices: one IOAPIC pin each, 16..23 */
#define MACHINE_MMIO_BASE  0xd0000000ull
#define MACHINE_MMIO_STEP  0x1000ull
#define MACHINE_GSI_BASE   16
#define MACHINE_MAX_CPUID  128

/* Bytes: of a block of a disk; of what its medium writes at once. Powers of two. */
#define MACHINE_BLOCK_MIN    512u
#define MACHINE_BLOCK_MAX    4096u
#define MACHINE_PHYSICAL_MAX 65536u

#define MACHINE_CID_MIN 3u /* of a vsock; below are hypervisor, local and host */
#define MACHINE_CID_MAX 0xfffffffeu

enum mdev_kind { MDEV_BLK = 1, MDEV_NET, MDEV_CONSOLE, MDEV_RNG, MDEV_BALLOON, MDEV_VSOCK };
enum disk_ft { DISK_FT_MIRROR = 1, DISK_FT_SHARED, DISK_FT_NONE };
enum cpu_policy { CPU_HOST, CPU_V1, CPU_V2, CPU_V3 }; /* vmm/machine/cpuid.h */

struct mdev {
	enum mdev_kind kind;
	char id[32];
	uint64_t gpa; /* of the virtio-mmio registers */
	uint32_t gsi;
	uint64_t bytes;	   /* blk: size of the disk */
	uint32_t block;	   /* blk: the guest's unit of requests; 0 is 512 */
	uint32_t physical; /* blk: the medium's; 0 is block */
	bool readonly;	   /* blk */
	enum disk_ft ft;   /* blk */
	uint8_t mac[6];	   /* net */
	bool no_offload;   /* net: the guest does all checksums and segments itself */
	uint32_t queues;   /* blk: request queues, net: pairs; 0 is 1 */
	uint32_t cid;	   /* vsock */
};

/* One leaf of CPUID; what differs between vCPUs is zero in it. flags: KVM_CPUID_FLAG_*. */
struct machine_cpuid {
	uint32_t function, index, flags;
	uint32_t eax, ebx, ecx, edx;
};

struct machine {
	char name[64];
	uint64_t mem_bytes;
	uint32_t vcpus;
	enum cpu_policy cpu; /* what the table below was made by */
	uint32_t tsc_khz;    /* what the guest's TSC counts at; 0: not known yet */
	uint32_t ncpuid;     /* 0: not known yet, made for the host that creates the VM */
	struct machine_cpuid cpuid[MACHINE_MAX_CPUID];
	char cmdline[2048];
	uint32_t ndevs;
	struct mdev devs[MACHINE_MAX_DEVS];
};

static inline const char *disk_ft_name(enum disk_ft ft)
{
	return ft == DISK_FT_MIRROR ? "mirror" : ft == DISK_FT_SHARED ? "shared" : "none";
}

static inline uint32_t machine_block(const struct mdev *md)
{
	return md->block ? md->block : MACHINE_BLOCK_MIN;
}

/* An image that both hosts have, and that the guest writes? */
static inline bool machine_is_shared(const struct mdev *md)
{
	return md->kind == MDEV_BLK && md->ft == DISK_FT_SHARED && !md->readonly;
}

static inline bool machine_has_shared(const struct machine *m)
{
	for (unsigned i = 0; i < m->ndevs; i++)
		if (machine_is_shared(&m->devs[i]))
			return true;
	return false;
}

#endif

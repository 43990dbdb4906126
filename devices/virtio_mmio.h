/* The virtio-mmio transport, version 2 (virtio 1.2 section 4.2.2): registers only. */
#ifndef DEVICES_VIRTIO_MMIO_H
#define DEVICES_VIRTIO_MMIO_H

#include "devices/virtio.h"

#define VIRTIO_MMIO_LEN 0x1000

/*
 * Register accesses, on vCPU threads; they take the lock. Below 0x100 only aligned 4-byte accesses
 * mean something: any other reads 0 and writes nothing. The configuration space takes every size.
 */
uint64_t virtio_mmio_read(void *vd, uint64_t off, unsigned size);
void virtio_mmio_write(void *vd, uint64_t off, unsigned size, uint64_t val);

#endif

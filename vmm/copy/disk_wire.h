/* A change of a disk on the wire, and a part of an image: little-endian, without padding holes. */
#ifndef VMM_DISK_WIRE_H
#define VMM_DISK_WIRE_H

#include <stdint.h>

/* FRAME_DISK (a copy of an image) and entries of FRAME_DISKLOG; `data` bytes follow. */
struct wire_disk {
	uint32_t disk; /* index in machine.devs */
	uint32_t kind; /* enum disk_op; in a copy: DISK_WRITE, DISK_ZERO or DISK_FLUSH */
	uint64_t off;
	uint32_t len;  /* bytes concerned */
	uint32_t data; /* bytes that follow: len for a write, else 0 */
};

#endif

/*
 * Vsock (virtio 1.2, section 5.10), driver side: packets and the reset event. What a connection is,
 * is the program's business: see guests/vsock.c. CPU 0 only.
 */
#ifndef GUESTS_LIB_VSOCK_H
#define GUESTS_LIB_VSOCK_H

#include <stdbool.h>
#include <stdint.h>

#define VSOCK_HOST_CID 2u
#define VSOCK_STREAM   1u

enum vsock_op {
	VSOCK_REQUEST = 1,
	VSOCK_RESPONSE,
	VSOCK_RST,
	VSOCK_SHUTDOWN,
	VSOCK_RW,
	VSOCK_CREDIT_UPDATE,
	VSOCK_CREDIT_REQUEST,
};

enum { VSOCK_SHUT_RCV = 1, VSOCK_SHUT_SEND = 2, VSOCK_SHUT_BOTH = 3 };

struct vsock_hdr {
	uint64_t src_cid, dst_cid;
	uint32_t src_port, dst_port;
	uint32_t len;
	uint16_t type, op;
	uint32_t flags;
	uint32_t buf_alloc, fwd_cnt;
} __attribute__((packed));

#define VSOCK_SLOT     4096u /* of a ring, header included */
#define VSOCK_DATA_MAX (VSOCK_SLOT - (uint32_t)sizeof(struct vsock_hdr))

/* The first vsock, ready for use; false if there is none. */
bool vsock_open(void);
uint64_t vsock_cid(void);
/*
 * Sends h, its addresses and type filled in, and h->len bytes of data, at most VSOCK_DATA_MAX. 0,
 * or -EAGAIN when the ring is full: an event follows. The device is told at vsock_kick().
 */
int vsock_send(struct vsock_hdr *h, const void *data);
void vsock_kick(void);
/* The oldest packet, its data in buf (VSOCK_DATA_MAX bytes); false when there is none. */
bool vsock_recv(struct vsock_hdr *ret, void *buf);
/* Has the device said that all connections are gone? Once for each time it did. */
bool vsock_was_reset(void);

#endif

/* What the files of virtio-vsock share: virtio_vsock.c, _tx.c and _rx.c. Under the device's lock.
 */
#ifndef DEVICES_VIRTIO_VSOCK_INT_H
#define DEVICES_VIRTIO_VSOCK_INT_H

#include <linux/virtio_vsock.h>

#include "devices/virtio.h"
#include "devices/virtio_vsock.h"
#include "devices/vsock_conn.h"

#define RX	0
#define TX	1
#define EVENT	2
#define NQUEUES 3
#define REPLIES 128 /* RSTs for packets of no connection that wait for guest buffers */
#define HDR	((uint32_t)sizeof(struct virtio_vsock_hdr))

#define HOST_CID	      2 /* section 5.10.4 */
#define VIRTIO_VSOCK_F_STREAM 0 /* section 5.10.3; the kernel's header lacks it */
#define TICK_NS		      250000000ull
#define HOST_ASKS_NS	      5000000000ull  /* a guest that runs answers within this time */
#define GUEST_ASKS_NS	      60000000000ull /* an epoch may take half of this */

/* Of a connection what a twin needs to tell what the guest's packets order. */
struct vsock_conn_pod {
	uint64_t id;
	uint32_t host_port, guest_port;
	uint8_t state, shut_guest;
	uint32_t rx_cnt, fwd_cnt;
	uint32_t tx_cnt, peer_fwd_cnt, peer_buf_alloc;
};

struct vsock_pod {
	struct virtio_state common;
	uint8_t reset_pending;
	uint64_t last_id; /* of a connection that the guest made */
	uint32_t nconns;
	struct vsock_conn_pod conns[VSOCK_MAX_CONNS];
};

/* An input (devices/inputs.h): a packet, its bytes behind it; alone, with VSOCK_NO_PACKET, the
 * event that all connections are gone.
 */
struct vsock_given {
	uint64_t id; /* of the connection, or 0 */
	struct virtio_vsock_hdr h;
} __attribute__((packed));

#define VSOCK_NO_PACKET VIRTIO_VSOCK_OP_INVALID

struct vsock_fed {
	struct vsock_fed *next;
	uint32_t len; /* of data */
	struct vsock_given given;
	uint8_t data[];
};

struct reply {
	uint64_t src_cid;
	uint32_t src_port, dst_port;
	uint16_t type;
};

struct vsock {
	struct virtio_dev vd;
	struct vsock_pod live;
	struct vsock_host *host;
	int sink;
	uint32_t cid;
	int wake_fd; /* eventfd: there is work for the loop */
	struct loop_op wake_op, tick_op;
	struct loop_work work;
	bool ticking;
	bool forget;	/* the guest reset the device: its connections are to end */
	bool put_again; /* an order found no memory */
	bool is_fed;	/* a twin's: what the guest is given is only what came to the primary's */
	bool full;	/* virtio_vsock_put() said so */
	struct vsock_fed *fed, **fed_tail;
	uint64_t fed_bytes;
	struct vsock_conns conns;
	struct reply replies[REPLIES];
	unsigned reply_at, nreplies;
	struct virtio_vsock_stats stats;
	struct virtq_chain chain;
	struct {
		struct vsock_order order;
		uint8_t data[VSOCK_BUF_BYTES];
	} tx;
	struct {
		struct vsock_given given;
		uint8_t data[VSOCK_BUF_BYTES];
	} __attribute__((packed)) rx;
};

static inline struct vsock *to_vsock(struct virtio_dev *vd)
{
	return (struct vsock *)vd;
}

/* Look at deadlines, and at what is to be tried again, soon. */
void vsock_start_ticking(struct vsock *v);

/*
 * virtio_vsock_tx.c. An order to the host's side, with len bytes of tx.data, through the output
 * buffer: 0, or -EAGAIN: something kicks later.
 */
int vsock_put(struct vsock *v, uint32_t op, uint32_t arg, uint64_t id, uint32_t len);
/* One packet of the guest, as virtio_drain() wants it. */
int vsock_tx_one(struct virtio_dev *vd, unsigned qi);

/* virtio_vsock_fed.c. As vsock_give_one(); the state of connections, to save, and loaded. */
int vsock_fed_give(struct vsock *v);
bool vsock_fed_reset(const struct vsock *v); /* the event is the next that was given */
void vsock_fed_pop(struct vsock *v);
void vsock_fed_drop(struct vsock *v);
void vsock_conns_save(struct vsock *v);
void vsock_conns_load(struct vsock *v);

/* virtio_vsock_rx.c. Fill the buffer in v->chain: v->rx, h.len bytes of its data. 1 or -EBADMSG. */
int vsock_give(struct vsock *v);
/* Give the guest what there is for it; returns whether there may be more. */
bool vsock_pump(struct vsock *v);
/* Give it the event that all connections are gone, if it is due and there is a buffer. */
void vsock_tell_reset(struct vsock *v);

#endif

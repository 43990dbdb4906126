/*
 * Payloads of the fault tolerance frames: little-endian structs without padding holes. Page, disk
 * log and state payloads have formats of their own (vmm/copy/pages.h, vmm/copy/disk_wire.h,
 * vmm/machine/state.h).
 */
#ifndef FT_WIRE_H
#define FT_WIRE_H

#include <stdint.h>

/* FRAME_HELLO: followed by the machine description, fdt_bytes long. */
struct wire_hello {
	uint64_t generation;
	uint64_t heartbeat_ns;
	uint64_t peer_timeout_ns;
	uint64_t disklog_bytes; /* most that one epoch's disk log holds */
	uint32_t verify;	/* 1: epochs carry a hash of all RAM and state */
	uint32_t fdt_bytes;
	uint32_t shared_arbiter; /* 1: an arbiter that both sides see, 0: --arbiter none */
	uint32_t sums;		 /* 1: what images that have data lack is found out by FRAME_SUMS */
	uint64_t token; /* of a move's claim of the next generation: the primary's still; or 0 */
};

/* FRAME_WELCOME */
struct wire_side {
	uint64_t side;	  /* whose images these are (ft/common/side.h) */
	uint32_t kept;	  /* bit i: that of device i is not all zeros: sums are to be compared */
	uint32_t dismiss; /* 1: FRAME_DISMISS is known */
};

/* FRAME_HEART */
struct wire_heart {
	uint64_t nonce;	  /* when the sender sent it first, by its own clock */
	uint64_t echo;	  /* the last nonce received from the other side; 0: none */
	uint64_t away_ns; /* for so long the sender's loop had been away then */
};

/* FRAME_HAND_OVER */
struct wire_hand_over {
	uint64_t token; /* not 0; the record of the secondary's claim is to carry it */
};

/*
 * FRAME_INPUT: before what the device was given: a frame with its virtio_net_hdr, random bytes,
 * what was typed, the GED's event of the power button (u8), pages of the balloon's target (u32), a
 * packet of the vsock (struct vsock_given). The epoch is the one that is open there.
 */
struct wire_input {
	uint32_t device; /* by its place among all devices: both machines are built alike */
	uint32_t place; /* among the inputs of the epoch, of all devices, from 1: none is missing */
};

/* FRAME_OUTPUT: before what was put out. The epoch is the one after the last that was loaded. */
struct wire_output {
	uint32_t sink; /* of the output buffer: both machines are built alike */
	uint32_t pad;
};

/*
 * FRAME_MAPPED, from the primary: a connection that began in this epoch has other numbers at the
 * twin than the client knows (net/seqmap.h). Nothing of it leaves before the answer, which is bare.
 */
struct wire_mapped {
	uint32_t delta, ts_delta;
	uint16_t version; /* of IP */
	uint16_t guest_port, peer_port;
	uint16_t vlan[2];
	uint16_t pad;
	uint8_t guest[16], peer[16];
};

/* FRAME_APART, from the secondary. */
enum wire_apart_why {
	APART_ENDED, /* the twin has ended: crashed, hung, was reset or switched off */
	APART_HOST,  /* the secondary's KVM does not run it */
	APART_SPACE, /* what it writes to a disk finds no room */
	APART_WHYS
};

struct wire_apart {
	uint32_t why; /* enum wire_apart_why */
	uint32_t pad;
};

/* FRAME_READ: before keys of the sectors that were read (ft/epoch/written.h), 8 bytes each. */
struct wire_read {
	uint64_t writes; /* requests to write that the twin had made in this epoch */
};

/* FRAME_GENERATION */
struct wire_generation {
	uint64_t generation;
};

/* FRAME_EPOCH_END; with verify a struct mem_places (vmm/machine/mem_places.h) follows. */
struct wire_end {
	uint64_t pages;	   /* entries in the epoch's page frames */
	uint64_t disk_ops; /* entries in its disk log frames */
	uint64_t paused;   /* 1: by the user; a side that takes over keeps it so */
	uint64_t runs;	   /* 1: the secondary's guest is to run from this state on, as a twin */
	uint64_t apart;	   /* 1: it is taken because the twin was none any more */
	uint64_t ram_hash; /* with verify: XXH3 of all RAM at the seal */
	uint64_t state_hash;
};

#endif

/*
 * What an Ethernet frame says, as far as outputs are compared: to which flow it belongs, where in
 * the flow, and which bytes of it count. Numbers, lengths and checksums that two machines with the
 * same history choose differently are not among them. Pure; any thread.
 */
#ifndef NET_PACKET_H
#define NET_PACKET_H

#include <stddef.h>
#include <stdint.h>

enum packet_kind {
	PACKET_RAW,	 /* not IP, or not as it should be: the whole frame counts */
	PACKET_IP,	 /* another protocol: what is behind the IP header */
	PACKET_FRAGMENT, /* the same; tag: offset and whether more follow */
	PACKET_UDP,	 /* payload; tag: the length that it says */
	PACKET_ICMP,	 /* what is behind the checksum; tag: type and code */
	PACKET_TCP,	 /* payload; seq, ack, flags */
	PACKET_STREAM,	 /* no frame: a piece of a byte stream, */
	PACKET_MESSAGE,	 /* or one message; see net/compare.h */
};

enum { PACKET_FIN = 1, PACKET_SYN = 2, PACKET_RST = 4, PACKET_ACK = 16 };

/*
 * A reset from outside is believed within so much of what the guest acknowledged last, and not
 * while that is not known. The guest drops what is before that, and answers what is behind it (RFC
 * 5961), which shows that it lives.
 */
#define PACKET_RESET_WINDOW (1u << 18)

/*
 * TCP options: timestamps; one that may not work with other numbers, as signatures over the header,
 * or the keys of MPTCP, each side's own.
 */
enum { PACKET_TSVAL = 1, PACKET_FIXED = 2 };

/* Equal for all packets of a flow in one direction. No padding: it is hashed and compared whole. */
struct packet_key {
	uint8_t kind, sink, proto, version; /* version: 4 or 6; 0: not IP */
	uint16_t ethertype, sport, dport, none;
	uint16_t vlan[2];	  /* of the tags, outer first, with 0x8000; 0: none */
	uint8_t src[16], dst[16]; /* an IPv4 address in the first four */
};

struct packet {
	struct packet_key key; /* sink is the caller's */
	uint32_t tag;	       /* to be equal, too */
	uint32_t seq, ack;     /* TCP */
	uint8_t flags;	       /* TCP: PACKET_FIN... */
	uint8_t options;       /* of a SYN: PACKET_TSVAL... */
	uint32_t tsval;	       /* RFC 7323 */
	const uint8_t *data;   /* inside the frame */
	uint32_t len;
};

/* frame: behind a 12-byte virtio_net_hdr; any bytes, any length. Always a result. */
void packet_parse(const void *frame, uint32_t len, struct packet *p);
/* The key of the other direction. */
void packet_turn(struct packet_key *k);
/* As "tcp 10.0.0.2:80 > 10.0.0.9:4242", cut to the size. */
void packet_describe(const struct packet_key *k, char *buf, size_t size);

#endif

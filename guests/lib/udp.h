/* UDP: bound ports with a callback each. */
#ifndef GUESTS_LIB_UDP_H
#define GUESTS_LIB_UDP_H

#include <stddef.h>
#include <stdint.h>

#define UDP_PORTS    8
#define UDP_HDR_LEN  8
#define UDP_DATA_MAX (1500 - 20 - UDP_HDR_LEN)

struct ip_packet;
struct net_if;

/* data is valid during the call only; the callback may call udp_send(). */
typedef void udp_recv_fn(void *ctx, uint32_t src, uint16_t sport, const void *data, size_t len);

struct udp_table {
	struct udp_bind {
		uint16_t port; /* 0: free */
		udp_recv_fn *recv;
		void *ctx;
	} bind[UDP_PORTS];
};

/* 0, -EADDRINUSE or -ENOSPC. */
int udp_bind(struct net_if *nif, uint16_t port, udp_recv_fn *recv, void *ctx);
void udp_input(struct net_if *nif, const struct ip_packet *pkt);
/* Sends one datagram: data[0..len), then data2[0..len2) (may be NULL, 0). 0 or negative errno. */
int udp_send(struct net_if *nif, uint32_t dst, uint16_t sport, uint16_t dport, const void *data,
	     size_t len, const void *data2, size_t len2);

#endif

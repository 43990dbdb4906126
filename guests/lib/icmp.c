#include <string.h>

#include "guests/lib/icmp.h"
#include "guests/lib/ip.h"
#include "guests/lib/net.h"

#define ICMP_HDR_LEN 8

enum icmp_type { ICMP_ECHO_REPLY = 0, ICMP_ECHO = 8 };

void icmp_input(struct net_if *nif, const struct ip_packet *pkt)
{
	uint8_t *p = ip_payload(nif);

	if (pkt->len < ICMP_HDR_LEN || pkt->len > NET_MTU - IP_HDR_LEN ||
	    net_sum_fold(net_sum(0, pkt->data, pkt->len))) {
		nif->stats.rx_bad++;
		return;
	}
	if (pkt->data[0] != ICMP_ECHO || pkt->data[1]) {
		nif->stats.rx_ignored++;
		return;
	}
	memcpy(p, pkt->data, pkt->len);
	p[0] = ICMP_ECHO_REPLY;
	net_put16(p + 2, 0);
	net_put16(p + 2, net_sum_fold(net_sum(0, p, pkt->len)));
	ip_send(nif, pkt->src, IP_ICMP, pkt->len);
}

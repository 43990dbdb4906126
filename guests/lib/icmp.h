/* ICMP: answers echo requests. */
#ifndef GUESTS_LIB_ICMP_H
#define GUESTS_LIB_ICMP_H

struct ip_packet;
struct net_if;

void icmp_input(struct net_if *nif, const struct ip_packet *pkt);

#endif

/* Which flow an Ethernet frame belongs to, so that each stays in one queue and in order. */
#ifndef NET_FLOW_H
#define NET_FLOW_H

#include <stdint.h>

/*
 * Equal for all frames of one flow: the addresses and, for TCP, the ports. Not the ports of UDP,
 * whose later fragments do not have them. 0 for what is not IP. Reads at most len bytes; pure.
 */
uint32_t flow_hash(const uint8_t *eth, uint32_t len);

#endif

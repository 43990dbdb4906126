#include "net/flow.h"

#include <linux/if_ether.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <string.h>

#include "vmm/base/hash.h"

#define IP6_BYTES 40u

static uint32_t hash(const uint8_t *addrs, uint32_t naddrs, const uint8_t *ports)
{
	uint8_t key[36] = {0};

	memcpy(key, addrs, naddrs);
	if (ports)
		memcpy(key + naddrs, ports, 4);
	return (uint32_t)XXH3_64bits(key, sizeof(key));
}

static uint32_t hash_ipv4(const uint8_t *ip, uint32_t len)
{
	uint32_t header = (ip[0] & 15) * 4;
	bool whole = !((ip[6] & 0x3f) | ip[7]); /* no more fragments, and this is the first */
	bool ports = ip[9] == IPPROTO_TCP && whole && header >= 20 && len >= header + 4;

	return hash(ip + 12, 8, ports ? ip + header : NULL);
}

uint32_t flow_hash(const uint8_t *eth, uint32_t len)
{
	uint16_t type = len < ETH_HLEN ? 0 : (uint16_t)(eth[12] << 8 | eth[13]);
	const uint8_t *ip = eth + ETH_HLEN;

	if (type == ETH_P_IP && len >= ETH_HLEN + 20)
		return hash_ipv4(ip, len - ETH_HLEN);
	if (type == ETH_P_IPV6 && len >= ETH_HLEN + IP6_BYTES) {
		bool ports = ip[6] == IPPROTO_TCP && len >= ETH_HLEN + IP6_BYTES + 4;

		return hash(ip + 8, 32, ports ? ip + IP6_BYTES : NULL);
	}
	return 0;
}

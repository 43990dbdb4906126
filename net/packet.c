#include "net/packet.h"

#include <arpa/inet.h>
#include <linux/if_ether.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "net/netdev.h"

#define IP4_BYTES 20u
#define IP6_BYTES 40u
#define TCP_BYTES 20u
#define UDP_BYTES 8u
#define IP6_MORE  8 /* extension headers that are looked behind */

_Static_assert(sizeof(struct packet_key) == 48, "no padding");

static uint16_t get16(const uint8_t *p)
{
	return (uint16_t)(p[0] << 8 | p[1]);
}

static uint32_t get32(const uint8_t *p)
{
	return (uint32_t)get16(p) << 16 | get16(p + 2);
}

/* These say false for what is not as it should be. */

/*
 * What numbers of a connection may be changed without: maximum segment size, window scale, SACK,
 * timestamps, fast open. Others may sign them, derive keys from them or count on their own.
 */
static bool is_plain(uint8_t kind)
{
	return kind <= 5 || kind == 8 || kind == 34;
}

/* RFC 9293, 3.1; RFC 7323, 3.2 */
static void parse_option(struct packet *p, const uint8_t *o, uint32_t bytes)
{
	if (o[0] == 8 && bytes == 10) {
		p->options |= PACKET_TSVAL;
		p->tsval = get32(o + 2);
	} else if (!is_plain(o[0])) {
		p->options |= PACKET_FIXED;
	}
}

static void parse_options(struct packet *p, const uint8_t *o, uint32_t len)
{
	uint32_t bytes;

	for (uint32_t at = 0; at < len && o[at]; at += bytes) {
		bytes = o[at] == 1 ? 1 : at + 1 < len ? o[at + 1] : 0;
		if (bytes < 1 || (bytes < 2 && o[at] != 1) || bytes > len - at)
			return;
		parse_option(p, o + at, bytes);
	}
}

static bool parse_tcp(struct packet *p, const uint8_t *tcp, uint32_t len)
{
	uint32_t header = len < TCP_BYTES ? 0 : (tcp[12] >> 4) * 4u;

	if (header < TCP_BYTES || header > len)
		return false;
	p->key.kind = PACKET_TCP;
	p->key.sport = get16(tcp);
	p->key.dport = get16(tcp + 2);
	p->seq = get32(tcp + 4);
	p->ack = get32(tcp + 8);
	p->flags = tcp[13] & (PACKET_FIN | PACKET_SYN | PACKET_RST | PACKET_ACK);
	p->data = tcp + header;
	p->len = len - header;
	if (p->flags & PACKET_SYN)
		parse_options(p, tcp + TCP_BYTES, header - TCP_BYTES);
	return true;
}

static bool parse_udp(struct packet *p, const uint8_t *udp, uint32_t len)
{
	if (len < UDP_BYTES)
		return false;
	p->key.kind = PACKET_UDP;
	p->key.sport = get16(udp);
	p->key.dport = get16(udp + 2);
	p->tag = get16(udp + 4);
	p->data = udp + UDP_BYTES;
	p->len = len - UDP_BYTES;
	return true;
}

static bool parse_icmp(struct packet *p, const uint8_t *icmp, uint32_t len)
{
	if (len < 4)
		return false;
	p->key.kind = PACKET_ICMP;
	p->tag = get16(icmp);
	p->data = icmp + 4;
	p->len = len - 4;
	return true;
}

static bool parse_inner(struct packet *p, const uint8_t *inner, uint32_t len)
{
	switch (p->key.proto) {
	case IPPROTO_TCP:
		return parse_tcp(p, inner, len);
	case IPPROTO_UDP:
		return parse_udp(p, inner, len);
	case IPPROTO_ICMP:
	case IPPROTO_ICMPV6:
		return parse_icmp(p, inner, len);
	}
	p->key.kind = PACKET_IP;
	p->data = inner;
	p->len = len;
	return true;
}

static bool parse_fragment(struct packet *p, uint16_t where, const uint8_t *inner, uint32_t len)
{
	p->key.kind = PACKET_FRAGMENT;
	p->tag = where;
	p->data = inner;
	p->len = len;
	return true;
}

static bool parse_ip4(struct packet *p, const uint8_t *ip, uint32_t len)
{
	uint32_t header = len < IP4_BYTES ? 0 : (ip[0] & 15) * 4u;
	uint32_t total = len < IP4_BYTES ? 0 : get16(ip + 2);

	if (header < IP4_BYTES || ip[0] >> 4 != 4 || total < header || total > len)
		return false;
	p->key.version = 4;
	p->key.proto = ip[9];
	memcpy(p->key.src, ip + 12, 4);
	memcpy(p->key.dst, ip + 16, 4);
	if (get16(ip + 6) & 0x3fff)
		return parse_fragment(p, get16(ip + 6) & 0x3fff, ip + header, total - header);
	return parse_inner(p, ip + header, total - header);
}

/* ext: what follows the header of IPv6, of type p->key.proto. */
static bool parse_extensions(struct packet *p, const uint8_t *ext, uint32_t len)
{
	for (int i = 0; i < IP6_MORE; i++) {
		uint8_t type = p->key.proto;
		uint32_t size;

		if (type != IPPROTO_HOPOPTS && type != IPPROTO_ROUTING && type != IPPROTO_DSTOPTS &&
		    type != IPPROTO_FRAGMENT)
			return parse_inner(p, ext, len);
		if (len < 8)
			return false;
		size = type == IPPROTO_FRAGMENT ? 8 : (ext[1] + 1u) * 8;
		if (size > len)
			return false;
		p->key.proto = ext[0];
		if (type == IPPROTO_FRAGMENT && get16(ext + 2) & 0xfff9)
			return parse_fragment(p, get16(ext + 2) & 0xfff9, ext + 8, len - 8);
		ext += size;
		len -= size;
	}
	return false;
}

static bool parse_ip6(struct packet *p, const uint8_t *ip, uint32_t len)
{
	uint32_t payload = len < IP6_BYTES ? 0 : get16(ip + 4);

	if (len < IP6_BYTES || ip[0] >> 4 != 6 || !payload || payload > len - IP6_BYTES)
		return false;
	p->key.version = 6;
	p->key.proto = ip[6];
	memcpy(p->key.src, ip + 8, 16);
	memcpy(p->key.dst, ip + 24, 16);
	return parse_extensions(p, ip + IP6_BYTES, payload);
}

static void parse_raw(struct packet *p, const uint8_t *eth, uint32_t len, uint16_t ethertype)
{
	memset(p, 0, sizeof(*p));
	p->key.ethertype = ethertype;
	p->data = eth;
	p->len = len;
}

void packet_parse(const void *frame, uint32_t len, struct packet *p)
{
	uint32_t skip = len < NET_VNET_HDR ? 0 : NET_VNET_HDR, at = ETH_HLEN;
	const uint8_t *eth = (const uint8_t *)frame + skip;
	uint16_t type;
	bool good;

	len -= skip;
	parse_raw(p, eth, len, 0);
	if (len < ETH_HLEN)
		return;
	type = get16(eth + 12);
	for (int i = 0; i < 2 && (type == ETH_P_8021Q || type == ETH_P_8021AD); i++) {
		if (len < at + 4)
			break;
		p->key.vlan[i] = 0x8000 | (get16(eth + at) & 0xfff);
		type = get16(eth + at + 2);
		at += 4;
	}
	p->key.ethertype = type;
	if (type == ETH_P_IP)
		good = parse_ip4(p, eth + at, len - at);
	else if (type == ETH_P_IPV6)
		good = parse_ip6(p, eth + at, len - at);
	else
		return;
	if (!good)
		parse_raw(p, eth, len, type);
}

void packet_turn(struct packet_key *k)
{
	struct packet_key was = *k;

	k->sport = was.dport;
	k->dport = was.sport;
	memcpy(k->src, was.dst, sizeof(k->src));
	memcpy(k->dst, was.src, sizeof(k->dst));
}

static void describe_end(const struct packet_key *k, bool src, char buf[64])
{
	const uint8_t *addr = src ? k->src : k->dst;
	bool ports = k->kind == PACKET_TCP || k->kind == PACKET_UDP;
	char text[INET6_ADDRSTRLEN];

	inet_ntop(k->version == 4 ? AF_INET : AF_INET6, addr, text, sizeof(text));
	if (ports)
		snprintf(buf, 64, k->version == 4 ? "%s:%u" : "[%s]:%u", text,
			 src ? k->sport : k->dport);
	else
		snprintf(buf, 64, "%s", text);
}

void packet_describe(const struct packet_key *k, char *buf, size_t size)
{
	static const char *const names[] = {"frame", "ip",  "fragment", "udp",
					    "icmp",  "tcp", "stream",	"message"};
	char src[64], dst[64];

	if (k->kind == PACKET_RAW) {
		snprintf(buf, size, "frame of type 0x%04x", k->ethertype);
	} else if (!k->version) {
		snprintf(buf, size, "%s", names[k->kind]);
	} else {
		describe_end(k, true, src);
		describe_end(k, false, dst);
		snprintf(buf, size, "%s %s > %s", names[k->kind], src, dst);
	}
}

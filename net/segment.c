#include "net/segment.h"

#include <linux/if_ether.h>
#include <linux/virtio_net.h>
#include <netinet/in.h>
#include <string.h>

#include "net/netdev.h"

#define IP4_BYTES	   20u
#define IP6_BYTES	   40u
#define TCP_BYTES	   20u
#define TCP_FLAGS	   13u
#define TCP_SUM		   16u
#define ICMP_BYTES	   8u
#define ICMP_SUM	   2u
#define EXTENSIONS_MAX	   8
#define VLANS_MAX	   2
#define FRAGMENT_MORE_IP4  0x2000u
#define FRAGMENT_WHERE_IP4 0x1fffu
#define FRAGMENT_MORE_IP6  1u
#define FRAGMENT_WHERE_IP6 0xfff8u

/* An IP packet of `end` bytes, whose transport header is at `at`. */
struct packet {
	uint8_t version, protocol;
	bool more; /* fragments: this is the first */
	uint8_t src[16], dst[16];
	uint32_t at, end;
};

static uint32_t get16(const uint8_t *p)
{
	return (uint32_t)p[0] << 8 | p[1];
}

static uint32_t get32(const uint8_t *p)
{
	return get16(p) << 16 | get16(p + 2);
}

/* cut: the length that it says may be more than there is, as in a quotation. */
static bool find_ip4(struct packet *p, const uint8_t *ip, uint32_t len, bool cut)
{
	uint32_t says, where;

	if (len < IP4_BYTES || ip[0] >> 4 != 4)
		return false;
	p->version = 4;
	p->at = (ip[0] & 15u) * 4;
	says = get16(ip + 2);
	if (p->at < IP4_BYTES || says < p->at || (says > len && !cut))
		return false;
	p->end = says < len ? says : len;
	where = get16(ip + 6);
	p->more = where & FRAGMENT_MORE_IP4;
	p->protocol = ip[9];
	memset(p->src, 0, sizeof(p->src));
	memset(p->dst, 0, sizeof(p->dst));
	memcpy(p->src, ip + 12, 4);
	memcpy(p->dst, ip + 16, 4);
	return !(where & FRAGMENT_WHERE_IP4);
}

/* Over one extension header of `kind` at p->at. False: it ends the way. */
static bool skip_extension(struct packet *p, const uint8_t *ip, uint8_t kind)
{
	const uint8_t *h = ip + p->at;

	if (p->end < p->at + 8)
		return false;
	if (kind == IPPROTO_FRAGMENT) {
		uint32_t where = get16(h + 2);

		if (where & FRAGMENT_WHERE_IP6)
			return false;
		p->more = where & FRAGMENT_MORE_IP6;
		p->at += 8;
	} else {
		p->at += 8 + h[1] * 8u;
	}
	p->protocol = h[0];
	return p->at <= p->end;
}

static bool find_ip6(struct packet *p, const uint8_t *ip, uint32_t len, bool cut)
{
	uint32_t says;

	if (len < IP6_BYTES || ip[0] >> 4 != 6)
		return false;
	p->version = 6;
	p->more = false;
	p->at = IP6_BYTES;
	says = IP6_BYTES + get16(ip + 4);
	if (says > len && !cut)
		return false;
	p->end = says < len ? says : len;
	p->protocol = ip[6];
	memcpy(p->src, ip + 8, 16);
	memcpy(p->dst, ip + 24, 16);
	for (int n = 0; n <= EXTENSIONS_MAX; n++) {
		uint8_t kind = p->protocol;

		if (kind != IPPROTO_HOPOPTS && kind != IPPROTO_ROUTING &&
		    kind != IPPROTO_FRAGMENT && kind != IPPROTO_DSTOPTS)
			return true;
		if (!skip_extension(p, ip, kind))
			return false;
	}
	return false;
}

static bool find_ip(struct packet *p, const uint8_t *ip, uint32_t len, bool cut)
{
	if (!len)
		return false;
	return ip[0] >> 4 == 4 ? find_ip4(p, ip, len, cut) : find_ip6(p, ip, len, cut);
}

static void take_packet(struct segment *s, const struct packet *p, uint8_t *ip, uint32_t header)
{
	s->version = p->version;
	s->whole = !p->more;
	memcpy(s->src, p->src, sizeof(s->src));
	memcpy(s->dst, p->dst, sizeof(s->dst));
	s->header = header;
	s->in_frame = ip + p->at;
	memcpy(s->copy, s->in_frame, header);
	s->sport = (uint16_t)get16(s->copy);
	s->dport = (uint16_t)get16(s->copy + 2);
	s->payload = p->end - p->at - header;
	s->change = 0;
}

static bool find_tcp(struct segment *s, const struct packet *p, uint8_t *ip)
{
	uint32_t header;

	if (p->end < p->at + TCP_BYTES)
		return false;
	header = (ip[p->at + 12] >> 4) * 4u;
	if (header < TCP_BYTES || p->end < p->at + header)
		return false;
	take_packet(s, p, ip, header);
	s->quoted = false;
	s->flags = s->copy[TCP_FLAGS];
	s->sum = s->in_frame + TCP_SUM;
	return true;
}

static bool is_error(const struct packet *p, uint8_t type)
{
	if (p->version == 6) /* RFC 4443: unreachable, too big, time, parameter */
		return p->protocol == IPPROTO_ICMPV6 && type >= 1 && type <= 4;
	return p->protocol == IPPROTO_ICMP && (type == 3 || type == 11 || type == 12);
}

/* An error quotes the packet that it is about, at least eight bytes behind its IP header. */
static bool find_quoted(struct segment *s, const struct packet *p, uint8_t *ip)
{
	uint8_t *icmp = ip + p->at, *about = icmp + ICMP_BYTES;
	struct packet q;

	if (p->more || p->end < p->at + ICMP_BYTES || !is_error(p, icmp[0]) ||
	    !find_ip(&q, about, p->end - p->at - ICMP_BYTES, true) || q.version != p->version ||
	    q.protocol != IPPROTO_TCP || q.end < q.at + ICMP_BYTES)
		return false;
	take_packet(s, &q, about, ICMP_BYTES);
	s->quoted = true;
	s->flags = 0;
	s->sum = icmp + ICMP_SUM;
	return true;
}

/* Does the header in front ask for the checksum at s->sum to be completed? */
static bool sum_is_partial(const struct segment *s, const uint8_t *frame)
{
	struct virtio_net_hdr_v1 h;

	memcpy(&h, frame, sizeof(h));
	return (h.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) &&
	       s->sum - frame == NET_VNET_HDR + h.csum_start + h.csum_offset;
}

/* Where what the frame carries begins, and the type of that; 0: it is cut off. */
static uint32_t skip_tags(struct segment *s, const uint8_t *frame, uint32_t len, uint32_t *ret_type)
{
	uint32_t at = NET_VNET_HDR + ETH_HLEN, type;

	if (len < at)
		return 0;
	type = get16(frame + at - 2);
	s->vlan[0] = s->vlan[1] = 0;
	for (int n = 0; n < VLANS_MAX && (type == ETH_P_8021Q || type == ETH_P_8021AD); n++) {
		if (len < at + 4)
			return 0;
		s->vlan[s->vlan[0] != 0] = (uint16_t)(get16(frame + at) & 0xfff);
		type = get16(frame + at + 2);
		at += 4;
	}
	*ret_type = type;
	return at;
}

bool segment_find(struct segment *s, uint8_t *frame, uint32_t len)
{
	uint32_t type, at = skip_tags(s, frame, len, &type);
	struct packet p;

	if (!at)
		return false;
	if ((type != ETH_P_IP || !find_ip4(&p, frame + at, len - at, false)) &&
	    (type != ETH_P_IPV6 || !find_ip6(&p, frame + at, len - at, false)))
		return false;
	if (p.protocol == IPPROTO_TCP ? !find_tcp(s, &p, frame + at)
				      : !find_quoted(s, &p, frame + at))
		return false;
	s->keep_sum = sum_is_partial(s, frame);
	return true;
}

uint32_t segment_get(const struct segment *s, unsigned at)
{
	return get32(s->copy + at);
}

/*
 * The one's complement sum over 32 bits. The 16-bit words of the checksum begin at even bytes; what
 * lies across them counts with its bytes swapped (RFC 1071, 2B).
 */
static uint32_t sum32(uint32_t v, bool odd)
{
	uint32_t sum = (v >> 16) + (v & 0xffff);

	sum = (sum >> 16) + (sum & 0xffff);
	return odd ? (sum >> 8 | sum << 8) & 0xffff : sum;
}

void segment_add(struct segment *s, unsigned at, uint32_t by)
{
	uint32_t was = segment_get(s, at), is = was + by;

	for (unsigned i = 0; i < 4; i++)
		s->copy[at + i] = (uint8_t)(is >> (24 - 8 * i));
	/* RFC 1624, equation 3: ~m + m'. At most 2^17 each, and a header has room for few. */
	s->change += sum32(~was, at & 1) + sum32(is, at & 1);
}

unsigned segment_option(const struct segment *s, unsigned *at, unsigned *ret_bytes)
{
	while (*at < s->header && s->copy[*at] == 1) /* no operation: one byte */
		++*at;
	if (*at + 2 > s->header || s->copy[*at] == 0)
		return 0;
	*ret_bytes = s->copy[*at + 1];
	if (*ret_bytes < 2 || *at + *ret_bytes > s->header)
		return 0;
	*at += *ret_bytes;
	return s->copy[*at - *ret_bytes];
}

void segment_put(struct segment *s)
{
	uint32_t sum = (~get16(s->sum) & 0xffff) + s->change;

	memcpy(s->in_frame, s->copy, s->header);
	if (s->keep_sum)
		return;
	sum = (sum >> 16) + (sum & 0xffff);
	sum = ~((sum >> 16) + sum);
	s->sum[0] = (uint8_t)(sum >> 8);
	s->sum[1] = (uint8_t)sum;
}

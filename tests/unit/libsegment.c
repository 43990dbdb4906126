#include "tests/unit/libsegment.h"

#include <stdlib.h>
#include <string.h>

#define HDR 12

static const uint8_t ip6_guest[16] = {0xfd, [15] = 1}, ip6_peer[16] = {0xfd, [15] = 2};

static uint8_t *put16(uint8_t *p, uint32_t v)
{
	p[0] = (uint8_t)(v >> 8);
	p[1] = (uint8_t)v;
	return p + 2;
}

static uint8_t *put32(uint8_t *p, uint32_t v)
{
	return put16(put16(p, v >> 16), v & 0xffff);
}

static uint32_t add_up(uint32_t sum, const uint8_t *p, uint32_t len)
{
	for (uint32_t i = 0; i < len; i++)
		sum += i & 1 ? p[i] : (uint32_t)p[i] << 8;
	while (sum >> 16)
		sum = (sum >> 16) + (sum & 0xffff);
	return sum;
}

static void end_option(uint8_t **p, uint8_t *from)
{
	while ((*p - from) % 4)
		*(*p)++ = 0;
}

/* Header and payload; the checksum is 0. Returns the end. */
static uint8_t *make_tcp(const struct made_segment *d, uint8_t *tcp)
{
	uint8_t *p = tcp;
	uint16_t peer = (uint16_t)(40000 + d->port);

	p = put16(p, d->from_guest ? 80 : peer);
	p = put16(p, d->from_guest ? peer : 80);
	p = put32(put32(p, d->seq), d->ack);
	p += 1;
	*p++ = d->flags;
	p = put32(put16(p, 500), 0);
	for (unsigned i = 0; i < d->nops; i++)
		*p++ = 1;
	if (d->timestamps) {
		p = put16(p, 8 << 8 | 10);
		p = put32(put32(p, d->ts_val), d->ts_ecr);
	}
	if (d->nedges) {
		p = put16(p, 5u << 8 | (2u + 4u * d->nedges));
		for (unsigned i = 0; i < d->nedges; i++)
			p = put32(p, d->edges[i]);
	}
	end_option(&p, tcp);
	tcp[12] = (uint8_t)((p - tcp) / 4 << 4);
	for (uint32_t i = 0; i < d->payload; i++)
		*p++ = (uint8_t)(i * 7 + 1);
	return p;
}

/* RFC 9293, 3.1; RFC 8200, 8.1 */
static uint32_t pseudo_sum(const uint8_t *addrs, uint32_t naddrs, uint8_t protocol, uint32_t len)
{
	return add_up(len + protocol, addrs, naddrs);
}

static uint8_t *extension(uint8_t *p, uint8_t **next, uint8_t kind, uint32_t bytes)
{
	**next = kind;
	*next = p;
	memset(p, 0, bytes);
	p[1] = (uint8_t)(bytes / 8 - 1);
	if (kind != 43)
		p[2] = 1; /* PadN */
	p[3] = (uint8_t)(kind == 43 ? 0 : bytes - 4);
	return p + bytes;
}

/* The header of `protocol`; *ret_sum: of the pseudo header but for length. Returns its end. */
static uint8_t *make_ip6(const struct made_segment *d, uint8_t *ip, uint8_t protocol)
{
	uint8_t *p = ip + 40, *next = ip + 6;

	memset(ip, 0, 40);
	ip[0] = 0x60;
	ip[7] = 64;
	memcpy(ip + 8, d->from_guest ? ip6_guest : ip6_peer, 16);
	memcpy(ip + 24, d->from_guest ? ip6_peer : ip6_guest, 16);
	if (d->extensions & EXT_HOP)
		p = extension(p, &next, 0, 8);
	if (d->extensions & EXT_DEST)
		p = extension(p, &next, 60, 24);
	if (d->extensions & EXT_ROUTING)
		p = extension(p, &next, 43, 8);
	if (d->extensions & EXT_FRAGMENT) {
		*next = 44;
		next = p;
		put16(p, 0);
		put16(p + 2, (uint32_t)d->where << 3 | d->first_of_more);
		p = put32(p + 4, 0x1234);
	}
	*next = protocol;
	return p;
}

static uint8_t *make_ip4(const struct made_segment *d, uint8_t *ip, uint8_t protocol)
{
	uint32_t header = 20 + 4u * d->ip_options;

	memset(ip, 1, header); /* options: no operation */
	ip[0] = (uint8_t)(0x40 | header / 4);
	put16(ip + 4, 0x1234);
	put16(ip + 6, d->where | (d->first_of_more ? 0x2000u : 0));
	ip[8] = 64;
	ip[9] = protocol;
	put32(ip + 12, d->from_guest ? 0x0a000001 : 0x0a000002);
	put32(ip + 16, d->from_guest ? 0x0a000002 : 0x0a000001);
	return ip + header;
}

/* The IP packet with its checksums at `ip`; *ret_l4 its TCP header. Returns the end. */
static uint8_t *make_packet(const struct made_segment *d, uint8_t *ip, uint8_t **ret_l4)
{
	bool v4 = d->version == 4;
	uint8_t *tcp = v4 ? make_ip4(d, ip, 6) : make_ip6(d, ip, 6), *end;
	uint32_t sum;

	memset(tcp, 0, 20);
	end = make_tcp(d, tcp);
	sum = pseudo_sum(ip + (v4 ? 12 : 8), v4 ? 8 : 32, 6, (uint32_t)(end - tcp));
	if (d->partial)
		put16(tcp + 16, sum);
	else
		put16(tcp + 16, ~add_up(sum, tcp, (uint32_t)(end - tcp)));
	if (d->first_of_more) /* the rest of what was summed is in the next fragment */
		end = tcp + (uint32_t)(end - tcp) / 16 * 8;
	if (v4) {
		put16(ip + 2, (uint32_t)(end - ip));
		put16(ip + 10, 0);
		put16(ip + 10, ~add_up(0, ip, (uint32_t)(tcp - ip)));
	} else {
		put16(ip + 4, (uint32_t)(end - ip) - 40);
	}
	*ret_l4 = tcp;
	return end;
}

static uint8_t *make_ethernet(const struct made_segment *d, uint8_t *frame)
{
	uint8_t *p = frame + HDR;

	memset(frame, 0, HDR + 12);
	p[0] = 2;
	p[6] = 2;
	p += 12;
	if (d->vlans == 2)
		p = put32(p, 0x88a80000u | d->vlan[1]);
	if (d->vlans)
		p = put32(p, 0x8100e000u | d->vlan[0]);
	return put16(p, d->version == 4 ? 0x0800 : 0x86dd);
}

uint32_t segment_make(const struct made_segment *d, uint8_t *frame)
{
	uint8_t *tcp, *end = make_packet(d, make_ethernet(d, frame), &tcp);

	frame[0] = d->partial;
	frame[1] = (uint8_t)(!d->gso_size ? 0 : d->version == 4 ? 1 : 4);
	memcpy(frame + 4, &d->gso_size, 2);
	if (d->partial) {
		uint16_t start = (uint16_t)(tcp - frame - HDR), offset = 16;

		memcpy(frame + 6, &start, 2);
		memcpy(frame + 8, &offset, 2);
	}
	memset(end, 0, d->padding);
	return (uint32_t)(end - frame) + d->padding;
}

uint32_t segment_make_error(const struct made_segment *d, uint32_t bytes, uint8_t *frame)
{
	static uint8_t packet[SEGMENT_FRAME_MAX];
	struct made_segment outer = {.version = d->version,
				     .vlans = d->vlans,
				     .vlan = {d->vlan[0], d->vlan[1]},
				     .from_guest = !d->from_guest};
	uint8_t *ip = make_ethernet(&outer, frame), *icmp, *tcp, *end;
	bool v4 = d->version == 4;
	uint32_t quoted, len;

	end = make_packet(d, packet, &tcp);
	quoted = (uint32_t)(tcp - packet) + bytes;
	if (quoted > (uint32_t)(end - packet))
		quoted = (uint32_t)(end - packet);
	len = 8 + quoted;
	icmp = v4 ? make_ip4(&outer, ip, 1) : make_ip6(&outer, ip, 58);
	put32(put32(icmp, v4 ? 0x03040000 : 0x02000000), 1280); /* too big */
	memcpy(icmp + 8, packet, quoted);
	put16(icmp + 2, ~add_up(v4 ? 0 : pseudo_sum(ip + 8, 32, 58, len), icmp, len));
	if (v4)
		put16(ip + 2, 20 + len);
	else
		put16(ip + 4, len);
	return (uint32_t)(icmp + len - frame);
}

struct seqmap_flow segment_flow(uint8_t version, uint16_t port)
{
	struct seqmap_flow f = {
		.version = version, .guest_port = 80, .peer_port = (uint16_t)(40000 + port)};

	if (version == 4) {
		put32(f.guest, 0x0a000001);
		put32(f.peer, 0x0a000002);
	} else {
		memcpy(f.guest, ip6_guest, sizeof(f.guest));
		memcpy(f.peer, ip6_peer, sizeof(f.peer));
	}
	return f;
}

uint32_t random32(unsigned *seed)
{
	uint32_t v = 0;

	for (int i = 0; i < 4; i++)
		v = v << 8 | ((uint32_t)rand_r(seed) >> 8 & 0xff);
	return v;
}

struct made_segment segment_random(unsigned *seed)
{
	uint32_t r = random32(seed);
	struct made_segment d = {.version = r & 1 ? 4 : 6,
				 .vlans = (uint8_t)((r >> 1) % 3),
				 .from_guest = r & 8,
				 .timestamps = r & 16,
				 .nops = (uint8_t)(r >> 5 & 3),
				 .flags = (uint8_t)(r & 128 ? 0x10 : 0x18),
				 .seq = random32(seed),
				 .ack = random32(seed),
				 .ts_val = random32(seed),
				 .ts_ecr = random32(seed),
				 .payload = random32(seed) % 200};

	d.nedges = (uint8_t)(2 * (random32(seed) % (d.timestamps ? 4 : 5)));
	for (unsigned i = 0; i < d.nedges; i++)
		d.edges[i] = random32(seed);
	if (d.nops + 10u * d.timestamps + (d.nedges ? 2 + 4u * d.nedges : 0) > 40)
		d.nops = 0;
	d.ip_options = (uint8_t)(r & 256 ? random32(seed) % 11 : 0);
	d.extensions = (uint8_t)(r & 512 ? random32(seed) % 16 : 0);
	d.partial = r & 1024;
	if (d.partial && (r & 2048)) {
		d.gso_size = 1448;
		d.payload = 3000 + random32(seed) % 60000;
	}
	if (!d.partial && (r & 4096) && (d.version == 4 || (d.extensions & EXT_FRAGMENT))) {
		d.first_of_more = true;
		d.payload = 200 + random32(seed) % 2000;
	}
	d.padding = (uint8_t)(r >> 13 & 15);
	return d;
}

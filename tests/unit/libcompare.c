#include "tests/unit/libcompare.h"

#include <string.h>

#define HDR 12u

static uint8_t *put16(uint8_t *p, uint32_t v)
{
	p[0] = (uint8_t)(v >> 8);
	p[1] = (uint8_t)v;
	return p + 2;
}

static uint8_t *put32(uint8_t *p, uint32_t v)
{
	return put16(put16(p, v >> 16), v);
}

uint64_t libcompare_random(uint64_t *seed)
{
	*seed ^= *seed << 13;
	*seed ^= *seed >> 7;
	*seed ^= *seed << 17;
	return *seed * 0x2545f4914f6cdd1dull >> 11;
}

static uint8_t *ethernet(uint8_t *p, uint16_t type, uint16_t vlan, uint32_t noise)
{
	memset(p, (int)(noise & 1), HDR);
	memset(p + HDR, (int)(noise & 0xfe), 12);
	p += HDR + 12;
	if (vlan)
		p = put16(put16(p, 0x8100), vlan);
	return put16(p, type);
}

static uint8_t *ip4(uint8_t *p, uint8_t proto, bool turned, uint32_t len, uint32_t noise)
{
	uint8_t *src = p + (turned ? 16 : 12), *dst = p + (turned ? 12 : 16);

	memset(p, 0, 20);
	p[0] = 0x45;
	p[1] = (uint8_t)noise;
	put16(p + 2, 20 + len);
	put16(p + 4, noise >> 3);
	p[6] = 0x40;
	p[8] = (uint8_t)(noise >> 5);
	p[9] = proto;
	put16(p + 10, noise >> 7);
	memcpy(src, "\x0a\0\0\2", 4);
	memcpy(dst, "\x0a\0\0\x63", 4);
	return p + 20;
}

static uint8_t *ip6(uint8_t *p, uint8_t proto, bool turned, uint32_t len, uint32_t noise)
{
	uint8_t *src = p + (turned ? 24 : 8), *dst = p + (turned ? 8 : 24);

	memset(p, 0, 40);
	put32(p, 0x60000000 | (noise & 0xfffff));
	put16(p + 4, len);
	p[6] = proto;
	p[7] = (uint8_t)(noise >> 5);
	src[0] = dst[0] = 0xfd;
	src[15] = 2;
	dst[15] = 0x63;
	return p + 40;
}

static uint8_t *headers(uint8_t *buf, const struct libcompare_segment *s, uint8_t proto,
			uint32_t len)
{
	uint8_t *p = ethernet(buf, s->version == 6 ? 0x86dd : 0x0800, s->vlan, s->noise);
	uint16_t src = s->from_client ? s->port : 80, dst = s->from_client ? 80 : s->port;

	p = s->version == 6 ? ip6(p, proto, s->from_client, len, s->noise)
			    : ip4(p, proto, s->from_client, len, s->noise);
	return put16(put16(p, src), dst);
}

static uint32_t payload(const uint8_t *buf, uint8_t *p, const struct libcompare_segment *s)
{
	if (s->len)
		memcpy(p, s->data, s->len);
	return (uint32_t)(p - buf) + s->len;
}

uint32_t libcompare_tcp(uint8_t *buf, const struct libcompare_segment *s)
{
	uint32_t options = s->option_words ? s->option_words * 4u : (s->noise & 3) * 4;
	uint8_t *p = headers(buf, s, 6, 20 + options + s->len);

	p = put32(put32(p, s->seq), s->ack);
	*p++ = (uint8_t)((5 + options / 4) << 4);
	*p++ = s->flags | (s->noise & 0xc8); /* PSH, ECE, CWR */
	p = put16(put16(put16(p, s->noise >> 2), s->noise >> 4), 0);
	memset(p, (int)(s->noise >> 9), options);
	if (s->option_words)
		memcpy(p, s->options, options);
	return payload(buf, p + options, s);
}

uint32_t libcompare_udp(uint8_t *buf, const struct libcompare_segment *s)
{
	uint8_t *p = headers(buf, s, 17, 8 + s->len);

	return payload(buf, put16(put16(p, 8 + s->len), s->noise), s);
}

uint32_t libcompare_ip4(uint8_t *buf, uint8_t proto, uint16_t where, const void *data, uint32_t len,
			uint32_t noise)
{
	struct libcompare_segment s = {.data = data, .len = len};
	uint8_t *ip = ethernet(buf, 0x0800, 0, noise), *p = ip4(ip, proto, false, len, noise);

	put16(ip + 6, where);
	return payload(buf, p, &s);
}

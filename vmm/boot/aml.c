#include "vmm/boot/aml.h"

#include <string.h>

enum {
	OP_ZERO = 0x00,
	OP_ONE = 0x01,
	OP_NAME = 0x08,
	OP_BYTE = 0x0a,
	OP_WORD = 0x0b,
	OP_DWORD = 0x0c,
	OP_STRING = 0x0d,
	OP_QWORD = 0x0e,
	OP_SCOPE = 0x10,
	OP_BUFFER = 0x11,
	OP_PACKAGE = 0x12,
	OP_METHOD = 0x14,
	OP_DUAL_NAME = 0x2e,
	OP_MULTI_NAME = 0x2f,
	OP_EXT = 0x5b,
	OP_LOCAL0 = 0x60,
	OP_STORE = 0x70,
	OP_AND = 0x7b,
	OP_NOTIFY = 0x86,
	OP_IF = 0xa0,
	EXT_REGION = 0x80,
	EXT_FIELD = 0x81,
	EXT_DEVICE = 0x82,
	SPACE_SYSTEM_IO = 1,
	FIELD_BYTE_ACCESS = 1,
	METHOD_SERIALIZED = 8,
};

void aml_bytes(struct aml *a, const void *p, size_t n)
{
	if (a->full || n > a->cap - a->len) {
		a->full = true;
		return;
	}
	memcpy(a->buf + a->len, p, n);
	a->len += n;
}

void aml_byte(struct aml *a, uint8_t v)
{
	aml_bytes(a, &v, 1);
}

/* Little-endian, as AML and x86 are. */
static void number(struct aml *a, uint8_t op, uint64_t v, unsigned bytes)
{
	aml_byte(a, op);
	aml_bytes(a, &v, bytes);
}

void aml_int(struct aml *a, uint64_t v)
{
	if (v <= 1)
		aml_byte(a, v ? OP_ONE : OP_ZERO);
	else if (v <= UINT8_MAX)
		number(a, OP_BYTE, v, 1);
	else if (v <= UINT16_MAX)
		number(a, OP_WORD, v, 2);
	else if (v <= UINT32_MAX)
		number(a, OP_DWORD, v, 4);
	else
		number(a, OP_QWORD, v, 8);
}

void aml_string(struct aml *a, const char *s)
{
	aml_byte(a, OP_STRING);
	aml_bytes(a, s, strlen(s) + 1);
}

static unsigned hex(char c)
{
	return c <= '9' ? c - '0' : c - 'A' + 10;
}

void aml_eisa_id(struct aml *a, const char *id)
{
	uint8_t b[4] = {(id[0] - 0x40) << 2 | (id[1] - 0x40) >> 3,
			((id[1] - 0x40) & 7) << 5 | (id[2] - 0x40), hex(id[3]) << 4 | hex(id[4]),
			hex(id[5]) << 4 | hex(id[6])};

	aml_byte(a, OP_DWORD);
	aml_bytes(a, b, sizeof(b));
}

static void segment(struct aml *a, const char *s, size_t n)
{
	char seg[4] = {'_', '_', '_', '_'};

	memcpy(seg, s, n < 4 ? n : 4);
	aml_bytes(a, seg, 4);
}

void aml_path(struct aml *a, const char *path)
{
	unsigned n = 1;

	if (*path == '\\') {
		aml_byte(a, '\\');
		path++;
	}
	for (const char *p = path; *p; p++)
		n += *p == '.';
	if (n == 2)
		aml_byte(a, OP_DUAL_NAME);
	if (n > 2) {
		aml_byte(a, OP_MULTI_NAME);
		aml_byte(a, n);
	}
	while (n--) {
		size_t len = strcspn(path, ".");

		segment(a, path, len);
		path += len + 1;
	}
}

void aml_name(struct aml *a, const char *path)
{
	aml_byte(a, OP_NAME);
	aml_path(a, path);
}

size_t aml_begin_scope(struct aml *a, const char *path)
{
	size_t begin;

	aml_byte(a, OP_SCOPE);
	begin = a->len;
	aml_path(a, path);
	return begin;
}

size_t aml_begin_device(struct aml *a, const char *path)
{
	size_t begin;

	aml_byte(a, OP_EXT);
	aml_byte(a, EXT_DEVICE);
	begin = a->len;
	aml_path(a, path);
	return begin;
}

size_t aml_begin_method(struct aml *a, const char *path, unsigned nargs)
{
	size_t begin;

	aml_byte(a, OP_METHOD);
	begin = a->len;
	aml_path(a, path);
	aml_byte(a, nargs | METHOD_SERIALIZED);
	return begin;
}

size_t aml_begin_package(struct aml *a, unsigned nelems)
{
	size_t begin;

	aml_byte(a, OP_PACKAGE);
	begin = a->len;
	aml_byte(a, nelems);
	return begin;
}

size_t aml_begin_if(struct aml *a)
{
	aml_byte(a, OP_IF);
	return a->len;
}

/* PkgLength (section 20.2.4) counts itself: 1 byte up to 63, else 4 bits and up to 2 more bytes. */
static unsigned pkg_length(uint8_t out[3], size_t content)
{
	unsigned n = content + 1 < 1 << 6 ? 1 : content + 2 < 1 << 12 ? 2 : 3;
	size_t len = content + n;

	if (n == 1) {
		out[0] = len;
	} else {
		out[0] = (n - 1) << 6 | (len & 15);
		out[1] = len >> 4;
		out[2] = len >> 12;
	}
	return n;
}

void aml_end(struct aml *a, size_t begin)
{
	size_t content = a->len - begin;
	uint8_t length[3];
	unsigned n = pkg_length(length, content);

	if (a->full || n > a->cap - a->len || content >= 1 << 20) {
		a->full = true;
		return;
	}
	memmove(a->buf + begin + n, a->buf + begin, content);
	memcpy(a->buf + begin, length, n);
	a->len += n;
}

void aml_io_byte(struct aml *a, const char *region, uint16_t port, const char *field)
{
	size_t begin;

	aml_byte(a, OP_EXT);
	aml_byte(a, EXT_REGION);
	aml_path(a, region);
	aml_byte(a, SPACE_SYSTEM_IO);
	aml_int(a, port);
	aml_int(a, 1);
	aml_byte(a, OP_EXT);
	aml_byte(a, EXT_FIELD);
	begin = a->len;
	aml_path(a, region);
	aml_byte(a, FIELD_BYTE_ACCESS);
	aml_path(a, field);
	aml_byte(a, 8); /* bits, as a PkgLength */
	aml_end(a, begin);
}

void aml_store_local0(struct aml *a, const char *name)
{
	aml_byte(a, OP_STORE);
	aml_path(a, name);
	aml_byte(a, OP_LOCAL0);
}

void aml_and_local0(struct aml *a, uint8_t mask)
{
	aml_byte(a, OP_AND);
	aml_byte(a, OP_LOCAL0);
	aml_int(a, mask);
	aml_byte(a, OP_ZERO); /* no target */
}

void aml_notify(struct aml *a, const char *object, uint8_t value)
{
	aml_byte(a, OP_NOTIFY);
	aml_path(a, object);
	aml_int(a, value);
}

/* --- resource descriptors (section 6.4) ------------------------------------------------------- */

static void crs_bytes(struct aml_crs *c, const void *p, size_t n)
{
	if (n > sizeof(c->bytes) - c->len)
		return;
	memcpy(c->bytes + c->len, p, n);
	c->len += n;
}

void aml_crs_io(struct aml_crs *c, uint16_t port, uint8_t len)
{
	uint8_t lo = port, hi = port >> 8;
	/* Decodes 16 bits; minimum and maximum are the same. */
	uint8_t d[8] = {0x47, 1, lo, hi, lo, hi, 1, len};

	crs_bytes(c, d, sizeof(d));
}

void aml_crs_memory(struct aml_crs *c, uint32_t base, uint32_t len)
{
	uint8_t head[4] = {0x86, 9, 0, 1}; /* Memory32Fixed, read and write */

	crs_bytes(c, head, sizeof(head));
	crs_bytes(c, &base, 4);
	crs_bytes(c, &len, 4);
}

void aml_crs_irq_edge(struct aml_crs *c, uint32_t gsi)
{
	uint8_t head[5] = {0x89, 6, 0, 3, 1}; /* consumer, edge, active high, exclusive */

	crs_bytes(c, head, sizeof(head));
	crs_bytes(c, &gsi, 4);
}

void aml_crs_put(struct aml *a, struct aml_crs *c)
{
	uint8_t end[2] = {0x79, 0}; /* 0: no checksum */
	size_t begin;

	crs_bytes(c, end, sizeof(end));
	aml_name(a, "_CRS");
	aml_byte(a, OP_BUFFER);
	begin = a->len;
	aml_int(a, c->len);
	aml_bytes(a, c->bytes, c->len);
	aml_end(a, begin);
	c->len = 0;
}

#include "ft/common/base64.h"

#include <errno.h>
#include <stdint.h>
#include <string.h>

static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

void base64_encode(const void *data, size_t len, char *out)
{
	const unsigned char *in = data;

	for (size_t i = 0; i < len; i += 3) {
		size_t n = len - i < 3 ? len - i : 3;
		uint32_t v = (uint32_t)in[i] << 16 | (n > 1 ? in[i + 1] << 8 : 0) |
			     (n > 2 ? in[i + 2] : 0);

		*out++ = digits[v >> 18];
		*out++ = digits[v >> 12 & 63];
		*out++ = n > 1 ? digits[v >> 6 & 63] : '=';
		*out++ = n > 2 ? digits[v & 63] : '=';
	}
	*out = 0;
}

/* Four digits, the last `pad` of which are padding; -1: they are not digits, or say too much. */
static int64_t quad(const char *text, size_t pad)
{
	uint32_t v = 0;

	for (size_t i = 0; i < 4; i++) {
		const char *d = i < 4 - pad ? strchr(digits, text[i]) : digits;

		if (!d)
			return -1;
		v = v << 6 | (uint32_t)(d - digits);
	}
	return v & ((1u << 8 * pad) - 1) ? -1 : (int64_t)v;
}

int base64_decode(const char *text, void *out, size_t cap, size_t *ret_len)
{
	size_t len = strlen(text), pad = 0, n;
	unsigned char *to = out;

	while (pad < 2 && pad < len && text[len - 1 - pad] == '=')
		pad++;
	n = len / 4 * 3 - pad;
	if (len % 4 || n > cap)
		return -EBADMSG;
	for (size_t i = 0; i < len; i += 4) {
		size_t less = i + 4 == len ? pad : 0;
		int64_t v = quad(text + i, less);

		if (v < 0)
			return -EBADMSG;
		*to++ = v >> 16;
		if (less < 2)
			*to++ = v >> 8 & 255;
		if (less < 1)
			*to++ = v & 255;
	}
	*ret_len = n;
	return 0;
}

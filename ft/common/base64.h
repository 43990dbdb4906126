/* Bytes as text, by RFC 4648, with padding. */
#ifndef FT_BASE64_H
#define FT_BASE64_H

#include <stddef.h>

#define BASE64_SIZE(len) (((len) + 2) / 3 * 4 + 1)

/* out: BASE64_SIZE(len) bytes; it ends with a NUL. */
void base64_encode(const void *data, size_t len, char *out);
/* 0, or -EBADMSG: it is not what base64_encode() makes of cap bytes at most. */
int base64_decode(const char *text, void *out, size_t cap, size_t *ret_len);

#endif

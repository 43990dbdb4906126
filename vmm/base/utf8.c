#include "vmm/base/utf8.h"

#include <stdint.h>

/* Bytes of the character that s begins with; 0: of none. Reads no further than the end of s. */
static unsigned length(const unsigned char *s)
{
	unsigned n = s[0] < 0x80 ? 1 : s[0] < 0xc2 ? 0 : s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3 : 4;

	if (s[0] > 0xf4)
		return 0;
	for (unsigned i = 1; i < n; i++)
		if ((s[i] & 0xc0) != 0x80)
			return 0;
	/* Too long for what it says, a surrogate, or beyond the last character. */
	if ((s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] > 0x9f) ||
	    (s[0] == 0xf0 && s[1] < 0x90) || (s[0] == 0xf4 && s[1] > 0x8f))
		return 0;
	return n;
}

void utf8_mend(char *s)
{
	while (*s) {
		unsigned n = length((const unsigned char *)s);

		if (!n)
			*s = '?';
		s += n ? n : 1;
	}
}

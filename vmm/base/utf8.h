/* Text from outside, such as a path, in what must be UTF-8: JSON, systemd. */
#ifndef VMM_UTF8_H
#define VMM_UTF8_H

/* Each byte of s that is no part of a whole character (RFC 3629) becomes a question mark. */
void utf8_mend(char *s);

#endif

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "net/compare_flow.h"

static uint32_t show(uint8_t to[COMPARE_SHOWN], const uint8_t *from, uint32_t n)
{
	if (n > COMPARE_SHOWN)
		n = COMPARE_SHOWN;
	if (n)
		memcpy(to, from, n);
	return n;
}

void compare_tell(struct compare *c, const struct packet_key *k, const struct compare_place *at)
{
	struct compare_verdict v = {.why = at->why, .sink = k->sink, .offset = at->offset};

	if (c->differs)
		return;
	c->differs = true;
	c->differences++;
	packet_describe(k, v.flow, sizeof(v.flow));
	v.nours = show(v.ours, at->ours, at->nours);
	v.ntheirs = show(v.theirs, at->theirs, at->ntheirs);
	c->ops->differ(c->arg, &v);
}

static void hex(char out[2 * COMPARE_SHOWN + 2], const uint8_t *p, uint32_t n)
{
	strcpy(out, "-");
	for (uint32_t i = 0; i < n; i++)
		snprintf(out + 2 * i, 3, "%02x", p[i]);
}

void compare_describe(const struct compare_verdict *v, char *buf, size_t size)
{
	static const char *const whys[] = {
		[COMPARE_EQUAL] = "equal",
		[COMPARE_BYTES] = "bytes differ",
		[COMPARE_FLAGS] = "flags differ",
		[COMPARE_EXTRA] = "only the secondary has put this out",
		[COMPARE_OVERDUE] = "only the primary has put this out",
		[COMPARE_FULL] = "more is outstanding than may be kept",
	};
	char ours[2 * COMPARE_SHOWN + 2], theirs[2 * COMPARE_SHOWN + 2];

	hex(ours, v->ours, v->nours);
	hex(theirs, v->theirs, v->ntheirs);
	snprintf(buf, size, "sink %d, %s, offset %" PRIu64 ": %s; primary %s, secondary %s",
		 v->sink, v->flow, v->offset, whys[v->why], ours, theirs);
}

#include "vmm/copy/squeeze.h"

#include <string.h>

#include "vmm/copy/pages.h"
#include "vmm/base/loop.h"

#define PROBE_EVERY 64u

void squeeze_init(struct squeeze *z, const struct chan *c)
{
	memset(z, 0, sizeof(*z));
	z->chan = c;
}

void squeeze_look(struct squeeze *z)
{
	uint64_t rate = chan_rate(z->chan);

	if (rate)
		z->link_ns = MEM_PAGE_SIZE * 1000000000ull / rate;
}

static bool pays(const struct squeeze *z)
{
	return z->saved * z->link_ns / MEM_PAGE_SIZE > z->cost_ns;
}

static void smooth(uint64_t *average, uint64_t sample)
{
	*average = *average ? (*average * 7 + sample) / 8 : sample;
}

uint32_t squeeze_encode(struct squeeze *z, uint64_t page, const uint8_t *data, const uint8_t *base,
			uint8_t *out)
{
	bool try_it = pays(z) || !z->to_probe;
	uint64_t begin = try_it ? loop_now_ns() : 0;
	uint32_t len = pages_encode(page, data, base, try_it, out);
	enum page_method method = pages_method(out);

	if (method != PAGE_LZ4 && method != PAGE_RAW)
		return len; /* LZ4's turn did not come */
	if (!try_it) {
		z->to_probe--;
		return len;
	}
	/* Unpacking takes the peer about half as long. */
	smooth(&z->cost_ns, (loop_now_ns() - begin) * 3 / 2);
	smooth(&z->saved, PAGE_ENTRY_MAX - len);
	z->to_probe = PROBE_EVERY - 1;
	return len;
}

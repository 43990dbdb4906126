/*
 * State from outside. The first byte picks: the rest is the input as it is; or a list of edits
 * {u16 place, u8 value} to a valid encoding, to get past the heads; or a list of changes {node,
 * what, how} to its tree, to get past the lengths. Whatever is accepted must encode again to as
 * many bytes, but for fields that may be absent, and what that gives must decode to itself.
 */
#include <stdlib.h>
#include <string.h>

#include "tests/unit/state_pod.h"
#include "tests/unit/libtree.h"

#define CAP (256u << 10)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct rig {
	struct pod pods[2];
	struct leaf small;
	struct state_item items[3];
};

static uint64_t seed;

static uint64_t next_random(void)
{
	return seed = seed * 6364136223846793005ull + 1442695040888963407ull;
}

static void rig_init(struct rig *r)
{
	memset(r, 0, sizeof(*r));
	r->items[0] = (struct state_item){&pod_desc, 0, &r->pods[0]};
	r->items[1] = (struct state_item){&pod_desc, 1, &r->pods[1]};
	r->items[2] = (struct state_item){&small_desc, 0, &r->small};
}

static size_t valid(uint8_t *out)
{
	struct rig r;
	int64_t len;

	rig_init(&r);
	seed = 1;
	pod_fill(&r.pods[0], next_random);
	pod_fill(&r.pods[1], next_random);
	len = state_encode_all(r.items, 3, out, CAP);
	if (len < 0)
		abort();
	return (size_t)len;
}

static size_t edited(const uint8_t *data, size_t size, uint8_t *out)
{
	size_t len = valid(out);

	for (; size >= 3; data += 3, size -= 3)
		out[(size_t)(data[0] | data[1] << 8) % len] = data[2];
	return len;
}

static void change_node(struct tree_node *n, uint8_t what, uint8_t how)
{
	switch (what % 8) {
	case 0:
		n->copies = how % 3;
		break;
	case 1:
		n->id = n->id ? how : 0;
		break;
	case 2:
		n->type_on_wire = how;
		break;
	case 3:
		n->extra = how % 9 - 4;
		break;
	case 4:
		n->lie = how & 1;
		break;
	case 5:
		n->count_lies = true;
		n->count_on_wire = how;
		break;
	case 6:
		n->pad = how;
		break;
	default:
		n->version = how % 4;
		break;
	}
}

static size_t reshaped(const uint8_t *data, size_t size, uint8_t *out)
{
	uint8_t base[8192];
	size_t len = valid(out);
	struct tree *t;

	memcpy(base, out, len);
	t = tree_parse(base, len);
	if (size > 16 * 3)
		size = 16 * 3;
	for (; size >= 3; data += 3, size -= 3) {
		struct tree_node *n = tree_any(t, data[0]);

		if (n)
			change_node(n, data[1], data[2]);
	}
	len = tree_write(t, out);
	tree_free(t);
	return len;
}

/* `more` bytes are those of fields that may be absent: two of 12 and two of 10. */
static bool explained(int64_t more)
{
	for (int a = 0; a <= 2; a++)
		for (int b = 0; b <= 2; b++)
			if (more == 12 * a + 10 * b)
				return true;
	return false;
}

static void ignore_line(void *arg, const char *line)
{
	*(size_t *)arg += strlen(line);
}

static void check(const uint8_t *p, size_t len)
{
	struct rig a, b;
	struct err e = {0};
	uint8_t first[8192], second[8192];
	char name[128];
	int64_t n;
	size_t chars = 0;

	rig_init(&a);
	rig_init(&b);
	if (state_decode_all(a.items, 3, p, len, &e)) {
		if (e.code != -EBADMSG || !e.msg[0])
			abort();
		return;
	}
	n = state_encode_all(a.items, 3, first, sizeof(first));
	if (n < 0 || !explained(n - (int64_t)len) ||
	    state_decode_all(b.items, 3, first, (size_t)n, NULL))
		abort();
	if (state_encode_all(b.items, 3, second, sizeof(second)) != n ||
	    memcmp(first, second, (size_t)n))
		abort();
	for (int i = 0; i < 3; i++) {
		if (state_hash(&a.items[i]) != state_hash(&b.items[i]) ||
		    state_diff(a.items[i].desc, a.items[i].pod, b.items[i].pod, name, sizeof(name)))
			abort();
		state_dump(&a.items[i], ignore_line, &chars);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static uint8_t buf[CAP];
	uint8_t *exact;
	size_t len;

	if (!size || size > CAP)
		return 0;
	if (data[0] % 3 == 1) {
		len = edited(data + 1, size - 1, buf);
	} else if (data[0] % 3 == 2) {
		len = reshaped(data + 1, size - 1, buf);
	} else {
		len = size - 1;
		memcpy(buf, data + 1, len);
	}
	exact = malloc(len ? len : 1); /* so that a read past the end is seen */
	if (!exact)
		return 0;
	memcpy(exact, buf, len);
	check(exact, len);
	free(exact);
	return 0;
}

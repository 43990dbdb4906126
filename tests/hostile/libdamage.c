/* What can be wrong inside one epoch of a recording. */
#include <string.h>

#include "tests/hostile/hostile.h"
#include "vmm/machine/state_wire.h"
#include "vmm/vm/vcpu.h"

/* The value of a field in a row of fields (vmm/machine/state_wire.h), and its length. */
static uint8_t *find_field(uint8_t *p, uint32_t *len, uint16_t id)
{
	uint32_t left = *len;

	while (left >= STATE_FIELD_HEAD) {
		uint32_t n = (uint32_t)state_get_int(p + 4, 4);

		*len = n;
		if (state_get_int(p, 2) == id)
			return p + STATE_FIELD_HEAD;
		p += STATE_FIELD_HEAD + n;
		left -= STATE_FIELD_HEAD + n;
	}
	return NULL;
}

/* CR0 with paging but without protection: well-formed, and no processor takes it. */
static bool impossible_cr0(struct shot *s)
{
	uint8_t *p = s->data;
	uint64_t cr0 = 1ull << 31;

	for (uint32_t len; p < s->data + s->h.length; p += STATE_SECTION_HEAD + len) {
		len = (uint32_t)state_get_int(p + 8, 4);
		if (state_get_int(p, 2) != vcpu_state_desc.id)
			continue;
		p = find_field(p + STATE_SECTION_HEAD, &len, 2); /* sregs */
		p = p ? find_field(p, &len, 11) : NULL;
		if (p)
			memcpy(p, &cr0, sizeof(cr0));
		return p;
	}
	return false;
}

/* The words of an end, some where they may come and some where not; the epoch's frames follow. */
static bool say_instead(struct tape *t, const char *kind, unsigned begin, unsigned end)
{
	static const struct {
		const char *kind;
		uint16_t type;
		bool inside;
		uint32_t length;
	} words[] = {
		{"bye", FRAME_BYE, false, 0},	       {"bye-inside", FRAME_BYE, true, 0},
		{"done", FRAME_DONE, false, 0},	       {"runs", FRAME_RUNS, false, 0},
		{"gone", FRAME_GONE, false, 0},	       {"handed-short", FRAME_HAND_OVER, false, 0},
		{"handed", FRAME_HAND_OVER, false, 8}, {"handed-inside", FRAME_HAND_OVER, true, 8},
	};

	for (unsigned i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
		struct shot *s = &t->f[words[i].inside ? end : begin];

		if (strcmp(words[i].kind, kind))
			continue;
		s->h.type = words[i].type;
		tape_resize(s, words[i].length);
		if (words[i].length)
			memset(s->data, 7, words[i].length);
		return true;
	}
	return false;
}

bool tape_damage(struct tape *t, const char *kind, unsigned begin, unsigned end)
{
	static const struct {
		const char *kind;
		uint16_t type;
		uint32_t at;
		uint8_t flip;
	} kinds[] = {
		{"page", FRAME_PAGES, 7, 0x80},	  /* a page number far out */
		{"log", FRAME_DISKLOG, 15, 0x40}, /* an offset far out */
		{"state", FRAME_STATE, 14, 0x10}, /* an unknown field */
		{"count", FRAME_EPOCH_END, 0, 1},
	};

	for (unsigned i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
		unsigned at = tape_find(t, begin, kinds[i].type);

		if (strcmp(kinds[i].kind, kind) || at > end || t->f[at].h.length <= kinds[i].at)
			continue;
		t->f[at].data[kinds[i].at] ^= kinds[i].flip;
		return true;
	}
	if (!strcmp(kind, "cr0"))
		return impossible_cr0(&t->f[tape_find(t, begin, FRAME_STATE)]);
	if (!strcmp(kind, "skip"))
		for (unsigned i = begin; i < t->n; i++)
			t->f[i].h.epoch++;
	else if (!strcmp(kind, "type"))
		t->f[end].h.type = FRAME_WELCOME;
	else if (!strcmp(kind, "session"))
		t->f[end].h.session ^= 1;
	else if (!strcmp(kind, "end"))
		tape_remove(t, end);
	else if (!strcmp(kind, "before"))
		tape_swap(t, begin, begin + 1);
	else if (!strcmp(kind, "after"))
		tape_insert(t, end + 1, &t->f[end - 1]);
	else if (!strcmp(kind, "early"))
		tape_swap(t, end - 2, end - 1);
	else if (strcmp(kind, "cut") && strcmp(kind, "flip"))
		return say_instead(t, kind, begin, end);
	return true;
}

/*
 * How state lies on the wire; shared by state.c (writes) and state_load.c (reads). Little-endian.
 *
 *   section  u16 table id, u16 instance, u16 version, u16 0, u32 length, then fields
 *   field    u16 id, u8 type, u8 0, u32 length, then the value
 *   struct   its fields
 *   array    u32 count, then per element u32 length and its fields
 */
#ifndef VMM_STATE_WIRE_H
#define VMM_STATE_WIRE_H

#include <endian.h>
#include <string.h>

#include "vmm/machine/state.h"

#define STATE_SECTION_HEAD 12u
#define STATE_FIELD_HEAD   8u
#define STATE_COUNT_SIZE   4u
#define STATE_MAX_DEPTH	   4u	 /* tables inside tables, the section's own included */
#define STATE_MAX_FIELDS   256u	 /* in one table */
#define STATE_MAX_ITEMS	   4096u /* in one call */
#define STATE_MAX_BOUND	   (64u << 20)

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "fields are copied as they lie");

static inline uint64_t state_get_int(const uint8_t *p, uint32_t size)
{
	uint64_t v = 0;

	switch (size) {
	case 1:
		return *p;
	case 2:
		memcpy(&v, p, 2);
		return v;
	case 4:
		memcpy(&v, p, 4);
		return v;
	default:
		memcpy(&v, p, 8);
		return v;
	}
}

static inline bool state_is_int(const struct field *f)
{
	return f->type >= FIELD_U8 && f->type <= FIELD_U64;
}

/* The limit of an integer field; max 0 in a table means whatever fits. */
static inline uint64_t state_max(const struct field *f)
{
	return f->max ? f->max : UINT64_MAX;
}

static inline uint32_t state_get_count(const struct field *f, const uint8_t *pod)
{
	return (uint32_t)state_get_int(pod + f->count_offset, 4);
}

#endif

/*
 * What the control socket takes and gives, member by member: docs/control.md is printed from this
 * table, a request with a member that is not in it is refused, and tests hold answers to it.
 */
#ifndef VMM_CTL_SCHEMA_H
#define VMM_CTL_SCHEMA_H

#include <jansson.h>

#include "vmm/base/err.h"

enum ctl_part {
	CTL_REQUEST, /* of a command, besides cmd, id and version */
	CTL_REPLY,   /* of a command: in "ok" */
	CTL_EVENT,   /* besides event and time */
	CTL_OBJECT,  /* that others are of: their type is its name */
	CTL_PARTS
};

struct ctl_field {
	enum ctl_part part;
	const char *of;	  /* the command, event or object */
	const char *name; /* a path as "pause_us.p99"; a star is any name */
	const char *type; /* text, number, bool, list, or an object's name; ? behind it: may lack */
	const char *help;
};

const struct ctl_field *ctl_field_at(unsigned i); /* NULL behind the last; by part, then of */
/* Has the request members that are none of its command's? -EINVAL, and e names the first one. */
int ctl_schema_check(const char *cmd, json_t *request, struct err *e);

#endif

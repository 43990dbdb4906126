/*
 * State for programs: one object, its keys and their order those of the tables. Of 64 bits: a
 * string in hexadecimal, as readers of JSON round numbers above 2^53. Bytes: a string of two digits
 * each.
 */
#ifndef VMM_DUMP_JSON_H
#define VMM_DUMP_JSON_H

#include <jansson.h>

#include "vmm/vm/vm_view.h"

json_t *dump_json(const struct vm_view *v); /* new reference, or NULL: no memory */

#endif

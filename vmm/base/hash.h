/*
 * XXH3 with the widest vectors that the machine has, chosen at run time by the library: plain
 * xxhash.h stays with what the compiler may assume, a quarter of the speed. Same results.
 */
#ifndef VMM_HASH_H
#define VMM_HASH_H

#define XXH_STATIC_LINKING_ONLY /* XXH3_state_t on the stack */
#include <xxhash.h>
#ifdef __x86_64__
#include <xxh_x86dispatch.h>
#endif

#endif

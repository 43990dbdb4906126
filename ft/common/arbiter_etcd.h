/*
 * The etcd back end: the record of a VM is the key ftvmm/VM of an etcd cluster (3.4 or newer), read
 * and replaced by transactions through its JSON gateway. What is replaced is compared with by its
 * revision.
 *
 * The endpoints are asked in turn, the one that answered last first, within one deadline. That is
 * safe: a transaction that was carried out without an answer is one whose revision has passed.
 */
#ifndef FT_ARBITER_ETCD_H
#define FT_ARBITER_ETCD_H

#include "ft/common/arbiter_ops.h"

/* list: http://HOST:PORT[,HOST:PORT...]. Asks nobody yet. The caller's to close until an arbiter
 * has it. */
int arbiter_etcd_open(struct arbiter_backend *ret, const char *list, const char *vm, struct err *e);

#endif

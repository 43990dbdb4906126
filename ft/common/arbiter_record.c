#define _GNU_SOURCE
#include "ft/common/arbiter_record.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* --- as a text -------------------------------------------------------------------------------- */

/* It is printed: one line, nothing that moves the cursor. */
static bool printable(const char *s)
{
	for (; *s; s++)
		if ((unsigned char)*s < ' ' || *s == 0x7f)
			return false;
	return true;
}

/* An identity: 16 hexadecimal digits; absent in records of old versions. */
static int parse_id(const json_t *root, const char *key, uint64_t *ret)
{
	const json_t *v = json_object_get(root, key);
	const char *text = json_string_value(v);

	*ret = 0;
	if (!v)
		return 0;
	if (!text || strlen(text) != 16 || strspn(text, "0123456789abcdef") != 16)
		return -EBADMSG;
	*ret = strtoull(text, NULL, 16);
	return 0;
}

int arbiter_record_damaged(const char *where, struct err *e)
{
	return err_set(e, -EBADMSG,
		       "arbiter record '%s' is damaged; look at it, then remove it and start with "
		       "--claim",
		       where);
}

int arbiter_record_parse(const char *text, size_t len, const char *vm, const char *where,
			 struct arbiter_record *ret, struct err *e)
{
	json_t *root = json_loadb(text, len, JSON_REJECT_DUPLICATES, NULL);
	struct arbiter_record r = {0};
	const char *of, *holder;
	json_int_t generation, when;
	int released, stopped = 0, code = 0;

	if (json_unpack(root, "{ss sI ss sI sb s?b}", "vm", &of, "generation", &generation,
			"holder", &holder, "time", &when, "released", &released, "stopped",
			&stopped) ||
	    generation < 1 || generation == INT64_MAX || !printable(of) || !printable(holder) ||
	    parse_id(root, "claim", &r.claim) || parse_id(root, "side", &r.side) ||
	    parse_id(root, "peer", &r.peer) || parse_id(root, "token", &r.token))
		code = arbiter_record_damaged(where, e);
	else if (strcmp(of, vm))
		code = err_set(e, -EBADMSG,
			       "arbiter record '%s' is of VM '%.63s', not '%s'; give each VM "
			       "an --arbiter of its own, and both sides of a VM one --name",
			       where, of, vm);
	if (!code) {
		snprintf(r.holder, sizeof(r.holder), "%s", holder);
		r.generation = generation;
		r.time = when;
		r.end = released ? ARBITER_RELEASED : stopped ? ARBITER_STOPPED : ARBITER_HELD;
		*ret = r;
	}
	json_decref(root);
	return code;
}

/* "released" also for old versions, which know no other end. */
char *arbiter_record_text(const struct arbiter_record *r, const char *vm, struct err *e)
{
	char claim[17], side[17], id[17], *text;
	json_t *root;

	snprintf(claim, sizeof(claim), "%016" PRIx64, r->claim);
	snprintf(side, sizeof(side), "%016" PRIx64, r->side);
	root = json_pack("{ss sI ss sI sb sb ss ss}", "vm", vm, "generation",
			 (json_int_t)r->generation, "holder", r->holder, "time",
			 (json_int_t)r->time, "released", r->end == ARBITER_RELEASED, "stopped",
			 r->end == ARBITER_STOPPED, "claim", claim, "side", side);
	snprintf(id, sizeof(id), "%016" PRIx64, r->peer);
	if (root && r->peer)
		json_object_set_new(root, "peer", json_string(id));
	snprintf(id, sizeof(id), "%016" PRIx64, r->token);
	if (root && r->token)
		json_object_set_new(root, "token", json_string(id));
	text = root ? json_dumps(root, JSON_COMPACT) : NULL;
	json_decref(root);
	if (!text)
		err_set(e, -EINVAL, "arbiter: the name of the VM or of the holder is not UTF-8");
	return text;
}

/* --- the judge -------------------------------------------------------------------------------- */

int arbiter_lost(const struct arbiter_record *now, const struct arbiter_place *p, struct err *e)
{
	return err_set(e, -ESTALE, "generation %" PRIu64 " of VM '%s' is held by '%s'%s",
		       now->generation, p->vm, now->holder,
		       now->end != ARBITER_HELD ? ", who has stopped" : "");
}

int arbiter_was_stopped(const struct arbiter_record *before, const struct arbiter_place *p,
			struct err *e)
{
	return err_set(e, -ECANCELED, "VM '%s' was stopped in order by '%s'", p->vm,
		       before->holder);
}

bool arbiter_claim_landed(const struct arbiter_question *q, const struct arbiter_record *now)
{
	return now->generation == q->record.generation && now->claim == q->record.claim &&
	       now->end == ARBITER_HELD;
}

int arbiter_check_claim(const struct arbiter_question *q, const struct arbiter_record *now,
			const struct arbiter_place *p, struct err *e)
{
	uint64_t from = q->record.generation - 1;

	/* It landed, nobody heard so, and was ended then for want of a VM that runs. */
	if (q->why == ARBITER_GO_ON && now->generation == q->record.generation &&
	    now->claim == q->record.claim && now->end != ARBITER_HELD)
		return arbiter_was_stopped(now, p, e);
	if (now->generation > from)
		return arbiter_lost(now, p, e);
	if (now->generation < from)
		return err_set(e, -ENODATA,
			       "%s has generation %" PRIu64 " of VM '%s', %" PRIu64
			       " was expected; %s",
			       p->name, now->generation, p->vm, from, p->doubt);
	if (q->why == ARBITER_GO_ON && now->end != ARBITER_HELD)
		return arbiter_was_stopped(now, p, e);
	return 0;
}

int arbiter_check_end(const struct arbiter_question *q, const struct arbiter_record *now,
		      const struct arbiter_place *p, struct err *e)
{
	if (now->generation == q->record.generation && now->claim == q->record.claim)
		return 0;
	return arbiter_lost(now, p, e);
}

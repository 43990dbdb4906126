#include "vmm/cli/dump_get.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ft/common/base64.h"
#include "vmm/cli/cmd_ctl.h"
#include "vmm/cli/ctl_client.h"
#include "vmm/copy/snapshot.h"
#include "vmm/machine/fdt.h"
#include "vmm/wire/stream.h"

#define LOOK_MS 60000 /* for an answer: a VM takes 5 s at most to stand */

struct part {
	uint8_t *data;
	size_t len;
};

/* What the answer has under key, of at most max bytes. */
static int decode(struct part *p, json_t *answer, const char *key, size_t max, struct err *e)
{
	const char *text = json_string_value(json_object_get(answer, key));

	if (!text || strlen(text) >= BASE64_SIZE(max))
		return err_set(e, -EPROTO, "'%s' is not in the answer, or too long", key);
	p->data = malloc(max);
	if (!p->data)
		return err_set(e, -ENOMEM, "out of memory");
	if (base64_decode(text, p->data, max, &p->len))
		return err_set(e, -EPROTO, "'%s' is not base64", key);
	return 0;
}

static int view_answer(struct vm_view *v, json_t *answer, struct err *e)
{
	struct part machine = {0}, state = {0};
	int r = decode(&machine, answer, "machine", FDT_MAX_BYTES, e);

	if (!r)
		r = decode(&state, answer, "state", stream_max_length(FRAME_STATE), e);
	if (!r)
		r = vm_view_init(v, machine.data, machine.len, e);
	if (!r)
		r = vm_view_decode(v, state.data, state.len, e);
	free(machine.data);
	free(state.data);
	return r;
}

static int get_vm(struct vm_view *v, struct ctl_client *c, const char *name, struct err *e)
{
	json_t *answer = ctl_client_call(c, json_pack("{ss}", "cmd", "dump"), LOOK_MS, e);
	int r;

	if (!answer)
		return e->code;
	r = view_answer(v, answer, e);
	json_decref(answer);
	return r ? err_wrap(e, "VM '%s'", name) : 0;
}

int dump_get(struct vm_view *v, const char *word, struct err *e)
{
	struct ctl_client *c;
	int r;

	memset(v, 0, sizeof(*v));
	if (strchr(word, '/'))
		return snapshot_view(v, word, e);
	r = ctl_client_open(&c, word, CTL_SHORT_MS, e);
	if (r && !access(word, F_OK)) {
		*e = (struct err){0};
		return snapshot_view(v, word, e);
	}
	if (r == -ENOENT)
		return err_wrap(e, "'%.80s' is no file either", word);
	if (r)
		return r;
	r = get_vm(v, c, word, e);
	ctl_client_close(c);
	return r;
}

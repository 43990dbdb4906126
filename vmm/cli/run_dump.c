/*
 * `ftvmm dump` of a running VM: machine and state are encoded while it stands, all in one call on
 * the loop, and answered as they are; the client reads and shows them. Owner: the loop.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "ft/common/base64.h"
#include "vmm/base/log.h"
#include "vmm/cli/ctl_client.h"
#include "vmm/cli/run.h"
#include "vmm/cli/run_command.h"
#include "vmm/machine/fdt.h"

#define ANSWER_MAX (CTL_CLIENT_MAX - 256) /* of both, in base64; the largest machine has less */

struct picture {
	uint8_t *machine, *state; /* machine description (FDT), encoded state */
	size_t machine_len, state_len;
	uint64_t pause_ns;
};

static int may_look(struct run *r, struct err *e)
{
	if (!r->has_vm)
		return err_set(e, -EBUSY,
			       "dump: this side does not run the VM (state %s); ask the other one",
			       ft_word(&r->ft));
	if (r->vm.running && (dest_fills(&r->dest) || run_lazy_missing(r)))
		return err_set(e, -EBUSY,
			       "dump: not while the VM's memory still comes in: a vCPU may wait "
			       "for a page; again when ftvmm status says that it is complete");
	return 0;
}

/* The VM stands for as long as this takes, if it runs. */
static int save(struct picture *p, struct vm *vm, size_t cap, struct err *e)
{
	bool ran = vm->running;
	uint64_t from = loop_now_ns();
	int64_t len = vm_pause(vm, e);

	if (!len) {
		len = vm_save(vm, p->state, cap);
		if (len < 0)
			err_set(e, (int)len, "state: %s", strerror((int)-len));
	}
	if (ran && !vm->running)
		vm_resume(vm);
	p->pause_ns = ran ? loop_now_ns() - from : 0;
	p->state_len = len > 0 ? (size_t)len : 0;
	return len < 0 ? (int)len : 0;
}

static int take(struct picture *p, struct vm *vm, struct err *e)
{
	size_t cap = vm_state_bound(vm);
	int64_t len;
	int r;

	p->machine = malloc(FDT_MAX_BYTES);
	p->state = malloc(cap);
	if (!p->machine || !p->state)
		return err_set(e, -ENOMEM, "out of memory");
	len = fdt_build(&vm->machine, p->machine, FDT_MAX_BYTES, e);
	if (len < 0)
		return (int)len;
	p->machine_len = (size_t)len;
	r = save(p, vm, cap, e);
	if (!r && BASE64_SIZE(p->machine_len) + BASE64_SIZE(p->state_len) > ANSWER_MAX)
		return err_set(e, -EMSGSIZE,
			       "%zu bytes of state are more than an answer holds; ftvmm snapshot, "
			       "and a dump of that",
			       p->state_len);
	return r;
}

static json_t *answer(const struct picture *p, struct err *e)
{
	char *machine = malloc(BASE64_SIZE(p->machine_len));
	char *state = malloc(BASE64_SIZE(p->state_len));
	json_t *ok = NULL;

	if (machine && state) {
		base64_encode(p->machine, p->machine_len, machine);
		base64_encode(p->state, p->state_len, state);
		ok = json_pack("{s:I, s:s, s:s}", "pause_us", (json_int_t)(p->pause_ns / 1000),
			       "machine", machine, "state", state);
	}
	free(machine);
	free(state);
	if (!ok)
		err_set(e, -ENOMEM, "out of memory");
	return ok;
}

json_t *serve_dump(struct run *r, json_t *request, struct err *e)
{
	struct picture p = {0};
	json_t *ok = NULL;

	if (may_look(r, e))
		return NULL;
	if (!take(&p, &r->vm, e))
		ok = answer(&p, e);
	free(p.machine);
	free(p.state);
	if (!ok)
		err_wrap(e, "dump");
	else
		log_info("dump: %zu bytes; the VM stood for %llu us", p.state_len,
			 (unsigned long long)(p.pause_ns / 1000));
	return ok;
}

/* `ftvmm set`: what it means for a VM that runs. All of a request, or nothing. */
#include <errno.h>

#include "devices/virtio_balloon.h"
#include "vmm/cli/run.h"
#include "vmm/cli/run_command.h"
#include "vmm/conf/setting.h"

#define BALLOON_LEAVES (32 << 20) /* with less no guest of any use runs */

static int check_ft(struct run *r, uint64_t mode, struct err *e)
{
	if (r->role == ROLE_PLAIN)
		return err_set(e, -EINVAL,
			       "set: ft: this VM has neither --primary nor --secondary");
	return 0;
}

static void set_ft(struct run *r, uint64_t mode)
{
	r->cfg.ft = (enum ft_mode)mode;
	if (r->role == ROLE_PRIMARY)
		primary_set_mode(&r->primary, r->cfg.ft);
}

static void set_epoch(struct run *r, uint64_t ns)
{
	r->cfg.epoch_ns = ns;
	if (r->role == ROLE_PRIMARY)
		primary_set_epoch(&r->primary, ns);
}

static void set_output_limit(struct run *r, uint64_t bytes)
{
	r->cfg.output_bytes = bytes;
	if (r->has_vm || r->secondary.has_vm || r->dest.has_vm)
		obuf_set_limit(&r->vm.obuf, bytes);
}

static int check_balloon(struct run *r, uint64_t bytes, struct err *e)
{
	uint64_t all = r->vm.machine.mem_bytes;

	if (!r->has_vm || source_stands(&r->source))
		return err_set(e, -EBUSY, "this side does not run the VM (state %s)",
			       ft_word(&r->ft));
	if (!vm_find_device(&r->vm, MDEV_BALLOON))
		return err_set(e, -ENODEV, "set: this VM has no balloon");
	if (bytes % MEM_PAGE_SIZE || (bytes && bytes + BALLOON_LEAVES > all))
		return err_set(e, -EINVAL,
			       "set: balloon must be whole pages of 4K, and leave 32M of the "
			       "guest's %lluM",
			       (unsigned long long)(all >> 20));
	return 0;
}

static void set_balloon(struct run *r, uint64_t bytes)
{
	virtio_balloon_set_target(vm_find_device(&r->vm, MDEV_BALLOON),
				  (uint32_t)(bytes >> MEM_PAGE_SHIFT));
}

static const struct {
	int (*check)(struct run *r, uint64_t value, struct err *e);
	void (*set)(struct run *r, uint64_t value);
} actions[] = {[SETTING_FT] = {check_ft, set_ft},
	       [SETTING_EPOCH] = {NULL, set_epoch},
	       [SETTING_OUTPUT_LIMIT] = {NULL, set_output_limit},
	       [SETTING_BALLOON] = {check_balloon, set_balloon}};

json_t *serve_set(struct run *r, json_t *request, struct err *e)
{
	uint64_t value[SETTING_MAX];
	bool given[SETTING_MAX], any = false;
	char names[80];

	for (unsigned i = 0; i < SETTING_MAX; i++) {
		int code = setting_get((enum setting)i, request, &value[i], e);

		given[i] = code != -ENOENT;
		any |= given[i];
		if (given[i] && !code && actions[i].check)
			code = actions[i].check(r, value[i], e);
		if (given[i] && code)
			return NULL;
	}
	if (!any) {
		setting_names(names, sizeof(names));
		err_set(e, -EINVAL, "set: nothing to set; there are %s", names);
		return NULL;
	}
	for (unsigned i = 0; i < SETTING_MAX; i++)
		if (given[i])
			actions[i].set(r, value[i]);
	return json_object();
}

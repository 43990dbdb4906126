/* `ftvmm set`: what it means for a VM that runs. All of a request, or nothing. */
#include <errno.h>
#include <string.h>

#include "devices/virtio_balloon.h"
#include "vmm/cli/run.h"
#include "vmm/cli/run_command.h"
#include "vmm/conf/setting.h"
#include "vmm/wire/chan.h"

#define BALLOON_LEAVES (32 << 20) /* with less no guest of any use runs */

static int check_role(const struct run *r, const char *what, struct err *e)
{
	if (r->role == ROLE_PLAIN)
		return err_set(e, -EINVAL, "set: %s: this VM has neither --primary nor --secondary",
			       what);
	return 0;
}

static int check_ft(struct run *r, const struct setting_value *v, struct err *e)
{
	int code = check_role(r, "ft", e);

	if (!code && r->role == ROLE_PRIMARY)
		code = primary_may_have_mode(&r->primary, (enum ft_mode)v->number, e);
	else if (!code && v->number == FT_MODE_OFF)
		code = err_set(e, -EINVAL, "set: ft=off: this side does not run the VM");
	for (unsigned i = 0; i < r->cfg.ndisks && !code; i++)
		if (v->number == FT_MODE_COLO && r->cfg.disks[i].ft == DISK_FT_SHARED &&
		    !r->cfg.disks[i].readonly)
			code = err_set(e, -EINVAL,
				       "set: ft=colo does not go with disk '%s', which is "
				       "ft=shared",
				       r->cfg.disks[i].id);
	return code;
}

static void set_ft(struct run *r, const struct setting_value *v)
{
	r->cfg.ft = (enum ft_mode)v->number;
	if (r->role == ROLE_PRIMARY)
		primary_set_mode(&r->primary, r->cfg.ft);
}

static int check_epoch(struct run *r, const struct setting_value *v, struct err *e)
{
	return check_role(r, "epoch", e);
}

static void set_epoch(struct run *r, const struct setting_value *v)
{
	r->cfg.epoch_ns = v->number;
	if (r->role == ROLE_PRIMARY)
		primary_set_epoch(&r->primary, v->number);
}

static int check_output_limit(struct run *r, const struct setting_value *v, struct err *e)
{
	return check_role(r, "output-limit", e);
}

static void set_output_limit(struct run *r, const struct setting_value *v)
{
	r->cfg.output_bytes = v->number;
	if (r->has_vm || r->secondary.has_vm || r->dest.has_vm)
		obuf_set_limit(&r->vm.obuf, v->number);
}

static int check_peers(struct run *r, const struct setting_value *v, struct err *e)
{
	int code = check_role(r, "peer", e);

	for (unsigned i = 0; i < v->npeers && !code; i++) {
		code = config_check_peer(&r->cfg, v->peers[i], e);
		if (!code)
			code = chan_check_address(v->peers[i], e);
	}
	return code;
}

static void set_peers(struct run *r, const struct setting_value *v)
{
	memcpy(r->cfg.peers, v->peers, sizeof(r->cfg.peers));
	r->cfg.npeers = v->npeers;
	if (r->role == ROLE_PRIMARY)
		primary_new_peers(&r->primary);
}

static int check_balloon(struct run *r, const struct setting_value *v, struct err *e)
{
	uint64_t all = r->vm.machine.mem_bytes, bytes = v->number;

	if (!r->has_vm || source_stands(&r->source))
		return err_set(e, -EBUSY, "this side does not run the VM (state %s)",
			       ft_word(&r->ft));
	/* Its first resume loads the snapshot's. */
	if (r->waiting)
		return err_set(e, -EBUSY,
			       "set: balloon: this VM has not run here yet, and begins with the "
			       "snapshot's target; first: ftvmm resume %s",
			       r->cfg.name);
	if (!vm_find_device(&r->vm, MDEV_BALLOON))
		return err_set(e, -ENODEV, "set: this VM has no balloon");
	if (bytes % MEM_PAGE_SIZE || (bytes && bytes + BALLOON_LEAVES > all))
		return err_set(e, -EINVAL,
			       "set: balloon must be whole pages of 4K, and leave 32M of the "
			       "guest's %lluM",
			       (unsigned long long)(all >> 20));
	return 0;
}

static void set_balloon(struct run *r, const struct setting_value *v)
{
	virtio_balloon_set_target(vm_find_device(&r->vm, MDEV_BALLOON),
				  (uint32_t)(v->number >> MEM_PAGE_SHIFT));
}

static int check_limits(struct run *r, const struct setting_value *v, struct err *e)
{
	int code = 0;

	for (unsigned i = 0; i < v->nlimits && !code; i++)
		code = run_limit_check(r, v->limits[i].id, &v->limits[i].rates, e);
	return code;
}

static void set_limits(struct run *r, const struct setting_value *v)
{
	for (unsigned i = 0; i < v->nlimits; i++)
		run_limit_set(r, v->limits[i].id, &v->limits[i].rates);
}

static const struct {
	int (*check)(struct run *r, const struct setting_value *v, struct err *e);
	void (*set)(struct run *r, const struct setting_value *v);
} actions[] = {[SETTING_FT] = {check_ft, set_ft},
	       [SETTING_EPOCH] = {check_epoch, set_epoch},
	       [SETTING_OUTPUT_LIMIT] = {check_output_limit, set_output_limit},
	       [SETTING_PEER] = {check_peers, set_peers},
	       [SETTING_BALLOON] = {check_balloon, set_balloon},
	       [SETTING_LIMIT] = {check_limits, set_limits}};

json_t *serve_set(struct run *r, json_t *request, struct err *e)
{
	struct setting_value value[SETTING_MAX];
	bool given[SETTING_MAX], any = false;
	char names[80];

	for (unsigned i = 0; i < SETTING_MAX; i++) {
		int code = setting_get((enum setting)i, request, &value[i], e);

		given[i] = code != -ENOENT;
		any |= given[i];
		if (given[i] && !code)
			code = actions[i].check(r, &value[i], e);
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
			actions[i].set(r, &value[i]);
	return json_object();
}

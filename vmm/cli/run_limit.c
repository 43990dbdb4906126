/* How fast the guest's disks and networks are on this host: set while it runs, and shown. */
#include <errno.h>
#include <string.h>

#include "vmm/cli/run.h"
#include "vmm/conf/option.h"

/* Of this id in the configuration, which every VM here is built by; NULL: there is none. */
static struct limit_rates *limit_of(struct config *c, const char *id, uint64_t *ret_min)
{
	for (unsigned i = 0; i < c->ndisks; i++)
		if (!strcmp(c->disks[i].id, id)) {
			*ret_min = CONFIG_DISK_RATE_MIN;
			return &c->disks[i].limit;
		}
	for (unsigned i = 0; i < c->nnets; i++)
		if (!strcmp(c->nets[i].id, id)) {
			*ret_min = CONFIG_NET_RATE_MIN;
			return &c->nets[i].limit;
		}
	return NULL;
}

int run_limit_check(struct run *r, const char *id, const struct limit_rates *rates, struct err *e)
{
	char least[32];
	uint64_t min;

	if (!limit_of(&r->cfg, id, &min))
		return err_set(e, -ENOENT,
			       "set: limit: this VM has no disk or network '%s' here (-d, -n)", id);
	option_format_size(min, least, sizeof(least));
	if (rates->bytes && rates->bytes < min)
		return err_set(e, -ERANGE, "set: limit: rate of '%s' must be at least %s", id,
			       least);
	return 0;
}

void run_limit_set(struct run *r, const char *id, const struct limit_rates *rates)
{
	uint64_t min;

	*limit_of(&r->cfg, id, &min) = *rates;
	if (r->vm.loop)
		vm_limit(&r->vm, id, rates);
}

static void add(json_t *all, struct run *r, const char *id, const struct limit_rates *rates)
{
	json_t *o;

	if (!rates->bytes && !rates->ops)
		return;
	o = json_object();
	if (rates->bytes)
		json_object_set_new(o, "rate", json_integer((json_int_t)rates->bytes));
	if (rates->ops)
		json_object_set_new(o, "ops", json_integer(rates->ops));
	json_object_set_new(
		o, "held_us",
		json_integer(r->vm.loop ? (json_int_t)(vm_held_ns(&r->vm, id) / 1000) : 0));
	json_object_set_new(all, id, o);
}

json_t *run_limit_status(struct run *r)
{
	json_t *all = json_object();

	for (unsigned i = 0; i < r->cfg.ndisks; i++)
		add(all, r, r->cfg.disks[i].id, &r->cfg.disks[i].limit);
	for (unsigned i = 0; i < r->cfg.nnets; i++)
		add(all, r, r->cfg.nets[i].id, &r->cfg.nets[i].limit);
	return all;
}

#include "vmm/cli/vms.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/cli/ctl_client.h"

int vms_ask_one(struct vms *all, const char *name, int timeout_ms, struct err *e)
{
	struct vm_status *one = &all->list[all->n];
	struct err why = {0};

	if (all->n == VMS_MAX)
		return 0;
	one->status = ctl_call(name, json_pack("{ss}", "cmd", "status"), timeout_ms, &why);
	one->answers = json_is_object(one->status);
	if (!one->answers && (why.code == -ENOENT || why.code == -EINVAL))
		return err_set(e, why.code, "%s", why.msg);
	if (!one->answers) {
		json_decref(one->status);
		one->status = json_pack("{ssss}", "name", name, "error",
					why.msg[0] ? why.msg : "its answer is no status");
	}
	if (!one->status) /* no UTF-8: none of ours */
		return err_set(e, -EINVAL, "the name of a VM is not valid UTF-8");
	snprintf(one->name, sizeof(one->name), "%s", name);
	all->n++;
	return 0;
}

struct asking {
	struct vms *all;
	int timeout_ms;
};

static void ask(void *arg, const char *name)
{
	const struct asking *a = arg;

	vms_ask_one(a->all, name, a->timeout_ms, NULL);
}

static int compare(const void *a, const void *b)
{
	return strcmp(((const struct vm_status *)a)->name, ((const struct vm_status *)b)->name);
}

int vms_ask(struct vms *all, int timeout_ms, struct err *e)
{
	struct asking a = {all, timeout_ms};
	int r = ctl_sock_names(ask, &a, e);

	qsort(all->list, (size_t)all->n, sizeof(all->list[0]), compare);
	return r;
}

void vms_free(struct vms *all)
{
	for (int i = 0; i < all->n; i++)
		json_decref(all->list[i].status);
	all->n = 0;
}

void vms_say_none(void)
{
	char dir[192] = "";

	ctl_sock_dir(dir, sizeof(dir), NULL);
	fprintf(stderr,
		"ftvmm: no VM runs here: none has its socket in '%s' (XDG_RUNTIME_DIR as where it "
		"was started?)\n",
		dir);
}

#include "vmm/vm/vm_view.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/machine/fdt.h"
#include "vmm/vm/vcpu.h"
#include "vmm/vm/vm.h"

int vm_view_init(struct vm_view *v, const void *fdt, size_t len, struct err *e)
{
	int r;

	memset(v, 0, sizeof(*v));
	r = fdt_parse(fdt, len, &v->machine, e);
	if (r)
		return r;
	v->nitems = vm_state_list(&v->machine, v->items);
	return vm_state_pods(v->items, v->nitems) ? err_set(e, -ENOMEM, "out of memory") : 0;
}

int vm_view_decode(struct vm_view *v, const void *state, size_t len, struct err *e)
{
	return vm_state_decode(v->items, v->nitems, &v->machine, state, len, e);
}

void vm_view_done(struct vm_view *v)
{
	for (unsigned i = 0; i < v->nitems; i++)
		free(v->items[i].pod);
	memset(v, 0, sizeof(*v));
}

const char *vm_view_id(const struct vm_view *v, const struct state_item *it)
{
	unsigned i = it->instance - VM_FIXED_DEVICES;

	if (it->desc == &vm_chips_desc || it->desc == &vm_ending_desc ||
	    it->desc == &vcpu_state_desc || i >= v->machine.ndevs)
		return NULL;
	return v->machine.devs[i].id;
}

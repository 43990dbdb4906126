#include "vmm/vm/vm_state.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/base/log.h"
#include "vmm/vm/vm_internal.h"

unsigned vm_state_list(const struct machine *m, struct state_item *ret)
{
	const struct state_desc *d;
	unsigned n = 0;

	ret[n++] = (struct state_item){.desc = &vm_chips_desc};
	ret[n++] = (struct state_item){.desc = &vm_ending_desc};
	for (unsigned i = 0; i < m->vcpus; i++)
		ret[n++] = (struct state_item){&vcpu_state_desc, i, NULL};
	for (unsigned i = 0; (d = vm_device_state(m, i)); i++)
		ret[n++] = (struct state_item){d, i, NULL};
	return n;
}

/* Where the live copy is. */
static void *live_pod(struct vm *vm, const struct state_item *it)
{
	if (it->desc == &vm_chips_desc)
		return &vm->chips;
	if (it->desc == &vm_ending_desc)
		return &vm->ending;
	if (it->desc == &vcpu_state_desc)
		return &vm->vcpus[it->instance].state;
	return vm->devices.devs[it->instance]->pod;
}

int vm_state_pods(struct state_item *items, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		items[i].pod = calloc(1, items[i].desc->size);
		if (!items[i].pod)
			return -ENOMEM;
	}
	return 0;
}

int vm_state_init(struct vm *vm, struct err *e)
{
	struct vm_state *s = &vm->state;

	s->nitems = vm_state_list(&vm->machine, s->scratch);
	memcpy(s->items, s->scratch, sizeof(s->items));
	for (unsigned i = 0; i < s->nitems; i++)
		s->items[i].pod = live_pod(vm, &s->items[i]);
	return vm_state_pods(s->scratch, s->nitems)
		       ? err_set(e, -ENOMEM, "state tables: out of memory")
		       : 0;
}

void vm_state_done(struct vm *vm)
{
	for (unsigned i = 0; i < vm->state.nitems; i++)
		free(vm->state.scratch[i].pod);
	free(vm->state.power_on);
	vm->state = (struct vm_state){0};
}

size_t vm_state_bound(const struct vm *vm)
{
	return state_bound_all(vm->state.items, vm->state.nitems);
}

int64_t vm_save(struct vm *vm, void *buf, size_t cap)
{
	VMM_BUG_ON(vm->running);
	vm_devices_save(vm);
	return state_encode_all(vm->state.items, vm->state.nitems, buf, cap);
}

int vm_state_decode(const struct state_item *items, unsigned n, struct machine *m, const void *buf,
		    size_t len, struct err *e)
{
	int r = state_decode_all(items, n, buf, len, e);

	for (unsigned i = 0; i < n && !r; i++)
		if (items[i].desc == &vcpu_state_desc)
			r = vcpu_state_fits(items[i].pod, m, e);
	return r;
}

int vm_decode(struct vm *vm, const void *buf, size_t len, struct err *e)
{
	return vm_state_decode(vm->state.scratch, vm->state.nitems, &vm->machine, buf, len, e);
}

struct comparison {
	const struct state_item *item;
	vm_differ_fn *fn;
	void *arg;
};

static void differs(void *arg, const char *path, const char *here, const char *sent)
{
	const struct comparison *c = arg;

	c->fn(c->arg, c->item, path);
}

void vm_compare(struct vm *vm, vm_differ_fn *fn, void *arg)
{
	const struct vm_state *s = &vm->state;

	VMM_BUG_ON(vm->running);
	vm_devices_save(vm);
	for (unsigned i = 0; i < s->nitems; i++) {
		struct comparison c = {&s->items[i], fn, arg};

		if (c.item->desc != &vcpu_state_desc && c.item->desc != &vm_chips_desc)
			state_compare(c.item->desc, c.item->pod, s->scratch[i].pod, differs, &c);
	}
}

void vm_commit(struct vm *vm)
{
	const struct vm_state *s = &vm->state;

	for (unsigned i = 0; i < s->nitems; i++)
		memcpy(s->items[i].pod, s->scratch[i].pod, s->items[i].desc->size);
}

/*
 * What KVM and the guest share by an address in an MSR: setting it has KVM look there. Linux,
 * Documentation/virt/kvm/x86/msr.rst.
 */
static bool is_shared_page(uint32_t msr)
{
	return msr == 0x11 || msr == 0x12 ||		 /* wall clock, system time: old */
	       (msr >= 0x4b564d00 && msr <= 0x4b564d04); /* and new; async PF, steal, EOI */
}

bool vm_load_ready(struct vm *vm)
{
	bool ready = true;

	for (unsigned i = 0; i < vm->machine.vcpus; i++) {
		const struct vcpu_state *s = &vm->vcpus[i].state;

		for (uint32_t n = 0; n < s->nmsrs; n++)
			if (is_shared_page(s->msrs[n].index) && s->msrs[n].data)
				ready &= mem_ready(&vm->mem, s->msrs[n].data & ~63ull, 128);
	}
	return ready;
}

int vm_try_load(struct vm *vm, struct err *e)
{
	int r = vm_ask_vcpus(vm, VCPU_TRY_LOAD, e);

	if (!r)
		r = vm_chips_load(vm, e);
	if (!r)
		vm_devices_load(vm);
	return r;
}

int vm_load(struct vm *vm, uint64_t advance_ns, struct err *e)
{
	int r = vm_try_load(vm, e);

	vm->run.fresh = true;
	__atomic_store_n(&vm->watch.panics, 0, __ATOMIC_RELAXED); /* of what was here before */
	if (!r)
		r = vm_clock_load(vm, advance_ns, e);
	/* Only now what makes KVM write into guest memory. */
	return r ? r : vm_ask_vcpus(vm, VCPU_LOAD, e);
}

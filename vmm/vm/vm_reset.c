/*
 * Reset: the state that the machine had when it was built, kept as an encoded snapshot without
 * memory, is loaded again, and the kernel booted once more. Memory keeps its contents, as on a PC.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/base/log.h"
#include "vmm/vm/vm_internal.h"

int vm_reset_init(struct vm *vm, struct err *e)
{
	size_t cap = vm_state_bound(vm);
	uint8_t *buf = malloc(cap);
	int64_t len;
	int r;

	if (!buf)
		return err_set(e, -ENOMEM, "power-on state: out of memory");
	r = vm_ask_vcpus(vm, VCPU_SAVE, e);
	if (!r && vm_chips_save(vm) < 0)
		r = err_set(e, -EIO, "power-on state: interrupt chips");
	len = r ? r : vm_save(vm, buf, cap);
	if (!r && len < 0)
		r = err_set(e, len, "power-on state: %s", strerror(-len));
	if (!r) {
		vm->state.power_on_len = len;
		vm->state.power_on = malloc(len);
		if (vm->state.power_on)
			memcpy(vm->state.power_on, buf, len);
		else
			r = err_set(e, -ENOMEM, "power-on state: out of memory");
	}
	free(buf);
	return r;
}

int vm_reset(struct vm *vm, const struct boot_files *files, struct err *e)
{
	int r = vm_pause(vm, e);

	if (!r)
		r = vm_decode(vm, vm->state.power_on, vm->state.power_on_len, e);
	if (r)
		return r;
	vm_commit(vm);
	r = vm_load(vm, 0, e);
	if (!r)
		r = vm_boot(vm, files, e);
	if (r)
		return r;
	vm->resets++;
	vm_start(vm);
	return 0;
}

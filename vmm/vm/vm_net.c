#include "vmm/vm/vm_net.h"

#include "devices/virtio_net.h"
#include "vmm/base/log.h"

#define ANNOUNCE_COUNT 5
#define ANNOUNCE_NS    50000000ull

static bool is_net(const struct vm *vm, unsigned i)
{
	return vm->machine.devs[i].kind == MDEV_NET;
}

int vm_link(struct vm *vm, bool up, struct err *e)
{
	int first = 0;

	for (unsigned i = 0; i < vm->machine.ndevs; i++) {
		int r = is_net(vm, i) ? netdev_link(&vm->devices.nets[i], up, e) : 0;

		if (r && up)
			return r;
		first = first ? first : r;
	}
	return first;
}

void vm_plug(struct vm *vm)
{
	struct err e = {0};

	for (unsigned i = 0; i < vm->machine.ndevs; i++)
		if (is_net(vm, i) && netdev_link(&vm->devices.nets[i], true, &e))
			log_error("%s", e.msg);
	e = (struct err){0};
	if (vsock_host_listen(&vm->devices.vsock, &e))
		log_error("%s", e.msg);
}

static void say(struct vm_announce *a)
{
	struct vm *vm = a->vm;

	for (unsigned i = 0; i < vm->machine.ndevs; i++)
		if (is_net(vm, i))
			virtio_net_announce(vm->devices.mdevs[i]);
	if (++a->said < ANNOUNCE_COUNT)
		loop_timer_set(a->loop, &a->op, ANNOUNCE_NS << a->said);
}

static void say_again(struct loop_op *op, int res)
{
	say(op->arg);
}

void vm_announce(struct vm_announce *a, struct vm *vm)
{
	*a = (struct vm_announce){.vm = vm, .loop = vm->loop, .op = {.fn = say_again, .arg = a}};
	say(a);
	for (unsigned i = 0; i < vm->machine.ndevs; i++)
		if (is_net(vm, i))
			virtio_net_ask_announce(vm->devices.mdevs[i]);
}

void vm_announce_stop(struct vm_announce *a)
{
	if (a->loop)
		loop_timer_del(a->loop, &a->op);
	a->loop = NULL;
}

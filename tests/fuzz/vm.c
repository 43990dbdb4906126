#include "tests/fuzz/vm.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/eventfd.h>

#include "tests/fuzz/fuzz.h"

#include "devices/serial.h"
#include "devices/virtio_balloon.h"
#include "devices/virtio_blk.h"
#include "devices/virtio_console.h"
#include "devices/virtio_net.h"
#include "devices/virtio_rng.h"

#define IMAGE (64u << 10)

struct fake_vm fake_vm;

int __wrap_vm_create(struct vm *vm, struct loop *l, const struct machine *m,
		     const struct backends *b, struct err *e);
void __wrap_vm_destroy(struct vm *vm);
int __wrap_vm_pause(struct vm *vm, struct err *e);
void __wrap_vm_resume(struct vm *vm);
void __wrap_vm_start(struct vm *vm);
int __wrap_vm_try_load(struct vm *vm, struct err *e);
int __wrap_vm_load(struct vm *vm, uint64_t advance_ns, struct err *e);
void __wrap_vm_new_generation(struct vm *vm);
int64_t __real_vm_save(struct vm *vm, void *buf, size_t cap);
int64_t __wrap_vm_save(struct vm *vm, void *buf, size_t cap);

void fake_vm_reset(void)
{
	memset(&fake_vm, 0, sizeof(fake_vm));
}

static bool printed(void *arg, const void *data, uint32_t len)
{
	fake_vm.printed += len;
	return true;
}

static void add_item(struct vm *vm, const struct state_desc *desc, unsigned instance, void *pod)
{
	vm->state.items[vm->state.nitems] = (struct state_item){desc, instance, pod};
	vm->state.scratch[vm->state.nitems] =
		(struct state_item){desc, instance, calloc(1, desc->size)};
	require(vm->state.scratch[vm->state.nitems++].pod != NULL);
}

static int plug(struct netdev *nd, bool up, struct err *e)
{
	if (fake_vm.unpluggable)
		return err_set(e, -ENODEV, "net '%s': no such tap", nd->id);
	fake_vm.plugged += up;
	return 0;
}

static int receive(struct netdev *nd, void *buf, uint32_t cap)
{
	return -EAGAIN;
}

static void transmit(struct netdev *nd, const void *frame, uint32_t len)
{
	fake_vm.frames++;
	memcpy(fake_vm.frame, frame, len < sizeof(fake_vm.frame) ? len : sizeof(fake_vm.frame));
}

static int set_offloads(struct netdev *nd, uint64_t guest_features)
{
	return 0;
}

static const struct netdev_ops nowhere = {
	.recv = receive, .send = transmit, .set_offloads = set_offloads, .link = plug};

static int add_nic(struct vm *vm, unsigned i, struct device **ret, struct err *e)
{
	const struct mdev *md = &vm->machine.devs[i];

	if (!fake_vm.has_network)
		return err_set(e, -ENOENT, "device '%s': not given here", md->id);
	vm->devices.nets[i].ops = &nowhere;
	memcpy(vm->devices.nets[i].id, md->id, sizeof(vm->devices.nets[i].id));
	return virtio_net_new(&vm->devices.env, md, &vm->devices.nets[i], ret, e);
}

static int add_mdev(struct vm *vm, unsigned i, const struct backends *b, struct err *e)
{
	const struct mdev *md = &vm->machine.devs[i];
	struct device *d = NULL;
	int r = -EINVAL;

	switch (md->kind) {
	case MDEV_CONSOLE:
		r = virtio_console_new(&vm->devices.env, md, printed, NULL, &d, e);
		break;
	case MDEV_RNG:
		r = virtio_rng_new(&vm->devices.env, md, &d, e);
		break;
	case MDEV_BALLOON:
		r = virtio_balloon_new(&vm->devices.env, md, &d, e);
		break;
	case MDEV_NET:
		r = add_nic(vm, i, &d, e);
		break;
	case MDEV_BLK:
		r = backends_open_disk(b, md, vm->loop, &vm->devices.disks[i], e);
		if (!r && machine_is_shared(md))
			r = disk_output_begin(&vm->devices.disk_outputs[i], &vm->devices.disks[i],
					      &vm->obuf);
		if (!r)
			r = virtio_blk_new(&vm->devices.env, md, &vm->devices.disks[i], &d, e);
		break;
	default:
		r = err_set(e, -ENOENT, "device '%s': not given here", md->id);
	}
	if (!r)
		vm->devices.mdevs[i] = vm->devices.devs[vm->devices.ndevs++] = d;
	return r;
}

static void list_items(struct vm *vm)
{
	vm->chips.pic[1].chip_id = KVM_IRQCHIP_PIC_SLAVE;
	vm->chips.ioapic.chip_id = KVM_IRQCHIP_IOAPIC;
	add_item(vm, &vm_chips_desc, 0, &vm->chips);
	add_item(vm, &vm_ending_desc, 0, &vm->ending);
	for (unsigned i = 0; i < vm->machine.vcpus; i++) {
		memset(&vm->vcpus[i].state, 0, sizeof(vm->vcpus[i].state));
		vm->vcpus[i].state.xcr0 = 1;
		vm->vcpus[i].state.nmsrs = 3;
		add_item(vm, &vcpu_state_desc, i, &vm->vcpus[i].state);
	}
	for (unsigned i = 0; i < vm->devices.ndevs; i++)
		add_item(vm, vm->devices.devs[i]->ops->state, i, vm->devices.devs[i]->pod);
}

int __wrap_vm_create(struct vm *vm, struct loop *l, const struct machine *m,
		     const struct backends *b, struct err *e)
{
	int r;

	if (m->mem_bytes > FAKE_MEM_MAX)
		return err_set(e, -ENOMEM, "more memory than this host has");
	memset(vm, 0, offsetof(struct vm, vcpus));
	fake_vm.created++;
	vm->machine = *m;
	vm->loop = l;
	vm->mem.fd = -1;
	vm->watch.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	vm->kvm.manual_protect = true; /* of no memory slots */
	for (unsigned i = 0; i < MACHINE_MAX_DEVS; i++)
		vm->devices.disks[i].fd = vm->devices.nets[i].fd = -1;
	seqmap_init(&vm->devices.seqs, SEQMAP_MAX);
	vm->devices.env = (struct dev_env){
		&vm->mem, l, &vm->bus, &vm->obuf, &vm->devices.seqs, &vm->devices.inputs};
	obuf_init(&vm->obuf, 1 << 20);
	fake_vm.sink = obuf_add_sink(&vm->obuf, OBUF_CONSOLE, printed, NULL, NULL);
	r = mem_init(&vm->mem, MEM_SHARED_FILE, m->mem_bytes, e);
	if (!r)
		r = serial_new(&vm->devices.env, printed, NULL, &vm->devices.serial, e);
	if (!r)
		vm->devices.devs[vm->devices.ndevs++] = vm->devices.serial;
	for (unsigned i = 0; i < m->ndevs && !r; i++)
		r = add_mdev(vm, i, b, e);
	if (!r)
		list_items(vm);
	else
		__wrap_vm_destroy(vm);
	return r;
}

void fake_vm_create(struct vm *vm, struct loop *l, const struct machine *m,
		    const struct config *cfg)
{
	struct backends b;

	config_to_backends(cfg, &b);
	require(!vm_create(vm, l, m, &b, NULL));
}

void __wrap_vm_destroy(struct vm *vm)
{
	if (!vm->loop)
		return;
	fake_vm.destroyed++;
	for (unsigned i = 0; i < vm->machine.ndevs; i++)
		disk_output_end(&vm->devices.disk_outputs[i]);
	obuf_drop(&vm->obuf);
	for (unsigned i = 0; i < vm->machine.ndevs; i++)
		while (vm->devices.disks[i].fd >= 0 && vm->devices.disks[i].inflight)
			loop_run_once(vm->loop, 100000000ull);
	for (unsigned i = 0; i < vm->devices.ndevs; i++)
		vm->devices.devs[i]->ops->free(vm->devices.devs[i]);
	seqmap_done(&vm->devices.seqs);
	for (unsigned i = 0; i < vm->machine.ndevs; i++)
		if (vm->devices.disks[i].fd >= 0)
			disk_close(&vm->devices.disks[i]);
	for (unsigned i = 0; i < vm->state.nitems; i++)
		free(vm->state.scratch[i].pod);
	obuf_done(&vm->obuf);
	mem_done(&vm->mem);
	close(vm->watch.fd);
	vm->loop = NULL;
}

int __wrap_vm_pause(struct vm *vm, struct err *e)
{
	if (fake_vm.pause_error)
		return err_set(e, fake_vm.pause_error, "vCPUs: only 0 of 1 stopped within 5 s");
	vm->running = false;
	return 0;
}

int64_t __wrap_vm_save(struct vm *vm, void *buf, size_t cap)
{
	return fake_vm.save_error ? fake_vm.save_error : __real_vm_save(vm, buf, cap);
}

void __wrap_vm_resume(struct vm *vm)
{
	require(!vm->running);
	if (vm->run.fresh) {
		fake_vm.started++;
		for (unsigned i = 0; i < vm->devices.ndevs; i++)
			vm->devices.devs[i]->ops->resume(vm->devices.devs[i]);
	}
	vm->run.fresh = false;
	vm->running = true;
}

void __wrap_vm_start(struct vm *vm)
{
	vm->run.fresh = true;
	__wrap_vm_resume(vm);
}

int __wrap_vm_try_load(struct vm *vm, struct err *e)
{
	if (fake_vm.refuses)
		return err_set(e, -EINVAL, "vCPU state: this host refuses MSRs");
	for (unsigned i = 0; i < vm->devices.ndevs; i++)
		vm->devices.devs[i]->ops->load(vm->devices.devs[i], vm->devices.devs[i]->pod);
	return 0;
}

int __wrap_vm_load(struct vm *vm, uint64_t advance_ns, struct err *e)
{
	fake_vm.loaded++;
	fake_vm.advance_ns = advance_ns;
	if (fake_vm.while_loading)
		fake_vm.while_loading();
	vm->run.fresh = true;
	return __wrap_vm_try_load(vm, e);
}

void __wrap_vm_new_generation(struct vm *vm)
{
	require(!vm->running);
	fake_vm.generations++;
}

void fake_machine(struct machine *m, struct config *cfg, const char *image)
{
	static const enum mdev_kind kinds[] = {MDEV_BLK, MDEV_CONSOLE, MDEV_RNG, MDEV_BALLOON};
	int fd = open(image, O_RDWR | O_CREAT | O_CLOEXEC, 0600);

	require(fd >= 0 && !ftruncate(fd, IMAGE));
	close(fd);
	memset(cfg, 0, sizeof(*cfg));
	snprintf(cfg->name, sizeof(cfg->name), "vm");
	cfg->ndisks = 1;
	snprintf(cfg->disks[0].id, sizeof(cfg->disks[0].id), "d0");
	snprintf(cfg->disks[0].path, sizeof(cfg->disks[0].path), "%s", image);
	cfg->disks[0].ft = DISK_FT_MIRROR;
	memset(m, 0, sizeof(*m));
	snprintf(m->name, sizeof(m->name), "vm");
	m->mem_bytes = 2 << 20;
	m->vcpus = 1;
	m->tsc_khz = 2000000;
	m->ncpuid = 2;
	m->cpuid[1].function = 1;
	m->ndevs = sizeof(kinds) / sizeof(kinds[0]);
	for (unsigned i = 0; i < m->ndevs; i++) {
		m->devs[i] = (struct mdev){.kind = kinds[i],
					   .gpa = MACHINE_MMIO_BASE + i * MACHINE_MMIO_STEP,
					   .gsi = MACHINE_GSI_BASE + i};
		snprintf(m->devs[i].id, sizeof(m->devs[i].id), "d%u", i);
	}
	m->devs[0].queues = 1;
	m->devs[0].block = m->devs[0].physical = MACHINE_BLOCK_MIN;
	m->devs[0].bytes = IMAGE;
	m->devs[0].ft = DISK_FT_MIRROR;
}

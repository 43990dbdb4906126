/* Interrupt chips, PIT and clock of a VM: reading, loading, field table. */
#include <errno.h>
#include <string.h>

#include "vmm/vm/vm_internal.h"

static const struct field chips_fields[] = {
	F_BYTES(struct vm_chips, pic, 1, "two i8259"),
	F_BYTES(struct vm_chips, ioapic, 2, "I/O APIC"),
	F_BYTES(struct vm_chips, pit, 3, "i8254", .flags = FIELD_UNSTABLE),
	F_U64(struct vm_chips, clock_ns, 4, "kvmclock, ns", .flags = FIELD_UNSTABLE),
	F_U8(struct vm_chips, tsc_exact, 5, "TSCs are those of clock_ns", .max = 1,
	     .flags = FIELD_UNSTABLE),
};

static int check(const void *pod, struct err *e)
{
	const struct vm_chips *c = pod;

	if (c->pic[0].chip_id != KVM_IRQCHIP_PIC_MASTER ||
	    c->pic[1].chip_id != KVM_IRQCHIP_PIC_SLAVE || c->ioapic.chip_id != KVM_IRQCHIP_IOAPIC)
		return err_set(e, -EBADMSG, "chips: wrong chip ids");
	return 0;
}

const struct state_desc vm_chips_desc = {
	.name = "chips",
	.id = 2,
	.version = 1,
	.size = sizeof(struct vm_chips),
	.fields = chips_fields,
	.nfields = sizeof(chips_fields) / sizeof(chips_fields[0]),
	.check = check,
};

int vm_chips_save(struct vm *vm)
{
	struct vm_chips *c = &vm->chips;
	int r;

	c->pic[0].chip_id = KVM_IRQCHIP_PIC_MASTER;
	c->pic[1].chip_id = KVM_IRQCHIP_PIC_SLAVE;
	c->ioapic.chip_id = KVM_IRQCHIP_IOAPIC;
	r = kvm_ioctl(vm->kvm.vm_fd, KVM_GET_IRQCHIP, &c->pic[0]);
	if (!r)
		r = kvm_ioctl(vm->kvm.vm_fd, KVM_GET_IRQCHIP, &c->pic[1]);
	if (!r)
		r = kvm_ioctl(vm->kvm.vm_fd, KVM_GET_IRQCHIP, &c->ioapic);
	if (!r)
		r = kvm_ioctl(vm->kvm.vm_fd, KVM_GET_PIT2, &c->pit);
	return r ? r : vm_clock_save(vm);
}

int vm_chips_load(struct vm *vm, struct err *e)
{
	struct vm_chips *c = &vm->chips;
	int r = kvm_ioctl(vm->kvm.vm_fd, KVM_SET_IRQCHIP, &c->pic[0]);

	if (!r)
		r = kvm_ioctl(vm->kvm.vm_fd, KVM_SET_IRQCHIP, &c->pic[1]);
	if (!r)
		r = kvm_ioctl(vm->kvm.vm_fd, KVM_SET_IRQCHIP, &c->ioapic);
	if (!r)
		r = kvm_ioctl(vm->kvm.vm_fd, KVM_SET_PIT2, &c->pit);
	return r ? err_set(e, r, "interrupt chips: this host refuses the state: %s", strerror(-r))
		 : 0;
}

int vm_chips_mask_pic(struct vm *vm, struct err *e)
{
	int r = 0;

	for (unsigned i = 0; i < 2 && !r; i++) {
		struct kvm_irqchip pic = {.chip_id = i ? KVM_IRQCHIP_PIC_SLAVE
						       : KVM_IRQCHIP_PIC_MASTER};

		r = kvm_ioctl(vm->kvm.vm_fd, KVM_GET_IRQCHIP, &pic);
		pic.chip.pic.imr = 0xff;
		if (!r)
			r = kvm_ioctl(vm->kvm.vm_fd, KVM_SET_IRQCHIP, &pic);
	}
	return r ? err_set(e, r, "PIC: masking: %s", strerror(-r)) : 0;
}

bool vm_chips_irq_open(struct vm *vm, unsigned pin)
{
	struct kvm_irqchip io = {.chip_id = KVM_IRQCHIP_IOAPIC};

	return !kvm_ioctl(vm->kvm.vm_fd, KVM_GET_IRQCHIP, &io) && pin < KVM_IOAPIC_NUM_PINS &&
	       !io.chip.ioapic.redirtbl[pin].fields.mask;
}

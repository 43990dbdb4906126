#include "vmm/vm/kvm.h"

#include <cpuid.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "vmm/vm/kvm_probe.h"

#define CPUID_1_ECX_TSC_DEADLINE (1u << 24)
#define CPUID_1_ECX_XSAVE	 (1u << 26)
#define CPUID_1_ECX_HYPERVISOR	 (1u << 31)
#define MSR_HYPERV_FIRST	 0x40000000u
#define MSR_HYPERV_LAST		 0x400001ffu

/* Three pages below the BIOS area that Intel hosts need for real mode (KVM_SET_TSS_ADDR). */
#define TSS_ADDR	 0xfffbd000ul
#define IDENTITY_MAP_GPA 0xfffbc000ull

int kvm_ioctl(int fd, unsigned long request, void *arg)
{
	int r;

	do {
		r = ioctl(fd, request, arg);
	} while (r < 0 && errno == EINTR);
	return r < 0 ? -errno : r;
}

static const struct {
	int cap;
	const char *name;
} needed[] = {
	{KVM_CAP_IRQCHIP, "in-kernel irqchip"},
	{KVM_CAP_IOEVENTFD, "ioeventfd"},
	{KVM_CAP_IRQFD, "irqfd"},
	{KVM_CAP_USER_MEMORY, "user memory"},
	{KVM_CAP_SYNC_REGS, "sync regs"},
	{KVM_CAP_ADJUST_CLOCK, "clock"},
	{KVM_CAP_XSAVE, "xsave state"},
	{KVM_CAP_IMMEDIATE_EXIT, "immediate exit"},
	{KVM_CAP_VCPU_EVENTS, "vCPU events"},
	{KVM_CAP_MP_STATE, "MP state"},
};

static int open_sys(struct kvm *k, struct err *e)
{
	k->sys_fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (k->sys_fd < 0 && errno == ENOENT)
		return err_set(
			e, -ENOENT,
			"/dev/kvm is missing: load kvm_intel or kvm_amd (modprobe), enable "
			"VT-x/SVM in the firmware, or nested virtualisation on the outer host; "
			"meanwhile `tests/testbed/testbed -- ftvmm run ...`, in ftvmm's sources, "
			"runs it in an emulated machine, slowly");
	if (k->sys_fd < 0 && errno == EACCES)
		return err_set(e, -EACCES,
			       "/dev/kvm: no permission: run as root or join its group (usermod "
			       "-aG kvm USER)");
	if (k->sys_fd < 0)
		return err_sys(e, "/dev/kvm");
	if (ioctl(k->sys_fd, KVM_GET_API_VERSION, 0) != KVM_API_VERSION)
		return err_set(e, -ENOSYS, "/dev/kvm: API version is not %d", KVM_API_VERSION);
	for (unsigned i = 0; i < sizeof(needed) / sizeof(needed[0]); i++)
		if (ioctl(k->sys_fd, KVM_CHECK_EXTENSION, needed[i].cap) <= 0)
			return err_set(e, -ENOSYS, "/dev/kvm: this host lacks '%s'",
				       needed[i].name);
	int size = ioctl(k->sys_fd, KVM_GET_VCPU_MMAP_SIZE, 0);

	if (size < (int)sizeof(struct kvm_run))
		return err_set(e, -ENOSYS, "/dev/kvm: vCPU mapping of %d bytes is too small", size);
	k->run_size = size;
	return 0;
}

static struct kvm_cpuid_entry2 *offered(struct kvm *k, uint32_t function)
{
	for (uint32_t i = 0; i < k->cpuid->nent; i++)
		if (k->cpuid->entries[i].function == function && k->cpuid->entries[i].index == 0)
			return &k->cpuid->entries[i];
	return NULL;
}

/* Bare metal has no such trouble, and is not asked: it costs a VM. */
static bool loses_xcr0(const struct kvm *k)
{
	unsigned a, b, c = 0, d;

	return __get_cpuid(1, &a, &b, &c, &d) && c & CPUID_1_ECX_HYPERVISOR &&
	       kvm_probe_loses_xcr0(k);
}

/* What KVM offers by other ways, and what it offers in vain. */
static void complete_cpuid(struct kvm *k)
{
	struct kvm_cpuid_entry2 *one = offered(k, 1), *states = offered(k, 0xd);

	if (one && ioctl(k->sys_fd, KVM_CHECK_EXTENSION, KVM_CAP_TSC_DEADLINE_TIMER) > 0)
		one->ecx |= CPUID_1_ECX_TSC_DEADLINE;
	if (!one || !(one->ecx & CPUID_1_ECX_XSAVE) || !loses_xcr0(k))
		return;
	one->ecx &= ~CPUID_1_ECX_XSAVE;
	if (states)
		states->eax = states->ebx = states->ecx = states->edx = 0;
}

/* Hyper-V's MSRs are listed always, and never used: its CPUID leaves are not offered. */
static void take_msrs(struct kvm *k, const struct kvm_msr_list *list)
{
	for (uint32_t i = 0; i < list->nmsrs; i++)
		if (list->indices[i] < MSR_HYPERV_FIRST || list->indices[i] > MSR_HYPERV_LAST)
			k->msrs[k->nmsrs++] = list->indices[i];
}

static int read_features(struct kvm *k, struct err *e)
{
	struct {
		struct kvm_msr_list list;
		uint32_t more[KVM_MAX_MSRS];
	} msrs = {.list.nmsrs = KVM_MAX_MSRS};
	int r;

	k->cpuid = calloc(1, sizeof(*k->cpuid) + KVM_MAX_CPUID * sizeof(struct kvm_cpuid_entry2));
	if (!k->cpuid)
		return err_set(e, -ENOMEM, "cpuid: out of memory");
	k->cpuid->nent = KVM_MAX_CPUID;
	r = kvm_ioctl(k->sys_fd, KVM_GET_SUPPORTED_CPUID, k->cpuid);
	if (r < 0)
		return err_set(e, r, "KVM_GET_SUPPORTED_CPUID: %s", strerror(-r));
	complete_cpuid(k);
	r = kvm_ioctl(k->sys_fd, KVM_GET_MSR_INDEX_LIST, &msrs);
	if (r < 0)
		return err_set(e, r, "KVM_GET_MSR_INDEX_LIST: %s (more than %d MSRs?)",
			       strerror(-r), KVM_MAX_MSRS);
	take_msrs(k, &msrs.list);
	return 0;
}

static int create_vm(struct kvm *k, struct err *e)
{
	uint64_t identity = IDENTITY_MAP_GPA;
	struct kvm_enable_cap cap = {.cap = KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
				     .args[0] = KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE};
	/* Its counters are of one host; see vmm/machine/cpuid_words.c. Where this is refused there
	 * is no PMU. */
	struct kvm_enable_cap pmu = {.cap = KVM_CAP_PMU_CAPABILITY, .args[0] = KVM_PMU_CAP_DISABLE};
	int r = kvm_ioctl(k->sys_fd, KVM_CREATE_VM, 0);

	if (r < 0)
		return err_set(e, r, "KVM_CREATE_VM: %s", strerror(-r));
	k->vm_fd = r;
	/* Both addresses matter on Intel only; other hosts may refuse them. */
	kvm_ioctl(k->vm_fd, KVM_SET_TSS_ADDR, (void *)TSS_ADDR);
	kvm_ioctl(k->vm_fd, KVM_SET_IDENTITY_MAP_ADDR, &identity);
	kvm_ioctl(k->vm_fd, KVM_ENABLE_CAP, &pmu);
	k->manual_protect = kvm_ioctl(k->vm_fd, KVM_ENABLE_CAP, &cap) == 0;
	return 0;
}

int kvm_open(struct kvm *k, struct err *e)
{
	int r;

	memset(k, 0, sizeof(*k));
	k->sys_fd = k->vm_fd = -1;
	r = open_sys(k, e);
	if (!r)
		r = read_features(k, e);
	if (!r)
		r = create_vm(k, e);
	if (r)
		kvm_close(k);
	return r;
}

void kvm_close(struct kvm *k)
{
	if (k->vm_fd >= 0)
		close(k->vm_fd);
	if (k->sys_fd >= 0)
		close(k->sys_fd);
	free(k->cpuid);
	memset(k, 0, sizeof(*k));
	k->sys_fd = k->vm_fd = -1;
}

int kvm_create_chips(struct kvm *k, struct err *e)
{
	struct kvm_pit_config pit = {.flags = KVM_PIT_SPEAKER_DUMMY};
	int r;

	r = kvm_ioctl(k->vm_fd, KVM_CREATE_IRQCHIP, NULL);
	if (r < 0)
		return err_set(e, r, "KVM_CREATE_IRQCHIP: %s", strerror(-r));
	r = kvm_ioctl(k->vm_fd, KVM_CREATE_PIT2, &pit);
	if (r < 0)
		return err_set(e, r, "KVM_CREATE_PIT2: %s", strerror(-r));
	return 0;
}

int kvm_add_slot(struct kvm *k, uint64_t gpa, uint64_t bytes, void *host, struct err *e)
{
	struct kvm_userspace_memory_region *s = &k->slots[k->nslots];
	int r;

	*s = (struct kvm_userspace_memory_region){.slot = k->nslots,
						  .guest_phys_addr = gpa,
						  .memory_size = bytes,
						  .userspace_addr = (uintptr_t)host};
	r = kvm_ioctl(k->vm_fd, KVM_SET_USER_MEMORY_REGION, s);
	if (r < 0)
		return err_set(e, r, "guest memory at %#llx, %lluM: %s", (unsigned long long)gpa,
			       (unsigned long long)(bytes >> 20), strerror(-r));
	k->nslots++;
	return 0;
}

int kvm_log_dirty(struct kvm *k, bool on)
{
	for (unsigned i = 0; i < k->nslots; i++) {
		int r;

		k->slots[i].flags = on ? KVM_MEM_LOG_DIRTY_PAGES : 0;
		r = kvm_ioctl(k->vm_fd, KVM_SET_USER_MEMORY_REGION, &k->slots[i]);
		if (r < 0)
			return r;
	}
	return 0;
}

int kvm_ioeventfd(struct kvm *k, uint64_t gpa, uint32_t value, int fd)
{
	struct kvm_ioeventfd io = {.addr = gpa,
				   .len = 4,
				   .fd = fd,
				   .datamatch = value,
				   .flags = KVM_IOEVENTFD_FLAG_DATAMATCH};

	return kvm_ioctl(k->vm_fd, KVM_IOEVENTFD, &io);
}

int kvm_irqfd(struct kvm *k, uint32_t gsi, int fd)
{
	struct kvm_irqfd irq = {.fd = fd, .gsi = gsi};

	return kvm_ioctl(k->vm_fd, KVM_IRQFD, &irq);
}

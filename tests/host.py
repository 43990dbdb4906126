"""What this host can do, in one place: is there a KVM, and does it run Linux or only bare guests? Found out by
trying it. `tests/host.py` says it in one line.

FTVMM_BED=1: use beds (tests/testbed) although KVM is there."""

import ctypes
import fcntl
import functools
import mmap
import os
import struct
import sys

NONE, BARE, LINUX = range(3)  # each can do what those before it can

# The kernel's interface, linux/kvm.h.
KVM_CREATE_VM, KVM_GET_VCPU_MMAP_SIZE, KVM_CREATE_VCPU, KVM_RUN = 0xAE01, 0xAE04, 0xAE41, 0xAE80
KVM_SET_USER_MEMORY_REGION, KVM_SET_REGS = 0x4020AE46, 0x4090AE82
KVM_GET_SREGS, KVM_SET_SREGS = 0x8138AE83, 0x4138AE84
KVM_EXIT_HLT = 5
EXIT_REASON = 8  # its place in struct kvm_run

CODE, PML4, PDPT, PD, BYTES = 0x1000, 0x2000, 0x3000, 0x4000, 0x10000
HALT = b"\xf4"
# popcnt %eax, %eax; movd %eax, %xmm0: any kernel does this. A KVM that emulates kernel code cannot.
KERNEL_CODE = b"\xf3\x0f\xb8\xc0" b"\x66\x0f\x6e\xc0" + HALT


def segment(selector, kind, long_mode):
    """struct kvm_segment: flat, 4 GiB, privileged."""
    return struct.pack("<QIH10B", 0, 0xffffffff, selector, kind, 1, 0, not long_mode, 1, long_mode, 1, 0, 0, 0)


def sregs(old):
    """struct kvm_sregs of a processor in 64-bit mode, kernel privilege, the first 2 MiB mapped 1:1."""
    code, data = segment(0x8, 11, 1), segment(0x10, 3, 0)
    new = code + 5 * data + old[6 * 24:]
    head = struct.pack("<5Q", 0x80010033, 0, PML4, 0x620, 0)  # CR0 to CR8: paging, PAE, OSFXSR, OSXMMEXCPT
    efer = struct.pack("<Q", 0x500)  # LME, LMA
    return new[:224] + head + efer + new[272:]


def runs(vm_fd, vcpu_fd, run, memory, code):
    """Does the processor get through this code, to its end in a hlt?"""
    memory[CODE:CODE + len(code)] = code
    old = bytearray(312)
    fcntl.ioctl(vcpu_fd, KVM_GET_SREGS, old)
    fcntl.ioctl(vcpu_fd, KVM_SET_SREGS, sregs(bytes(old)))
    fcntl.ioctl(vcpu_fd, KVM_SET_REGS, struct.pack("<18Q", *[0] * 6, 0x8000, *[0] * 9, CODE, 2))
    fcntl.ioctl(vcpu_fd, KVM_RUN, 0)
    return struct.unpack_from("<I", run, EXIT_REASON)[0] == KVM_EXIT_HLT


def try_kvm():
    """(NONE, BARE or LINUX; why)"""
    kvm = vm_fd = vcpu_fd = -1
    try:
        kvm = os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC)
        vm_fd = fcntl.ioctl(kvm, KVM_CREATE_VM, 0)
        memory = mmap.mmap(-1, BYTES)
        struct.pack_into("<Q", memory, PML4, PDPT | 3)
        struct.pack_into("<Q", memory, PDPT, PD | 3)
        struct.pack_into("<Q", memory, PD, 0x83)
        address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        fcntl.ioctl(vm_fd, KVM_SET_USER_MEMORY_REGION, struct.pack("<IIQQQ", 0, 0, 0, BYTES, address))
        vcpu_fd = fcntl.ioctl(vm_fd, KVM_CREATE_VCPU, 0)
        run = mmap.mmap(vcpu_fd, fcntl.ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0))
        if not runs(vm_fd, vcpu_fd, run, memory, HALT):
            return NONE, "a virtual machine made with /dev/kvm does not run one instruction"
        if not runs(vm_fd, vcpu_fd, run, memory, KERNEL_CODE):
            return BARE, "/dev/kvm runs the bare guests of guests/, but emulates kernel code and gives up at popcnt"
        return LINUX, "/dev/kvm runs Linux"
    except FileNotFoundError:
        return NONE, "there is no /dev/kvm"
    except OSError as e:
        return NONE, f"/dev/kvm: {e.strerror}"
    finally:
        for fd in (vcpu_fd, vm_fd, kvm):
            if fd >= 0:
                os.close(fd)


@functools.lru_cache(None)
def kvm():
    return try_kvm()


BETTER = {NONE: "a host with VT-x or SVM, and rights to /dev/kvm, is ten times as fast",
          BARE: "on a host with VT-x or SVM Linux runs natively, and faster"}


def place(need):
    """('native' or 'bed', why in one line) for tests whose guests need that much of KVM; NONE: they have none."""
    level, why = kvm()
    if os.environ.get("FTVMM_BED", "") not in ("", "0"):
        return "bed", f"in beds, as FTVMM_BED says ({why})"
    if level < need:
        return "bed", f"in beds, emulated machines (tests/testbed): {why}; {BETTER[level]}"
    if os.geteuid():
        return "bed", f"in beds, emulated machines (tests/testbed): {why}, but network namespaces need root; " \
                      "root runs this natively, and faster"
    return "native", f"natively: {why}"


if __name__ == "__main__":
    print(kvm()[1])
    for what, need in (("bare guests", BARE), ("Linux guests", LINUX)):
        print(f"{what}: {place(need)[1]}")
    sys.exit(0)

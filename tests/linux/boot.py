"""Stock kernels start, find all of the machine, and have nothing to complain about."""

import os
import time

import ftlab
from ftlab import CLIENT_IP, Vm, expect
from linuxlab import (IMAGES, KERNELS, LINUX, VSOCK_PORT, VsockEcho, check_kernel_log, checked, console_log,
                      initramfs, linux)
from testlib import test

PARTS = {"cpus", "mem", "vda", "vdb", "net", "rng", "clock", "balloon", "vsock", "console", "watchdog", "pvpanic",
         "ptp", "done"}


def boot_check(lab, kernel, image, cpus, memory, seconds=60):
    """run.d/check with all devices there are."""
    disks = [lab.disk("d0", 64), lab.disk("d1", 9)]
    args = ["-d", f"id=d0,path={disks[0]}", "-d", f"id=d1,path={disks[1]},ro", "--vsock", f"path={lab.path('vsock')}"]
    words = f"ftvmm.cpus={cpus} ftvmm.mem={memory} ftvmm.disks={64 << 20},{9 << 20} ftvmm.ping={CLIENT_IP} " \
            f"ftvmm.now={int(time.time())} ftvmm.vsock={VSOCK_PORT}"
    lab.closing.append(VsockEcho(lab.path("vsock")))
    begin = time.monotonic()
    vm = linux(lab, "check", *args, kernel=kernel, image=image, cpus=cpus, memory=f"{memory}M",
               cmdline=words)
    vm.wait_console("^check ", seconds)
    lab.note(f"first check after {time.monotonic() - begin:.1f} s")
    code = vm.wait_exit(seconds)
    parts = checked(vm)
    expect(code == 0, f"exit code {code}")
    wrong = [f"{n} {v} {w}" for n, (v, w) in parts.items() if v != "ok"]
    expect(not wrong, "; ".join(wrong))
    expect(set(parts) == PARTS, f"checked: {' '.join(sorted(parts))}; not {' '.join(sorted(PARTS))}")
    check_kernel_log(console_log(vm))
    expect("switched off" in vm.log_text(), f"the guest did not switch itself off: {vm.log_text()}")


def add_matrix():
    """LINUX_BOOTS=N: so many boots, the matrix again and again."""
    boots = int(os.environ.get("LINUX_BOOTS") or 8)
    matrix = [(k, i, c) for c in (1, 2) for k in KERNELS for i in IMAGES]
    for n in range(boots):
        kernel, image, cpus = matrix[n % len(matrix)]

        def boot(lab, kernel=kernel, image=image, cpus=cpus):
            boot_check(lab, kernel, image, cpus, 384)
        boot.__name__ = f"boot_{kernel}_{image}_{cpus}" + (f"_round{n // 8 + 1}" if n >= 8 else "")
        boot.__doc__ = f"Debian's {kernel} kernel as {image}, {cpus} vCPUs: each part of the machine works"
        test(120)(boot)


add_matrix()


@test(120, mem="6G")
def boot_hole(lab):
    """4.5 GiB: memory on both sides of the hole below 4 GiB"""
    boot_check(lab, "cloud", "vmlinux", 1, 4608)


@test(180)
def boot_8cpus(lab):
    """8 vCPUs"""
    boot_check(lab, "cloud", "vmlinuz", 8, 768, 100)


def refused(lab, *args):
    """ftvmm must end with one line that says why. That line."""
    vm = Vm(lab, "A", list(args))
    expect(vm.wait_exit(20) == ftlab.EXIT_USAGE, f"{args}: exit code {vm.code}: {vm.log_text()}")
    text = vm.log_text().strip()
    expect(len(text.splitlines()) == 1, f"{args}: not one line: {text}")
    lab.release(vm)
    return text


@test(60)
def boot_refused(lab):
    """kernels and initial RAM disks that are none, too large, or damaged: one line"""
    kernel = f"{LINUX}/cloud/vmlinuz"
    disk = initramfs(lab, "cloud")
    junk, empty, half = lab.path("junk"), lab.path("empty"), lab.path("half")
    with open(kernel, "rb") as f:
        head = f.read(1 << 20)
    for path, data in ((junk, lab.rng.randbytes(100000)), (empty, b""), (half, head)):
        with open(path, "wb") as f:
            f.write(data)
    for args, words in ((["-k", junk], junk), (["-k", empty], empty), (["-k", half, "-m", "256M"], half),
                        (["-k", kernel, "-i", lab.path("nothing")], "nothing"),
                        (["-k", kernel, "-i", disk, "-m", "8M"], "8"),
                        (["-k", kernel, "-a", "x" * 4000], "cmdline")):
        line = refused(lab, *args)
        expect(words in line, f"{args}: no '{words}' in: {line}")


@test(120)
def boot_no_initrd(lab):
    """no initial RAM disk, and words that mean nothing: a panic, and a reset"""
    vm = Vm(lab, "A", ["-k", f"{LINUX}/cloud/vmlinux", "-m", "256M", "--no-reboot", "-a",
                       'console=ttyS0 quiet panic=-1 foo="b a r" ftvmm.x== =,= acpi_osi=! ro'])
    vm.wait_console("Unable to mount root fs", 60)
    expect(vm.wait_exit(20) == 0, f"exit code {vm.code}")

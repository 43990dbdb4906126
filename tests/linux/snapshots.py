"""A Linux guest goes on from a snapshot of its memory and devices."""

import re

from ftlab import Vm, expect
from linuxlab import NET, Ping, Shell, check_guest_log, linux
from testlib import test

RESEEDED = "crng reseeded due to virtual machine fork"


def snapshot_linux(lab, kernel, image, cpus):
    disk = lab.disk("disk", 16)
    devices = ["-d", f"id=d0,path={disk}"]
    vm = linux(lab, "agent", *devices, kernel=kernel, image=image, cpus=cpus, memory="256M")
    shell = Shell(lab, vm)
    shell.watch_clock()
    shell.run("dd if=/dev/urandom of=/tmp/data bs=64k count=16; dd if=/tmp/data of=/dev/vda bs=64k; sync")
    digest = shell.run("sha256sum < /tmp/data")
    snap = lab.path("snap")
    vm.call("pause")
    vm.call("snapshot", 30, file=snap)
    lab.release(vm)
    randoms = set()
    for n in range(2):
        vm = Vm(lab, "A", ["--restore", snap, *devices, "-n", NET])
        # The connection of before the snapshot: the guest knows nothing of having been away.
        again = shell if not n else Shell(lab, vm)
        expect(again.run("sha256sum < /tmp/data") == digest, "memory is not what it was")
        expect(again.run("dd if=/dev/vda bs=64k count=16 iflag=direct 2> /dev/null | sha256sum") == digest,
               "the disk does not answer as it did")
        randoms.add(again.run("dd if=/dev/urandom bs=32 count=1 2> /dev/null | sha256sum"))
        Ping(lab).more()
        if kernel == "standard":
            expect(RESEEDED in again.run("dmesg"), f"no '{RESEEDED}' in the kernel log")
        check_guest_log(again)
        seen = re.fullmatch(r"reads (\d+) backwards (\d+) gap (\d+)", again.run("cat /tmp/clockwatch"))
        expect(seen and seen[2] == "0", f"clockwatch: {seen and seen[0]}")
        lab.release(vm)
    if kernel == "standard":
        expect(len(randoms) == 2, "two restored guests have the same random numbers")


def add(kernel, image, cpus):
    def snapshot(lab):
        snapshot_linux(lab, kernel, image, cpus)
    snapshot.__name__ = f"snapshot_{kernel}_{cpus}"
    snapshot.__doc__ = f"{kernel} kernel as {image}, {cpus} vCPUs: restored twice; memory, disk, connection, clocks"
    test(150)(snapshot)


add("standard", "vmlinux", 1)
add("cloud", "vmlinuz", 2)

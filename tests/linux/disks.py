"""Images on a real file system, past the host's page cache (O_DIRECT), under a guest's ext4: fio verifies."""

import os

import ftlab
from ftlab import Vm, expect
from linuxlab import NET, LinuxPair, Ping, Shell, check_guest_log, root_args
from testlib import random_wait, test

PARTS_OF_LINUX = ("root",)
IMAGE_BYTES = 192 << 20
FIO = "fio --name=v --directory=/data --size=16M --rw=randwrite --bsrange=4k-64k --ioengine=libaio --iodepth=8 " \
      "--verify=crc32c --verify_fatal=1 --verify_dump=0 --do_verify=1 --end_fsync=1 --output=/tmp/fio"


def image(lab, name):
    """A blank one."""
    return lab.disk(name, IMAGE_BYTES >> 20)


def check_image(path):
    """After the guest has switched itself off."""
    p = ftlab.run("e2fsck", "-fn", path, check=False, timeout=120)
    expect(p.returncode == 0, f"{path}: {p.stdout}")
    os.unlink(path)


def switch_off(vm):
    vm.call("stop", 10)
    expect(vm.wait_exit(20) == 0 and "switched off" in vm.log_text(), f"no orderly end: {vm.log_text()}")


def is_direct(vm, path):
    """Whether the process has it open with O_DIRECT."""
    for fd in os.listdir(f"/proc/{vm.pid}/fd"):
        if os.path.realpath(f"/proc/{vm.pid}/fd/{fd}") == path:
            with open(f"/proc/{vm.pid}/fdinfo/{fd}") as f:
                flags = next(int(line.split()[1], 8) for line in f if line.startswith("flags:"))
            return bool(flags & os.O_DIRECT)
    return False


@test(240)
def disk_direct(lab):
    """fio verifies what it wrote, with O_DIRECT in the host, and with it in the guest as well; then e2fsck"""
    path = image(lab, "plain.img")
    vm = Vm(lab, "A", [*root_args(lab, cpus=2), "-d", f"id=d0,path={path},direct", "-n", NET])
    vm.wait_console("^ready ", 60)
    expect(is_direct(vm, path), "the image is not open with O_DIRECT")
    shell = Shell(lab, vm)
    for direct in (0, 1):
        shell.run(f"{FIO} --direct={direct} && rm /data/v.*", 60)
    check_guest_log(shell)
    switch_off(vm)
    check_image(path)


class DirectPair(LinuxPair):
    """The root image and, for each side, its own /data with O_DIRECT."""

    def __init__(self, lab):
        super().__init__(lab, disk=0)
        self.path = {h: image(lab, f"{h}.img") for h in "AB"}
        self.guest_args = root_args(lab)[:-2]
        self.root = root_args(lab)[-2:]

    def host_args(self, host):
        return [*self.root, "-d", f"id=d0,path={self.path[host]},direct", *super().host_args(host)]


@test(400)
def disk_direct_takeover(lab):
    """the primary dies while fio writes, twice: it verifies all, and the survivor's image is clean"""
    pair = DirectPair(lab)
    pair.protect(60)
    ping = Ping(lab)
    pair.vm["A"].wait_console("^ready ", 60)
    shell = Shell(lab)
    for dies, lives in ("AB", "BA"):
        expect(is_direct(pair.vm[dies], pair.path[dies]), f"host {dies}: the image is not open with O_DIRECT")
        shell.start(f"{FIO} --direct=1 --loops=2 2>&1")
        random_wait(lab, pair.vm[dies], 3, 10)
        expect(shell.busy(), "fio has ended before the kill: let it write more")
        pair.vm[dies].kill()
        pair.vm[lives].wait_state("DEGRADED", seconds=20)
        lab.release(pair.vm[dies])
        ping.more()
        shell.finish(60)
        if dies == "A":
            pair.secondary("A")
            pair.in_step(60)
    check_guest_log(shell)
    switch_off(pair.vm["A"])
    check_image(pair.path["A"])

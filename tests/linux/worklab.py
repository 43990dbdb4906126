"""A protected guest with the root image of guests/linux: how it is started, killed and stopped, and its disks
looked at."""

import os

import ftlab
from ftlab import GUEST_IP, Pair, Process, expect
from linuxlab import LINUX, NET

ROOT = f"{LINUX}/root"
EPOCH = "100ms"  # longer than the timer's steps and the exits of an emulated machine ask for
DATA_MIB = 256


def data_image(path):
    """A disk with the services' data."""
    ftlab.run("mke2fs", "-q", "-F", "-t", "ext4", "-d", f"{ROOT}/data", "-E", "root_owner=0:0", "-J", "size=16", path,
              f"{DATA_MIB}M")
    return path


def kernel_args(services, memory):
    words = f"console=ttyS0 quiet root=/dev/vda ro ftvmm.ip={GUEST_IP}/24 ftvmm.services={services}"
    return ["-k", f"{LINUX}/cloud/vmlinux", "-i", f"{LINUX}/cloud/initramfs", "-m", memory, "-a", words]


def disk_args(path, direct=""):
    """The root image and that one."""
    return ["-d", f"id=root,path={LINUX}/root.img,ro", "-d", f"id=data,path={path}{direct}"]


def wait_ready(vm):
    """The services answer."""
    vm.wait_console("^(ready|init:)", 60)
    expect("init:" not in vm.console_text(), vm.console_text())
    return vm


def switch_off(vm):
    """The power button."""
    vm.call("stop", 100, timeout_ns=400 * 10 ** 9)
    expect(vm.wait_exit(60) == ftlab.EXIT_DONE, f"{vm} ended with {vm.code}: {vm.log_text()}")
    expect("down: off" in vm.console_text(), f"the guest was not switched off in order: {vm.console_text()}")


class WorkPair(Pair):
    """The root image of guests/linux, which is only read, and a disk with the services' data, which is mirrored:
    past the page cache on host A, through it on host B."""

    def __init__(self, lab, services, memory="512M", epoch=EPOCH):
        # A host that is emulated may be silent for long; a killed one is not: its connections end.
        super().__init__(lab, disk=0, epoch=epoch, timeout="30s")
        self.image = {h: lab.path(f"{self.serial:03}-data-{h}") for h in "AB"}
        data_image(self.image["A"])
        self.guest_args = kernel_args(services, memory)

    def host_args(self, host):
        return [*disk_args(self.image[host], ",direct" if host == "A" else ""), "-n", NET, *self.common_args(host)]

    def boot(self):
        """Runs on A, unprotected until its services answer: nothing of the boot is an epoch."""
        return wait_ready(self.primary("A"))

    def protect_here(self, here):
        """The other side stands by for the one that runs."""
        self.secondary(self.other(here))
        self.in_step(120)

    def kill(self, here):
        """SIGKILL for the side that runs the guest; the other one runs it on return. Which."""
        there = self.other(here)
        self.vm[here].kill()
        self.vm[there].wait_state("DEGRADED", seconds=60)
        self.lab.release(self.vm[here])
        return there

    def stop_in_order(self, here):
        """Both images are the same then, and clean."""
        there = self.other(here)
        switch_off(self.vm[here])
        self.vm[there].wait_state("STARTING", seconds=60)
        self.vm[there].stop()
        ftlab.run("cmp", self.image["A"], self.image["B"], timeout=600)


class Mounted:
    """The root image's files with that data image in them, for programs of this host."""

    def __init__(self, lab, image):
        self.lab, self.at = lab, lab.path("mounted")
        os.makedirs(self.at)
        lab.closing.append(self)
        for argv in (["--bind", ROOT, self.at], ["--bind", "/dev", f"{self.at}/dev"],
                     ["-t", "tmpfs", "run", f"{self.at}/run"], ["-t", "tmpfs", "tmp", f"{self.at}/tmp"],
                     ["-t", "tmpfs", "shm", f"{self.at}/dev/shm"], ["-o", "loop", image, f"{self.at}/data"]):
            ftlab.run("mount", *argv)

    def run(self, *argv):
        return ftlab.run("chroot", self.at, *argv, timeout=600)

    def start(self, user, *argv):
        """A server, in the clients' network."""
        p = Process(self.lab.ns["C"], ["chroot", f"--userspec={user}", self.at, *argv],
                    self.lab.path(f"{self.lab.next_serial():03}-{user}-log"))
        self.lab.processes.append(p)
        return p

    def close(self):
        ftlab.run("umount", "-R", self.at, check=False)

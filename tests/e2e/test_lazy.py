"""Lazy restore: the guest runs while its memory comes from the snapshot's file."""

import os
import re
import time

import ftlab
from ftlab import Deadline, Vm, expect
from test_boot import NET, boot
from test_faults import preload
from test_snapshot import goes_on, refused, restore, snapshot, writer
from testlib import Skip, check_load, eighth, hash_cmdline, hash_work, host_digest, random_wait, start_load, test


def lazily(lab, path, *args):
    return restore(lab, path, "--lazy", *args)


def whole(vm, seconds=20):
    vm.wait_log("all memory is here", seconds)
    expect("lazy" not in vm.status(), "status still says that memory comes")


def first_entry_ms(vm, begun):
    d = Deadline(20)
    while not (at := vm.status()["first_entry_mono_ns"]):
        d.check("the first instruction")
    return (at - begun) / 1e6


@test(60)
def lazy_hash(lab):
    """taken in the middle of a computation, restored so: the right result; how soon it runs against an eager one"""
    work = hash_work(128, 4000)
    want = f"digest {host_digest(lab, *work)}"
    vm = boot(lab, "hash", hash_cmdline(work), memory="64M")
    vm.wait_console("^hash ", 30)
    snapshot(vm, lab.path("snap"))
    lab.release(vm)
    for args in (("--lazy",), ()):
        begun = time.monotonic_ns()
        vm = restore(lab, lab.path("snap"), *args)
        took = first_entry_ms(vm, begun)
        lab.note(f"{' '.join(args) or 'eager'}: {took:.1f} ms to the first instruction")
        print(f"# {' '.join(args) or 'eager'}: {took:.1f} ms to the first instruction")
        expect(vm.wait_exit(40) == 0 and want in vm.console_text(),
               f"exit code {vm.code}, not {want}: {vm.console_text()} {vm.log_text()}")
        lab.release(vm)


@test(60)
def lazy_writer(lab):
    """a guest that checks all its memory; restored so, snapshot again, restored again; two and four CPUs"""
    vm = writer(lab)
    for i in range(ftlab.work(2)):
        path = lab.path(f"snap{i}")
        snapshot(vm, path)
        lab.release(vm)
        vm = lazily(lab, path)
        vm.wait_console("^speed")
        whole(vm)
        goes_on(vm)
    lab.release(vm)
    vm = boot(lab, "smp", f"seconds={int(2 + ftlab.SLOW)}", cpus=4)
    vm.wait_console("^READY")
    snapshot(vm, lab.path("smp"))
    lab.release(vm)
    vm = lazily(lab, lab.path("smp"))
    expect(vm.wait_exit(30) == 0 and "smp ok" in vm.console_text(), f"exit code {vm.code}: {vm.console_text()}")


@test(60)
def lazy_devices(lab):
    """kv under load on disk and network, which look for their rings in memory that is still to come"""
    disk = lab.disk("disk", 32)
    backends = ["-d", f"id=d0,path={disk}", "-n", NET]
    vm = boot(lab, "kv", "ip=10.77.0.2", *backends)
    load = start_load(lab)
    for i in range(ftlab.work(2)):
        random_wait(lab, load, 0.1, 0.4)
        vm.call("pause")
        snapshot(vm, lab.path(f"snap{i}"))
        lab.release(vm)
        vm = lazily(lab, lab.path(f"snap{i}"), *backends)
        lab.probe()
        whole(vm)
    check_load(lab, [load], disk)


# Reads of a file that are made to wait from an offset on, as long as a gate is shut. The first reading, for the index,
# is by read(), this one by pread(): what waits is only what comes while the guest runs.
SLOW_FILE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <unistd.h>
ssize_t pread64(int fd, void *buf, size_t len, off_t off)
{
	static ssize_t (*real)(int, void *, size_t, off_t);
	const char *gate = getenv("FILE_GATE");
	if (!real)
		real = (ssize_t (*)(int, void *, size_t, off_t))dlsym(RTLD_NEXT, "pread64");
	while (gate && off > atol(getenv("FILE_FROM")) && !access(gate, F_OK))
		usleep(1000);
	return real(fd, buf, len, off);
}
ssize_t pread(int fd, void *buf, size_t len, off_t off) { return pread64(fd, buf, len, off); }
"""


class SlowFile:
    """A snapshot whose pages come when they are let."""

    def __init__(self, lab):
        if ftlab.SANITIZED:
            raise Skip("a sanitizer wants to be the first library")
        library, self.gate, self.path = lab.path("slow.so"), lab.path("gate"), lab.path("snap")
        if not os.path.exists(library):
            preload(lab, library, SLOW_FILE)
        self.env = {"LD_PRELOAD": library, "FILE_GATE": self.gate, "FILE_FROM": "600000"}
        vm = writer(lab, total=4096, pages=512, words=400)
        snapshot(vm, self.path)
        lab.release(vm)

    def shut(self):
        open(self.gate, "w").close()

    def open(self):
        os.unlink(self.gate)

    def start(self, lab, *args):
        """The VM, with hardly a page of its memory."""
        self.shut()
        vm = Vm(lab, "A", ["--restore", self.path, "--lazy", *args], env=self.env)
        vm.wait_state("PAUSED" if "--paused" in args else "RUNNING")
        expect(vm.status()["lazy"]["left_bytes"] > 4 << 20, f"it is all here: {vm.status()}")
        return vm


def refused_pause(vm):
    try:
        vm.call("pause")
    except ftlab.LabError as e:
        expect("still comes in" in str(e), str(e))
    else:
        raise ftlab.LabError("paused in the middle of a fault")


@test(60)
def lazy_slow(lab):
    """the file takes its time: commands are answered, a snapshot is refused, a stop does not wait; then it goes on"""
    slow = SlowFile(lab)
    for args in ((), ("--paused",)):
        vm = slow.start(lab, *args)
        refused(vm, "not before all memory", file=lab.path("other"))
        vm.call("stop", timeout_ns=0)
        expect(vm.wait_exit(10) == 0, f"exit code {vm.code}: {vm.log_text()}")
        lab.release(vm)
    for args in ((), ("--paused",)):
        vm = slow.start(lab, *args)
        if not args:  # it waits in a fault, which some kernels do not interrupt
            vm.wait_status(lambda s: s["lazy"]["faults"] > 0, "a fault")
            refused_pause(vm)
        slow.open()
        whole(vm)
        if not args:
            vm.call("pause")
        vm.call("resume")
        vm.wait_console("^speed")
        goes_on(vm)
        snapshot(vm, lab.path("other"))
        lab.release(vm)


def flipped(data, start):
    """A bit here and there from start on: what a later pass has written again is not read at all."""
    data = bytearray(data)
    for at in range(start, len(data), 65536):
        data[at] ^= 1
    return bytes(data)


@test(90)
def lazy_lost(lab):
    """the file is cut, changed, or another one when its pages are read: INCOMPLETE for good, with the reason, and it stops"""
    slow = SlowFile(lab)
    with open(slow.path, "rb") as f:
        good = f.read()
    half = len(good) // 2
    cases = (("ends too early|truncated", good[:half]),
             ("checksum is wrong|is another one", flipped(good, half)),
             ("not what it was", good[:1000] + lab.rng.randbytes(len(good) - 1000)))
    for pattern, bad in eighth(lab, cases):
        with open(slow.path, "wb") as f:
            f.write(good)
        vm = slow.start(lab)
        vm.wait_status(lambda s: s["lazy"]["faults"] > 0, "a fault")
        with open(slow.path, "r+b") as f:
            f.truncate(len(bad))
            f.write(bad)
        slow.open()
        status = vm.wait_status(lambda s: "will not come" in s["note"], "what is wrong", 20)
        expect(status["state"] == "INCOMPLETE" and re.search(pattern, status["note"]), f"{status['state']}: {status['note']}")
        for cmd, members in (("resume", {}), ("snapshot", {"file": lab.path("other")})):
            try:
                vm.call(cmd, **members)
            except ftlab.LabError as e:
                expect(re.search("will not come|cannot be had|not before all", str(e)), str(e))
            else:
                raise ftlab.LabError(f"{cmd} of a VM whose memory is missing")
        expect(vm.stop() == 0, f"exit code {vm.code}: {vm.log_text()}")
        lab.release(vm)


@test(30)
def lazy_refused(lab):
    """without a right to userfaultfd, without a snapshot, with a peer: one line that says what to do"""
    vm = writer(lab)
    snapshot(vm, lab.path("snap"))
    lab.release(vm)
    for args, pattern in ((["-k", f"{ftlab.GUESTS}/idle.elf", "--lazy"], "--lazy goes with --restore"),
                          (["--primary", "--restore", lab.path("snap"), "--lazy", "--ft", "mc", "--peer", "tcp:127.0.0.1:1"],
                           "--lazy goes with --restore and without --primary")):
        vm = Vm(lab, "A", args)
        expect(vm.wait_exit(10) == 1 and re.search(pattern, vm.log_text()), f"exit code {vm.code}: {vm.log_text()}")
        lab.release(vm)
    with open("/proc/sys/vm/unprivileged_userfaultfd", encoding="ascii") as f:
        if f.read().strip() == "1":
            return
    vm = Vm(lab, "A", ["--restore", lab.path("snap"), "--lazy"], before=[
        "unshare", "-m", "sh", "-c", 'mount --bind /dev/null /dev/userfaultfd 2> /dev/null; '
        'exec setpriv --bounding-set -sys_ptrace --inh-caps -sys_ptrace "$@"', "sh"])
    expect(vm.wait_exit(10) == 1 and re.search("--lazy: .*vm.unprivileged_userfaultfd=1", vm.log_text()),
           f"exit code {vm.code}: {vm.log_text()}")
    expect(len(vm.log_text().strip().splitlines()) == 1, vm.log_text())

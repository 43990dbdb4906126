"""A guest that resets its machine boots again, on either side of a pair."""

import fcntl
import os
import re
import shutil
import signal
import time

import ftlab
from ftlab import GUESTS, Pair, Vm, expect
from test_faults import Arbiter
from testlib import eighth, random_wait, test


class Away:
    """A file on storage that does not answer: a lease keeps the next open() waiting (fcntl(2))."""

    def __init__(self, path):
        self.path, self.asked = path, False
        self.old = signal.signal(signal.SIGIO, self.broken)
        self.fd = os.open(path, os.O_RDWR)
        self.lease(ftlab.Deadline(10))

    def lease(self, deadline):
        """Not while a boot that is under way has it open."""
        while True:
            try:
                fcntl.fcntl(self.fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
                return
            except BlockingIOError:
                deadline.check("the kernel file to be closed")

    def broken(self, *_):
        self.asked = True

    def wait_asked(self, vm):
        end = time.monotonic() + 10 * ftlab.SLOW
        while not self.asked:
            expect(time.monotonic() < end, "nobody opens the kernel")
            vm.nap()

    def end(self):
        if self.fd >= 0:
            os.close(self.fd)
            signal.signal(signal.SIGIO, self.old)
        self.fd = -1


def reset_vm(lab, cmdline, *args, cpus=1):
    return Vm(lab, "A", ["-k", f"{GUESTS}/reset.elf", "-m", "64M", "-c", str(cpus),
                         "-a", f"{cmdline} cpus={cpus}", *args])


def boots(vm):
    return [int(n) for n in re.findall(r"^boot (\d+) ", vm.console_text(), re.M)]


@test(60)
def reset_again(lab):
    """by the ACPI register, by the keyboard controller, by both at once; one and several CPUs"""
    for how, cpus in eighth(lab, [(how, cpus) for how in (0, 1, 2) for cpus in (1, 3)]):
        disk = lab.disk(f"disk-{how}-{cpus}", 4)
        vm = reset_vm(lab, f"boots=4 how={how} gap=10", "-d", f"id=d0,path={disk}", cpus=cpus)
        vm.wait_exit(20)
        expect(vm.code == 0 and boots(vm) == [1, 2, 3, 4],
               f"how={how} cpus={cpus}: exit code {vm.code}, boots {boots(vm)}: {vm.log_text()}")
        lab.release(vm)


@test(30)
def reset_ends(lab):
    """with --no-reboot a reset is the end"""
    vm = reset_vm(lab, "boots=4", "--no-reboot")
    vm.wait_exit(20)
    expect(vm.code == 0 and boots(vm) == [1], f"exit code {vm.code}, boots {boots(vm)}")


@test(30)
def reset_all_day(lab):
    """a guest that does nothing but reset does not fill the log"""
    begin = time.monotonic()
    vm = reset_vm(lab, "boots=0 gap=0")
    vm.wait_status(lambda s: s["resets_total"] >= 50, "fifty resets")
    lines, seconds = vm.log_text().count("booting again"), time.monotonic() - begin
    expect(1 <= lines <= seconds + 1, f"{lines} lines in {seconds:.1f} s")


@test(30)
def reset_into_nothing(lab):
    """the kernel is gone: the VM ends, and not as if the guest had wanted that"""
    kernel = lab.path("kernel")
    shutil.copy(f"{GUESTS}/reset.elf", kernel)
    vm = Vm(lab, "A", ["-k", kernel, "-m", "64M", "-a", "boots=0 gap=100 cpus=1"])
    vm.wait_console("^boot 1 ")
    os.unlink(kernel)
    vm.wait_exit(20)
    expect(vm.code == 2, f"exit code {vm.code}")
    vm.wait_log("reboot: .*No such file")


def reset_pair(lab, how=2, cpus=2, gap=None):
    gap = lab.rng.randrange(10, 60) if gap is None else gap
    return Pair(lab, "reset", f"boots=0 how={how} gap={gap}", cpus=cpus, disk=8, net=False,
                extra=("--verify",))


@test(60)
def reset_protected(lab):
    """resets in a protected pair, then a death: the guest's count goes on, in memory and on disk"""
    for _ in range(ftlab.work(4)):
        pair = reset_pair(lab)
        b = pair.secondary("B", *pair.guest_args[:2])
        b.wait_state("STARTING")
        a = pair.primary("A")
        pair.in_step(15)
        a.wait_status(lambda s: s["resets_total"] >= 5, "five resets")
        random_wait(lab, a, 0.0, 0.3)
        a.kill()
        b.wait_status(lambda s: s["state"] == "DEGRADED" and s["resets_total"] >= 3,
                      "three resets after the takeover")
        before, after = boots(a), boots(b)
        # The last boot that A may have announced too late for us to see.
        expect(after[0] in (before[-1] + 1, before[-1] + 2), f"{before[-3:]} then {after[:3]}")
        expect(after == list(range(after[0], after[0] + len(after))), f"boots {after}")
        pair.end()


@test(60)
def reset_sealed(lab):
    """a guest that only resets, one CPU: an epoch may end before its first instruction"""
    for _ in range(max(2, ftlab.work(12))):
        pair = reset_pair(lab, cpus=1, gap=0)
        b = pair.secondary("B", *pair.guest_args[:2])
        b.wait_state("STARTING")
        a = pair.primary("A")
        pair.in_step(15)
        random_wait(lab, a, 0.0, 0.2)
        a.kill()
        b.wait_status(lambda s: s["state"] == "DEGRADED" and s["resets_total"] >= 3,
                      "three resets after the takeover")
        pair.end()


@test(60)
def reset_events(lab):
    """an event is output: one of a reset that the other side does not have yet is not told"""
    pair = Pair(lab, "reset", "boots=0 how=0 gap=20 cpus=1", disk=8, net=False, extra=("--peer-timeout", "40s"))
    b = pair.secondary("B", *pair.guest_args[:2])
    b.wait_state("STARTING")
    a = pair.primary("A")
    pair.in_step(15)
    ctl = ftlab.Control(a.socket_path(), 30 * ftlab.SLOW)
    ctl.call("events")
    first = ctl.call("status")["resets_total"]

    def resets(wanted):
        deadline = ftlab.Deadline(20)
        while (now := ctl.call("status")["resets_total"]) < first + wanted:
            deadline.check(f"reset {wanted}")
            a.nap()
        return now - first

    def told():
        return sum(e["event"] == "guest-reset" for e in ctl.events)

    resets(2)
    b.signal(signal.SIGSTOP)
    at_stop = resets(0)
    now = resets(at_stop + 5)
    expect(told() <= at_stop + 1, f"{told()} events; {at_stop} resets when B stood still, {now} now")
    b.signal(signal.SIGCONT)
    deadline = ftlab.Deadline(20)
    while told() < now - 2:
        deadline.check(f"the events of {now} resets; {told()} came")
        ctl.call("status")
        a.nap()
    pair.end()


@test(30)
def reset_without_kernel(lab):
    """a side that took over and has no kernel says so, and ends with the guest's reset"""
    pair = reset_pair(lab, how=0)
    a, b = pair.protect()
    b.wait_log(r"no kernel \(-k\): after a takeover")
    a.kill()
    b.wait_log("no kernel was given here to boot again")
    b.wait_exit(10)
    expect(b.code == 0, f"exit code {b.code}")


def kernel_copy(lab, name):
    path = lab.path(name)
    shutil.copy(f"{GUESTS}/reset.elf", path)
    return path


def reset_away(lab):
    """A protected guest whose reset waits for the kernel file. The pair, and what gives it back."""
    kernel = {h: kernel_copy(lab, f"kernel-{lab.next_serial()}") for h in "AB"}
    pair = reset_pair(lab, how=1, cpus=lab.rng.randint(1, 2))
    b = pair.secondary("B", "-k", kernel["B"])
    b.wait_state("STARTING")
    a = pair.primary("A", "-k", kernel["A"])
    pair.in_step(15)
    a.wait_status(lambda s: s["resets_total"] >= 2, "two resets")
    away = Away(kernel["A"])
    away.wait_asked(a)
    return pair, away


@test(60)
def reset_slow_storage(lab):
    """the kernel is read for a second: the pair stays protected, and the guest boots after it"""
    pair, away = reset_away(lab)
    a, b = pair.vm["A"], pair.vm["B"]
    try:
        begin = a.status()
        a.wait_status(lambda s: s["epochs_total"] >= begin["epochs_total"] + 40, "forty epochs")
        expect(a.status()["resets_total"] == begin["resets_total"], "it booted without a kernel")
    finally:
        away.end()
    a.wait_status(lambda s: s["resets_total"] >= begin["resets_total"] + 2, "two resets more")
    expect((a.state(), b.state()) == ("PROTECTED", "PROTECTED"), f"{a.state()}, {b.state()}")
    pair.end()


@test(60)
def reset_taken_over(lab):
    """the primary dies between the guest's reset and the boot: the other side boots it"""
    pair, away = reset_away(lab)
    a, b = pair.vm["A"], pair.vm["B"]
    try:
        begin = a.status()["epochs_total"]
        a.wait_status(lambda s: s["epochs_total"] >= begin + 2, "two epochs")
        a.kill()
        b.wait_status(lambda s: s["state"] == "DEGRADED" and s["resets_total"] >= 2, "two resets")
    finally:
        away.end()
    after = boots(b)
    expect(after[0] == boots(a)[-1] + 1 and after == list(range(after[0], after[0] + len(after))),
           f"{boots(a)[-3:]} then {after[:5]}")
    pair.end()


def all_parked(vm):
    """Does no vCPU run, or want to?"""
    states = []
    for task in os.listdir(f"/proc/{vm.pid}/task"):
        with open(f"/proc/{vm.pid}/task/{task}/stat") as f:
            name, state = re.match(r"\d+ \((.*)\) (\w)", f.read()).groups()
        states += [state] if name.startswith("vcpu") else []
    expect(len(states) == 2, f"{len(states)} vCPUs")
    return states == ["S", "S"]


@test(30)
def reset_stops_all(lab):
    """a reset stops all CPUs at once, also those that run on without an exit"""
    kernel = kernel_copy(lab, "kernel")
    vm = Vm(lab, "A", ["-k", kernel, "-m", "64M", "-c", "2", "-a", "boots=0 gap=50 cpus=2"])
    vm.wait_console("^boot 1 ")
    away = Away(kernel)
    try:
        away.wait_asked(vm)
        end = time.monotonic() + 5 * ftlab.SLOW
        while not all_parked(vm):
            expect(time.monotonic() < end, "a CPU runs on after the reset")
            vm.nap()
    finally:
        away.end()
    vm.wait_console("^boot 3 ")


def reader_of(vm):
    """The thread that waits for the kernel."""
    names = {}
    for task in os.listdir(f"/proc/{vm.pid}/task"):
        with open(f"/proc/{vm.pid}/task/{task}/comm") as f:
            names[int(task)] = f.read().strip()
    found = [t for t, name in names.items() if name == "bootread"]
    expect(len(found) == 1, f"threads {names}")
    return found[0]


@test(60)
def reset_all_away(lab):
    """peer, arbiter and kernel are lost at once: the reset waits until this side may go on"""
    pair, away = reset_away(lab)
    a, arbiter = pair.vm["A"], Arbiter(pair)
    begin, reader = a.status()["resets_total"], reader_of(a)
    kernel = os.pread(away.fd, 1 << 24, 0)
    try:
        arbiter.leave()
        pair.vm["B"].kill()
        a.wait_state("PAUSED")
        os.ftruncate(away.fd, 0)
        away.end()
        while os.path.exists(f"/proc/{a.pid}/task/{reader}"):
            a.nap()
        expect(a.state() == "PAUSED", a.state())
    finally:
        away.end()
    with open(away.path, "wb") as f:
        f.write(kernel)
    arbiter.back()
    a.wait_state("DEGRADED")
    a.wait_status(lambda s: s["resets_total"] >= begin + 2, "two resets more")
    pair.end()


@test(60)
def reset_stopped(lab):
    """`stop` does not wait for a guest that waits for its kernel"""
    kernel = kernel_copy(lab, "kernel")
    vm = Vm(lab, "A", ["-k", kernel, "-m", "64M", "-a", "boots=0 gap=50 cpus=1"])
    vm.wait_console("^boot 1 ")
    away = Away(kernel)
    try:
        away.wait_asked(vm)
        vm.call("stop")
        vm.wait_exit(5)
    finally:
        away.end()
    expect(vm.code == 0, f"exit code {vm.code}: {vm.log_text()}")

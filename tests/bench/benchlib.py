"""What the benchmarks share: figures and how they are printed, virtual machines, small statistics."""

import json
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "e2e"))
import ftlab  # noqa: E402

ftlab.SANDBOX = None  # as it is by default

FLOORS = os.path.join(ftlab.TOOLS, "bench/floors")
NATIVE_IO = os.path.join(ftlab.TOOLS, "bench/native_io")
STARTUP = os.path.join(ftlab.TOOLS, "bench/startup")
FIRST_ELF = os.path.join(ftlab.ROOT, "build/bench/first.elf")
QEMU = "qemu-system-x86_64"
QEMU_MACHINE = "microvm,x-option-roms=off,isa-serial=on,rtc=off,acpi=off"
EPOCH_MS = 25

median = statistics.median


class Skip(Exception):
    """This figure cannot be taken here, and why."""


def percentile(values, pct):
    ordered = sorted(values)
    return ordered[(len(ordered) - 1) * pct // 100]


def tool(*argv, timeout=120):
    """Run a helper; its JSON."""
    p = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                       timeout=timeout * ftlab.SLOW)
    if p.returncode:
        raise ftlab.LabError(f"{' '.join(argv)}: exit code {p.returncode}: {p.stderr.strip()}")
    return json.loads(p.stdout)


def rounds(count, least):
    """So many of them, on a slow machine fewer, but no fewer than `least`."""
    return max(min(count, least), ftlab.work(count))


def slowly(ms):
    """A time for which work is given, stretched as much as this machine is slower: a guest's tick, an epoch."""
    return int(ms * ftlab.SLOW)


def memcpy_us(kind, pages, count=100):
    """Microseconds to copy that many pages: median."""
    return tool(FLOORS, "memcpy", kind, str(max(1, pages)), str(rounds(count, 11)), "4000")["p50_us"] if pages else 0.0


def floor_us(what, count):
    """p50_us and p99_us of floors.c's rtt, kick or death."""
    return tool(FLOORS, what, str(rounds(count, 21)))


def record_ms(folder):
    """Milliseconds to make a record there that outlasts a crash, as the arbiter's: p50 and p99 of the floor."""
    p = subprocess.run([NATIVE_IO, "arbiter", folder], stdout=subprocess.PIPE, text=True, timeout=60 * ftlab.SLOW)
    ftlab.expect(p.returncode == 0, f"{NATIVE_IO}: exit code {p.returncode}")
    samples = json.loads(p.stdout.splitlines()[0])["floor"]
    return percentile(samples, 50), percentile(samples, 99)


# --- figures ---------------------------------------------------------------------------------------


class Report:
    """Collects figures, prints each on one line as soon as it is known."""

    HEAD = ("figure", "unit", "floor", "peer", "ours", "ratio", "target", "verdict")

    def __init__(self):
        self.figures = []

    def head(self):
        self.line(*self.HEAD)

    @staticmethod
    def line(name, unit, floor, peer, ours, ratio, target, verdict):
        print(f"{name:32} {unit:8} {floor:>9} {peer:>9} {ours:>9} {ratio:>7}  {target:30} {verdict}",
              flush=True)

    @staticmethod
    def text(value):
        if value is None:
            return "-"
        if abs(value) >= 1000:
            return f"{value:.0f}"
        return f"{value:.2f}" if abs(value) >= 1 else f"{value:.3f}"

    def add(self, name, unit, ours, target="", met=None, floor=None, peer=None, ratio=None, **more):
        """met None: there is no target, the figure is for information. pairs: single ratios to the floor."""
        if ratio is None and floor:
            ratio = ours / floor
        verdict = "info" if met is None else "MET" if met else "NOT MET"
        self.figures.append(dict(name=name, unit=unit, floor=floor, peer=peer, ours=ours, ratio=ratio,
                                 target=target, verdict=verdict, emulated=False, **more))
        self.line(name, unit, self.text(floor), self.text(peer), self.text(ours), self.text(ratio),
                  target, verdict)

    def missed(self):
        return [f["name"] for f in self.figures if f["verdict"] == "NOT MET"]


class EmulatedReport(Report):
    """Of an emulated machine, where only ratios say something: numbers of its own are kept apart, and no target for
    real ones is judged by them."""

    def head(self):
        self.ratios("figure", "ours/floor", "ours/peer", "")

    @staticmethod
    def ratios(name, floor, peer, verdict):
        print(f"{name:32} {floor:>11} {peer:>11}  {verdict}", flush=True)

    def spread(self, pairs):
        """Between what the middle half of single ratios lies: an emulated machine gets its processor by fits."""
        if not pairs:
            return "emulated"
        low, high = self.text(percentile(pairs, 25)), self.text(percentile(pairs, 75))
        return f"emulated, half of {len(pairs)} between {low} and {high}"

    def add(self, name, unit, ours, target="", met=None, floor=None, peer=None, ratio=None, pairs=(), **more):
        if floor:
            ratio = ratio or ours / floor
        elif peer:
            ratio = None
        to_peer = ours / peer if peer else None
        self.figures.append(dict(name=name, unit=unit, floor=None, peer=None, ours=None, ratio=ratio,
                                 ratio_to_peer=to_peer, pairs=list(pairs), target="", verdict="emulated", emulated=True,
                                 in_the_emulated_machine=dict(floor=floor, peer=peer, ours=ours, **more)))
        self.ratios(name, self.text(ratio), self.text(to_peer), self.spread(pairs))


# --- virtual machines ------------------------------------------------------------------------------


class Writer:
    """Reads the `speed` lines of a writer guest as they come."""

    def __init__(self, vm):
        self.vm = vm

    def speeds(self):
        return [int(n) for n in re.findall(r"^speed (\d+)$", self.vm.console_text(), re.M)]

    def wait_reports(self, count, seconds=15):
        d = ftlab.Deadline(seconds)
        while len(self.speeds()) < count:
            ftlab.expect(self.vm.alive(), f"{self.vm} ended: {ftlab.tail(self.vm.log, 3)}")
            d.check("the guest's speed")
            self.vm.nap(0.01)

    def waited_ns(self):
        """Time that the vCPU was ready to run and had no CPU, so far."""
        for task in os.listdir(f"/proc/{self.vm.pid}/task"):
            if ftlab.read_text(f"/proc/{self.vm.pid}/task/{task}/comm").strip() in ("vcpu0", "CPU 0/KVM"):
                return int(ftlab.read_text(f"/proc/{self.vm.pid}/task/{task}/schedstat").split()[1])
        raise ftlab.LabError(f"{self.vm} has no vCPU")

    def next_speed(self):
        """The guest's next whole report, after one that began earlier: passes per second, and the same
        without the time that the vCPU waited for a CPU."""
        have = len(self.speeds())
        self.wait_reports(have + 1)
        begin, waited = ftlab.mono(), self.waited_ns()
        self.wait_reports(have + 2)
        share = (self.waited_ns() - waited) / (ftlab.mono() - begin)
        speed = self.speeds()[have + 1]
        return speed, speed / max(0.01, 1 - share)


def plain(lab, guest, cmdline, memory="64M", more=(), before=()):
    """An unprotected guest on host A; before: a program that starts it."""
    vm = ftlab.Vm(lab, "A", ["-k", os.path.join(ftlab.GUESTS, guest + ".elf"), "-a", cmdline, "-m", memory,
                             *more], name="plain", before=before)
    vm.wait_console("^READY")
    return vm


def qemu_args(*more, memory="256M"):
    return [QEMU, "-M", QEMU_MACHINE, "-accel", "kvm", "-cpu", "qemu64", "-m", memory, "-nodefaults",
            "-no-user-config", "-display", "none", "-name", "debug-threads=on", *more]


def has_qemu():
    return shutil.which(QEMU) is not None


class QemuVm(ftlab.Process):
    """The same guest image under QEMU, on host A or B."""

    def __init__(self, lab, host, guest, cmdline, *more, memory="64M"):
        self.lab, serial = lab, lab.next_serial()
        self.console = lab.path(f"{serial:03}-{host}-qemu-console")
        self.qmp_path = lab.path(f"{serial:03}-{host}-qmp")
        self.qmp, self.events = None, []
        argv = qemu_args("-kernel", os.path.join(ftlab.GUESTS, guest + ".elf"), "-append", cmdline,
                         "-serial", f"file:{self.console}", "-qmp", f"unix:{self.qmp_path},server=on,wait=off", *more,
                         memory=memory)
        super().__init__(lab.ns[host], argv, lab.path(f"{serial:03}-{host}-qemu-log"))
        lab.processes.append(self)

    def console_text(self):
        return ftlab.read_text(self.console)

    def wait_ready(self, seconds=15):
        d = ftlab.Deadline(seconds)
        while "READY" not in self.console_text():
            ftlab.expect(self.alive(), f"QEMU ended: {ftlab.tail(self.log)}")
            d.check("the guest under QEMU")
            self.nap(0.02)

    def connect(self):
        d = ftlab.Deadline(10)
        while True:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                sock.connect(self.qmp_path)
                break
            except OSError:
                sock.close()
                ftlab.expect(self.alive(), f"QEMU ended: {ftlab.tail(self.log)}")
                d.check("QEMU's QMP")
                self.nap(0.02)
        sock.settimeout(30 * ftlab.SLOW)
        self.qmp = sock.makefile("rw")
        sock.close()
        self.qmp.readline()  # its greeting
        self.command("qmp_capabilities")

    def command(self, name, **args):
        if not self.qmp:
            self.connect()
        self.qmp.write(json.dumps({"execute": name, "arguments": args}) + "\n")
        self.qmp.flush()
        while True:
            answer = json.loads(self.qmp.readline() or '{"error": "QMP closed"}')
            ftlab.expect("error" not in answer, f"QEMU: {name}: {answer.get('error')}")
            if "event" in answer:
                self.events.append(answer)
            if "return" in answer:
                return answer["return"]

    def rest(self):
        self.signal(signal.SIGSTOP)

    def go_on(self):
        self.signal(signal.SIGCONT)

    def close(self):
        if self.qmp:
            self.qmp.close()
            self.qmp = None
        super().close()


def pin(vm, cpus):
    """Keep all of its threads, and those they make, on these CPUs."""
    for task in os.listdir(f"/proc/{vm.pid}/task"):
        os.sched_setaffinity(int(task), cpus)


def protected(lab, guest, cmdline, epoch=None, memory="64M", disk=0, net=False, extra=(), ft="mc"):
    """The same guest under mc, or that mode, in step with host B; epoch: EPOCH_MS."""
    pair = ftlab.Pair(lab, guest, cmdline, memory, disk=disk, net=net, epoch=epoch or f"{slowly(EPOCH_MS)}ms",
                      extra=extra, ft=ft, timeout="3s")  # no stall of a busy machine is a death
    pair.protect()
    # The hosts share this machine: host B must not take the vCPU's core away while another is free.
    pin(pair.vm["B"], {max(os.sched_getaffinity(0))})
    pair.vm["A"].wait_console("^READY")
    return pair


def with_twin(vm):
    """Until what the guest puts out is compared with what a twin does."""
    vm.wait_status(lambda s: s["twin"]["phase"] == "runs", "a twin that runs", 20)


def run_epochs(pair, count, seconds=60):
    """The primary's status after that many more epochs, with what happened in them."""
    a, d = pair.vm["A"], ftlab.Deadline(seconds)
    before = after = a.status()
    while after["epochs_total"] < before["epochs_total"] + count:
        d.check(f"{count} epochs")
        a.nap(0.25)  # status costs the loop as much as an epoch: ask seldom
        after = a.status()
    ftlab.expect(after["state"] == "PROTECTED", f"not protected any more: {after['note']}")
    delta = {k: after[k] - before[k] for k in ("epochs_total", "pages_total", "hot_pages_total",
                                               "page_bytes_total", "throttled_total")}
    return after, delta

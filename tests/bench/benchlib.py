"""What the benchmarks share: figures and how they are printed, virtual machines, small statistics."""

import json
import os
import re
import statistics
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "e2e"))
import ftlab  # noqa: E402

FLOORS = os.path.join(ftlab.TOOLS, "bench/floors")
STARTUP = os.path.join(ftlab.TOOLS, "bench/startup")
FIRST_ELF = os.path.join(ftlab.ROOT, "build/bench/first.elf")
QEMU = "qemu-system-x86_64"

median = statistics.median


class Skip(Exception):
    """This figure cannot be taken here, and why."""


def percentile(values, pct):
    ordered = sorted(values)
    return ordered[(len(ordered) - 1) * pct // 100]


def tool(*argv, timeout=120):
    """Run a helper; its JSON."""
    p = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=timeout)
    if p.returncode:
        raise ftlab.LabError(f"{' '.join(argv)}: exit code {p.returncode}: {p.stderr.strip()}")
    return json.loads(p.stdout)


def memcpy_us(kind, pages, rounds=100):
    """Microseconds to copy that many pages: median."""
    return tool(FLOORS, "memcpy", kind, str(max(1, pages)), str(rounds), "4000")["p50_us"] if pages else 0.0


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
        """met None: there is no target, the figure is for information."""
        if ratio is None and floor:
            ratio = ours / floor
        verdict = "info" if met is None else "MET" if met else "NOT MET"
        self.figures.append(dict(name=name, unit=unit, floor=floor, peer=peer, ours=ours, ratio=ratio,
                                 target=target, verdict=verdict, **more))
        self.line(name, unit, self.text(floor), self.text(peer), self.text(ours), self.text(ratio),
                  target, verdict)

    def missed(self):
        return [f["name"] for f in self.figures if f["verdict"] == "NOT MET"]


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
            if ftlab.read_text(f"/proc/{self.vm.pid}/task/{task}/comm").strip() == "vcpu0":
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


def plain(lab, guest, cmdline, memory="64M", more=()):
    """An unprotected guest on host A."""
    vm = ftlab.Vm(lab, "A", ["-k", os.path.join(ftlab.GUESTS, guest + ".elf"), "-a", cmdline, "-m", memory,
                             *more], name="plain")
    vm.wait_console("^READY")
    return vm


def pin(vm, cpus):
    """Keep all of its threads, and those they make, on these CPUs."""
    for task in os.listdir(f"/proc/{vm.pid}/task"):
        os.sched_setaffinity(int(task), cpus)


def protected(lab, guest, cmdline, epoch="25ms", memory="64M", disk=0, net=False, extra=()):
    """The same guest under mc, in step with host B."""
    pair = ftlab.Pair(lab, guest, cmdline, memory, disk=disk, net=net, epoch=epoch, extra=extra)
    pair.protect()
    # The hosts share this machine: host B must not take the vCPU's core away while another is free.
    pin(pair.vm["B"], {max(os.sched_getaffinity(0))})
    pair.vm["A"].wait_console("^READY")
    return pair


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

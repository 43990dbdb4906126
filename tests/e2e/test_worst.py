"""The worst that a guest asks for, on a busy host whose log and console nobody reads: the loop never waits.

FT_WORST=N (1) makes it N times as long: 60 are ten minutes."""

import os
import pty
import re
import termios

import ftlab
from ftlab import Deadline, Pair, Process, Vm, expect
from terminal import Fifo
from testlib import Skip, test

TIMES = int(os.environ.get("FT_WORST", "1"))
SECONDS = 10
BUSY = 2  # processes that take a processor each


class StoppedTerminal:
    """Where a log goes, after Ctrl-S."""

    def __init__(self, lab):
        self.master, self.slave = pty.openpty()
        self.path, self.seen = os.ttyname(self.slave), b""
        termios.tcflow(self.slave, termios.TCOOFF)
        os.set_blocking(self.master, False)
        lab.closing.append(self)

    def go_on(self):
        termios.tcflow(self.slave, termios.TCOON)

    def wait(self, pattern, seconds=20):
        d = Deadline(seconds)
        while not re.search(pattern, self.seen):
            try:
                self.seen += os.read(self.master, 65536)
            except BlockingIOError:
                ftlab.select.select([self.master], [], [], 0.1)
            d.check(f"{pattern} in the log, after {self.seen[-300:]}")
        return self.seen

    def close(self):
        os.close(self.master)
        os.close(self.slave)


class WorstPair:
    """Both sides with two disks, a card whose segments are made in software, a log that is stopped."""

    def __init__(self, lab, timeout="100ms"):
        self.lab = lab
        self.pair = Pair(lab, guest="worst", cmdline="depth=8", memory="192M", timeout=timeout)
        self.log = {host: StoppedTerminal(lab) for host in "AB"}
        self.console = Fifo(lab, "console-fifo")
        self.busy = []
        for host in "AB":
            lab.ip(host, "link set dev up0 gso_max_segs 1")
        lab.disk("second-A")

    def start(self, host, role, *more):
        disk = ("-d", f"id=d1,path={self.lab.path(f'second-{host}')}")
        vm = Vm(self.lab, host, [role, *more, *disk, *self.pair.host_args(host), "--console", self.console.path],
                console=False, before=("sh", "-c", 'exec "$@" 2>"$0"', self.log[host].path))
        self.pair.vm[host] = vm
        return vm

    def protect(self):
        self.start("B", "--secondary", "--listen", f"tcp:{ftlab.LINK_IP['B']}:{ftlab.FT_PORT}").wait_state(
            "STARTING")
        a = self.start("A", "--primary", *self.pair.guest_args)
        self.console.wait(b"READY disks=2 net=1 balloon=1")
        self.pair.in_step(60)
        # From here on nobody reads what it prints; once that is known, it does not wait for a reader.
        a.wait_status(lambda s: s["console_dropped_bytes_total"] > 0, "a console that is stuck", 30)

    def make_busy(self):
        for _ in range(BUSY):
            self.busy.append(Process(self.lab.ns["C"], ["sh", "-c", "while :; do :; done"], self.lab.path("busy")))
            self.lab.processes.append(self.busy[-1])

    def watch(self, seconds):
        """All that time both are in step, epochs go on, and the balloon is told something new. The last status of
        each."""
        a, b = self.pair.vm["A"], self.pair.vm["B"]
        first, target, d = {vm: vm.status() for vm in (a, b)}, 0, Deadline(seconds / ftlab.SLOW)
        while d.left() > 0:
            target = (target + 16) % 64
            a.call("set", balloon_bytes=target << 20)
            a.nap(0.25)
            last = {vm: vm.status() for vm in (a, b)}
            for vm in (a, b):
                expect(last[vm]["state"] == "PROTECTED" and last[vm]["generation"] == first[vm]["generation"],
                       f"{vm} on host {vm.host} is {last[vm]['state']}: {last[vm]['note']}")
        for vm in (a, b):
            expect(last[vm]["epochs_total"] > first[vm]["epochs_total"], f"no epoch on host {vm.host}")
        return last[a], last[b]

    def went_on(self, seconds):
        """The guest did so all the time, with each of its devices; the logs are read, and know of no trouble."""
        a = self.pair.vm["A"]
        self.console.seen = b""
        self.console.wait(rb"\nworst \d+ disk \d+ frames \d+ pages \d+\r?\n", 30)  # kept from the beginning, perhaps
        d, second = Deadline(60), -1
        while True:
            lines = re.findall(rb"\nworst (\d+) disk (\d+) frames (\d+) pages (\d+)\r?\n", self.console.seen)
            if lines:  # else what it prints besides is all that is kept
                second, disk, frames, pages = map(int, lines[-1])
            if second >= seconds:
                break
            expect(a.alive(), f"the guest has ended: {self.console.seen[-300:]}")
            d.check(f"second {seconds} of the guest, after {second}")
            self.console.seen = self.console.seen[-4096:]  # a line may have come in part
            have = len(self.console.seen)
            self.console.read_until(lambda: len(self.console.seen) > have + 4096, "what the guest prints", 30)
        expect(disk and frames and pages, f"disk {disk} MiB, {frames} frames, {pages} pages")
        for host in "AB":
            self.log[host].go_on()
            log = self.log[host].wait(b"PROTECTED")
            expect(not re.search(rb"DEGRADED|TAKING-OVER|FENCED|warning: (?!console:).*(silent|lost:)", log),
                   f"host {host}: {log.decode(errors='replace')}")
        return disk, frames, pages


def away(status):
    """Milliseconds: median, 99 of 100, the longest."""
    return " / ".join(f"{status['loop_away_us'][k] / 1000:.2f}" for k in ("p50", "p99", "max"))


@test(120 + 2 * SECONDS * TIMES)
def worst_guest(lab):
    """1 MiB requests, tiny segments, a balloon that breathes, text that nobody reads: PROTECTED on a busy host"""
    if "FT_WORST" not in os.environ:
        raise Skip("wants a machine of its own: FT_WORST=1 (FT_WORST=60 is ten minutes)")
    worst = WorstPair(lab)
    worst.protect()
    worst.make_busy()
    seconds = SECONDS * TIMES
    a, b = worst.watch(seconds)
    print(f"# loop away p50 / p99 / max ms: host A {away(a)}, host B {away(b)}; {a['epochs_total']} epochs, pause p99 "
          f"{a['pause_us']['p99'] / 1000:.2f} ms, ack p99 {a['ack_lag_p99_us'] / 1000:.2f} ms", flush=True)
    for p in worst.busy:
        p.kill()
    disk, frames, pages = worst.went_on(seconds)
    print(f"# the guest moved {disk} MiB, sent {frames} frames of 64 KiB, gave {pages} pages", flush=True)
    worst.pair.end()

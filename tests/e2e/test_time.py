"""The guest's time over takeovers, snapshots and pauses, by the clock guest's own readings."""

import signal

from ftlab import Deadline, Pair, expect, mono
from test_boot import boot
from test_snapshot import restore, snapshot
from testlib import eighth, test

AWAY = 1.6  # seconds that the guest is stopped: far more than any delay of a reading


def readings(vm):
    """All (clock, tsc) that the guest has printed, in ns and ticks; it must not have complained."""
    text = vm.console_text()
    expect("BACKWARDS" not in text, text[-400:])
    lines = [line.split() for line in text.splitlines()]
    return [(int(w[1]), int(w[3])) for w in lines if len(w) == 4 and w[0] == "clock"]


def behind(vm, samples=8):
    """Host's clock less guest's clock in seconds, at its least over some readings; the last reading."""
    seen, best, d = len(readings(vm)), None, Deadline(20)
    for _ in range(samples):
        while len(readings(vm)) <= seen:
            d.check("a reading of the guest's clock")
            vm.nap()
        all_of_them = readings(vm)
        seen, last = len(all_of_them), all_of_them[-1]
        gap = (mono() - last[0]) / 1e9
        best = gap if best is None else min(best, gap)
    return best, last


def check_same_rate(before, after):
    """TSC and kvmclock went on by the same time between any reading before and any after."""
    (c0, t0), (c1, t1), (c2, t2) = before[0], before[-1], after[-1]
    khz = (t1 - t0) * 1e6 / (c1 - c0)
    apart = ((c2 - c1) - (t2 - t1) * 1e6 / khz) / 1e9
    expect(abs(apart) < AWAY / 4, f"kvmclock and TSC are {apart:.3f} s apart")


@test(60)
def time_takeover(lab):
    """the guest's clock goes on during the outage, and never back"""
    for cpus in eighth(lab, (1, 2)):
        pair = Pair(lab, guest="clock", cmdline="seconds=0", cpus=cpus, disk=0, net=False, timeout=f"{AWAY * 1000:.0f}ms")
        a, b = pair.protect()
        early, last = behind(a)
        a.signal(signal.SIGSTOP)
        b.wait_state("DEGRADED")
        late, _ = behind(b)
        first = readings(b)[0]
        a.kill()
        expect(first[0] >= last[0], f"after the takeover {first}, before it {last}")
        expect(abs(late - early) < AWAY / 2,
               f"{cpus} CPUs: {late - early:.3f} s behind after an outage of {AWAY} s")
        check_same_rate(readings(a), readings(b))
        pair.end()


@test(60)
def time_restore(lab):
    """a restored guest's clock goes on where it was: how long the snapshot lay does not count"""
    for cpus in eighth(lab, (1, 2)):
        vm = boot(lab, "clock", "", cpus=cpus)
        early, last = behind(vm)
        path = lab.path(f"snap{cpus}")
        snapshot(vm, path)
        vm.nap(AWAY)
        lab.release(vm)
        vm = restore(lab, path)
        late, _ = behind(vm)
        expect(late - early > AWAY / 2, f"{late - early:.3f} s behind, the snapshot lay {AWAY} s")
        expect(readings(vm)[0][0] >= last[0], "the clock went back")
        lab.release(vm)


@test(60)
def time_pause(lab):
    """a pause counts for the guest's clock"""
    vm = boot(lab, "clock", "", cpus=2)
    early, _ = behind(vm)
    vm.call("pause")
    vm.wait_state("PAUSED")
    before = readings(vm)
    vm.nap(AWAY)
    vm.call("resume")
    late, _ = behind(vm)
    expect(abs(late - early) < AWAY / 2, f"{late - early:.3f} s behind after a pause of {AWAY} s")
    check_same_rate(before, readings(vm))

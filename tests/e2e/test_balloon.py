"""Memory that the guest gives back is not sent, and is zero wherever the guest goes."""

import re

import ftlab
from ftlab import Pair, expect
from test_boot import boot
from test_migrate import Move, all_there, last_event
from testlib import random_wait, test

MB = 1 << 20


def well(vm):
    text = vm.console_text()
    expect(not re.search("CORRUPT|TRAP", text), text)


def goes_on(vm, lines=2):
    """The guest says so again, and has found nothing wrong until then."""
    def said():
        return len(re.findall("^free .*\n", vm.console_text(), re.M))
    d, begin = ftlab.Deadline(10), said()
    while vm.alive() and said() < begin + lines:
        d.check("the guest to go on")
        vm.nap(0.02)
    well(vm)
    expect(vm.alive(), f"the guest has ended with {vm.code}")


def epochs(vm, n, seconds=20):
    """So many, fewer on a slow machine, in which they take their time."""
    n = max(10, ftlab.work(n))
    begin = vm.status()["epochs_total"]
    vm.wait_status(lambda s: s["epochs_total"] >= begin + n or s["state"] != "PROTECTED",
                   f"{n} epochs", seconds)
    expect(vm.state() == "PROTECTED", f"{vm} is {vm.state()}")


def pair_of(lab, cmdline, memory=256):
    return Pair(lab, guest="free", cmdline=cmdline, memory=f"{memory}M", disk=0, net=False,
                epoch="10ms", timeout="2s", extra=["--verify"])


@test(60)
def balloon_sync(lab):
    """60 % of RAM were dirtied and freed: the first sync sends a tenth, a takeover has all of the rest"""
    pair = pair_of(lab, "free=60 keep=16M churn=100")
    a = pair.primary("A")
    a.wait_console("^READY freed=", 20)
    used = a.ram_bytes()
    expect(used < 100 * MB, f"{used >> 20} MiB after the guest freed what it had")
    b = pair.secondary("B")
    pair.in_step()
    status = a.status()
    pages, size = status["sync_pages"], status["sync_bytes"]
    lab.note(f"{pages * 4096 >> 20} MiB of pages, {size >> 20} MiB sent, of 256")
    expect(16 * MB <= pages * 4096 <= 256 * MB * 45 // 100, f"{pages} pages in the first sync")
    expect(16 * MB <= size <= 256 * MB * 45 // 100, f"{size} bytes in the first sync")
    epochs(b, 100)
    expect(b.ram_bytes() < 100 * MB, f"{b.ram_bytes() >> 20} MiB at the secondary")
    random_wait(lab, a, 0, 0.5)
    a.kill()
    b.wait_state("DEGRADED")
    goes_on(b)
    pair.end()


@test(60)
def balloon_freed_while_syncing(lab):
    """freed around the first sync: it arrives as zeros, which take no memory there"""
    for _ in range(ftlab.work(3)):
        wait = lab.rng.randrange(100, 900)
        pair = pair_of(lab, f"free=60 churn=50 wait={wait}")
        a = pair.primary("A")
        a.wait_console("^DIRTY", 20)
        b = pair.secondary("B")
        pair.in_step()
        lab.note(f"{a.status()['sync_pages'] >> 8} MiB synced with wait={wait}")
        a.wait_console("^READY freed=", 20)
        epochs(b, 50)
        for vm in (a, b):
            expect(vm.ram_bytes() < 80 * MB, f"{vm.ram_bytes() >> 20} MiB at {vm}")
        a.kill()
        b.wait_state("DEGRADED")
        goes_on(b)
        pair.end()


@test(60)
def balloon_churn(lab):
    """memory freed and used again in every epoch, takeovers to and fro"""
    pair = pair_of(lab, "free=50 churn=3000 tick=5", memory=128)
    pair.protect()
    here = "A"
    for _ in range(ftlab.work(3)):
        there = pair.other(here)
        epochs(pair.vm[there], 60)
        random_wait(lab, pair.vm[here], 0, 0.3)
        pair.vm[here].kill()
        pair.vm[there].wait_state("DEGRADED", "SYNCING", "PROTECTED")
        goes_on(pair.vm[there], 1)
        pair.secondary(here)
        pair.in_step()
        here = there
    pair.end()


def balloon(vm, megabytes):
    vm.wait_status(lambda s: s["balloon_bytes"] == megabytes * MB, f"{megabytes}M in the balloon")


@test(90)
def balloon_postcopy(lab):
    """filled while memory comes in: what is in it is not sent, both sides count the same, and it is zero"""
    source = boot(lab, "free", "free=60 report=0", memory="128M")
    source.wait_console("^READY", 20)
    move = Move(lab, source)
    uri = move.uri("tcp")
    to = move.destination(uri)
    source.call("migrate", postcopy=uri, bandwidth=f"{int(16 / min(ftlab.SLOW, 4))}M")
    to.wait_state("RUNNING")
    to.call("set", balloon_bytes=24 * MB)
    balloon(to, 24)
    expect(to.status()["migration"]["status"] == "active", "all had come before the balloon was full")
    out = last_event(source)["ram"]["postcopy-pages"]
    all_there(to)
    there = to.status()["migration"]["ram"]["postcopy-pages"]
    lab.note(f"{out} went out, {there} came")
    # What was on its way when the guest gave it up has gone out, and is dropped there.
    out["removed"] += there["duplicate"]
    out["duplicate"] = there["duplicate"]
    expect(out == there and 0 < out["removed"] <= 24 * MB // 4096, f"{out} went out, {there} came")
    expect(sum(out.values()) == 128 * MB // 4096 + 2 * out["duplicate"], f"not each page once: {out}")
    to.call("set", balloon_bytes=0)
    balloon(to, 0)
    goes_on(to, 1)


@test(60)
def balloon_target(lab):
    """set balloon=: the guest fills and empties it, and a takeover in between changes nothing"""
    pair = pair_of(lab, "free=60")
    a = pair.primary("A")
    a.wait_console("^READY freed=", 20)
    b = pair.secondary("B")
    pair.in_step()
    a.call("set", balloon_bytes=48 * MB)
    balloon(a, 48)
    a.call("set", balloon_bytes=60 * MB)
    epochs(b, 3)
    a.kill()
    b.wait_state("DEGRADED")
    expect(b.status()["balloon_target_bytes"] == 60 * MB, b.status())
    balloon(b, 60)
    b.call("set", balloon_bytes=0)
    balloon(b, 0)
    goes_on(b, 1)
    pair.end()

"""Builds with a planted bug must be caught, by scenarios that a right build passes."""

import os
import re
import time

import ftlab
from ftlab import Pair, Wire, expect
from test_arbiters import race
from test_colo_outputs import one_byte
from test_tls import wrong_role
from testlib import check_load, eighth, random_wait, start_load, test

ATTEMPTS = 6


def hole_then_kill(lab, binary=None, ft="mc"):
    """The last epoch before the death never arrives: what it let out must not exist."""
    wire = Wire(lab)
    pair = Pair(lab, disk=32, wire=wire, binary=binary, timeout="1s", ft=ft)
    a, b = pair.protect()
    load = start_load(lab, udp=4, tcp=2, echo=1, stream=0)
    if ft == "kemari":  # else there is hardly any output in an epoch
        wire.do("delay 15")
    random_wait(lab, load, 0.2, 0.4)
    wire.do("blackhole a2b")
    random_wait(lab, load, 0.1, 0.15)
    a.kill()
    wire.do("cut")
    b.wait_state("DEGRADED")
    lab.probe()
    random_wait(lab, load, 0.2, 0.3)
    check_load(lab, [load], pair.image["B"])
    lab.release(load, wire)
    pair.end()


def kemari_hole(lab, binary=None):
    """The same, where output itself has the epochs sealed."""
    hole_then_kill(lab, binary, "kemari")


def verified(lab, binary=None):
    """A hash of all memory and state every epoch."""
    pair = Pair(lab, guest="writer", cmdline="mode=random tick=10 pages=150 total=2000", disk=0,
                net=False, extra=["--verify"], epoch="15ms", timeout="2s", binary=binary)
    try:
        _, b = pair.protect(5)
        b.wait_status(lambda s: s["epochs_total"] >= 60 or s["state"] != "PROTECTED", "60 epochs", 30)
        expect(b.state() == "PROTECTED", "not protected any more")
    except ftlab.LabError as e:
        raise ftlab.LabError(f"{e}: {pair.vm['B'].log_text()}") from e
    pair.end()


def memory_takeover(lab, binary=None):
    """A guest that checks its own memory all the time, after a takeover."""
    pair = Pair(lab, guest="writer", cmdline="mode=random tick=10 pages=150 total=600",
                disk=0, net=False, binary=binary)
    a, b = pair.protect()
    random_wait(lab, a, 0.5, 0.9)
    a.kill()
    b.wait_state("DEGRADED")
    b.wait_console(r"(speed \d+\s+){2}|CORRUPT")
    expect("CORRUPT" not in b.console_text(), b.console_text())
    pair.end()


def disk_takeover(lab, binary=None):
    """A guest that reads back what it wrote to a few sectors, over a takeover."""
    pair = Pair(lab, guest="blk", cmdline=f"ops={ftlab.work(40000)} region=64 depth=4", net=False, disk=8,
                binary=binary)
    a, b = pair.protect()
    random_wait(lab, a, 0.4, 0.8)
    expect(a.alive(), f"the guest ended before the kill: {a.console_text()}")
    a.kill()
    b.wait_exit(30)
    expect(b.code == 0 and "blk ok" in b.console_text(),
           f"exit code {b.code}: {b.console_text()} {b.log_text()}")
    pair.check_ballast("B")
    pair.end()


def shared_disk_takeover(lab, binary=None):
    """The same without end, on an image that both sides have: few sectors, and long epochs, so that one that was written
    too early is read again before it is written again."""
    pair = Pair(lab, guest="blk", cmdline="ops=0 region=16 depth=1", epoch="100ms", net=False, disk=8, binary=binary, shared=True)
    a, b = pair.protect()
    random_wait(lab, a, 0.2, 0.6)
    a.kill()
    b.wait_state("DEGRADED")
    end = time.monotonic() + ftlab.SLOW  # a slow machine needs as much longer to come across it
    while b.alive() and time.monotonic() < end:
        b.nap()
    expect(b.alive() and "CORRUPT" not in b.console_text(), f"{b.console_text()} {b.log_text()}")
    pair.end()


def caught(lab, bug, scenario, sign):
    """The scenario fails with that build, soon, and for the right reason."""
    binary = os.path.join(ftlab.ROOT, "build", "bug-" + bug, "ftvmm")
    expect(os.access(binary, os.X_OK), f"{binary} is missing: make bugs")
    for i in range(ATTEMPTS):
        try:
            scenario(lab, binary)
        except ftlab.LabError as e:
            if not re.search(sign, str(e)):
                raise
            lab.note(f"caught in run {i + 1} by {scenario.__name__}: {e}")
            lab.release(*lab.processes)
            return
    raise ftlab.LabError(f"the planted bug '{bug}' was not noticed in {ATTEMPTS} runs")


BY_MEMORY = ((verified, "verify: (memory|state) differs"), (memory_takeover, "CORRUPT|TRAP"))


@test(60)
def last_epoch_lost(lab):
    """a right build: the last epoch before the death never arrives"""
    for ft in eighth(lab, ("mc", "kemari")):
        hole_then_kill(lab, ft=ft)


@test(60)
def memory_after_takeover(lab):
    """a right build: guest memory after a takeover"""
    memory_takeover(lab)


@test(60)
def disk_after_takeover(lab):
    """a right build: disk contents after a takeover"""
    disk_takeover(lab)


@test(60)
def shared_disk_after_takeover(lab):
    """a right build: disk contents after a takeover, of an image that both sides have"""
    shared_disk_takeover(lab)


@test(60)
def memory_verified(lab):
    """a right build: hashes of scattered writes"""
    verified(lab)


@test(120)
def bug_release(lab):
    """output released at the seal, before the ack"""
    for scenario in eighth(lab, (hole_then_kill, kemari_hole)):
        # The same early acknowledgement, of TCP itself: the client waits for ever.
        caught(lab, "release", scenario, "VIOLATION|connections that stand")


@test(120)
def bug_skip(lab):
    """one dirty page in 64 is not sent: by hashes, and by the guest itself"""
    for scenario, sign in eighth(lab, BY_MEMORY):
        caught(lab, "skip", scenario, sign)


@test(120)
def bug_partial(lab):
    """half of every eighth epoch is applied: by hashes, and by the guest itself"""
    for scenario, sign in eighth(lab, BY_MEMORY):
        caught(lab, "partial", scenario, sign)


@test(120)
def bug_order(lab):
    """an epoch's disk writes are applied in the wrong order"""
    caught(lab, "order", disk_takeover, "CORRUPT")


@test(120)
def bug_shared(lab):
    """a write to a shared image leaves before the ack of its epoch"""
    caught(lab, "shared", shared_disk_takeover, "CORRUPT")


@test(120)
def bug_claim(lab):
    """etcd is not asked whether the record is still the one that was read: both sides win"""
    caught(lab, "claim", race, "run the guest: 2 of 2")


def last_byte(lab, binary):
    """Answers of two guests that differ in their last byte; colo_one_byte is that of a right build."""
    one_byte(lab, "tcp", binary, (15,))


@test(120)
def bug_compare(lab):
    """the last byte of what two guests put out is not compared"""
    caught(lab, "compare", last_byte, "and the survivor knows")


@test(60)
def bug_role(lab):
    """of a certificate only the signature is looked at, not whose it is"""
    caught(lab, "role", wrong_role, "they speak")

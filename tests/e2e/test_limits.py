"""How fast a guest may use disks and nets, and that nothing but the guest waits for that."""

import os
import re
import socket
import time

import ftlab
from ftlab import Pair, expect
from test_boot import NET, boot
from test_snapshot import restore, snapshot
from test_stop import press
from testlib import check_load, random_wait, start_load, test

# Requests at a time, so that the ring always has some that are held.
DEEP = "region=256 depth=16"


def burst(rate):
    """What may be done at once: a tenth of a second's worth, and two."""
    return rate // 10 + 2


def blk_ends(vm, ops, seconds=40):
    """All of it was done, each of it once, and right."""
    expect(vm.wait_exit(seconds) == 0, f"exit code {vm.code}: {vm.console_text()} {vm.log_text()}")
    expect(re.search(f"blk ok ops={ops} ", vm.console_text()), vm.console_text())


@test(60)
def limit_disk(lab):
    """as many requests a second as it may, no more, and all of them"""
    for words, ops, rate in ((f"ops={400}", 400, 200), (f"ops={60}", 60, 30)):
        image = lab.disk("disk", 4)
        begun = time.monotonic()
        vm = boot(lab, "blk", f"{words} {DEEP}", "-d", f"id=d0,path={image},ops={rate}")
        blk_ends(vm, ops)
        took = time.monotonic() - begun
        expect(took >= (ops - burst(rate)) / rate, f"{ops} requests in {took:.2f} s at {rate} a second")
    # Bytes: half of the requests move 32 KiB in the middle.
    begun = time.monotonic()
    vm = boot(lab, "blk", "ops=400 region=8K depth=8 span=128", "-d", f"id=d0,path={lab.disk('disk', 8)},rate=2M")
    blk_ends(vm, 400)
    took = time.monotonic() - begun
    expect(took >= 3, f"some 12M in {took:.2f} s at 2M a second")


def epochs(vm, n):
    begin = vm.status()["epochs_total"]
    vm.wait_status(lambda s: s["epochs_total"] >= begin + n, f"{n} more epochs", 20)
    expect(vm.state() == "PROTECTED", f"{vm} is {vm.state()}")


@test(90)
def limit_disk_protected(lab):
    """a guest whose disk is held all the time: epochs, a hand-over and a takeover do not wait for it, and lose nothing"""
    for end in ("failover", "kill"):
        pair = Pair(lab, guest="blk", cmdline=f"ops=250 {DEEP} key=1", disk=4, net=False, disk_more=",ops=40")
        a, b = pair.protect()
        a.wait_console("^READY")
        press(lab)
        epochs(a, 20)
        random_wait(lab, a, 0.2, 0.8)
        if end == "failover":
            a.call("failover", 20)
            expect(a.wait_exit(10) == ftlab.EXIT_GONE, f"exit code {a.code}: {a.log_text()}")
        else:
            a.kill()
        b.wait_state("DEGRADED")
        expect(b.alive(), f"it is over already: {b.console_text()}")
        blk_ends(b, 250)
        pair.end()


@test(60)
def limit_disk_snapshot(lab):
    """a pause and a snapshot have nothing to wait for; what was in the ring is done by who restores it"""
    image, path = lab.disk("disk", 4), lab.path("snap")
    vm = boot(lab, "blk", f"ops=120 {DEEP}", "-d", f"id=d0,path={image},ops=20")
    vm.wait_console("^READY")
    random_wait(lab, vm, 0.3, 1)
    vm.call("pause")
    snapshot(vm, path)
    expect(vm.alive(), "it is over already")
    vm.kill()
    vm = restore(lab, path, "-d", f"id=d0,path={image}")
    blk_ends(vm, 120)
    os.unlink(path)


WARM = b"warm"


def warm_up(s):
    """Until an echo comes: no ARP is asked for from then on."""
    d = ftlab.Deadline(10)
    s.settimeout(0.5)
    while True:
        s.send(WARM)
        try:
            return s.recv(100)
        except (TimeoutError, OSError):
            d.check("an echo over UDP")


@test(60)
def limit_net(lab):
    """as many frames a second as it may, in order, and what it may send is not less for what it gets"""
    rate, asked = 20, 40
    vm = boot(lab, "echo", f"ip={ftlab.GUEST_IP}", "-n", f"{NET},ops={rate}")
    vm.wait_console("^READY")
    with lab.socket_in("C", socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.connect((ftlab.GUEST_IP, 7))
        warm_up(s)
        s.settimeout(10 * ftlab.SLOW)
        begun = time.monotonic()
        for i in range(asked):  # one lost would be an answer that never comes
            s.send(b"%d" % i)
            while (answer := s.recv(100)) == WARM:
                pass
            expect(answer == b"%d" % i, f"{answer}, not the answer to {i}")
        took = time.monotonic() - begun
    expect(took >= (asked - burst(rate)) / rate, f"{asked} answers in {took:.2f} s at {rate} frames a second")


@test(90)
def limit_net_protected(lab):
    """under load that is held in both directions: epochs go on, a takeover loses nothing that was acknowledged"""
    pair = Pair(lab, disk_more=",rate=4M", net_more=",rate=256K,ops=600", timeout="2s")
    a, b = pair.protect()
    load = start_load(lab, udp=2, tcp=2, echo=1, stream=2, stream_rate=0)
    epochs(a, 20)
    random_wait(lab, load, 0.5, 1.5)
    a.kill()
    b.wait_state("DEGRADED")
    lab.probe()
    random_wait(lab, load, 0.3, 0.8)
    check_load(lab, [load], pair.image["B"])
    pair.end()


def refused(vm, word, **limit):
    try:
        vm.call("set", limit=[limit])
    except ftlab.LabError as e:
        expect(word in str(e), f"{limit}: {e}")
    else:
        raise ftlab.LabError(f"a limit of {limit}")


@test(60)
def limit_set(lab):
    """begun, changed and lifted while the guest runs; what cannot be is refused, and then nothing has changed"""
    disk = f"id=d0,path={lab.disk('disk', 4)}"
    vm = boot(lab, "blk", f"ops=100 {DEEP} key=1", "-d", disk, "-n", NET)
    vm.wait_console("^READY")
    expect("limits" not in vm.status(), f"{vm.status()}")
    ftlab.run(ftlab.FTVMM, "set", "vm", "limit=id=d0,ops=50", "limit=id=n0,rate=1M",
              env=dict(os.environ, XDG_RUNTIME_DIR=lab.path("A")))
    expect(vm.status()["limits"] == {"d0": {"ops": 50, "held_us": 0}, "n0": {"rate": 1 << 20, "held_us": 0}}, f"{vm.status()}")
    refused(vm, "no disk or network 'd1'", id="d1", ops=5)
    refused(vm, "rate of 'd0' must be at least 1M", id="d0", rate=65536)
    begun = time.monotonic()
    press(lab)
    vm.wait_status(lambda s: s["limits"]["d0"]["held_us"] > 100000, "requests that are held")
    blk_ends(vm, 100)
    took = time.monotonic() - begun
    expect(took >= (100 - burst(50)) / 50, f"100 requests in {took:.2f} s at 50 a second")
    # With this one it would take some minutes.
    vm = boot(lab, "blk", f"ops=500 {DEEP}", "-d", f"{disk},ops=2")
    vm.wait_console("^READY")
    vm.wait_status(lambda s: s["limits"]["d0"]["held_us"] > 0, "requests that are held")
    vm.call("set", limit=[{"id": "d0"}])
    expect("limits" not in vm.status(), f"{vm.status()}")
    blk_ends(vm, 500)


@test(60)
def limit_set_secondary(lab):
    """a secondary has its own, also those that it was told while it stood by"""
    pair = Pair(lab, guest="blk", cmdline=f"ops=0 {DEEP}", disk=4, net=False)
    a, b = pair.protect()
    b.call("set", limit=[{"id": "d0", "ops": 30}])
    epochs(a, 10)
    expect(b.status()["limits"]["d0"] == {"ops": 30, "held_us": 0}, f"{b.status()}")
    expect("limits" not in a.status(), "the primary has the secondary's")
    a.kill()
    b.wait_status(lambda s: s["state"] == "DEGRADED" and s["limits"]["d0"]["held_us"] > 0, "requests that are held there")
    pair.end()


@test(120)
def limit_colo(lab):
    """two guests, each held by its own host, or one alone: answers are right, and a takeover loses none"""
    for alike in (True, False):
        pair = Pair(lab, ft="colo", disk_more=",rate=4M", net_more=",rate=256K,ops=600", timeout="2s")
        if alike:
            a, b = pair.protect()
        else:
            pair.disk_more, limits = "", pair.net_more
            pair.net_more = ""
            b = pair.secondary("B")
            b.wait_state("STARTING")
            pair.net_more = limits
            a = pair.primary("A")
            pair.in_step()
        load = start_load(lab, udp=2, tcp=2, echo=1, stream=1)
        a.wait_status(lambda s: s["twin"]["checkpoints_total"] > 0 and s["twin"]["inputs_total"] > 20,
                      "a twin that is given frames", 30)
        random_wait(lab, load, 0.5, 1.5)
        a.kill()
        b.wait_state("DEGRADED")
        lab.probe()
        check_load(lab, [load], pair.image["B"])
        pair.end()

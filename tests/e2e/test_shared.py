"""One image that both hosts have: writes wait for the ack, and nobody writes who has not the lock."""

import os
import signal

from ftlab import Pair, Vm, expect
from test_kemari import asked, refused
from test_kills import each, primary_dies_in_epoch, secondary_dies_in_epoch
from testlib import check_load, random_wait, start_load, test

STEPS = ("seal-paused", "seal-resumed", "send-end", "ack-received", "released")
STEPS_SECONDARY = ("ack-sent", "commit-middle", "commit-end")


def shared_pair(lab, **options):
    options.setdefault("ft", lab.rng.choice(("mc", "kemari", "auto")))
    return Pair(lab, shared=True, **options)


@test(150)
def shared_takeovers(lab):
    """there and back, under load: histories and image are those of one server"""
    pair = shared_pair(lab)
    pair.protect()
    loads = []
    for vm, other in (("A", "B"), ("B", "A")):
        loads.append(start_load(lab))
        random_wait(lab, loads[-1], 0.3, 0.8)
        pair.taken_over(other, pair.vm[vm].kill())
        lab.probe()
        pair.secondary(vm)
        pair.in_step()
    random_wait(lab, loads[-1], 0.2, 0.4)
    check_load(lab, loads, pair.image["A"])
    pair.check_ballast("A")
    pair.end()


@test(120)
def shared_failover(lab):
    """handed over and back: the old side has let the image go before the new one writes"""
    pair = shared_pair(lab)
    a, b = pair.protect()
    load = start_load(lab)
    for old, name, new in ((a, "A", "B"), (b, "B", "A")):
        random_wait(lab, load, 0.2, 0.4)
        old.call("failover", seconds=20)
        pair.vm[new].wait_state("DEGRADED", seconds=20)
        expect(old.wait_exit(20) == 3, "the old side did not end with 3")
        pair.secondary(name)
        pair.in_step()
    random_wait(lab, load, 0.2, 0.4)
    check_load(lab, [load], pair.image["A"])
    pair.end()


@test(120)
def shared_secondary_dies(lab):
    """what was held leaves; a stop in order, and either side starts unasked: there is one image"""
    pair = shared_pair(lab)
    a, b = pair.protect()
    load = start_load(lab)
    random_wait(lab, load, 0.3, 0.6)
    b.kill()
    a.wait_state("DEGRADED")
    lab.probe()
    pair.secondary("B")
    pair.in_step()
    random_wait(lab, load, 0.1, 0.3)
    check_load(lab, [load], pair.image["A"])
    a.stop(20)
    lab.release(pair.vm["B"])
    b = pair.primary("B")
    b.wait_console("recovered", 20)
    pair.end()


@test(150)
def shared_frozen_primary(lab):
    """a frozen primary has the lock: nobody takes over, or writes, until it is gone; thawed, it goes on"""
    pair = shared_pair(lab)
    a, b = pair.protect()
    load = start_load(lab)
    random_wait(lab, load, 0.2, 0.4)
    a.signal(signal.SIGSTOP)
    b.wait_status(lambda s: s["state"] == "TAKING-OVER" and "locked" in s["note"], "a wait for the lock", 20)
    a.signal(signal.SIGCONT)
    a.wait_state("DEGRADED", seconds=30)
    lab.probe()
    pair.in_step(40)
    random_wait(lab, load, 0.1, 0.3)
    a.signal(signal.SIGSTOP)
    b.wait_status(lambda s: s["state"] == "TAKING-OVER" and "locked" in s["note"], "a wait for the lock", 20)
    a.kill()
    b.wait_state("DEGRADED", seconds=20)
    lab.probe()
    random_wait(lab, load, 0.1, 0.3)
    check_load(lab, [load], pair.image["B"])
    pair.end()


@test(60)
def shared_refused(lab):
    """an image of its own, one that is a mirror at the other side, colo"""
    pair = shared_pair(lab, ft="mc")
    pair.image["B"] = lab.path("other")
    with open(pair.image["B"], "wb") as f:
        f.truncate(os.path.getsize(pair.image["A"]))
    b = pair.secondary("B")
    b.wait_state("STARTING")
    a = pair.primary("A")
    a.wait_log("nobody has the image here locked", 15)
    lab.release(b)
    pair.shared = False
    b = pair.secondary("B")
    a.wait_log("ft=shared at the primary, not here", 15)
    refused(a, "set", "ft=shared", ft="colo")
    pair.end()


@test(60)
def shared_restored(lab):
    """what a snapshot says of a disk counts: another word here is refused"""
    pair = shared_pair(lab, ft="mc", guest="blk", cmdline="ops=0 region=64", net=False)
    b = pair.secondary("B")
    b.wait_state("STARTING")
    plain = Vm(lab, "A", [*pair.guest_args, *pair.host_args("A")[:2]])
    plain.wait_state("RUNNING")
    plain.call("pause")
    snap = lab.path("snap")
    plain.call("snapshot", file=snap)
    plain.stop()
    for said in (",ft=mirror", ""):
        a = Vm(lab, "A", ["--primary", "--restore", snap, "-d", f"id=d0,path={pair.image['A']}{said}",
                          *pair.common_args("A")])
        expect(a.wait_exit(10) == 1, f"exit code {a.code}")
        expect("ft=shared in the snapshot, ft=mirror here" in a.log_text(), a.log_text())
    a = Vm(lab, "A", ["--primary", "--restore", snap, *pair.host_args("A")])
    a.wait_state("PROTECTED", seconds=20)
    pair.vm["A"] = a
    pair.end()


def shared_step_pair(lab):
    pair = shared_pair(lab, ft=lab.rng.choice(("mc", "kemari")), disk=32, epoch=f"{lab.rng.choice((2, 5, 20))}ms")
    pair.epoch_ms = 100
    return pair


@test(240)
def kill_steps_shared_primary(lab):
    """the primary dies at each step of an epoch"""
    each(lab, STEPS, lambda lab, name: primary_dies_in_epoch(lab, name, shared_step_pair))


@test(150)
def kill_steps_shared_secondary(lab):
    """the secondary dies at each step of an epoch"""
    each(lab, STEPS_SECONDARY, lambda lab, name: secondary_dies_in_epoch(lab, name, shared_step_pair))


@test(90)
def shared_kemari(lab):
    """a write makes an epoch: answers that wait for one do not wait for the interval"""
    pair = shared_pair(lab, ft="kemari", epoch="2s")
    a, b = pair.protect()
    asked(lab, a)
    pair.end()

"""Protection that is turned off and on while clients are served: nobody takes over with what is old."""

import signal

from ftlab import Pair, expect, mono
from test_kemari import ANSWERS, asked, refused
from test_migrate import frozen
from test_stop import refused_start
from testlib import check_load, dies, eighth, random_wait, start_load, test

STEPS = ("dismiss-said", "dismiss-heard")  # tests/e2e/test_kills.py
NOTE = "ft=off"


def off(pair):
    """Both sides know."""
    a, b = (pair.vm[h] for h in "AB")
    a.call("set", ft="off")
    a.wait_state("UNPROTECTED")
    status = a.status()
    expect(status["mode"] == "off" and NOTE in status["note"] and not status["held_packets"], f"{status}")
    is_dismissed(b)


def is_dismissed(vm):
    vm.wait_status(lambda s: s["state"] == "STARTING" and NOTE in s["note"], "a secondary that was dismissed")


def by_force(lab, pair, load):
    """A is lost, B does not run the VM, and is not to: A has all that was acknowledged."""
    b = pair.vm["B"]
    random_wait(lab, load, 1, 2)
    expect(b.state() == "STARTING" and b.status()["role"] == "secondary", f"{b.status()}")
    lab.release(b)
    refused_start(pair, "B", "--claim")
    a = pair.primary("A", "--claim")
    a.wait_state("UNPROTECTED")
    lab.probe(20)
    load.finish(answered=False)  # of its connections the guest knows nothing
    lab.check([load], pair.image["A"], "--allow-conn-lost")
    pair.end()


@test(120)
def off_and_on(lab):
    """output waits for nobody while it is off, then for acks; each mode again, and a takeover at last"""
    pair = Pair(lab, ft="colo", epoch="10ms")
    a, b = pair.protect()
    load = start_load(lab)
    for mode in (*eighth(lab, ("kemari", "auto", "colo")), "mc"):
        random_wait(lab, load, 0.1, 0.4)
        off(pair)
        expect(asked(lab, a) == 0, f"epochs for {ANSWERS} answers that nobody waits for")
        refused(a, "failover", NOTE)
        refused(b, "set", "does not run the VM", ft="off")
        a.call("set", ft=mode)
        pair.in_step()
    expect(a.status()["generation"] == 1, "nobody had to be kept from it")
    random_wait(lab, load, 0.2, 0.5)
    killed = mono()
    a.kill()
    pair.taken_over("B", killed)
    lab.probe()
    random_wait(lab, load, 0.1, 0.2)
    check_load(lab, [load], pair.image["B"])
    pair.end()


@test(90)
def off_killed(lab):
    """the VM's host dies while it is off: nobody takes over, and the old image is not started unasked"""
    pair = Pair(lab)
    a, b = pair.protect()
    load = start_load(lab)
    off(pair)
    random_wait(lab, load, 0.2, 0.5)
    a.kill()
    by_force(lab, pair, load)


@test(120)
def off_steps(lab):
    """either side dies in the middle of it: one of both has the VM, or none by its user's word"""
    pair = Pair(lab)
    pair.secondary("B", env={"FTVMM_DIE_AT": "dismiss-heard"}).wait_state("STARTING")
    a = pair.primary("A")
    pair.in_step()
    load = start_load(lab)
    a.call("set", ft="off")
    dies(pair.vm["B"])
    a.wait_status(lambda s: s["state"] == "UNPROTECTED" and s["generation"] == 2, "a claim, and no protection")
    pair.secondary("B").wait_state("STARTING")
    asked(lab, a)
    expect(a.state() == "UNPROTECTED", a.state())
    check_load(lab, [load], pair.image["A"])
    pair.end()

    pair = Pair(lab)
    pair.secondary("B").wait_state("STARTING")
    a = pair.primary("A", env={"FTVMM_DIE_AT": "dismiss-said"})
    pair.in_step()
    load = start_load(lab)
    a.call("set", ft="off")
    dies(a)
    is_dismissed(pair.vm["B"])
    by_force(lab, pair, load)


@test(120)
def off_frozen(lab):
    """either side stands still in the middle of it, for longer than its peer waits"""
    pair = Pair(lab)
    a, b = pair.protect(env={"B": {"FTVMM_STOP_AT": "dismiss-heard"}})
    load = start_load(lab)
    a.call("set", ft="off")
    frozen(b)
    a.wait_status(lambda s: s["state"] == "UNPROTECTED" and s["generation"] == 2, "a claim, and no protection")
    b.signal(signal.SIGCONT)
    is_dismissed(b)
    asked(lab, a)
    check_load(lab, [load], pair.image["A"])
    pair.end()

    pair = Pair(lab)
    a, b = pair.protect(env={"A": {"FTVMM_STOP_AT": "dismiss-said"}})
    load = start_load(lab)
    a.call("set", ft="off")
    frozen(a)
    is_dismissed(b)
    random_wait(lab, load, 1, 2)
    a.signal(signal.SIGCONT)
    a.wait_state("UNPROTECTED")
    lab.probe(20)
    check_load(lab, [load], pair.image["A"])
    pair.end()

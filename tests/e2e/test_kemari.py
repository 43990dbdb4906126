"""Epochs that output has sealed: an answer waits for a round trip, not for the end of an interval."""

import ftlab
from ftlab import Deadline, Pair, expect
from test_protect import still_well, verify
from testlib import check_load, random_wait, start_load, test

ANSWERS = 40
LONG = "10s"  # an interval in which nobody would wait for so many answers


def asked(lab, vm, seconds=30):
    """So many questions, one after the other; epochs that were sealed meanwhile."""
    d, before = Deadline(seconds), vm.status()["epochs_total"]
    for _ in range(ANSWERS):
        lab.probe()
        d.check(f"{ANSWERS} answers")
    return vm.status()["epochs_total"] - before


def refused(vm, command, word, **args):
    try:
        vm.call(command, **args)
    except ftlab.LabError as e:
        expect(word in str(e), str(e))
    else:
        raise ftlab.LabError(f"{command} {args} is not refused")


@test(90)
def kemari_answers(lab):
    """output seals: many answers within one interval; auto as well; what is set while it runs, and over a takeover"""
    pair = Pair(lab, epoch=LONG, ft="kemari")
    a, b = pair.protect()
    epochs = asked(lab, a)
    expect(epochs >= ANSWERS, f"{epochs} epochs for {ANSWERS} answers")
    seals = a.status()["seals"]
    expect(seals["net"] >= ANSWERS and seals["first"] == 1, f"sealed for {seals}")
    for mode in ("auto", "kemari"):
        a.call("set", ft=mode)
        expect(a.status()["mode"] == mode, f"mode {a.status()['mode']}")
        asked(lab, a)
    load = start_load(lab)
    random_wait(lab, load, 0.2, 0.5)
    killed = a.kill()
    pair.taken_over("B", killed)
    expect(b.status()["mode"] == "kemari", "the secondary has forgotten how it was started")
    a = pair.secondary("A")
    pair.in_step()
    asked(lab, b)
    check_load(lab, [load], pair.image["B"])
    pair.end()


@test(60)
def mode_set(lab):
    """from mc to kemari and back, by either side's user; what is no mode is refused"""
    pair = Pair(lab, epoch=LONG)
    a, b = pair.protect()
    a.call("set", ft="kemari", epoch_ns=5 * 10**9)
    asked(lab, a)
    b.call("set", ft="auto")
    expect(b.status()["mode"] == "auto" and a.status()["mode"] == "kemari", "not each its own")
    for wrong in ("magic", 7):
        refused(a, "set", "ft", ft=wrong)
    expect(a.status()["mode"] == "kemari", "changed by what was refused")
    load = start_load(lab)
    a.call("set", ft="mc", epoch_ns=10**7)
    random_wait(lab, load, 0.2, 0.5)
    check_load(lab, [load], pair.image["A"])
    pair.end()


@test(90)
def kemari_verify(lab):
    """--verify: a guest that prints all the time, two CPUs, one that writes to its disk"""
    still_well(verify(lab, "writer", "mode=random tick=10 pages=60 total=3000 words=64", disk=0, net=False, ft="kemari"))
    still_well(verify(lab, "smp", "", cpus=2, disk=0, net=False, ft="kemari"))
    still_well(verify(lab, "blk", "ops=400000 region=64 depth=4", net=False, disk=8, ft="auto"))

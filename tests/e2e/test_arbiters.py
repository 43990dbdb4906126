"""etcd, and a program, as arbiters: one side goes on, or nobody."""

import os
import signal

import ftlab
from etcdlab import IP, PORT, Etcd
from ftlab import EXIT_FENCED, LabError, Pair, Wire, expect
from test_faults import Split
from testlib import check_load, random_wait, start_load, test


@test(120)
def etcd_takeover(lab):
    """host A dies with its etcd: the other two let B take over; and back, when B dies so; handed over, stopped, started"""
    etcd = Etcd(lab)
    pair = Pair(lab, disk=32, arbiter=etcd.uri_of)
    pair.protect()
    load = start_load(lab)
    for here, there in ("AB", "BA"):
        random_wait(lab, load, 0.1, 0.4)
        old, new = pair.vm[here], pair.vm[there]
        generation = old.status()["generation"]
        etcd.kill(here)
        old.kill()
        status = new.wait_state("DEGRADED", seconds=20)
        expect(status["generation"] == generation + 1, f"generation {status['generation']}")
        lab.probe()
        etcd.start(here)
        etcd.ready(here)
        lab.release(old)
        pair.secondary(here)
        pair.in_step(20)
    a, b = pair.vm["A"], pair.vm["B"]
    a.call("failover", 20)
    expect(a.wait_exit(20) == ftlab.EXIT_GONE, f"exit code {a.code}: {a.log_text()}")
    b.wait_state("DEGRADED")
    lab.probe()
    lab.release(a)
    pair.secondary("A")
    pair.in_step(20)
    check_load(lab, [load], pair.image["B"])
    # What was stopped in order may be started at either side.
    expect(b.stop() == 0, f"exit code {b.code}")
    pair.vm["A"].wait_state("STARTING")
    lab.release(*pair.vm.values())
    pair.primary("A").wait_state("UNPROTECTED")


@test(120)
def etcd_split(lab):
    """the link between the hosts breaks, etcd answers both: one goes on"""
    split = Split(lab, proxy=False, arbiter=Etcd(lab).uri_of)
    for _ in range(ftlab.work(3)):
        random_wait(lab, split.load, 0.1, 0.4)
        lab.ip("A", "link set ft0 down")
        split.owner(20)
        lab.ip("A", "link set ft0 up")
        split.protect_again()
    split.finish()


@test(120)
def etcd_cut_off(lab):
    """host A is cut off from everybody, etcd's majority too: it stops and says so, B goes on; A is fenced when it is back"""
    etcd = Etcd(lab)
    pair = Pair(lab, disk=32, arbiter=etcd.uri_of)
    a, b = pair.protect()
    generation = a.status()["generation"]
    lab.ip("S", "link set sA down")
    lab.ip("A", "link set ft0 down")
    b.wait_state("DEGRADED", seconds=20)
    a.wait_status(lambda s: s["state"] == "PAUSED" and "nobody goes on" in s["note"] and
                  f"{IP['A']}:{PORT}: " in s["note"], "a primary that does not go on", 20)
    lab.probe()
    load = start_load(lab)
    random_wait(lab, load, 0.3, 0.6)
    expect(a.state() == "PAUSED", a.state())
    lab.ip("S", "link set sA up")
    lab.ip("A", "link set ft0 up")
    expect(a.wait_exit(30) == EXIT_FENCED, f"exit code {a.code}: {a.log_text()}")
    expect(b.status()["generation"] == generation + 1, "B had to claim again")
    lab.release(a)
    pair.secondary("A")
    pair.in_step(20)
    check_load(lab, [load], pair.image["B"])


@test(120)
def etcd_away_split(lab):
    """the link breaks while etcd has no majority: nobody goes on, and both say why; one does when it is back"""
    etcd = Etcd(lab)
    split = Split(lab, proxy=False, arbiter=etcd.uri_of)
    a, b = split.pair.vm["A"], split.pair.vm["B"]
    random_wait(lab, split.load, 0.1, 0.4)
    gone = lab.rng.sample("ABC", 2)
    etcd.kill(*gone)
    lab.ip("A", "link set ft0 down")
    for vm, state in ((a, "PAUSED"), (b, "TAKING-OVER")):
        vm.wait_status(lambda s, state=state: s["state"] == state and "nobody goes on" in s["note"],
                       f"{state} and the reason", 20)
    split.one_voice("A", "A")
    random_wait(lab, split.load, 0.5, 1)
    for h, w in split.watch.items():
        expect(not w.drain(), f"the guest was heard from host {h}")
    for node in gone:
        etcd.start(node)
    split.owner(30)
    lab.ip("A", "link set ft0 up")
    split.protect_again()
    split.finish()


@test(60)
def etcd_frozen(lab):
    """all of etcd stands still: a takeover waits and a start fails, told within the deadline; then it goes on"""
    etcd = Etcd(lab)
    pair = Pair(lab, disk=0, net=False, guest="idle", cmdline="hz=10", arbiter=etcd.uri_of)
    a, b = pair.protect()
    for member in etcd.member.values():
        member.signal(signal.SIGSTOP)
    a.kill()
    b.wait_status(lambda s: s["state"] == "TAKING-OVER" and "answer within" in s["note"], "the reason", 20)
    lab.release(a)
    a = pair.primary("A")
    expect(a.wait_exit() == ftlab.EXIT_USAGE and "answer within" in a.log_text(), f"{a.code}: {a.log_text()}")
    expect(b.state() == "TAKING-OVER", b.state())
    for member in etcd.member.values():
        member.signal(signal.SIGCONT)
    b.wait_state("DEGRADED", seconds=20)


def race(lab, binary=None):
    """Both sides have read the record before either one's claim is there: the way to etcd is slow."""
    etcd = Etcd(lab, "C")
    wires = {h: Wire(lab, h, [("127.0.0.1:2378", f"{IP['C']}:{PORT}")]) for h in "AB"}
    pair = Pair(lab, disk=0, net=False, guest="idle", cmdline="hz=10", timeout="300ms", binary=binary,
                arbiter=dict.fromkeys("AB", "etcd:http://127.0.0.1:2378"))
    for w in wires.values():
        w.do("heal")  # it listens
    pair.protect()
    for w in wires.values():
        w.do("delay 250")
    lab.ip("A", "link set ft0 down")
    try:
        went_on(pair)
    finally:
        lab.ip("A", "link set ft0 up")
        pair.end()
        for w in wires.values():
            lab.release(w)
        etcd.kill("C")


def went_on(pair):
    """Exactly one side has the VM, once both have been answered."""
    d, runs = ftlab.Deadline(20), {}
    while len(runs) < 2:
        d.check(f"both sides' answers: {runs}")
        for host, vm in pair.vm.items():
            try:
                state = vm.state()
            except LabError:
                expect(vm.code == EXIT_FENCED, f"host {host}: exit code {vm.code}: {vm.log_text()}")
                state = "FENCED"
            if state in ("DEGRADED", "FENCED", "STARTING"):
                runs[host] = state == "DEGRADED"
            vm.nap(0.01)
    expect(sum(runs.values()) == 1, f"sides that run the guest: {sum(runs.values())} of 2")


@test(60)
def etcd_race(lab):
    """both claim at once, from the same record: one wins"""
    race(lab)


FLOCK = os.path.join(ftlab.ROOT, "configs/arbiter-flock")
SLOW_PROGRAM = f"""#!/bin/sh
while [ -e {{gate}} ]; do sleep 0.1; done
exec {FLOCK} "$@"
"""


@test(90)
def exec_takeover(lab):
    """a program decides; when it hangs nobody goes on and the reason is told, and it is killed"""
    gate, program = lab.path("gate"), lab.path("program")
    with open(program, "w") as f:
        f.write(SLOW_PROGRAM.format(gate=gate))
    os.chmod(program, 0o755)
    pair = Pair(lab, disk=32, arbiter=dict.fromkeys("AB", f"exec:{program}"))
    env = {h: {"FTVMM_ARBITER_DIR": pair.arbiter_dir} for h in "AB"}
    a, b = pair.protect(env=env)
    load = start_load(lab)
    random_wait(lab, load, 0.1, 0.4)
    open(gate, "w").close()
    a.kill()
    b.wait_status(lambda s: s["state"] == "TAKING-OVER" and "it was killed" in s["note"], "the reason", 20)
    os.unlink(gate)
    b.wait_state("DEGRADED")
    lab.probe()
    expect(os.path.exists(os.path.join(pair.arbiter_dir, "vm.record")), "no record")
    lab.release(a)
    pair.secondary("A", env=env["A"])
    pair.in_step(20)
    check_load(lab, [load], pair.image["B"])

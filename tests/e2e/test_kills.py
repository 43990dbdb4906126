"""Deaths at random instants and at every step of the protocol."""

import os
import re
import signal
import socket

import ftlab
import test_migrate
import test_move
import test_off
import test_tls
from ftlab import Deadline, FrameWatch, Load, Pair, expect
from testlib import check_load, dies, eighth, flowing, random_wait, start_load, test
from test_failover import ends, failover
from test_stop import record

KILLS = int(os.environ.get("FT_KILLS", "10"))
MODES = os.environ.get("FT_MODES", "mc,kemari,auto,colo").split(",")


def random_pair(lab, epochs=(3, 10, 25, 60), **options):
    """A pair with epochs, their mode, its link and a background load that differ from run to run."""
    epoch = lab.rng.choice(epochs)
    dirty = lab.rng.choice((0, 0, 20, 80))
    options = {"ft": lab.rng.choice(("mc", "mc", "kemari", "auto")), **options,
               "cmdline": f"ip={ftlab.GUEST_IP} dirty={dirty}", "epoch": f"{epoch}ms", "disk": 32}
    over = lab.rng.choice(("tcp", "tcp", *test_tls.CREDENTIALS))
    pair = Pair(lab, **options) if over == "tcp" else test_tls.TlsPair(lab, over, **options)
    pair.epoch_ms = epoch
    return pair


def random_load(lab, ip=ftlab.GUEST_IP, **options):
    lab.probe(ip=ip)
    load = Load(lab, server=ip, udp=lab.rng.randrange(1, 4), tcp=lab.rng.randrange(1, 4),
                echo=lab.rng.randrange(0, 2), stream=lab.rng.randrange(0, 2), **options)
    flowing(lab, load, ip=ip)
    return load


def any_pair(lab, about, modes=MODES):
    """One of all that a pair can be. What was drawn is in the output of a test that fails, and with --verbose."""
    ft = lab.rng.choice(modes)
    shared = ft != "colo" and lab.rng.choice((False, True))  # together they are refused
    cpus, nics = lab.rng.choice((1, 2)), lab.rng.choice((1, 2))
    pair = random_pair(lab, ft=ft, shared=shared, cpus=cpus, nics=nics)
    print(f"# {about}: {ft}, {'shared' if shared else 'mirror'}, {cpus} CPUs, {nics} NICs, "
          f"{pair.listen['A'][:3]}, {pair.guest_args[3]}, {pair.epoch_ms} ms", flush=True)
    return pair


def answers(lab, pair):
    """By all of its cards."""
    for ip in ftlab.GUEST_IPS[:pair.nics]:
        lab.probe(ip=ip)


def cpus_run(pair, host, said):
    """Those beside the first: nobody else would notice that they stand. said: what the guest said as it began."""
    counters = re.findall(r"^progress of cpu (\d+) at (0x[0-9a-f]+)", said, re.M)
    expect(len(counters) == pair.cpus - 1, f"{pair.cpus} CPUs, and the guest says {said}")
    with open(pair.vm[host].ram(), "rb") as ram:
        for cpu, at in counters:
            d, before = Deadline(10), os.pread(ram.fileno(), 8, int(at, 16))
            while os.pread(ram.fileno(), 8, int(at, 16)) == before:
                d.check(f"a tick of cpu {cpu}")
                pair.vm[host].nap()


def kill_one(lab, victim):
    """Fresh sides, one death at some instant; what clients saw is what one server would do."""
    pair = any_pair(lab, f"death of {victim}")
    a, _ = pair.protect()
    if a.status()["mode"] == "colo":
        a.wait_status(lambda s: s["twin"]["phase"] == "runs", "a twin that runs", 20)
    loads = [random_load(lab, ip) for ip in ftlab.GUEST_IPS[:pair.nics]]
    random_wait(lab, loads[-1], 0.0, 0.8)
    killed = pair.vm[victim].kill()
    survivor = pair.other(victim)
    if victim == "A":
        pair.taken_over(survivor, killed)
    else:
        pair.vm[survivor].wait_state("DEGRADED")
    answers(lab, pair)
    cpus_run(pair, survivor, a.console_text())
    random_wait(lab, loads[-1], 0.1, 0.3)
    check_load(lab, loads, pair.image[survivor])
    pair.check_ballast(survivor)
    pair.end()


@test(60)
def two_nics(lab):
    """the primary of a guest with two network cards is killed: clients of both get their answers, no connection is lost"""
    pair = Pair(lab, nics=2)
    a, _ = pair.protect()
    loads = [start_load(lab, ip) for ip in ftlab.GUEST_IPS]
    random_wait(lab, loads[-1], 0.2, 0.6)
    pair.taken_over("B", a.kill())
    answers(lab, pair)
    random_wait(lab, loads[-1], 0.2, 0.4)
    check_load(lab, loads, pair.image["B"])
    pair.end()


def ask_both(lab, a):
    """A request to each address of a guest whose answers are held; the sockets."""
    askers = []
    for ip in ftlab.GUEST_IPS:
        s = lab.socket_in("C", socket.AF_INET, socket.SOCK_DGRAM)
        lab.closing.append(s)
        s.settimeout(10 * ftlab.SLOW)
        s.connect((ip, 7000))
        s.send(ftlab.kv_get(1))
        askers.append(s)
    a.wait_status(lambda s: s["held_packets"] >= 2, "an answer by each, held")
    return askers


@test(60)
def two_nics_held(lab):
    """a secondary that stands acknowledges nothing: no frame leaves by either card until it goes on, then all are there"""
    pair = Pair(lab, nics=2, timeout="20s")
    a, b = pair.protect()
    answers(lab, pair)
    b.signal(signal.SIGSTOP)
    watches = [FrameWatch(lab, "A", mac=mac) for mac in ftlab.GUEST_MACS]
    askers = ask_both(lab, a)
    a.nap(0.3 * ftlab.SLOW)
    early = [w.drain() for w in watches]
    expect(not any(early), f"{[len(e) for e in early]} frames without an ack")
    b.signal(signal.SIGCONT)
    for s, watch in zip(askers, watches):
        s.recv(2048)
        expect(watch.drain(), "an answer that was not seen")
    pair.end()


@test(90)
def two_nics_end(lab):
    """a stop, and a hand-over, that are asked for while answers of both cards are held: they leave all the same"""
    for how, code in ("stop", 0), ("failover", 3):
        pair = Pair(lab, nics=2, timeout="20s")
        a, b = pair.protect()
        answers(lab, pair)
        b.signal(signal.SIGSTOP)
        askers = ask_both(lab, a)
        a.control(Deadline(5)).sock.sendall(f'{{"id": 7, "cmd": "{how}"}}\n'.encode())
        b.signal(signal.SIGCONT)
        for s in askers:
            s.recv(2048)
        expect(a.wait_exit(30) == code, f"{how}: exit code {a.code}: {a.log_text()}")
        if how == "failover":
            b.wait_state("DEGRADED")
            answers(lab, pair)
        pair.end()


@test(max(60, 15 * KILLS))
def kill_random(lab):
    """FT_KILLS (10) deaths, mostly of the primary, each with fresh sides, of FT_MODES (all); fewer on a slow machine"""
    for i in range(max(min(KILLS, 4), ftlab.work(KILLS))):
        victim = lab.rng.choice("AAAAB")
        try:
            kill_one(lab, victim)
        except ftlab.LabError as e:
            raise ftlab.LabError(f"kill {i + 1}, of {victim}: {e}") from e


def steps():
    """All steps, from the list that the program is built with."""
    with open(os.path.join(ftlab.ROOT, "ft/common/steps.h")) as f:
        return re.findall(r'X\(\w+, "([a-z-]+)"\)', f.read())


# Where a step is reached, and whether often enough to die at the N-th time.
ONCE_PRIMARY = ("hello-sent", "sync-begin", "sync-disk", "sync-ram", "sync-end")
EPOCH_PRIMARY = ("seal-begin", "seal-paused", "seal-captured", "seal-resumed", "send-begin",
                 "send-pages", "send-disklog", "send-state", "send-end", "ack-received", "released")
ONCE_SECONDARY = ("hello-received",)
EPOCH_SECONDARY = ("stage-begin", "stage-pages", "stage-state", "ack-before", "ack-sent",
                   "commit-middle", "commit-end")
TAKEOVER = ("takeover-claim", "takeover-load", "takeover-link", "takeover-run")
LOSER = ("peer-lost",)
STOPPING = ("goodbye",)
# After these the secondary has all of it, and nobody is to run it.
STOPPED_PRIMARY = ("bye-said", "done-heard")
STOPPED_SECONDARY = ("drained", "done-said")
HANDING_PRIMARY = ("handed", "runs-heard", "gone-said")
TWIN = ("twin-let", "twin-differs", "twin-suspended", "twin-rolled-back", "twin-loaded", "twin-runs",
        "twin-mapped")  # test_colo.py, test_colo_steps.py
HANDED = ("runs-said", "gone-heard")  # the other side may have left by then


@test(30)
def kill_steps_known(lab):
    """every step of ft/common/steps.h has a place in these tests"""
    mine = (ONCE_PRIMARY + EPOCH_PRIMARY + ONCE_SECONDARY + EPOCH_SECONDARY + TAKEOVER + LOSER + STOPPING +
            TWIN + STOPPED_PRIMARY + STOPPED_SECONDARY + HANDING_PRIMARY + HANDED + test_migrate.STEPS + test_move.STEPS +
            test_off.STEPS)
    expect(sorted(mine) == sorted(steps()), f"differ: {set(mine) ^ set(steps())}")


def each(lab, names, function):
    """Of all; on a slow machine of an eighth, which is another one each time."""
    for name in eighth(lab, names):
        try:
            function(lab, name)
        except ftlab.LabError as e:
            raise ftlab.LabError(f"{name}: {e}") from e


def at(name, pair):
    """Some time under load."""
    return {"FTVMM_DIE_AT": f"{name}:{int(pair.lab.rng.uniform(400, 900) / pair.epoch_ms)}"}


def primary_dies_in_epoch(lab, name, make=random_pair):
    pair = make(lab)
    pair.secondary("B").wait_state("STARTING")
    a = pair.primary("A", env=at(name, pair))
    load = random_load(lab)
    dies(a)
    b = pair.vm["B"]
    b.wait_state("DEGRADED")
    lab.probe()
    random_wait(lab, load, 0.1, 0.2)
    check_load(lab, [load], pair.image["B"])
    pair.end()


@test(180)
def kill_steps_primary(lab):
    """the primary dies at each step of an epoch"""
    each(lab, EPOCH_PRIMARY, primary_dies_in_epoch)


def secondary_dies_in_epoch(lab, name, make=random_pair):
    pair = make(lab)
    pair.secondary("B", env=at(name, pair)).wait_state("STARTING")
    a = pair.primary("A")
    load = random_load(lab)
    dies(pair.vm["B"])
    a.wait_state("DEGRADED")
    lab.probe()
    random_wait(lab, load, 0.1, 0.2)
    check_load(lab, [load], pair.image["A"])
    pair.end()


@test(120)
def kill_steps_secondary(lab):
    """the secondary dies at each step of an epoch"""
    each(lab, EPOCH_SECONDARY, secondary_dies_in_epoch)


def primary_dies_early(lab, name, make=random_pair):
    """Before the first commit nobody may take over, and the primary can be started again."""
    pair = make(lab)
    b = pair.secondary("B")
    b.wait_state("STARTING")
    dies(pair.primary("A", env={"FTVMM_DIE_AT": name}))
    b.wait_status(lambda s: s["state"] == "STARTING" and s["role"] == "secondary", "STARTING again")
    pair.vm["A"].settle()
    pair.primary("A", "--claim")
    pair.in_step()
    load = random_load(lab)
    random_wait(lab, load, 0.1, 0.2)
    check_load(lab, [load], pair.image["A"])
    pair.end()


@test(120)
def kill_steps_first_sync(lab):
    """the primary dies before it was ever protected"""
    each(lab, ONCE_PRIMARY, primary_dies_early)


def greeted_dies(lab, name, make=random_pair):
    pair = make(lab)
    pair.secondary("B", env={"FTVMM_DIE_AT": name}).wait_state("STARTING")
    a = pair.primary("A")
    load = random_load(lab)
    dies(pair.vm["B"])
    pair.vm["B"].settle()
    pair.secondary("B")
    pair.in_step()
    a.kill()
    pair.vm["B"].wait_state("DEGRADED")
    lab.probe()
    check_load(lab, [load], pair.image["B"])
    pair.end()


@test(60)
def kill_steps_hello(lab):
    """the secondary dies in the handshake; a second one is taken"""
    greeted_dies(lab, *ONCE_SECONDARY)


def taker_dies(lab, name, make=random_pair):
    """Primary and then the side that takes over: nobody runs, and what clients saw still holds."""
    pair = make(lab)
    pair.secondary("B", env={"FTVMM_DIE_AT": name}).wait_state("STARTING")
    a = pair.primary("A")
    load = random_load(lab)
    pair.in_step()
    random_wait(lab, load, 0.1, 0.3)
    a.kill()
    dies(pair.vm["B"])
    expect(not (a.alive() or pair.vm["B"].alive()), "somebody lives")
    load.finish(answered=False)
    lab.check([load], pair.image["A"], "--allow-conn-lost")
    pair.end()


@test(120)
def kill_steps_takeover(lab):
    """the secondary dies while it takes over: nobody runs, the first image is still good"""
    each(lab, TAKEOVER, taker_dies)


def loser_dies(lab, name, make=random_pair):
    pair = make(lab)
    pair.secondary("B").wait_state("STARTING")
    a = pair.primary("A", env={"FTVMM_DIE_AT": name})
    load = random_load(lab)
    pair.in_step()
    pair.vm["B"].kill()
    dies(a)
    load.finish(answered=False)
    lab.check([load], pair.image["A"], "--allow-conn-lost")
    pair.end()


@test(60)
def kill_steps_peer_lost(lab):
    """the secondary dies, and the primary as it notices"""
    loser_dies(lab, *LOSER)


def speaker_dies(lab, name, **options):
    pair = Pair(lab, "writer", "mode=hot tick=10 pages=32 seconds=1 code=7", disk=0, net=False, **options)
    b = pair.secondary("B")
    b.wait_state("STARTING")
    dies(pair.primary("A", env={"FTVMM_DIE_AT": name}))
    expect(b.wait_exit(20) == 7, f"exit code {b.code}: {b.log_text()}")
    pair.end()


@test(60)
def kill_steps_goodbye(lab):
    """the guest has ended, the primary dies before it can say so: it does not run on at the other side"""
    speaker_dies(lab, *STOPPING)


def stop_dies(lab, name, make=random_pair):
    """Stopped, and one side dies: it runs nowhere, and starts unasked only where all of it is."""
    pair = make(lab)
    dying = "A" if name in STOPPED_PRIMARY else "B"
    a, b = pair.protect(env={dying: {"FTVMM_DIE_AT": name}})
    load = random_load(lab)
    a.call("stop", timeout_ns=0)
    dies(pair.vm[dying])
    if dying == "A":
        b.wait_state("STARTING")
        expect("TAKING-OVER" not in b.log_text(), f"it runs at the other side: {b.log_text()}")
    else:
        expect(a.wait_exit(10) == 0, f"exit code {a.code}: {a.log_text()}")
    load.finish(answered=False)
    for host in "AB" if name != "drained" else "A":
        lab.check([load], pair.image[host], "--allow-conn-lost")
    ended = (record(pair)["released"], record(pair)["stopped"])
    want = {"A": [(False, False)], "B": [(False, True)]}[dying] if name != "done-said" else [(True, False)]
    expect(ended in want, f"released, stopped: {ended}")
    pair.end()


@test(120)
def kill_steps_stop(lab):
    """a stop, and either side dies before or after it is confirmed"""
    each(lab, STOPPED_PRIMARY + STOPPED_SECONDARY, stop_dies)


def handing_dies(lab, name, make=random_pair):
    """A hand-over, and one side dies: the other one runs the VM, nothing is lost, one voice at a time."""
    pair = make(lab)
    dying = "A" if name in HANDING_PRIMARY + STOPPING else "B"
    pair.protect(env={dying: {"FTVMM_DIE_AT": name}})
    load = random_load(lab)
    watch = {h: FrameWatch(lab, h) for h in "AB"}
    command = failover(lab, "A")
    dies(pair.vm[dying])
    survivor = pair.other(dying)
    pair.vm[survivor].wait_state("DEGRADED", seconds=20)
    lab.probe()
    random_wait(lab, load, 0.1, 0.3)
    ends(command, 2)  # lost, or without a word
    check_load(lab, [load], pair.image[survivor])
    pair.check_ballast(survivor)
    frames = {h: w.drain() for h, w in watch.items()}
    if survivor == "A":
        expect(not frames["B"], f"{len(frames['B'])} frames of the guest left host B")
    # And it can be protected again.
    pair.vm[dying].settle()
    pair.secondary(dying)
    pair.in_step()
    pair.end()


@test(240)
def kill_steps_handover(lab):
    """the secondary dies at each step of a hand-over: the VM goes on where it was"""
    each(lab, TAKEOVER, handing_dies)


@test(180)
def kill_steps_handed(lab):
    """the primary dies at each step of a hand-over: the VM goes on at the other side"""
    each(lab, STOPPING + HANDING_PRIMARY, handing_dies)


def taken_dies(lab, name, make=random_pair):
    """It had the VM alone, or was about to: the image of the side that has left holds all that was answered."""
    pair = make(lab)
    a, b = pair.protect(env={"B": {"FTVMM_DIE_AT": name}})
    load = random_load(lab)
    command = failover(lab, "A")
    dies(b)
    d = Deadline(10)
    while a.alive() and "DEGRADED" not in a.log_text():
        d.check("the primary to leave or to go on")
        a.nap()
    expect(a.alive() or a.code == 3, f"exit code {a.code}: {a.log_text()}")
    command.communicate(timeout=20 * ftlab.SLOW)
    if a.alive():
        expect(name == "runs-said", "both run it")
        lab.probe()
        check_load(lab, [load], pair.image["A"])
    else:
        load.finish(answered=False)
        lab.check([load], pair.image["A"], "--allow-conn-lost")
    pair.end()


@test(60)
def kill_steps_gone(lab):
    """the secondary dies as the hand-over is done: nothing that was answered is lost at the old side"""
    each(lab, HANDED, taken_dies)

"""Both sides run the guest: what it puts out leaves when the twin has put out the same."""

import json
import re

import ftlab
import test_tls
from ftlab import Deadline, Pair, expect
from terminal import Terminal
from test_faults import KvmFault
from test_kills import each, primary_dies_in_epoch, secondary_dies_in_epoch
from test_kemari import asked
from test_protect import still_well, verify
from testlib import check_load, dies, random_wait, some, start_load, test
from test_vsock import COUNT, Stream, VsockPair, echo

LONG = "250ms"  # without a difference ten seconds from checkpoint to checkpoint

# Reached by the secondary while outputs are compared.
TWIN_SECONDARY = ("twin-suspended", "twin-rolled-back", "twin-loaded", "twin-runs")


def twin(vm):
    return vm.status()["twin"]


def compares(vm):
    vm.wait_status(lambda s: s["twin"]["phase"] == "runs", "a twin that runs", 20)


def given_pair(lab, cmdline):
    """A guest that says what it is given. What only one side says is a difference after two seconds: so late can a twin
    be on a busy machine."""
    return colo_pair(lab, guest="given", cmdline=cmdline, disk=0, net=False, timeout="8s")


def same(vm, before):
    """What both guests have said since then is the same."""
    after = twin(vm)
    if ftlab.SLOW > 1:  # of a slow host: late is not other
        for when in (before, after):
            when["differences"].pop("overdue", None)
    expect(after["differences"] == before["differences"], f"{before} became {after}")
    return after


def random_lines(vm):
    return [(int(n), text) for n, text in re.findall(r"^random (\d+) (\w{32})$", vm.console_text(), re.M)]


def said_random(vm, number):
    """The guest has said that many, or more; the last one."""
    d = Deadline(30)
    while not random_lines(vm) or random_lines(vm)[-1][0] < number:
        d.check(f"'random {number}'")
        vm.nap(0.01)
    return random_lines(vm)[-1][0]


def colo_pair(lab, **options):
    options.setdefault("epoch", LONG)
    return Pair(lab, ft="colo", **options)


@test(120)
def colo_answers(lab):
    """answers leave by comparison, not by checkpoints; over a takeover, and protected again"""
    pair = colo_pair(lab)
    a, b = pair.protect()
    compares(a)
    before = twin(a)
    epochs = asked(lab, a)
    after = twin(a)
    expect(after["let_total"] - before["let_total"] >= 40, f"40 answers, and {before} became {after}")
    expect(epochs < 20, f"{epochs} checkpoints for 40 answers: {after}")
    load = start_load(lab)
    random_wait(lab, load, 0.5, 1.0)
    killed = a.kill()
    pair.taken_over("B", killed)
    lab.probe()
    a = pair.secondary("A")
    pair.in_step()
    compares(b)
    asked(lab, b)
    random_wait(lab, load, 0.2, 0.5)
    check_load(lab, [load], pair.image["B"])
    pair.end()


def load_since_checkpoint(lab, vm):
    """A load whose connections all began after the last checkpoint. What the host announces after a takeover, only
    one side says: that has its checkpoint, and so may a busy machine."""
    loads = []
    while len(loads) < 8:
        before = twin(vm)
        loads.append(start_load(lab))
        random_wait(lab, loads[-1], 0.3, 0.6)
        after = twin(vm)
        expect(after["differences"]["connections"] == 0, f"{after}")
        if after["checkpoints_total"] == before["checkpoints_total"]:
            new = after["mapped_total"] - before["mapped_total"]
            expect(new >= 3, f"{new} mapped connections: {before} became {after}")
            return loads
        compares(vm)
    raise AssertionError(f"always a checkpoint between: {after}")


@test(150)
def colo_connections(lab):
    """TCP connections that began since the checkpoint, with other numbers at the twin, go on there; and over the next takeover"""
    pair = colo_pair(lab, cmdline=f"ip={ftlab.GUEST_IP} isn=clock")
    a, b = pair.protect()
    loads = []
    for vm, name, other in ((a, "A", "B"), (b, "B", "A")):
        compares(vm)
        loads += load_since_checkpoint(lab, vm)
        pair.taken_over(other, vm.kill())
        lab.probe()
        random_wait(lab, loads[-1], 0.2, 0.4)
        pair.secondary(name)
        pair.in_step()
    check_load(lab, loads, pair.image["A"])
    pair.end()


@test(90)
def colo_random(lab):
    """random numbers that the guest says are the same at both sides; a side that takes over draws others"""
    pair = given_pair(lab, "tick=50")
    a, b = pair.protect()
    compares(a)
    last = said_random(a, 1)
    before = twin(a)
    said_random(a, last + 30)
    after = same(a, before)
    expect(after["let_total"] - before["let_total"] >= 25, f"{before} became {after}")
    expect(after["inputs_total"] - before["inputs_total"] >= 25, f"{before} became {after}")
    pair.taken_over("B", a.kill())
    said_random(b, random_lines(b)[-1][0] + 10 if random_lines(b) else 1)
    seen = random_lines(a) + random_lines(b)
    expect(len({number for number, _ in seen}) == len(seen), "a line came twice")
    expect(len({text for _, text in seen}) == len(seen), "a random number came twice")
    pair.end()


@test(90)
def colo_typed(lab):
    """what is typed goes to both guests: lines by hand, and many at once; after a takeover the guest goes on with the next line"""
    pair = given_pair(lab, "tick=0")
    a, b = pair.protect()
    compares(a)
    keys = Terminal(lab)
    keys.type("first\n")
    keys.wait("line 1: first\n")
    before = twin(a)
    for i in range(2, 31):
        keys.type(f"by hand {i}\n")
        keys.wait(f"line {i}: by hand {i}\n")
    many = [f"{i:03} " + "x" * 90 for i in range(31, 101)]
    keys.type("".join(text + "\n" for text in many))
    keys.wait("line 100: ", 30)
    after = same(a, before)
    expect(after["let_total"] - before["let_total"] >= 25, f"{before} became {after}")
    got = re.findall(r"^line \d+: (\d.*)\n", keys.seen.decode(), re.M)
    expect(got == many, f"{len(got)} lines, not as typed")
    pair.taken_over("B", a.kill())
    keys = Terminal(lab, "B")
    keys.type("there\n")
    keys.wait("line 101: there\n")
    pair.end()


@test(90)
def colo_operator(lab):
    """a balloon that is set and the power button reach both guests; a side that takes over was told of them"""
    pair = given_pair(lab, "tick=0")
    a, b = pair.protect()
    compares(a)
    before = twin(a)
    for pages in (100, *some(lab, (200, 0), 1), 300):
        a.call("set", balloon_bytes=pages * 4096)
        a.wait_console(f"^balloon {pages}$", 20)
    a.call("stop", timeout_ns=60 * 10**9)
    a.wait_console("^button 1$", 20)
    same(a, before)
    pair.taken_over("B", a.kill())
    Terminal(lab, "B").type("off\n")
    b.wait_console("^off after button 1, balloon 300$", 20)
    expect(b.wait_exit() == 0, f"exit code {b.code}")
    pair.end()


@test(150)
def colo_inputs(lab):
    """--verify: random numbers, lines and balloons with a checkpoint every 80 ms, kills to and fro: nothing comes twice"""
    pair = colo_pair(lab, guest="given", cmdline="tick=3", disk=0, net=False, epoch="2ms", timeout="2s", extra=["--verify"])
    pair.protect()
    here, seen = "A", []
    for _ in range(4):
        vm, there = pair.vm[here], pair.other(here)
        compares(vm)
        keys = Terminal(lab, here)
        for n in range(lab.rng.randint(1, 6)):
            keys.type(f"line {n} and more than fits into the FIFO\n")
            vm.call("set", balloon_bytes=lab.rng.randint(1, 500) * 4096)
            random_wait(lab, vm, 0, 0.3)
        pair.taken_over(there, vm.kill())
        seen += random_lines(vm)
        said_random(pair.vm[there], seen[-1][0] + 1 if seen else 1)
        pair.secondary(here)
        pair.in_step()
        here = there
    seen += random_lines(pair.vm[here])
    expect(len({number for number, _ in seen}) == len(seen), "a line came twice")
    expect(len({text for _, text in seen}) == len(seen), "a random number came twice")
    pair.end()


@test(90)
def colo_vsock(lab):
    """streams of a vsock go on over checkpoints, and are answered by comparison; at a takeover they end, and no answer is forgotten"""
    pair = VsockPair(lab, ft="colo", epoch="25ms", timeout="4s")  # a checkpoint a second
    a, b = pair.protect()
    compares(a)
    streams = [Stream(pair.path["A"], COUNT) for _ in range(2)]
    last = [s.count() for s in streams][-1]
    before, d = twin(a), Deadline(30)
    while twin(a)["checkpoints_total"] < before["checkpoints_total"] + 3 or last < 200:
        for stream in streams:
            number = stream.count()
            expect(number == last + 1, f"{number} after {last}")
            last = number
        d.check("three checkpoints")
    streams[0].close()
    expect(echo(pair.path["A"], b"x" * 100000) == b"x" * 100000, "not what was sent")
    after = same(a, before)
    expect(after["let_total"] - before["let_total"] >= 150, f"{before} became {after}")
    pair.taken_over("B", a.kill())
    streams[1].rest()
    b.wait_console("^transport reset 1$", 20)
    number = Stream(pair.path["B"], COUNT).count()
    expect(number > last, f"{number} after {last}")
    pair.end()


@test(90)
def colo_secondary_dies(lab):
    """the primary goes on, and what was held leaves"""
    pair = colo_pair(lab)
    a, b = pair.protect()
    compares(a)
    load = start_load(lab)
    random_wait(lab, load, 0.3, 0.6)
    b.kill()
    a.wait_state("DEGRADED")
    lab.probe()
    random_wait(lab, load, 0.1, 0.3)
    check_load(lab, [load], pair.image["A"])
    pair.end()


@test(90)
def colo_set(lab):
    """from mc to colo and back while the VM runs, a user's pause, a stop"""
    pair = Pair(lab, epoch=LONG)
    a, b = pair.protect()
    load = start_load(lab)
    for mode in ("colo", "kemari", "colo"):
        a.call("set", ft=mode)
        if mode == "colo":
            compares(a)
        asked(lab, a)
    a.call("pause")
    a.wait_status(lambda s: s["twin"]["phase"] != "runs", "a checkpoint of the paused VM", 20)
    a.call("resume")
    compares(a)
    check_load(lab, [load], pair.image["A"])
    pair.end()


@test(90)
def colo_differs(lab):
    """a guest whose sides say different things: as with kemari for a while, nothing that leaves is lost"""
    pair = colo_pair(lab, guest="writer", cmdline="mode=random tick=10 pages=40 report=1", disk=0, net=False)
    a, b = pair.protect()
    a.wait_console("speed", 30)
    a.wait_status(lambda s: sum(s["twin"]["differences"].values()) >= 2, "differences", 30)
    a.kill()
    b.wait_state("DEGRADED")
    b.wait_console("speed", 30)
    pair.end()


@test(90)
def colo_sources(lab):
    """when outputs differ the secondary counts which fields of devices do: here what was printed and is not out yet"""
    pair = colo_pair(lab, guest="writer", cmdline="mode=random tick=10 pages=40 report=1", disk=0, net=False)
    a, b = pair.protect()
    there = lambda s: s["twin"]["sources"]
    b.wait_status(lambda s: there(s)["looks_total"] >= 3, "looks at what differs", 30)
    fields = there(b.status())["fields"]
    lab.note(json.dumps(there(b.status())))
    expect(fields and len(fields) <= 48 and all(re.match(r"[a-z-]+\[\d+\]\.\w", f) for f in fields), f"{fields}")
    expect(not any(f.startswith(("vcpu", "chips")) for f in fields), f"{fields}")
    expect(there(a.status())["looks_total"] == 0, f"{a.status()['twin']}")
    pair.end()


@test(90)
def colo_falls_back(lab):
    """outputs that differ again and again: without a twin for a while, which is said, then with one again"""
    pair = colo_pair(lab, guest="clock", cmdline="cpus=1", epoch="1s", disk=0, net=False)
    a, b = pair.protect()
    a.wait_log("twin: outputs keep differing .*; as with kemari for 5 s", 60)
    before = a.status()
    after = a.wait_status(lambda s: s["twin"]["checkpoints_total"] > before["twin"]["checkpoints_total"],
                          "a twin again", 20)
    new = after["twin"]["checkpoints_total"] - before["twin"]["checkpoints_total"]
    # What the guest printed meanwhile has sealed, as with kemari.
    sealed = after["epochs_total"] - before["epochs_total"] - new
    expect(sealed >= 5, f"{sealed} epochs without a twin: {before['twin']} became {after['twin']}")
    compared = sum(after["twin"]["differences"].values())
    a.wait_status(lambda s: sum(s["twin"]["differences"].values()) > compared, "a comparison again", 20)
    pair.taken_over("B", a.kill())
    b.wait_console("^clock", 20)
    expect("BACKWARDS" not in b.console_text(), b.console_text())
    pair.end()


@test(150)
def colo_verify(lab):
    """--verify: what is rolled back is the checkpoint; a guest that prints, two CPUs, one that writes to its disk"""
    often = {"ft": "colo", "epoch": "2ms", "epochs": 100}  # a checkpoint every 80 ms, if nothing differs
    still_well(verify(lab, "writer", "mode=random tick=10 pages=60 total=3000 words=64", disk=0, net=False, **often))
    still_well(verify(lab, "smp", "", cpus=2, disk=0, net=False, **often))
    still_well(verify(lab, "blk", "ops=400000 region=64 depth=4", net=False, disk=8, **often))


@test(90)
def colo_tls(lab):
    """over TLS, by a key: the twin's answers are compared, and it takes over when the primary is killed"""
    pair = test_tls.TlsPair(lab, "psk", ft="colo", epoch=LONG)
    a, b = pair.protect()
    compares(a)
    before = twin(a)
    asked(lab, a)
    after = twin(a)
    expect(after["let_total"] - before["let_total"] >= 40, f"40 answers, and {before} became {after}")
    load = start_load(lab)
    random_wait(lab, load, 0.3, 0.8)
    pair.taken_over("B", a.kill())
    lab.probe()
    pair.secondary("A")
    pair.in_step()
    compares(b)
    random_wait(lab, load, 0.1, 0.3)
    check_load(lab, [load], pair.image["B"])
    pair.check_ballast("B")
    pair.end()


@test(90)
def colo_failover(lab):
    """handed over with a twin there"""
    pair = colo_pair(lab)
    a, b = pair.protect()
    compares(a)
    load = start_load(lab)
    random_wait(lab, load, 0.2, 0.4)
    a.call("failover", seconds=20)
    b.wait_state("DEGRADED")
    lab.probe()
    check_load(lab, [load], pair.image["B"])
    pair.end()


@test(120)
def colo_twin_fails(lab):
    """the twin alone crashes, or its host's KVM fails: a checkpoint, and the pair stays in step; mended, it runs again, and takes over"""
    fault = KvmFault(lab, "fault")
    pair = colo_pair(lab, cpus=lab.rng.choice((1, 2)))
    a, b = pair.protect(env={"B": fault.env})
    load = start_load(lab)
    for fail, counted, said in ((fault.crash, "ended", "it has ended: triple fault"),
                                (fault.break_it, "host", "this host cannot run it: KVM_RUN: Bad address")):
        compares(a)
        before = b.status()["epochs_total"]
        fail()
        a.wait_status(lambda s: s["twin"]["differences"][counted] >= 2, f"checkpoints for '{counted}'", 20)
        b.wait_log(f"twin: {said}; a checkpoint is asked for")
        asked(lab, a)
        for vm in (a, b):
            expect(vm.status()["state"] == "PROTECTED", f"{vm}: {vm.status()}")
        expect(b.status()["epochs_total"] > before + 1, f"{b.status()['epochs_total']} epochs, {before} before")
        fault.mend()
    compares(a)
    random_wait(lab, load, 0.2, 0.4)
    pair.taken_over("B", a.kill())
    lab.probe()
    check_load(lab, [load], pair.image["B"])
    pair.end()


@test(90)
def colo_disk(lab):
    """a disk read of what the twin alone wrote takes a checkpoint; of what both wrote hardly one, however far one is ahead"""
    same, other = (colo_pair(lab, guest="blk", epoch="50ms", cmdline=f"ops=0 region=2048 depth={depth}", net=False, disk=16)
                   for depth in (1, 8))
    for pair in (same, other):
        a, b = pair.protect()
        compares(a)
        if pair is same:
            a.wait_status(lambda s: s["twin"]["checkpoints_total"] >= 4, "checkpoints", 60)
            # A twin that is loaded late may be taken at its word once too often: a checkpoint more, and nothing else.
            expect(twin(a)["differences"]["disk"] <= 1, f"{twin(a)}")
        else:  # whose request is done first decides what is written, and an image and memory take their own time
            a.wait_status(lambda s: s["twin"]["differences"]["disk"] >= 2, "reads of what one side wrote", 60)
        pair.end()


def twin_step_pair(lab):
    pair = colo_pair(lab, disk=32, epoch=f"{lab.rng.choice((2, 5, 20))}ms")
    pair.epoch_ms = 100
    return pair


@test(90)
def kill_steps_twin_primary(lab):
    """the primary dies as it lets out what was compared"""
    primary_dies_in_epoch(lab, "twin-let", twin_step_pair)


@test(150)
def kill_steps_twin_secondary(lab):
    """the secondary dies at each step of a checkpoint"""
    each(lab, TWIN_SECONDARY, lambda lab, name: secondary_dies_in_epoch(lab, name, twin_step_pair))


@test(90)
def kill_steps_twin_mapped(lab):
    """the secondary dies as it takes the numbers of a new connection, of which nobody has heard yet"""
    pair = colo_pair(lab, cmdline=f"ip={ftlab.GUEST_IP} isn=clock")
    b = pair.secondary("B", env={"FTVMM_DIE_AT": f"twin-mapped:{lab.rng.randint(1, 3)}"})
    b.wait_state("STARTING")
    a = pair.primary("A")
    pair.in_step()
    compares(a)
    load = start_load(lab)
    dies(b)
    a.wait_state("DEGRADED")
    lab.probe()
    random_wait(lab, load, 0.1, 0.3)
    check_load(lab, [load], pair.image["A"])
    pair.end()


@test(60)
def kill_steps_twin_differs(lab):
    """the primary dies when outputs differ"""
    pair = colo_pair(lab, guest="writer", cmdline="mode=random tick=10 pages=40 report=1", disk=0, net=False)
    pair.secondary("B").wait_state("STARTING")
    dies(pair.primary("A", env={"FTVMM_DIE_AT": "twin-differs"}))
    pair.vm["B"].wait_state("DEGRADED")
    pair.vm["B"].wait_console("speed", 30)
    pair.end()

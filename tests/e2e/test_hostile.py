"""Peers that break the rules: recorded sessions that were damaged and signed again, and liars.

FT_HOSTILE=N makes the random parts N times longer."""

import json
import os
import re
import signal
import socket
import struct

import ftlab
from ftlab import Deadline, FrameWatch, Pair, Process, expect
from testlib import check_load, eighth, random_wait, resources, start_load, test

TIMES = os.environ.get("FT_HOSTILE", "1")
PAGES, DISKLOG, EPOCH_BEGIN, EPOCH_END = 5, 7, 9, 10  # vmm/wire/stream.h
PROXY = f"tcp:{ftlab.LINK_IP['A']}:7901"


def tool(lab, *args):
    """tests/hostile on host A; what it prints goes to its log."""
    log = lab.path(f"{lab.next_serial():03}-hostile-log")
    p = Process(lab.ns["A"], [os.path.join(ftlab.TOOLS, "hostile/hostile"), *args], log)
    lab.note(f"host A: {' '.join(p.argv)}")
    lab.processes.append(p)
    return p


def ready(p, word, seconds=10):
    d = Deadline(seconds)
    while word not in p.log_text():
        expect(p.alive(), f"{p} ended with {p.code}: {p.log_text()}")
        d.check(f"'{word}' of {p}")
        p.nap()


class Through:
    """Where a Pair finds its peers when the recorder is in between."""
    peer_of = {"A": PROXY, "B": f"tcp:{ftlab.LINK_IP['A']}:{ftlab.FT_PORT}"}


def blk():
    """A guest that is busy for some seconds on any machine."""
    ops = max(4000, ftlab.work(10000))
    return dict(guest="blk", cmdline=f"ops={ops} region=512", disk=16, net=False, timeout="5s")


def kinds_of_epochs(tape):
    """Which frames a recording has in its epochs (a header: type, flags, length; 40 bytes), and how many ends."""
    with open(tape, "rb") as f:
        data = f.read()
    pos, inside, kinds, ends = 32, False, set(), 0
    while pos + 40 <= len(data):
        kind, _, length = struct.unpack_from("<HHI", data, pos)
        inside = kind == EPOCH_BEGIN or (inside and kind != EPOCH_END)
        ends += kind == EPOCH_END
        kinds |= {kind} if inside else set()
        pos += 40 + length
    return kinds, ends


def wait_recorded(proxy, tape, epochs):
    """So many epochs, and in them all that an epoch may bring: a guest that waits for its turn leaves things out."""
    deadline = ftlab.Deadline(30)
    while True:
        kinds, ends = kinds_of_epochs(tape)
        if ends >= epochs and {PAGES, DISKLOG} <= kinds:
            return
        deadline.check(f"{epochs} epochs of a busy guest ({ends} so far, with {sorted(kinds)})")
        proxy.nap(0.02)


def record(lab, epochs=6):
    """A session of a real primary, from its first byte on. The file."""
    pair = Pair(lab, wire=Through, **blk())
    tape = lab.path("tape")
    b = pair.secondary("B")
    b.wait_state("STARTING")
    proxy = tool(lab, "record", PROXY, f"tcp:{ftlab.LINK_IP['B']}:{ftlab.FT_PORT}", tape)
    ready(proxy, "ready")
    pair.primary("A").wait_console("^READY")
    begun = b.status()["epochs_total"]
    b.wait_status(lambda s: s["epochs_total"] >= begun + epochs, f"{epochs} epochs of a busy guest", 20)
    wait_recorded(proxy, tape, epochs)
    proxy.signal(signal.SIGTERM)
    expect(proxy.wait_exit() == 0, f"recorder: {proxy.log_text()}")
    pair.end()
    lab.release(proxy)
    return tape


def victim(lab, generation):
    """A secondary, and an arbiter that has given this generation to somebody."""
    pair = Pair(lab, **blk())
    with open(f"{pair.arbiter_dir}/vm.{generation}", "w") as f:
        json.dump({"vm": "vm", "generation": generation, "holder": "somebody", "time": 0,
                   "released": False}, f)
    # What a sanitizer's build has freed is to count as free.
    b = pair.secondary("B", env={"ASAN_OPTIONS": "quarantine_size_mb=1"})
    b.wait_state("STARTING")
    return pair, b


URI_B = f"tcp:{ftlab.LINK_IP['B']}:{ftlab.FT_PORT}"

# Each of these is said at least once, or an attack does not reach what it is meant for.
REASONS = (
    r"checksum is wrong", r"says it is frame \d+", r"is of session", r"is above the limit",
    r"type \d+ does not exist", r"flags 0x\w+ are not known", r"truncated: the stream ends",
    r"epoch \d+ begins after epoch \d+", r"is not whole", r"at the wrong place", r"outside an epoch",
    r"malformed page", r"disk log: ", r"hello with values out of range", r"short hello",
    r"bad memory size", r"bad number of vCPUs", r"the host has \d+M", r"no image given here",
    r"no heartbeat link",
    r"the other side goes on", r"above the limit here", r"not a valid device tree",
)


def says_at_the_door(lab, vm, what, pattern):
    """A flood's lines are few, and another one is said a second later: until then whoever says that is dropped unheard."""
    d = Deadline(20)
    while not re.search(pattern, vm.log_text()):
        d.check(f"host B to say '{pattern}'")
        with lab.socket_in("A", socket.AF_INET, socket.SOCK_STREAM) as s:
            s.connect((ftlab.LINK_IP["B"], ftlab.FT_PORT))
            s.sendall(what)
            s.settimeout(5)
            try:
                while s.recv(4096):
                    pass
            except OSError:
                pass  # a reset is an answer, too
        vm.nap()


@test(300 * int(TIMES))
def hostile_primary(lab):
    """damaged sessions, hostile hellos, garbage, crowds: dropped with a reason, nothing is kept"""
    tape = record(lab)
    pair, b = victim(lab, 9)
    tries = tool(lab, "primary", "-s", str(lab.rng.getrandbits(32)), URI_B, tape, "golden")
    expect(tries.wait_exit(30) == 0, f"the recorded session itself: {tries.log_text()}")
    b.wait_state("STARTING")
    fds, threads, rss = resources(b)
    listed = listing(lab, "attacks")
    names = eighth(lab, listed)
    attack = tool(lab, "primary", "-s", str(lab.rng.getrandbits(32)), "-x", TIMES, URI_B, tape, *names)
    attack.wait_exit(290 * int(TIMES))
    expect(b.alive(), f"the secondary ended with {b.code}: {ftlab.tail(b.log)}")
    expect(attack.code == 0, f"{attack.argv}: {attack.log_text()}")
    lab.note(attack.log_text())
    b.wait_state("STARTING")
    says_at_the_door(lab, b, b"x" * 64, "not an ftvmm stream")
    log = b.log_text()
    for reason in REASONS if names == listed else ():
        expect(re.search(reason, log), f"nobody said '{reason}'")
    for line in log.splitlines():
        expect(line.isprintable(), f"a peer writes on the terminal: {line!r}")
    # The last peer is refused before the job that saw to it has ended.
    d = Deadline(20)
    while (after := resources(b))[0] > fds or after[1] > threads:
        d.check(f"what the attacks took to be given back: {(fds, threads)} fds and threads before, {after[:2]} after")
        b.nap()
    expect(ftlab.SANITIZED or after[2] < rss + 32768, f"kB: {rss} before, {after[2]} after")
    a = pair.primary("A", "--claim")
    pair.in_step()
    expect(a.wait_exit(30) == 0, f"the guest: exit code {a.code}")
    expect("blk ok" in a.console_text(), a.console_text())
    b.wait_state("STARTING")
    expect(b.stop() == 0, f"the secondary's exit code is {b.code}: {ftlab.tail(b.log)}")


@test(120)
def hostile_primary_takeover(lab):
    """damage inside an epoch: the secondary takes over from the one before, and the guest is well"""
    tape = record(lab)
    kinds = ("page", "log", "state", "count", "skip", "type", "session", "end", "cut", "flip", "bye-inside", "done", "runs",
             "gone", "handed-short", "handed-inside", "handed")
    for i, kind in enumerate(eighth(lab, kinds)):
        epoch = 1 + i % 4
        pair, b = victim(lab, 1)
        once = tool(lab, "once", URI_B, tape, kind, str(epoch))
        expect(once.wait_exit(20) == 0, f"{kind}: {once.log_text()}")
        acks = re.match(r"(\d+) acks,", once.log_text())
        expect(acks and int(acks[1]) >= epoch, f"{kind}: {once.log_text()}")
        expect(b.wait_exit(30) == 0, f"{kind}: exit code {b.code}: {ftlab.tail(b.log)}")
        expect("took over" in b.log_text(), f"{kind}: no takeover: {ftlab.tail(b.log)}")
        # Handed over in order, but nobody said that the old side is gone: claimed twice.
        generation = 3 if kind == "handed" else 2
        expect(f"took over (generation {generation})" in b.log_text(), f"{kind}: {ftlab.tail(b.log)}")
        expect("blk ok" in b.console_text(), f"{kind}: {b.console_text()}")
        pair.end()
    # Nothing was ever committed, or the primary said goodbye: nobody takes over.
    never = (("page", 0), ("count", 0), ("state", 0), ("bye", 0), ("handed", 0), ("gone", 0), ("bye", 2))
    for kind, epoch in eighth(lab, never):
        pair, b = victim(lab, 1)
        once = tool(lab, "once", URI_B, tape, kind, str(epoch))
        expect(once.wait_exit(20) == 0, f"{kind}: {once.log_text()}")
        b.wait_status(lambda s: s["state"] == "STARTING" and not s["epoch"], "STARTING")
        expect("TAKING-OVER" not in b.log_text(), f"{kind}: {ftlab.tail(b.log)}")
        pair.end()


@test(60)
def hostile_primary_cpu(lab):
    """a CPU state that no host takes: refused with the first epoch, and the end of the VM later"""
    tape = record(lab)
    pair, b = victim(lab, 1)
    once = tool(lab, "once", URI_B, tape, "cr0", "0")
    expect(once.wait_exit(20) == 0 and "0 acks" in once.log_text(), once.log_text())
    b.wait_log("this host refuses")
    b.wait_state("STARTING")
    once = tool(lab, "once", URI_B, tape, "cr0", "2")
    expect(once.wait_exit(20) == 0 and "3 acks" in once.log_text(), once.log_text())
    expect(b.wait_exit(20) == ftlab.EXIT_FAILED, f"exit code {b.code}: {ftlab.tail(b.log)}")
    b.wait_log("takeover: .*this host refuses")


EPOCH_MS = 200
# Mute ones are waited for longest: five seconds.
SLOW_WAYS = ("mute",)


def listing(lab, what):
    p = tool(lab, what)
    p.wait_exit()
    return p.log_text().split()


def ways(lab, twin=False):
    return [w for w in listing(lab, "ways") if (TIMES != "1" or w not in SLOW_WAYS) and w.startswith("twin-") == twin]


def check_held(frames, log):
    """Between "sealed" and "acts" of each way nothing came out of the guest; returns the ways that held."""
    begin, held = {}, set()
    for way, what, when in re.findall(r"^(\S+) (sealed|acts) (\d+)$", log, re.M):
        if what == "sealed":
            begin[way] = int(when)
            continue
        # What was let out before the seal may still be on its way to the switch.
        slack = -EPOCH_MS * 250_000 if way == "withhold" else 60_000_000
        late = [t for t in frames if begin[way] + slack < t < int(when)]
        expect(not late, f"{way}: {len(late)} frames of the guest without an ack, the first "
                         f"{(late or [0])[0] - begin[way]} ns after the seal")
        held.add(way)
    expect(held == set(begin), f"sealed, but never acted: {sorted(set(begin) - held)}")
    return held


@test(240)
def hostile_secondary(lab):
    """lies to a primary: no output without a right ack, the link is dropped, the guest runs on"""
    pair = Pair(lab, disk=32, epoch=f"{EPOCH_MS}ms")
    # Many ways lie before there is an epoch to hold back: a part of them need not hold any, this one must.
    known = ways(lab)
    names = ["withhold"] + eighth(lab, [w for w in known if w != "withhold"])
    liar = Process(lab.ns["B"], [os.path.join(ftlab.TOOLS, "hostile/hostile"), "secondary",
                                 "-s", str(lab.rng.getrandbits(32)), "-e", str(EPOCH_MS), URI_B,
                                 *names],
                   lab.path("900-hostile-log"))
    lab.processes.append(liar)
    ready(liar, "ready")
    a = pair.primary("A")
    load = start_load(lab)
    watch = FrameWatch(lab, "A")
    frames = []
    d = Deadline(200)
    while liar.alive():
        frames += [t for t, _ in watch.drain()]
        expect(a.alive(), f"the primary ended with {a.code}: {ftlab.tail(a.log)}")
        a.status(5)
        d.check(f"the end of {liar.log_text()}")
        liar.nap(0.05)
    expect(liar.code == 0, f"{liar.log_text()}")
    held = check_held(frames, liar.log_text())
    expect("withhold" in held and len(frames) > 50, f"held by {sorted(held)}, {len(frames)} frames")
    expect(len(held) >= len(known) // 2 or len(names) < len(known), f"of all ways only {sorted(held)} held")
    for line in a.log_text().splitlines():
        expect(line.isprintable(), f"a peer writes on the terminal: {line!r}")
    lab.release(liar)
    pair.secondary("B").wait_state("PROTECTED", seconds=20)
    a.wait_state("PROTECTED")
    random_wait(lab, load, 0.2, 0.4)
    check_load(lab, [load], pair.image["A"])


def liar(lab, names):
    p = Process(lab.ns["B"], [os.path.join(ftlab.TOOLS, "hostile/hostile"), "secondary",
                              "-s", str(lab.rng.getrandbits(32)), URI_B, *names], lab.path("900-hostile-log"))
    lab.processes.append(p)
    ready(p, "ready")
    return p


def twin_reasons(log):
    return re.findall(r"twin: (.*); as with kemari", log)


@test(240)
def hostile_twin(lab):
    """lies on the mirror: that connection is dropped with a reason, epochs go on, and nobody waits for a twin"""
    known = [w for w in ways(lab, twin=True) if w != "twin-mute"]
    names = eighth(lab, known)
    pair = Pair(lab, disk=32, ft="colo", epoch="20ms", timeout="2s")
    liar_ = liar(lab, names)
    a = pair.primary("A")
    load = start_load(lab)
    d = Deadline(220)
    while liar_.alive():
        expect(a.alive(), f"the primary ended with {a.code}: {ftlab.tail(a.log)}")
        a.status(5)
        d.check(f"the end of {liar_.log_text()}")
        liar_.nap(0.05)
    expect(liar_.code == 0, f"{liar_.log_text()}")
    log = a.log_text()
    for reason in ("expected loaded .*received nothing", "expected output of epoch", "once, received loaded",
                   "expected loaded .* received loaded", "received ack", "is of session", "says it is frame",
                   "is above the limit", "(connection closed|Connection reset by peer)") if names == known else ():
        expect(re.search(f"twin: .*{reason}", log), f"nobody said '{reason}'")
    for line in log.splitlines():
        expect(line.isprintable(), f"a peer writes on the terminal: {line!r}")
    lab.release(liar_)
    pair.secondary("B").wait_state("PROTECTED", seconds=20)
    a.wait_state("PROTECTED")
    a.wait_status(lambda s: s["twin"]["phase"] == "runs", "a twin that runs", 20)
    random_wait(lab, load, 0.2, 0.4)
    check_load(lab, [load], pair.image["A"])
    pair.end()


@test(90)
def hostile_twin_mute(lab):
    """a mirror that nobody reads: what the guest is given waits 0.2 s at most, and then no more"""
    pair = Pair(lab, disk=32, ft="colo", epoch="20ms", timeout="2s")
    a = pair.primary("A")
    a.wait_console("^READY", 30)  # what it says until then would miss its like from the mirror
    liar_ = liar(lab, ["twin-mute"])
    liar_d = Deadline(30)
    while "acts" not in liar_.log_text():
        expect(liar_.alive(), liar_.log_text())
        liar_d.check("a twin that takes nothing")
        liar_.nap(0.02)
    sock = lab.socket_in("C", socket.AF_PACKET, socket.SOCK_RAW, 0)
    sock.bind(("c0", 0))
    lab.closing.append(sock)
    frame = b"\xff" * 6 + b"\x02\0\0\0\0\1\x88\xb5" + bytes(1400)
    d = Deadline(20)
    while not any((seen := a.status(5)["twin"]["differences"]).values()):
        for _ in range(2000):
            sock.send(frame)
        d.check(f"a bound for its input: {seen}")
    expect(seen["input"], f"not its input was too much for it: {seen}")
    a.wait_log("twin: it does not keep up .it takes no input: 4096 KiB of it wait, for 200 ms.; as with kemari for 5 s")
    asked = ftlab.mono()
    lab.probe()
    expect(ftlab.mono() - asked < 2e9 * ftlab.SLOW, f"an answer took {(ftlab.mono() - asked) / 1e9:.1f} s")
    expect(a.alive() and a.status(5)["state"] in ("PROTECTED", "DEGRADED", "UNPROTECTED", "SYNCING"), f"{a.status(5)}")
    liar_.wait_exit(30)
    expect(liar_.code == 0, liar_.log_text())
    pair.end()

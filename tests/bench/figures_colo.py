"""COLO: streams both ways, what a guest stands for, what a checkpoint is and how often one is taken; QEMU's x-colo
beside it, on the same guests, in the same run."""

import contextlib
import fcntl
import json
import os
import socket
import struct
import termios
import time

from benchlib import (EPOCH_MS, floor_us, ftlab, has_qemu, median, percentile, pin, plain, protected, rounds,
                      run_epochs, slowly, with_twin)
from figures_vm import echo_us
from qemu_colo import QemuColo

PAIRS = 11
STREAM_SECONDS, WARM_SECONDS = 0.8, 0.2
PORTS, PERIOD = {"out": 9, "in": 10}, 65521  # guests/stream_proto.h
# What a protected VM's loop has: beside other work an unprotected one would wait longer for a processor.
FIRST = ("chrt", "--reset-on-fork", "--rr", "1")
COLO = 40  # epochs from one checkpoint to the next: ft/role/policy.h
IDLE_MS, IDLE_EPOCHS = 40, 250
GUEST_SECONDS = 12
ALONE = (ftlab.GUEST_IPS[1], ftlab.GUEST_MACS[1])
PEER = ("10.77.0.4", bytes.fromhex("525400e20004"))
CARD = (ftlab.GUEST_IP, ftlab.GUEST_MAC)


def processors():
    """Those of the primary, the client and who runs unprotected; and the secondary's. One for both if that is all."""
    cpus = sorted(os.sched_getaffinity(0))
    return set(cpus[:-1]) or set(cpus), {cpus[-1]}


def checkpoint_ms():
    return slowly(EPOCH_MS) * COLO


def peer_or_reason(make):
    """QEMU's pair, or nothing and why: it is not what is measured here."""
    if not has_qemu():
        return None, "no QEMU here"
    try:
        return make(), ""
    except (ftlab.LabError, OSError) as e:
        print(f"# QEMU's x-colo: skipped: {e}", flush=True)
        return None, str(e)


# --- streams ---------------------------------------------------------------------------------------


@contextlib.contextmanager
def client_on(cpus):
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def read_some(s, state):
    """Bytes that came; they are what the guest sends."""
    data = s.recv(1 << 18)
    ftlab.expect(data, "the guest's stream has ended")
    at = state["bytes"] % PERIOD
    ftlab.expect(data == state["pattern"][at:at + len(data)], "the guest's stream is not what it is to be")
    state["bytes"] += len(data)
    return state["bytes"]


def write_some(s, state):
    """Bytes that were acknowledged."""
    state["bytes"] += s.send(state["pattern"])
    return state["bytes"] - struct.unpack("i", fcntl.ioctl(s, termios.TIOCOUTQ, b"\0" * 4))[0]


def stream_mib(lab, ip, way):
    """MiB a second between a client and the guest."""
    block = bytes(i * 2654435761 % 2**32 >> 24 for i in range(PERIOD))
    state, move = {"bytes": 0, "pattern": block * 6}, read_some if way == "out" else write_some
    with lab.socket_in("C", socket.AF_INET, socket.SOCK_STREAM) as s, client_on(processors()[0]):
        s.settimeout(10 * ftlab.SLOW)
        s.connect((ip, PORTS[way]))
        begin = time.monotonic()
        while time.monotonic() - begin < WARM_SECONDS * min(ftlab.SLOW, 4):
            at = move(s, state)
        warm, begin = at, time.monotonic()
        while time.monotonic() - begin < STREAM_SECONDS * min(ftlab.SLOW, 4):
            at = move(s, state)
        return (at - warm) / 1048576 / (time.monotonic() - begin)


def processor_ms(vm):
    """That all of its threads have used so far."""
    folder = f"/proc/{vm.pid}/task"
    return sum(int(ftlab.read_text(f"{folder}/{task}/schedstat").split()[0]) for task in os.listdir(folder)) / 1e6


class Stream:
    """Unprotected, under colo and under QEMU's x-colo; those that are not asked rest."""

    def __init__(self, lab):
        self.lab = lab
        own, other = processors()
        mac = f"id=n0,tap=t1,bridge=br0,mac={ALONE[1].hex(':')}"
        self.alone = plain(lab, "echo", f"ip={ALONE[0]}", more=["-n", mac], before=FIRST)
        self.alone.call("pause")
        self.peer, self.reason = peer_or_reason(
            lambda: QemuColo(lab, "echo", "", checkpoint_ms(), PEER, (own, other)))
        if self.peer:
            self.peer.rest()
        self.pair = protected(lab, "echo", f"ip={CARD[0]}", net=True, ft="colo")
        self.both = self.pair.vm["A"]
        self.stand()
        for vm, cpus in ((self.alone, own), (self.both, own), (self.pair.vm["B"], other)):
            pin(vm, cpus)
        self.epochs, self.seconds, self.used = 0, 0.0, []

    def floor(self, measure):
        self.alone.call("resume")
        found = self.costs(measure, ALONE[0], self.alone)
        self.alone.call("pause")
        return found

    def ours(self, measure):
        self.both.call("resume")
        with_twin(self.both)
        before, begin = self.both.status(), time.monotonic()
        found = self.costs(measure, CARD[0], *self.pair.vm.values())
        after = self.both.status()
        self.epochs += after["epochs_total"] - before["epochs_total"]
        self.seconds += time.monotonic() - begin
        self.stand()
        return found

    def costs(self, measure, ip, *vms):
        """What was measured, and the milliseconds of a processor that each of these used for one unit of it."""
        before, begin = [processor_ms(vm) for vm in vms], time.monotonic()
        found = measure(ip)
        amount = found * (time.monotonic() - begin)
        self.used.append([(processor_ms(vm) - ms) / amount for vm, ms in zip(vms, before)])
        return found

    def stand(self):
        """The twin, too."""
        with_twin(self.both)
        self.both.call("pause")
        self.both.wait_status(lambda s: s["twin"]["phase"] != "runs", "a checkpoint of the paused VM", 20)

    def theirs(self, measure):
        """Nothing once it has failed, which is said."""
        if not self.peer:
            return None
        try:
            self.peer.go_on()
            self.peer.status()
            found = measure(PEER[0])
            self.peer.rest()
            return found
        except (ftlab.LabError, OSError) as e:
            self.reason = str(e)
            print(f"# QEMU's x-colo: left out from here: {e}", flush=True)
            self.peer.end()
            self.peer = None
            return None

    def in_turns(self, measure):
        """What was measured of each, and what belongs to the figure."""
        self.epochs, self.seconds, self.used = 0, 0.0, []
        floor, ours, theirs = [], [], []
        for _ in range(rounds(PAIRS, 3)):
            floor.append(self.floor(measure))
            ours.append(self.ours(measure))
            theirs.append(self.theirs(measure))
        theirs = [t for t in theirs if t is not None]
        pairs = [y / x for x, y in zip(floor, ours)]
        return {"ours": median(ours), "floor": median(floor), "peer": median(theirs) if theirs else None,
                "ratio": median(pairs), "pairs": pairs, "free": floor, "protected": ours, "peers": theirs,
                "peer_missing": self.reason, "per_minute": 60 * self.epochs / self.seconds}

    def end(self):
        self.pair.end()
        self.lab.release(self.alone)
        if self.peer:
            self.peer.end()


def streams(lab, report):
    s = Stream(lab)
    share = 1 if processors()[0] != processors()[1] else 0.5
    of = "unprotected" if share == 1 else "half of unprotected"
    for way in PORTS:
        found = s.in_turns(lambda ip, way=way: stream_mib(lab, ip, way))
        report.add(f"colo: stream {way}", "MiB/s", target=f">= 0.80 of {of}", met=found["ratio"] >= 0.8 * share, **found)
        alone, (a, b) = median(n for n, in s.used[::2]), [median(n) for n in zip(*s.used[1::2])]
        report.add(f"colo: processor, {way}, host A", "ms/MiB", a, floor=alone)
        report.add(f"colo: processor, {way}, host B", "ms/MiB", b, floor=alone)
    report.add("colo: UDP echo p50", "ms", **s.in_turns(lambda ip: median(echo_us(lab, ip)) / 1e3))
    s.end()


# --- an idle guest ---------------------------------------------------------------------------------


def idle(lab, report):
    """A checkpoint every 40 ms, of either program: nothing differs."""
    ms = slowly(IDLE_MS)
    peer, reason = peer_or_reason(lambda: QemuColo(lab, "idle", "hz=10", ms))
    theirs = peer.stands(rounds(IDLE_EPOCHS // 3, 15)) if peer else []
    if peer:
        peer.rest()
    pair = protected(lab, "idle", "hz=10", epoch=f"{ms * 1000 // COLO}us", ft="colo")
    a = pair.vm["A"]
    with_twin(a)
    s, d = run_epochs(pair, rounds(IDLE_EPOCHS, 40), 120)
    pair.end()
    if peer:
        peer.go_on()
        peer.stands(1)  # it rested in the midst of one
        theirs += peer.stands(rounds(IDLE_EPOCHS // 3, 15))
        peer.end()
    low = floor_us("kick", 200)["p50_us"] / 1e3
    ours, peers = s["pause_us"]["p50"] / 1e3, median(theirs) if theirs else None
    report.add("colo: pause idle p50", "ms", ours, "<= 0.01 of QEMU's", ours <= 0.01 * peers if peers else None,
               floor=low, peer=peers, peer_missing=reason, pages=d["pages_total"] / d["epochs_total"])
    report.add("colo: pause idle p99", "ms", s["pause_us"]["p99"] / 1e3, floor=low,
               peer=percentile(theirs, 99) if theirs else None)
    report.add("colo: seal to the twin's run", "ms", s["twin"]["load_us"] / 1e3, peer=peers)


# --- checkpoints -----------------------------------------------------------------------------------

# Command line; has it a card; the load of clients, as ftlab.Load() takes it.
GUESTS = {
    "kv": ("", {"udp": 2, "tcp": 2, "echo": 0, "stream": 0}),
    "echo": ("", {"udp": 0, "tcp": 0, "echo": 2, "stream": 1, "echo_rate": 0, "stream_rate": 0}),
    "hash": ("pages=256 rounds=4000000000 every=100000", None),
    "writer": ("mode=random tick=10 pages=40 total=4096", None),
}


def link_bytes(lab):
    """What host A has sent to host B."""
    said = ftlab.run("ip", "-netns", lab.ns["A"], "-s", "-j", "link", "show", "ft0").stdout
    return json.loads(said)[0]["stats64"]["tx"]["bytes"]


def loaded(lab, ip, load, seconds, measure):
    """What is measured in these seconds, beside the load; and its summary."""
    if not load:
        return measure(seconds), None
    client = ftlab.Load(lab, server=ip, **load)
    client.wait_ready()
    found = measure(seconds)
    summary = client.finish()
    lab.release(client)
    ftlab.expect(client.code == 0, f"clients have seen a fault: {summary}")
    return found, summary


def our_checkpoints(lab, guest, cmdline, load, seconds):
    pair = protected(lab, guest, cmdline, net=load is not None, ft="colo")
    a = pair.vm["A"]
    with_twin(a)

    def measure(seconds):
        before, sent, begin = a.status(), link_bytes(lab), time.monotonic()
        a.nap(seconds)
        after, took = a.status(), time.monotonic() - begin
        ftlab.expect(after["state"] == "PROTECTED", f"not protected any more: {after['note']}")
        n = max(1, after["epochs_total"] - before["epochs_total"])
        twins = [s["twin"]["differences"] for s in (before, after)]
        return {"per_minute": 60 * n / took, "pages": (after["pages_total"] - before["pages_total"]) / n,
                "page_kib": (after["page_bytes_total"] - before["page_bytes_total"]) / n / 1024,
                "kib": (link_bytes(lab) - sent) / n / 1024,
                "differences": {k: twins[1][k] - twins[0][k] for k in twins[0]},
                "last_difference": after["twin"]["last_difference"]}

    found, summary = loaded(lab, CARD[0], load, seconds, measure)
    pair.end()
    return {**found, "clients": summary}


def their_checkpoints(lab, guest, cmdline, load, seconds):
    net = load is not None
    peer = QemuColo(lab, guest, cmdline, checkpoint_ms(), PEER if net else None, processors())

    def measure(seconds):
        sent, begin = link_bytes(lab), time.monotonic()
        stands = peer.stands(1, seconds)
        return {"per_minute": 60 * len(stands) / (time.monotonic() - begin), "pause_ms": median(stands),
                "kib": (link_bytes(lab) - sent) / len(stands) / 1024}

    try:
        found, summary = loaded(lab, PEER[0], load, seconds, measure)
    finally:
        peer.end()
    return {**found, "clients": summary}


def checkpoints(lab, report):
    """At most one a second is taken for the time alone; the rest are differences."""
    seconds = GUEST_SECONDS * min(ftlab.SLOW, 2)
    for guest, (cmdline, load) in GUESTS.items():
        mine = our_checkpoints(lab, guest, cmdline + (f" ip={CARD[0]}" if load else ""), load, seconds)
        peer, reason = peer_or_reason(lambda: their_checkpoints(lab, guest, cmdline, load, seconds))
        theirs = peer or {}
        report.add(f"colo: {guest}, checkpoints", "1/min", mine["per_minute"], floor=60e3 / checkpoint_ms(),
                   peer=theirs.get("per_minute"), **{k: v for k, v in mine.items() if k != "per_minute"},
                   theirs=theirs, peer_missing=reason)
        report.add(f"colo: {guest}, of each", "pages", mine["pages"])
        report.add(f"colo: {guest}, sent for each", "KiB", mine["kib"], peer=theirs.get("kib"))


def colo(lab, report):
    """streams under colo, the pause of an idle guest, checkpoints of four guests; QEMU's x-colo in turns"""
    streams(lab, report)
    idle(lab, report)
    checkpoints(lab, report)

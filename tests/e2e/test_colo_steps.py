"""With a twin at the secondary: either side dies at every step that such a pair goes through, or the guest ends itself
while one of them is under way."""

import os
import re
import select
import socket

import ftlab
import test_move
import test_off
from ftlab import Deadline, Pair, Vm, expect
from test_colo import TWIN_SECONDARY, compares
from test_kills import (EPOCH_PRIMARY, EPOCH_SECONDARY, HANDED, HANDING_PRIMARY, LOSER, ONCE_PRIMARY, ONCE_SECONDARY,
                        STOPPED_PRIMARY, STOPPED_SECONDARY, STOPPING, TAKEOVER, TWIN, each, greeted_dies, handing_dies,
                        loser_dies, primary_dies_early, primary_dies_in_epoch, random_pair, secondary_dies_in_epoch,
                        speaker_dies, steps, stop_dies, taken_dies, taker_dies)
from testlib import random_wait, test

ENDS = int(os.environ.get("FT_ENDS", "12"))


def colo(lab):
    """A checkpoint every 80 to 200 ms, if nothing differs; and a time, for test_kills.at(), by which there is a twin."""
    pair = random_pair(lab, epochs=(2, 3, 5), ft="colo", cpus=lab.rng.choice((1, 2)), nics=lab.rng.choice((1, 2)))
    pair.epoch_ms = 60
    return pair


def with_colo(function):
    return lambda lab, name: function(lab, name, colo)


@test(30)
def colo_steps_known(lab):
    """every step of ft/common/steps.h that is of a pair is in one of these tests; those of a move: move_colo_dies; of ft=off: off_steps"""
    twin = (*TWIN_SECONDARY, "twin-let", "twin-differs", "twin-mapped")  # test_colo.py
    mine = (EPOCH_PRIMARY + EPOCH_SECONDARY + ONCE_PRIMARY + ONCE_SECONDARY + TAKEOVER + LOSER + STOPPING +
            STOPPED_PRIMARY + STOPPED_SECONDARY + HANDING_PRIMARY + HANDED + twin)
    pairs = [s for s in steps() if not s.startswith("mig-") and s not in test_move.STEPS + test_off.STEPS]
    expect(sorted(mine) == sorted(pairs) and sorted(twin) == sorted(TWIN), f"differ: {set(mine) ^ set(pairs)}")


@test(180)
def colo_steps_primary(lab):
    """the primary dies at each step of a checkpoint"""
    each(lab, EPOCH_PRIMARY, with_colo(primary_dies_in_epoch))


@test(120)
def colo_steps_secondary(lab):
    """the secondary dies at each step of a checkpoint that it takes"""
    each(lab, EPOCH_SECONDARY, with_colo(secondary_dies_in_epoch))


@test(120)
def colo_steps_begin(lab):
    """either side dies before the pair was ever in step"""
    each(lab, ONCE_PRIMARY, with_colo(primary_dies_early))
    each(lab, ONCE_SECONDARY, with_colo(greeted_dies))


@test(120)
def colo_steps_takeover(lab):
    """the secondary dies while it goes on with its twin; the primary dies as it notices that it is alone"""
    each(lab, TAKEOVER, with_colo(taker_dies))
    each(lab, LOSER, with_colo(loser_dies))


@test(120)
def colo_steps_stop(lab):
    """a stop, and either side dies; the guest ends, and the primary dies before it can say so"""
    each(lab, STOPPED_PRIMARY + STOPPED_SECONDARY, with_colo(stop_dies))
    speaker_dies(lab, *STOPPING, ft="colo")


@test(240)
def colo_steps_handover(lab):
    """either side dies at each step of a hand-over"""
    each(lab, TAKEOVER + STOPPING + HANDING_PRIMARY, with_colo(handing_dies))
    each(lab, HANDED, with_colo(taken_dies))


# --- the guest ends itself ------------------------------------------------------------------------

ACTS = {"exit": 1, "off": 2, "reset": 3, "panic": 4, "crash": 5}  # guests/ends.c
# Of a checkpoint, in their order at each side.
CHECKPOINT_A = (*(s for s in EPOCH_PRIMARY if s != "send-disklog"), "twin-let")
CHECKPOINT_B = ("twin-suspended", *EPOCH_SECONDARY, "twin-rolled-back", "twin-loaded", "twin-runs")


class Hold:
    """Keeps a thread of a VM at a step, while the others go on (ft/common/steps.h)."""

    def __init__(self, lab, step, times):
        self.path = lab.path(f"{lab.next_serial():03}-hold")
        self.listener, self.sock = socket.socket(socket.AF_UNIX), None
        self.listener.bind(self.path)
        self.listener.listen()
        self.listener.settimeout(10 * ftlab.SLOW)
        self.env = {"FTVMM_HOLD_AT": f"{step}:{times}", "FTVMM_HOLD": self.path}
        lab.closing.append(self)

    def wait(self, *vms, seconds=20):
        """Until it is there."""
        d = Deadline(seconds)
        if not self.sock:
            self.sock = self.listener.accept()[0]
        while not select.select([self.sock], [], [], 0.05)[0]:
            for vm in vms:
                expect(vm.alive(), f"{vm} ended with {vm.code}: {vm.log_text()}")
            d.check(f"step {self.env['FTVMM_HOLD_AT']}")
        expect(self.sock.recv(1), f"nobody came to step {self.env['FTVMM_HOLD_AT']}")

    def go_on(self):
        self.sock.send(b"g")

    def close(self):
        self.listener.close()
        if self.sock:
            self.sock.close()


class Word:
    """The word of guest memory by which the guest `ends` is told what to do, as the vCPUs of one side see it."""

    def __init__(self, vm, address):
        with open(f"/proc/{vm.pid}/maps") as f:
            maps = re.findall(r"^(\w+)-(\w+) rw-([sp]) (\w+) \S+ \d+ +/memfd:ftvmm-ram", f.read(), re.M)
        # A twin's memory is private; the checkpoint's is beside it.
        for low, high, kind, offset in sorted(maps, key=lambda m: m[2]):
            low, high, offset = int(low, 16), int(high, 16), int(offset, 16)
            if offset <= address < offset + high - low:
                self.at, self.private = low + address - offset, kind == "p"
                self.path = f"/proc/{vm.pid}/mem"
                return
        raise ftlab.LabError(f"{vm} has no memory at {address:#x}: {maps}")

    def read(self, field):
        fd = os.open(self.path, os.O_RDONLY)
        try:
            return int.from_bytes(os.pread(fd, 8, self.at + 8 * field), "little")
        finally:
            os.close(fd)

    def write(self, act):
        fd = os.open(self.path, os.O_WRONLY)
        try:
            os.pwrite(fd, act.to_bytes(8, "little"), self.at)
        finally:
            os.close(fd)

    def begun(self):
        return self.read(1) == 1


def ticks(vm):
    return [int(n) for n in re.findall(r"^tick (\d+)$", vm.console_text(), re.M)]


def goes_on(pair):
    """In step, and so it is after the primary's death."""
    a, b = pair.vm["A"], pair.vm["B"]
    pair.in_step()
    compares(a)
    random_wait(pair.lab, a, 0, 0.2)
    pair.taken_over("B", a.kill())
    b.wait_console(r"^tick \d+", 20)


def ended(pair, act, code):
    """At both sides, and nowhere begun anew; of what it said nothing is lost."""
    a, b = pair.vm["A"], pair.vm["B"]
    expect(a.wait_exit(20) == code, f"{act}: exit code {a.code}, not {code}: {a.log_text()}")
    b.wait_state("STARTING")
    expect("TAKING-OVER" not in b.log_text(), f"{act}: it runs at the other side: {b.log_text()}")
    said = ticks(a)
    expect(said == list(range(1, len(said) + 1)), f"{act}: ticks are missing in {said[-20:]}")


def outcome(pair, act, who):
    a = pair.vm["A"]
    if who == "B":  # a twin is not the guest: at the next checkpoint it has not done that
        before = a.status()["twin"]["checkpoints_total"]
        a.wait_status(lambda s: s["twin"]["checkpoints_total"] >= before + 2, "two checkpoints", 20)
        goes_on(pair)
        expect(a.code == -9 and not re.search("guest: its kernel panicked", pair.vm["B"].log_text()),
               f"exit code {a.code}: {pair.vm['B'].log_text()}")
    elif act in ("exit", "off", "crash"):
        ended(pair, act, {"exit": 7, "off": 0, "crash": 2}[act])
    elif act == "reset":
        a.wait_console("^boot 2 ", 20)
        goes_on(pair)
    else:
        a.wait_log("guest: its kernel panicked", 20)
        goes_on(pair)


def ends_at(lab, step, act, who):
    """who: whose guest, or 'AB': the primary's and its twin."""
    hold = Hold(lab, step, lab.rng.randint(6, 12))
    holder = "A" if step in CHECKPOINT_A else "B"
    pair = Pair(lab, "ends", f"tick={lab.rng.choice((2, 5, 11))} pages={lab.rng.choice((1, 40))}", disk=0, net=False,
                ft="colo", epoch=f"{lab.rng.choice((2, 3, 5))}ms", timeout="1s")
    b = pair.secondary("B", *pair.guest_args[:2], env=hold.env if holder == "B" else None)
    b.wait_state("STARTING")
    a = pair.primary("A", env=hold.env if holder == "A" else None)
    address = int(a.wait_console(r"^boot 1 word at (0x[0-9a-f]+)")[1], 16)
    hold.wait(a, b)
    words = [Word(pair.vm[side], address) for side in who]
    for side, word in zip(who, words):
        expect(side == "A" or word.private, "no twin at that step")
        word.write(ACTS[act])
    # A guest that stands begins with it when it goes on.
    d = Deadline(lab.rng.choice((0, 0.05)))
    while d.left() > 0 and not all(word.begun() for word in words):
        select.select([], [], [], 0.001)
    hold.go_on()
    outcome(pair, act, who)
    pair.end()


@test(60)
def ends_alone(lab):
    """the guest of these tests without a pair: it does what it is told"""
    for act, code in (("exit", 7), ("off", 0), ("crash", 2), ("reset", None), ("panic", None)):
        vm = Vm(lab, "A", ["-k", f"{ftlab.GUESTS}/ends.elf", "-m", "64M"])
        address = int(vm.wait_console(r"^boot 1 word at (0x[0-9a-f]+)")[1], 16)
        Word(vm, address).write(ACTS[act])
        if act == "reset":
            vm.wait_console("^boot 2 ")
        elif act == "panic":
            vm.wait_log("guest: its kernel panicked")
        else:
            expect(vm.wait_exit(10) == code, f"{act}: exit code {vm.code}, not {code}: {vm.log_text()}")
        lab.release(vm)


@test(max(120, 10 * ENDS))
def colo_ends(lab):
    """the guest exits, switches off, resets, panics, crashes, at either side or both, while a checkpoint is at any of
    its steps: it ends once, as with one side. FT_ENDS (12) of them; each step has its turn"""
    turns = [*CHECKPOINT_A, *CHECKPOINT_B]
    lab.rng.shuffle(turns)
    for i in range(max(min(ENDS, 4), ftlab.work(ENDS))):
        step, act = turns[i % len(turns)], lab.rng.choice(list(ACTS))
        who = lab.rng.choice(("A", "AB", "AB", "B"))
        lab.note(f"{step}: {act} at {who}")
        try:
            ends_at(lab, step, act, who)
        except ftlab.LabError as e:
            raise ftlab.LabError(f"{step}: {act} at {who}: {e}") from e

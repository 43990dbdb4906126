"""The end of a run is a transaction: what an orderly stop leaves in the images and in the arbiter's record."""

import json
import os
import re
import shutil
import signal
import time

import ftlab
from ftlab import EXIT_FENCED, Deadline, Pair, Process, Vm, Wire, expect
from test_cli import refused
from test_protect import same_images
from terminal import Terminal
from testlib import Skip, check_load, random_wait, start_load, test

IDLE = dict(guest="idle", cmdline="hz=10", net=False, disk=8)


class SlowImage:
    """A file system of its own for an image, whose writes can be made to wait. They never wait longer than the
    `with` block: a process that waits for it cannot be killed."""

    def __init__(self, lab, megabytes=128):
        self.folder, self.frozen = lab.path("slow"), False
        file = lab.path("slow-fs")
        for tool in ("mkfs.ext4", "fsfreeze"):
            if not shutil.which(tool):
                raise Skip(f"{tool} is not there")
        with open(file, "wb") as f:
            f.truncate(megabytes << 20)
        os.mkdir(self.folder)
        ftlab.run("mkfs.ext4", "-q", file)
        if ftlab.run("mount", "-o", "loop", file, self.folder, check=False).returncode:
            raise Skip("no loop device can be mounted here")
        lab.closing.append(self)

    def freeze(self):
        self.frozen = True
        ftlab.run("fsfreeze", "-f", self.folder)

    def thaw(self):
        if self.frozen:
            ftlab.run("fsfreeze", "-u", self.folder)
        self.frozen = False

    def close(self):
        self.thaw()
        ftlab.run("umount", "-l", self.folder)  # what waited for it may still be ending

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.thaw()


def record(pair):
    """The arbiter's current record."""
    names = [n for n in os.listdir(pair.arbiter_dir) if n[3:].isdigit()]
    with open(os.path.join(pair.arbiter_dir, max(names, key=lambda n: int(n[3:])))) as f:
        return json.load(f)


def refused_start(pair, host, pattern):
    """That side does not start as primary, and says why."""
    vm = pair.primary(host)
    expect(vm.wait_exit(10) == EXIT_FENCED, f"host {host} started: exit code {vm.code}: {vm.log_text()}")
    vm.wait_log(pattern)
    pair.lab.release(vm)


def press(lab):
    """The key that the guest waits for."""
    Terminal(lab).type("\n")


def full_queue(lab, slow, env=None, **options):
    """The guest has ended with more in the secondary's queue than it reads on with, and none of it can reach
    the image. The pair."""
    pair = Pair(lab, guest="blk", cmdline=f"ops={ftlab.work(4000)} depth=16 span=128 key=1", net=False, disk=48, epoch="10s", timeout="5s",
                **options)
    pair.image["B"] = os.path.join(slow.folder, "disk")
    a, b = pair.protect(env=env)
    slow.freeze()
    press(lab)
    begun = b.status()["epochs_total"]
    try:
        a.wait_console("^blk ok", 60)
    except ftlab.LabError:
        # An epoch was acknowledged, and the one behind it, with the guest's last word, found no room.
        if "no acknowledgement in time" in a.log_text() and b.status()["epochs_total"] > begun:
            raise Skip("this machine is too slow: the image was full in the middle of the guest's work") from None
        raise
    d = Deadline(20)
    while not (waiting := re.search(r"(\d+)K of its disk writes wait for the image", b.status()["note"])):
        if not a.alive() and "no acknowledgement in time" in a.log_text():
            raise Skip("this machine is too slow: the image was full in the middle of an epoch")
        expect(a.alive(), f"the stop is over (exit code {a.code}) before the other side has it: {b.state()}")
        if d.left() <= 0 and b.status()["epochs_total"] > begun + 1:
            raise Skip("this machine is too slow to do it in one epoch")
        d.check("the secondary to say what its image lacks")
        a.nap(0.05)
    # A slow machine does not get through so much in an epoch: there the queue is not full, only stuck.
    expect(int(waiting[1]) >> 10 >= 32 or ftlab.SLOW > 2, f"the queue is not full: {waiting[0]}")
    return pair


@test(90)
def stop_backup(lab):
    """the image of a secondary that was stopped has all that was answered: a copy is a backup, and it comes back for the rest"""
    pair = Pair(lab)
    a, b = pair.protect()
    before = start_load(lab)
    random_wait(lab, before, 0.3, 0.6)
    check_load(lab, [before], None)
    expect(b.stop() == 0, f"exit code {b.code}: {b.log_text()}")
    copy = lab.path("backup")
    ftlab.run("cp", "--sparse=always", pair.image["B"], copy)
    lab.check([before], copy)
    after = start_load(lab)
    pair.secondary("B")
    pair.in_step(30)
    random_wait(lab, after, 0.3, 0.6)
    after.finish()
    expect(a.stop() == 0, f"exit code {a.code}: {a.log_text()}")
    lab.check([before, after], pair.image["B"])
    pair.end()


@test(120)
def protected_slow_image(lab):
    """the secondary's image takes nothing for a while: the guest waits, nobody takes that for a death"""
    with SlowImage(lab) as slow:
        pair = Pair(lab, guest="blk", cmdline="ops=7000 depth=16 span=128 key=1", net=False, disk=48, epoch="3s", timeout="1s")
        pair.image["B"] = os.path.join(slow.folder, "disk")
        a, b = pair.protect()
        slow.freeze()
        press(lab)
        seen = {"epoch": 0, "since": 0.0}

        def stands(status):
            expect(status["state"] == "PROTECTED", f"{status['state']}: {status['note']}")
            if status["epoch"] != seen["epoch"]:
                seen.update(epoch=status["epoch"], since=time.monotonic())
            return time.monotonic() > seen["since"] + 8

        a.wait_status(stands, "an epoch that the image keeps from being acknowledged", 60)
        expect(b.state() == "PROTECTED", b.state())
        slow.thaw()
        expect(a.wait_exit(90) == 0 and "blk ok" in a.console_text(), f"exit code {a.code}: {a.log_text()}")
        b.wait_log("stopped in order")
        same_images(pair)


@test(120)
def stop_slow_image(lab):
    """the secondary's image is slow: the stop is over, and its record given back, when all of it is there"""
    with SlowImage(lab) as slow:
        pair = full_queue(lab, slow)
        a, b = pair.vm["A"], pair.vm["B"]
        expect(a.state() == "PROTECTED", f"the primary is {a.state()}")
        expect(not record(pair)["released"], "the record was given back too early")
        slow.thaw()
        expect(a.wait_exit(30) == 0, f"exit code {a.code}: {a.log_text()}")
        b.wait_state("STARTING")
        expect(record(pair)["released"], "the record was not given back")
        same_images(pair)
        expect(b.stop() == 0, f"exit code {b.code}")


@test(120)
def stop_slow_image_none(lab):
    """the same without an arbiter: what was stopped does not run again"""
    with SlowImage(lab) as slow:
        pair = full_queue(lab, slow, arbiter=False)
        slow.thaw()
        b = pair.vm["B"]
        b.wait_state("STARTING", "TAKING-OVER", "DEGRADED", seconds=30)
        expect("TAKING-OVER" not in b.log_text(), f"the secondary runs it: {b.log_text()}")
        expect(pair.vm["A"].wait_exit(10) == 0, f"exit code {pair.vm['A'].code}")
        same_images(pair)


@test(120)
def stop_secondary_too(lab):
    """the secondary is stopped while the rest goes to its image: it ends when that is done, and says so"""
    with SlowImage(lab) as slow:
        pair = full_queue(lab, slow)
        a, b = pair.vm["A"], pair.vm["B"]
        b.signal(signal.SIGTERM)
        b.wait_log("go to the image first")
        expect(b.alive() and a.alive(), "somebody did not wait for the image")
        slow.thaw()
        expect(b.wait_exit(30) == 0, f"exit code {b.code}: {b.log_text()}")
        expect(a.wait_exit(10) == 0, f"exit code {a.code}: {a.log_text()}")
        expect(record(pair)["released"], "the record was not given back")
        same_images(pair)


def protect_by(pair, way):
    """Like protect(), but the secondary reaches the arbiter by a link of its own."""
    os.symlink(pair.arbiter_dir, way)
    b = pair.secondary("B", "--arbiter", f"file:{way}/vm")
    b.wait_state("STARTING")
    a = pair.primary("A")
    pair.in_step()
    return a, b


def lagging(lab, slow, way=None):
    """The guest wrote much that the secondary acknowledged or will, and none of it can reach the image there:
    25M of 32M, many blocks more than once. `way`: a link, the secondary's way to the arbiter. The pair."""
    pair = Pair(lab, guest="blk", cmdline="ops=7000 depth=16 span=128 key=1", net=False, disk=48, epoch="10s", timeout="5s")
    pair.image["B"] = os.path.join(slow.folder, "disk")
    a, b = protect_by(pair, way) if way else pair.protect()
    slow.freeze()
    press(lab)
    d = Deadline(40)
    while os.stat(pair.image["A"]).st_blocks < 50 << 10:
        expect(a.alive() and b.alive(), "somebody ended")
        d.check("the guest's writes")
        a.nap(0.02)
    return pair


def same_bytes(pair):
    with open(pair.image["A"], "rb") as a, open(pair.image["B"], "rb") as b:
        return a.read() == b.read()


@test(120)
def handover_slow_image(lab):
    """a hand-over is seen though the queue is full; the guest's disk waits for it, and so does a snapshot"""
    with SlowImage(lab) as slow:
        pair = lagging(lab, slow)
        a, b = pair.vm["A"], pair.vm["B"]
        a.call("failover")
        expect(a.wait_exit(40) == 3, f"exit code {a.code}: {a.log_text()} {b.log_text()}")
        b.wait_state("DEGRADED")
        expect(b.status()["images_behind"], "the image has it all")
        try:
            b.call("snapshot", file=lab.path("snap"))
        except ftlab.LabError as e:
            expect("are on their way to the images" in str(e), f"{e}")
        else:
            raise ftlab.LabError("a snapshot was taken whose image lacks writes")
        slow.thaw()
        expect(b.wait_exit(60) == 0 and "blk ok" in b.console_text(), f"{b.code}: {b.console_text()}")


def stop_new_side(lab, slow):
    """A hand-over to a side whose image lags, and its stop there. The pair."""
    pair = lagging(lab, slow)
    a, b = pair.vm["A"], pair.vm["B"]
    a.call("failover")
    expect(a.wait_exit(40) == 3, f"exit code {a.code}: {a.log_text()} {b.log_text()}")
    b.wait_state("DEGRADED")
    b.call("stop", timeout_ns=0)
    return pair


@test(120)
def stop_lagging_image(lab):
    """a side that took over is stopped before its image has it all: the stop waits for that, and so does the record"""
    with SlowImage(lab) as slow:
        pair = stop_new_side(lab, slow)
        b = pair.vm["B"]
        expect(not record(pair)["stopped"], f"stopped before the image has it all: {record(pair)}")
        expect("wait for the image" in b.status()["note"], f"{b.status()}")
        slow.thaw()
        expect(b.wait_exit(30) == 0, f"exit code {b.code}: {b.log_text()}")
        expect(record(pair)["stopped"], f"{record(pair)}")
        pair.primary("B").wait_state("UNPROTECTED")


@test(120)
def stop_lagging_killed(lab):
    """the same, but it is killed meanwhile: an image that lacks acknowledged writes does not start unasked"""
    with SlowImage(lab) as slow:
        pair = stop_new_side(lab, slow)
        b = pair.vm["B"]
        expect(b.alive(), "it did not wait for the image")
        b.signal(signal.SIGKILL)
        slow.thaw()
        b.wait_exit(20)
        expect(not same_bytes(pair), "nothing was missing")
        refused_start(pair, "B", "was not given back")


@test(180)
def stop_lagging_late(lab):
    """the same, but the image takes nothing in time: that is said, and the record stays held"""
    with SlowImage(lab) as slow:
        pair = stop_new_side(lab, slow)
        b = pair.vm["B"]
        b.wait_log("stop: the image lacks", seconds=45)
        slow.thaw()
        expect(b.wait_exit(20) == 2, f"exit code {b.code}: {b.log_text()}")
        expect(not (record(pair)["stopped"] or record(pair)["released"]), f"{record(pair)}")
        refused_start(pair, "B", "was not given back")
        pair.primary("A", "--claim").wait_state("UNPROTECTED")


@test(120)
def handover_held_sigterm(lab):
    """the new side is told to end before the old one is gone: what was acknowledged goes to its image first"""
    with SlowImage(lab) as slow:
        way = lab.path("way")
        pair = lagging(lab, slow, way)
        a, b = pair.vm["A"], pair.vm["B"]
        os.unlink(way)
        a.call("failover")
        b.wait_state("TAKING-OVER", seconds=20)
        a.signal(signal.SIGSTOP)  # it takes nothing back
        os.symlink(pair.arbiter_dir, way)
        d = Deadline(4)
        while record(pair)["generation"] < 2:
            d.check("the claim of B")
            b.nap(0.02)
        b.signal(signal.SIGTERM)
        b.wait_log("go to the image first")
        a.kill()
        slow.thaw()
        expect(b.wait_exit(30) == 0, f"exit code {b.code}: {b.log_text()}")
        expect(same_bytes(pair), "acknowledged writes were dropped")


def in_doubt(lab):
    """A hand-over whose claim waits: the new side does not reach the arbiter. The pair, and the link that is its way."""
    pair = Pair(lab, **IDLE)
    way = lab.path("way")
    a, b = protect_by(pair, way)
    os.unlink(way)
    a.call("failover")
    b.wait_state("TAKING-OVER")
    return pair, way


@test(60)
def stop_handed(lab):
    """a stop while the hand-over is in doubt: the side that takes the VM back stops it. Nobody pauses it meanwhile"""
    pair, way = in_doubt(lab)
    a, b = pair.vm["A"], pair.vm["B"]
    refused(lab, ["pause", "vm"], "handed over", code=2)
    a.call("stop", timeout_ns=0)
    expect(a.wait_exit(15) == 0, f"exit code {a.code}: {a.log_text()}")
    a.wait_log("this side will stop it if it comes back")
    expect(record(pair)["stopped"], f"{record(pair)}")
    os.symlink(pair.arbiter_dir, way)
    b.wait_state("STARTING")


@test(60)
def stop_handed_over(lab):
    """the same, but the other side runs it after all: who asked for the stop is told, in JSON, too"""
    pair, way = in_doubt(lab)
    a, b = pair.vm["A"], pair.vm["B"]
    out = lab.path("stop")
    with open(out, "wb") as f:
        stop = Process(lab.ns["A"], [ftlab.FTVMM, "stop", "vm", "--json"], lab.path("stop-log"), stdout=f,
                       env={"XDG_RUNTIME_DIR": a.run_dir})
    lab.processes.append(stop)
    a.wait_log("this side will stop it if it comes back")
    os.symlink(pair.arbiter_dir, way)
    b.wait_state("DEGRADED")
    expect(a.wait_exit(15) == 3 and stop.wait_exit() == 3, f"{a.code}, {stop.code}: {stop.log_text()}")
    expect("runs at the other host" in stop.log_text(), stop.log_text())
    with open(out) as f:
        told = json.load(f)
    expect((told["state"], told["note"]) == ("STOPPED", "handed over"), told)
    expect(b.stop() == 0, f"exit code {b.code}: {b.log_text()}")


@test(60)
def stop_unconfirmed(lab):
    """the secondary dies instead of confirming: only the side that has all of it starts unasked"""
    pair = Pair(lab, **IDLE)
    a, b = pair.protect(env={"B": {"FTVMM_DIE_AT": "drained"}})
    expect(a.stop() == 0, f"exit code {a.code}: {a.log_text()}")
    expect(b.wait_exit(5) == -signal.SIGKILL, f"exit code {b.code}")
    a.wait_log("stop: not confirmed")
    expect((record(pair)["released"], record(pair)["stopped"]) == (False, True), f"{record(pair)}")
    refused_start(pair, "B", "the image there is newer")
    pair.primary("A").wait_state("UNPROTECTED")
    pair.end()


@test(60)
def stop_alone(lab):
    """who ran without a peer in step starts again unasked, and the other, older side does not"""
    pair = Pair(lab, **IDLE)
    a, b = pair.protect()
    expect(a.stop() == 0, f"exit code {a.code}")
    expect(record(pair)["released"], "the record was not given back")
    lab.release(b)
    for _ in range(2):
        a = pair.primary("A")
        a.wait_state("UNPROTECTED")
        expect(a.stop() == 0, f"exit code {a.code}")
        refused_start(pair, "B", "the image there is newer than this one. Start that side with --primary")
    pair.primary("A")
    pair.secondary("B")
    pair.in_step()
    expect(pair.vm["A"].stop() == 0, f"exit code {pair.vm['A'].code}")
    lab.release(pair.vm["B"])
    b = pair.primary("B")
    b.wait_state("UNPROTECTED")  # both were alike
    expect(b.stop() == 0, f"exit code {b.code}")
    refused_start(pair, "A", "newer")
    pair.primary("B", "--claim").wait_state("UNPROTECTED")
    pair.end()


@test(60)
def stop_syncing(lab):
    """a stop in the first sync: the other side's image is half empty, and does not start"""
    wire = Wire(lab)
    pair = Pair(lab, wire=wire, **{**IDLE, "timeout": "5s"})
    with open(pair.image["A"], "r+b") as f:
        f.write(lab.rng.randbytes(40 << 20))  # more than the sockets on the way take in
    b = pair.secondary("B")
    b.wait_state("STARTING")
    wire.do("rate 20000")
    a = pair.primary("A")
    a.wait_state("SYNCING")
    expect(a.stop() == 0, f"exit code {a.code}")
    lab.release(b)
    refused_start(pair, "B", "newer")
    pair.primary("A").wait_state("UNPROTECTED")
    pair.end()


@test(60)
def stop_diskless(lab):
    """without a disk that the guest writes nothing is older: either side starts"""
    pair = Pair(lab, "idle", "hz=10", disk=0, net=False)
    for host in "ABA":
        vm = pair.primary(host)
        vm.wait_state("UNPROTECTED")
        expect(vm.stop() == 0, f"exit code {vm.code}")


@test(60)
def start_failed(lab):
    """a start that came to nothing, as its image is busy, leaves the record as it was"""
    pair = Pair(lab, **IDLE)
    for before, claim in (("nobody's", []), ("its own", ["--claim"])):
        other = Vm(lab, "A", [*claim, "-k", f"{ftlab.GUESTS}/idle.elf", "-m", "64M", "-d", f"id=d0,path={pair.image['A']}"],
                   name="other")
        other.wait_state("RUNNING")
        a = pair.primary("A")
        expect(a.wait_exit(10) == 1 and "in use by another process" in a.log_text(), f"{a.code}: {a.log_text()}")
        lab.release(other, a)
        a = pair.primary("A")
        a.wait_state("UNPROTECTED")
        expect(a.stop() == 0, f"{before} record: exit code {a.code}: {a.log_text()}")


@test(60)
def stop_answered(lab):
    """under load: all that was answered is in the image of either side, whichever starts next"""
    pair = Pair(lab)
    a, b = pair.protect()
    load = start_load(lab)
    load.nap(lab.rng.uniform(0.2, 0.5))
    a.call("stop", timeout_ns=0)
    expect(a.wait_exit(20) == 0, f"exit code {a.code}")
    b.wait_state("STARTING")
    load.finish(answered=False)
    for host in "AB":
        lab.check([load], pair.image[host], "--allow-conn-lost")

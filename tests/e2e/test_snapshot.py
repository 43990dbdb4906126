"""Snapshot files: written from a running VM, started again, damaged."""

import json
import os
import re
import stat

import ftlab
from ftlab import Control, GUEST_IP, Pair, Vm, expect
from testlib import check_load, eighth, hash_cmdline, hash_work, host_digest, random_wait, start_load, test, wait_hash
from test_boot import NET, boot
from test_stop import SlowImage



def restore(lab, path, *args, host="A"):
    return Vm(lab, host, ["--restore", path, *args])


def snapshot(vm, path, **args):
    answer = vm.call("snapshot", 30, file=path, **args)
    expect(os.path.getsize(path) > 0, f"{path} is empty")
    return answer


class Asked:
    """A snapshot on a connection of its own, which the rest of the test does not wait for."""

    def __init__(self, vm, path, **args):
        self.ctl = Control(vm.socket_path(), 30 * ftlab.SLOW)
        self.send("snapshot", file=path, **args)

    def send(self, cmd, **args):
        self.ctl.serial += 1
        self.ctl.sock.sendall(json.dumps({"id": self.ctl.serial, "cmd": cmd, **args}).encode() + b"\n")

    def answer(self):
        return self.ctl.line()


def refused(vm, pattern, **args):
    try:
        vm.call("snapshot", **args)
    except ftlab.LabError as e:
        expect(re.search(pattern, str(e)), f"not '{pattern}': {e}")
    else:
        raise ftlab.LabError(f"a snapshot was taken, not '{pattern}'")


def nothing_left(path):
    """Neither the file nor a part of it."""
    left = [p for p in (path, path + ".tmp") if os.path.exists(p)]
    expect(not left, f"left: {left}")


def writer(lab, **options):
    """A guest that checks all that it writes, all the time."""
    words = {"pages": 256, "tick": 10, "total": 2048, "mode": "random", "report": 1, **options}
    vm = boot(lab, "writer", " ".join(f"{k}={v}" for k, v in words.items()))
    vm.wait_console("^speed")
    return vm


def goes_on(vm, seconds=20):
    """The writer gets two more times to where it reports."""
    seen = vm.console_text().count("speed")
    vm.wait_console(f"(?s)(speed.*){{{seen + 2}}}", seconds)
    expect(vm.alive() and not re.search("CORRUPT|TRAP", vm.console_text()), vm.console_text())


@test(60)
def snapshot_hash(lab):
    """taken in the middle of a computation: original and restored have the right result"""
    work = hash_work(128, 8000)
    want = f"digest {host_digest(lab, *work)}"
    vm = boot(lab, "hash", hash_cmdline(work))
    wait_hash(lab, vm, work)
    snapshot(vm, lab.path("snap"))
    expect("digest" not in vm.console_text(), "the computation ended before the snapshot")
    expect(vm.wait_exit(30) == 0 and want in vm.console_text(), f"the original: {vm.console_text()}")
    for _ in range(2):
        vm = restore(lab, lab.path("snap"))
        expect(vm.wait_exit(30) == 0 and want in vm.console_text(),
               f"restored: exit code {vm.code}, not {want}: {vm.console_text()}")


@test(60)
def snapshot_smp(lab):
    """two and four CPUs, restored in chains"""
    for cpus in eighth(lab, (2, 4)):
        vm = boot(lab, "smp", f"seconds={int(2 + ftlab.SLOW)}", cpus=cpus)
        vm.wait_console("^READY")
        for i in range(max(2, ftlab.work(3))):
            random_wait(lab, vm, 0.1, 0.4)
            path = lab.path(f"snap{cpus}-{i}")
            snapshot(vm, path)
            lab.release(vm)
            vm = restore(lab, path)
        expect(vm.wait_exit(30) == 0 and "smp ok" in vm.console_text(),
               f"exit code {vm.code}: {vm.console_text()}")


def same_bytes(lab, one, two):
    with open(lab.path(one), "rb") as f, open(lab.path(two), "rb") as g:
        x, y = f.read(), g.read()
    differ = [i for i in range(min(len(x), len(y))) if x[i] != y[i]]
    expect(len(x) == len(y) and not differ,
           f"{one} and {two}: {len(x)} and {len(y)} bytes, {len(differ)} differ: {differ[:20]}")


@test(60)
def snapshot_equal(lab):
    """written twice, and written, loaded and written: the same bytes"""
    disk = lab.disk("disk", 8)
    kinds = (("blk", "ops=0 region=4K", 1, ["-d", f"id=d0,path={disk}"]), ("smp", "", 4, []),
             ("echo", f"ip={GUEST_IP}", 1, ["-n", NET]))
    for guest, cmdline, cpus, args in eighth(lab, kinds):
        vm = boot(lab, guest, cmdline, *args, cpus=cpus)
        vm.wait_console("^READY")
        random_wait(lab, vm, 0.1, 0.3)
        vm.call("pause")
        vm.wait_state("PAUSED")
        for name in ("one", "two"):
            snapshot(vm, lab.path(name))
        expect(vm.state() == "PAUSED", "a snapshot let a paused VM go on")
        same_bytes(lab, "one", "two")
        lab.release(vm)
        vm = restore(lab, lab.path("one"), "--paused", *args)
        vm.wait_state("PAUSED")
        snapshot(vm, lab.path("three"))
        same_bytes(lab, "one", "three")
        vm.call("resume")
        vm.wait_state("RUNNING")
        random_wait(lab, vm, 0.2, 0.3)
        expect(vm.alive() and not re.search("CORRUPT|TRAP", vm.console_text()), vm.console_text())
        lab.release(vm)


@test(60)
def snapshot_network(lab):
    """kv under load: paused, written, killed, restored; connections go on"""
    disk = lab.disk("disk", 32)
    backends = ["-d", f"id=d0,path={disk}", "-n", NET]
    vm = boot(lab, "kv", f"ip={GUEST_IP}", *backends)
    load = start_load(lab)
    for i in range(ftlab.work(3)):
        random_wait(lab, load, 0.1, 0.4)
        vm.call("pause")
        snapshot(vm, lab.path(f"snap{i}"))
        lab.release(vm)
        vm = restore(lab, lab.path(f"snap{i}"), *backends)
        lab.probe()
    check_load(lab, [load], disk)


@test(60)
def snapshot_protected(lab):
    """not while a peer would take the pause for a death; a restored VM can be protected"""
    pair = Pair(lab, disk=32)
    a, b = pair.protect()
    try:
        a.call("snapshot", file=lab.path("snap"))
    except ftlab.LabError as e:
        expect("PROTECTED" in str(e), str(e))
    else:
        raise ftlab.LabError("a snapshot was taken of a protected VM")
    load = start_load(lab)
    b.kill()
    a.wait_state("DEGRADED")
    a.call("pause")
    snapshot(a, lab.path("snap"))
    a.kill()
    for vm in (a, b):
        vm.settle()
    b = pair.secondary("B")
    a = pair.vm["A"] = Vm(lab, "A", ["--primary", "--restore", lab.path("snap"), "--claim",
                                     *pair.host_args("A")])
    pair.in_step()
    lab.probe()
    random_wait(lab, load, 0.1, 0.3)
    a.kill()
    b.wait_state("DEGRADED")
    lab.probe()
    check_load(lab, [load], pair.image["B"])


@test(90)
def snapshot_damaged(lab):
    """cut or flipped files are refused, in one line"""
    vm = boot(lab, "writer", "pages=16 tick=10")
    vm.wait_console("^READY")
    snapshot(vm, lab.path("snap"))
    lab.release(vm)
    with open(lab.path("snap"), "rb") as f:
        good = f.read()
    cases = [("cut", good[:lab.rng.randrange(1, len(good))]) for _ in range(ftlab.work(6))]
    for _ in range(ftlab.work(24)):
        at = lab.rng.randrange(len(good))
        cases.append((f"bit flipped in byte {at}",
                      good[:at] + bytes([good[at] ^ 1 << lab.rng.randrange(8)]) + good[at + 1:]))
    cases.append(("not a snapshot", lab.rng.randbytes(5000)))
    for what, data in cases:
        with open(lab.path("bad"), "wb") as f:
            f.write(data)
        vm = restore(lab, lab.path("bad"))
        code = vm.wait_exit(10)
        lines = vm.log_text().strip().splitlines()
        expect(code == 1 and len(lines) == 1, f"{what} of {len(good)}: exit code {code}: {lines}")
        lab.release(vm)


@test(30)
def snapshot_refused(lab):
    """a place that cannot be written: an error, and the VM goes on"""
    vm = boot(lab, "idle", "hz=20 verbose=1")
    vm.wait_console("^READY")
    for path in (lab.path("no/such/folder/snap"), "relative"):
        try:
            vm.call("snapshot", file=path)
        except ftlab.LabError as e:
            expect(re.search("snap|relative|absolute", str(e)), str(e))
        else:
            raise ftlab.LabError(f"no error for {path}")
    expect(vm.state() == "RUNNING", vm.state())
    vm.wait_console("^tick 2")


@test(30)
def snapshot_replaces(lab):
    """only a snapshot or a new name: no folder, FIFO, link, device, and nothing that a VM has open"""
    disk = lab.path("disk")
    with open(disk, "wb") as f:
        f.truncate(8 << 20)
    vm = boot(lab, "idle", "hz=20 verbose=1", "-d", f"id=d0,path={disk}")
    vm.wait_console("^READY")
    os.mkdir(lab.path("folder"))
    os.mkfifo(lab.path("fifo"))
    os.symlink(disk, lab.path("link"))
    os.mknod(lab.path("node"), 0o600 | stat.S_IFBLK, os.makedev(7, 200))
    for what in ("folder", "fifo", "link", "node"):
        before = os.lstat(lab.path(what))
        refused(vm, f"{what}: exists, and is no regular file", file=lab.path(what))
        expect(os.lstat(lab.path(what))[:3] == before[:3], f"{what} was replaced")
        nothing_left(lab.path(what) + ".tmp")
    before = os.stat(disk)
    refused(vm, "in use, by this VM or another", file=disk)
    expect(os.stat(disk).st_ino == before.st_ino, "the disk of the VM was replaced")
    for _ in range(2):
        snapshot(vm, lab.path("snap"))


@test(60)
def snapshot_live(lab):
    """storage takes nothing for a while: guest and commands go on; what is written then is whole, and of one moment"""
    with SlowImage(lab) as slow:
        vm = writer(lab)
        path = os.path.join(slow.folder, "snap")
        slow.freeze()
        asked = Asked(vm, path)
        asked.send("status")  # behind it on the same connection: answered after it
        vm.wait_status(lambda s: s.get("snapshot", {}).get("file") == path, "the snapshot")
        goes_on(vm)
        refused(vm, "is being written", file=lab.path("other"))
        vm.call("pause")
        vm.wait_state("PAUSED")
        vm.call("resume")
        goes_on(vm)
        slow.thaw()
        answer = asked.answer()
        expect(answer.get("id") == 1 and answer["ok"]["passes"] >= 1 and answer["ok"]["pause_us"] > 0, str(answer))
        expect(asked.answer().get("id") == 2, "no answer to what was asked behind it")
        lab.note(f"snapshot: {answer['ok']}")
        vm.wait_log(f"snapshot '{path}': .* while the VM stood: {answer['ok']['pause_us']} us")
        expect("snapshot" not in vm.status(), "status still says that a snapshot is under way")
        goes_on(vm)
        lab.release(vm)
        vm = restore(lab, path)
        vm.wait_console("^speed")
        goes_on(vm)
        lab.release(vm)


@test(60)
def snapshot_ended(lab):
    """who asked leaves, or the VM ends, while storage takes nothing: no file, no wait, and the next one is good"""
    with SlowImage(lab) as slow:
        vm = writer(lab)
        path = os.path.join(slow.folder, "snap")
        slow.freeze()
        asked = Asked(vm, path)
        vm.wait_status(lambda s: "snapshot" in s, "the snapshot")
        asked.ctl.close()
        vm.wait_log("who asked for it has left")
        refused(vm, "has not let it go yet", file=path)
        goes_on(vm)
        slow.thaw()
        vm.wait_status(lambda s: "snapshot" not in s, "the end of the snapshot that was given up")
        nothing_left(path)
        snapshot(vm, path)
        os.unlink(path)
        slow.freeze()
        asked = Asked(vm, path)
        vm.wait_status(lambda s: "snapshot" in s, "the snapshot")
        vm.call("stop", timeout_ns=0)
        expect("has ended before" in asked.answer().get("error", ""), "who asked was not told")
        slow.thaw()
        expect(vm.wait_exit(10) == 0, f"exit code {vm.code}")
        nothing_left(path)
        lab.release(vm)


@test(60)
def snapshot_full(lab):
    """a disk that is full: an error, nothing left of it, and the VM goes on"""
    folder = lab.path("small")
    os.mkdir(folder)
    ftlab.run("mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder)
    try:
        vm = writer(lab)
        refused(vm, "small/snap.*No space left", file=os.path.join(folder, "snap"))
        nothing_left(os.path.join(folder, "snap"))
        goes_on(vm)
        snapshot(vm, lab.path("snap"))
        lab.release(vm)
        vm = restore(lab, lab.path("snap"))
        vm.wait_console("^speed")
        lab.release(vm)
    finally:
        ftlab.run("umount", "-l", folder)

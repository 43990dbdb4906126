"""Live migration with images that each host has for itself: --copy-disks."""

import filecmp
import os

import ftlab
from ftlab import GUEST_IP, Vm, expect
from testlib import check_load, eighth, random_wait, start_load, test
from test_boot import NET, boot
from test_migrate import DEST_BEFORE, LAZY, MIGRATIONS, Move, all_there, client, migrate, where, works

WAYS = ({"how": "precopy"}, *LAZY)


class MoveDisk(Move):
    """One whose hosts have an image each; what they have in them at first does not matter."""

    def __init__(self, lab, vm, images, *args):
        super().__init__(lab, vm, *args)
        self.images = images

    def destination(self, uri, *more, env=None):
        return super().destination(uri, "-d", f"id=d0,path={self.images[self.there()]}", *more, env=env)

    def go(self, kind="tcp", **options):
        done = super().go(kind, **{"copy-disks": True}, **options)
        size = os.path.getsize(self.images["A"])
        expect(done["disk"]["total"] == size and done["disk"]["transferred"] > 0, f"{done}")
        return done


def images_of(lab, megabytes, text=b"what was there before"):
    """One for each host, B's with something in it."""
    images = {host: lab.disk(f"disk-{host}-{lab.next_serial()}", megabytes) for host in "AB"}
    with open(images["B"], "r+b") as f:
        for at in range(0, megabytes << 20, 1 << 20):
            f.seek(at + 5000)
            f.write(text)
    return images


def disk_guest(lab, megabytes=8, images=None, cpus=1, env=None):
    """A VM that knows what its disk must hold."""
    images = images or images_of(lab, megabytes)
    vm = Vm(lab, "A", ["-k", f"{ftlab.GUESTS}/blk.elf", "-a", f"ops=0 region=8K cpus={cpus}", "-m", "64M", "-c", str(cpus),
                       "-d", f"id=d0,path={images['A']}"], env)
    vm.wait_console("^READY")
    return MoveDisk(lab, vm, images)


@test(120)
def migrate_copy_disks(lab):
    """there and back in each way under load, each host with an image of its own: equal when the guest stands"""
    move = disk_guest(lab, 16, cpus=2)
    for n, options in enumerate(WAYS):
        random_wait(lab, move.vm, 0.1, 0.4)
        move.go(("tcp", "unix")[n % 2], **options)
        works(lab, move.vm)
        all_there(move.vm)


@test(90)
def migrate_copy_kv(lab):
    """kv under load, there and back: connections kept, the history is that of one server and one disk"""
    images = images_of(lab, 32)
    net = ["-n", NET]
    move = MoveDisk(lab, boot(lab, "kv", f"ip={GUEST_IP}", "-d", f"id=d0,path={images['A']}", *net), images, *net)
    load = start_load(lab)
    for options in WAYS:
        random_wait(lab, load, 0.1, 0.5)
        move.go("tcp", **options)
        lab.probe()
        all_there(move.vm)
    check_load(lab, [load], images[move.host])


def part(lab, image):
    """Nobody starts a part of an image."""
    vm = Vm(lab, "A", ["-k", f"{ftlab.GUESTS}/blk.elf", "-m", "64M", "-d", f"id=d0,path={image}"], name="other")
    expect(vm.wait_exit(10) == 1 and "a part of an image" in vm.log_text(), f"{vm.code}: {vm.log_text()}")
    lab.release(vm)


def in_use(lab, image):
    vm = Vm(lab, "A", ["-k", f"{ftlab.GUESTS}/blk.elf", "-m", "64M", "-d", f"id=d0,path={image}"], name="other")
    expect(vm.wait_exit(10) == 1 and "in use" in vm.log_text(), f"{vm.code}: {vm.log_text()}")
    lab.release(vm)


def full_guest(lab):
    """One whose image takes as long as it is let."""
    images = images_of(lab, 64)
    with open(images["A"], "r+b") as f:
        f.seek(8 << 20)
        f.write(lab.rng.randbytes(56 << 20))
    return disk_guest(lab, images=images)


def begin(move, uri, how="precopy", **options):
    """Up to a part of its image."""
    move.vm.call("migrate", **{how: uri, "copy-disks": True, "bandwidth": "8M"}, **options)
    return move.vm.wait_status(lambda s: 2 << 20 < s["migration"].get("disk", {}).get("transferred", 0), "a part of the image")


def still_here(lab, move, to):
    """It goes on at the source, whose image nobody else has; there is a part of one at the destination; and again."""
    works(lab, move.vm)
    to.wait_state("STARTING")
    in_use(lab, move.images["A"])
    part(lab, move.images["B"])


@test(90)
def migrate_copy_cancel(lab):
    """given up in the middle of the image: it goes on here, the other is a part and says so; the next one succeeds"""
    move = full_guest(lab)
    for how in eighth(lab, ("precopy", "postcopy")):
        uri = move.uri("unix")
        to = move.destination(uri)
        disk = begin(move, uri, how)["migration"]["disk"]
        expect(0 < disk["remaining"] < disk["total"] == 64 << 20, f"{disk}")
        there = to.status()["migration"]["disk"]
        expect(there["total"] == 64 << 20 and there["transferred"] > 0, f"{there}")
        in_use(lab, move.images["B"])
        move.vm.call("migrate", cancel=True)
        move.vm.wait_status(lambda s: s["migration"]["status"] == "cancelled", "that it is given up")
        still_here(lab, move, to)
        lab.release(to)
    uri = move.uri("tcp")
    to = move.destination(uri)
    code, out, err = client(lab, move.vm, "--precopy", uri, "--copy-disks", "--timeout", "50s")
    expect(code == 0 and "of the past" in err and '"remaining"' in out, f"{code}: {out[-300:]}{err}")
    works(lab, to)


@test(90)
def migrate_copy_cut(lab):
    """the link is cut in the middle of the image, and after the switch of a postcopy"""
    wire = ftlab.Wire(lab)
    move = full_guest(lab)
    to = move.destination(f"tcp:{ftlab.LINK_IP['B']}:{ftlab.FT_PORT}")
    begin(move, wire.peer_of["A"])
    wire.do("cut")
    move.vm.wait_status(lambda s: s["migration"]["status"] == "failed", "that it is given up")
    still_here(lab, move, to)
    move.vm.call("migrate", **{"postcopy": wire.peer_of["A"], "copy-disks": True, "no-background": True})
    move.vm.wait_log("downtime")
    wire.do("cut")
    move.vm.wait_log("link is back")
    works(lab, to)
    to.stop()
    expect(move.vm.wait_exit() == ftlab.EXIT_GONE, f"exit code {move.vm.code}")


@test(90)
def migrate_copy_full(lab):
    """no space at the destination: refused, and it goes on here"""
    move = full_guest(lab)
    small = lab.path("small")
    os.mkdir(small)
    ftlab.run("mount", "-t", "tmpfs", "-o", "size=16M", "none", small)
    try:
        move.images["B"] = f"{small}/disk"
        with open(move.images["B"], "wb") as f:
            f.truncate(64 << 20)
        uri = move.uri("unix")
        to = move.destination(uri)
        done = migrate(move.vm, uri, **{"copy-disks": True})
        expect(done["status"] == "failed" and "No space left" in done["error-desc"], f"{done}")
        still_here(lab, move, to)
        lab.release(to)
    finally:
        ftlab.run("umount", small)


@test(120)
def migrate_copy_hangs(lab):
    """a destination's medium that never answers: given up, it listens again soon, and nobody says that a mark is there"""
    move = full_guest(lab)
    folder, medium = lab.path("frozen"), lab.disk("medium", 128)
    os.mkdir(folder)
    ftlab.run("mkfs.ext4", "-q", medium)
    ftlab.run("mount", "-o", "loop", medium, folder)
    try:
        move.images["B"] = f"{folder}/disk"
        with open(move.images["B"], "wb") as f:
            f.truncate(64 << 20)
        uri = move.uri("unix")
        to = move.destination(uri)
        begin(move, uri)
        ftlab.run("fsfreeze", "-f", folder)
        try:
            move.vm.call("migrate", cancel=True)
            to.wait_log("may be a part of one and not say so", 45)
            to.wait_state("STARTING")
            works(lab, move.vm)
        finally:
            ftlab.run("fsfreeze", "-u", folder)
        done = migrate(move.vm, uri, **{"copy-disks": True})
        expect(done["status"] == "completed", f"{done}")
        works(lab, to)
        lab.release(to)
    finally:
        ftlab.run("umount", "--lazy", folder)  # a ring lets go of its files a moment after its process


@test(60)
def migrate_copy_refused(lab):
    """images that are not to be written are not: of another size, read-only, somebody's, a device over the source's; its file goes by its lock"""
    move = disk_guest(lab)
    good = move.images["B"]
    before = ftlab.run("sha256sum", good).stdout
    holder = Vm(lab, "B", ["-k", f"{ftlab.GUESTS}/idle.elf", "-m", "64M", "-d", f"id=d0,path={good}"], name="holder")
    holder.wait_console("^READY")
    loop = ftlab.run("losetup", "-f", "--show", move.images["A"]).stdout.strip()
    try:
        for image, word in ((lab.disk("small", 4), "the machine has"), (f"{good},ro", "read-only here"),
                            (good, "in use by another"), (loop, "a block device here or at the source")):
            move.images["B"] = image
            uri = move.uri("unix")
            to = move.destination(uri)
            done = migrate(move.vm, uri, **{"copy-disks": True})
            expect(done["status"] == "failed" and word in done["error-desc"], f"{image}: {done}")
            works(lab, move.vm)
            lab.release(to)
    finally:
        ftlab.run("losetup", "-d", loop)
    lab.release(holder)
    expect(ftlab.run("sha256sum", good).stdout == before, "an image was written all the same")
    move.images["B"] = move.images["A"]
    uri = move.uri("unix")
    to = move.destination(uri)
    done = migrate(move.vm, uri, **{"copy-disks": True})
    expect(done["status"] == "completed" and "disk" not in done, f"{done}")
    works(lab, to)


@test(120)
def migrate_copy_kill(lab):
    """the destination dies at each step: the VM goes on at the source; the source dies: the other is a part"""
    for name in eighth(lab, DEST_BEFORE + ("mig-ready",)):
        move = disk_guest(lab)
        uri = move.uri("unix")
        to = move.destination(uri, env={"FTVMM_DIE_AT": name})
        done = migrate(move.vm, uri, **{"copy-disks": True})
        if name == "mig-ready" and done["status"] == "unsure":
            expect(to.wait_exit() == -9, f"{name}: exit code {to.code}")
            move.vm.call("migrate", cancel=True, force=True)
            done = move.vm.status()["migration"]
        move.vm.wait_state("RUNNING")
        expect(to.wait_exit() == -9, f"{name}: {to.code} {done}")
        works(lab, move.vm)
        lab.release(to)
        move.go("unix")
        works(lab, move.vm)
        lab.release(move.vm)
    for name in eighth(lab, ("mig-disk:20", "mig-stood", "mig-last", "mig-sent", "mig-go")):
        move = disk_guest(lab, env={"FTVMM_DIE_AT": name})
        uri = move.uri("unix")
        to = move.destination(uri)
        move.vm.call("migrate", **{"precopy": uri, "copy-disks": True})
        expect(move.vm.wait_exit() == -9, f"{name}: exit code {move.vm.code}")
        to.wait_state("STARTING")
        part(lab, move.images["B"])
        lab.release(to, move.vm)


@test(120)
def migrate_copy_equal(lab):
    """paused in the middle of it: both images are equal, byte for byte, and what is not used is a hole"""
    move = disk_guest(lab, 64, cpus=2)
    for options in eighth(lab, WAYS):
        options = dict(options, **{"copy-disks": True, "bandwidth": "16M"})
        how = options.pop("how")
        uri = move.uri("unix")
        to = move.destination(uri)
        move.vm.call("migrate", **{how: uri}, **options)
        move.vm.wait_status(lambda s: s["migration"].get("disk", {}).get("transferred", 0) > 1 << 20, "a part of the image")
        random_wait(lab, move.vm, 0, 0.2)
        move.vm.call("pause")
        expect(move.vm.wait_exit(60) == ftlab.EXIT_GONE, f"exit code {move.vm.code}: {move.vm.log_text()}")
        to.wait_state("PAUSED")
        expect(filecmp.cmp(move.images["A"], move.images["B"], shallow=False), f"{how}: the images differ")
        blocks = os.stat(move.images[move.there()]).st_blocks
        expect(blocks < 5 << 11, f"{how}: the copy has {blocks >> 1} KiB, of 4 MiB that are used")
        lab.release(move.vm)
        move.vm, move.host = to, move.there()
        to.call("resume")
        works(lab, to)
        all_there(to)


@test(90 * MIGRATIONS)
def migrate_copy_random(lab):
    """in random ways, the link cut at a random moment: it runs at exactly one side, with its disk (MIGRATIONS=n for more)"""
    wire = ftlab.Wire(lab)
    move = disk_guest(lab, 16, cpus=2)
    moved = 0
    for n in range(2 * MIGRATIONS + ftlab.work(2 * MIGRATIONS)):
        to = move.destination(f"tcp:{ftlab.LINK_IP[move.there()]}:{ftlab.FT_PORT}")
        options = dict(lab.rng.choice(WAYS))
        how = options.pop("how")
        lab.note(f"migration {n}: {how} {options}")
        move.vm.call("migrate", **{how: wire.peer_of[move.host], "copy-disks": True}, **options)
        random_wait(lab, move.vm, 0, 0.3)
        wire.do("cut")
        moved += where(move, to)
        works(lab, move.vm)
    lab.note(f"{moved} moved")


@test(60)
def migrate_copy_frozen(lab):
    """a destination that freezes in the middle of it: given up in time, and it goes on here"""
    move = disk_guest(lab)
    uri = move.uri("unix")
    to = move.destination(uri, env={"FTVMM_STOP_AT": "mig-taken:20"})
    move.vm.call("migrate", **{"precopy": uri, "copy-disks": True, "timeout": f"{int(1000 + 1000 * ftlab.SLOW)}ms"})
    move.vm.wait_status(lambda s: s["migration"]["status"] == "failed", "that it is given up")
    expect("--timeout" in move.vm.status()["migration"]["error-desc"], f"{move.vm.status()}")
    works(lab, move.vm)
    to.signal(ftlab.signal.SIGCONT)
    to.wait_state("STARTING")
    part(lab, move.images["B"])
    done = migrate(move.vm, uri, **{"copy-disks": True})
    expect(done["status"] == "completed", f"{done}")
    works(lab, to)


@test(60)
def migrate_copy_pace(lab):
    """--bandwidth holds for images, too"""
    move = full_guest(lab)
    begun = ftlab.time.monotonic()
    done = move.go("tcp", bandwidth="32M")
    took = ftlab.time.monotonic() - begun
    expect(took > 0.9 * done["disk"]["transferred"] / (32 << 20), f"{done['disk']} in {took:.2f} s")


@test(60)
def migrate_copy_limits(lab):
    """a guest that changes its disk faster than it is brought over is not switched, in postcopy neither"""
    move = disk_guest(lab, 16)
    random_wait(lab, move.vm, 0.5, 1)
    uri = move.uri("unix")
    to = move.destination(uri)
    for how in eighth(lab, ("precopy", "postcopy", "auto")):
        done = migrate(move.vm, uri, how, **{"copy-disks": True, "bandwidth": "1M", "timeout": "3s", "downtime": "1ms"})
        expect(done["status"] == "failed" and "of images are left" in done["error-desc"], f"{how}: {done}")
        works(lab, move.vm)
        to.wait_state("STARTING")

"""Live migration: there and back, what is refused, what is given up, and what nobody answers."""

import json
import os
import re
import subprocess

import ftlab
from ftlab import GUEST_IP, LINK_IP, FTVMM, Vm, expect
from testlib import (changed, check_load, eighth, hash_cmdline, hash_work, host_digest, random_wait, start_load,
                     test, wait_hash)
from test_boot import NET, boot

PORT = 7950
UNDER_WAY = ("active", "cancelling")
# Of ft/common/steps.h: before it is too late to go back, after that; at the destination, likewise.
SOURCE_BEFORE = ("mig-offered", "mig-pages", "mig-stood", "mig-unlocked", "mig-last", "mig-sent", "mig-go")
SOURCE_AFTER = ("mig-went", "mig-known")
DEST_BEFORE = ("mig-built", "mig-taken", "mig-locked", "mig-loaded")
DEST_AFTER = ("mig-ready", "mig-told", "mig-ran", "mig-said")
# With an urgent link; while memory comes behind the VM; while a lost link is mended.
SOURCE_LAZY = ("mig-paired", "mig-serves", "mig-pushed", "mig-answered", "mig-eos")
SOURCE_MENDS = ("mig-cut", "mig-asks", "mig-mends", "mig-again")
DEST_PAIR = ("mig-pair",)
DEST_LAZY = ("mig-wants", "mig-filled", "mig-whole")
DEST_MENDS = ("mig-lost", "mig-have", "mig-mended")
DISKS = ("mig-disk",)  # test_migrate_disks.py
STEPS = (DISKS + SOURCE_BEFORE + SOURCE_AFTER + SOURCE_LAZY + SOURCE_MENDS + DEST_BEFORE + DEST_AFTER + DEST_PAIR +
         DEST_LAZY + DEST_MENDS)
# How much of memory is sent before the VM runs there: all; none, two passes of it, or what it takes.
PRECOPY = ({"how": "precopy"},)
LAZY = ({"how": "postcopy"}, {"how": "postcopy", "passes": 2, "downtime": "1ms"},
        {"how": "auto", "downtime": "1ms", "timeout": "20s"})
MIGRATIONS = int(os.environ.get("MIGRATIONS") or 2)  # of a guest in each way


def tcp(host):
    return f"tcp:{LINK_IP[host]}:{PORT}"


class Move:
    """A VM that goes from host to host. args: what each host gives it, disks and nets."""

    def __init__(self, lab, vm, *args):
        self.lab, self.vm, self.host, self.args, self.count = lab, vm, "A", args, 0

    def uri(self, kind):
        self.count += 1
        return tcp(self.there()) if kind == "tcp" else f"unix:{self.lab.path(f'in{self.count}')}"

    def there(self):
        return "B" if self.host == "A" else "A"

    def destination(self, uri, *more, env=None):
        to = Vm(self.lab, self.there(), ["--incoming", uri, *self.args, *more], env)
        to.wait_state("STARTING")
        return to

    def go(self, kind="tcp", **options):
        """Moves it; the migration object of the source's last event."""
        uri = self.uri(kind)
        to = self.destination(uri)
        done = migrate(self.vm, uri, **options)
        expect(done["status"] == "completed", f"{done}")
        code = self.vm.wait_exit()
        expect(code == ftlab.EXIT_GONE, f"the source's exit code is {code}: {self.vm.log_text()}")
        self.lab.release(self.vm)
        self.vm, self.host = to, self.there()
        return done


def last_event(vm, seconds=60):
    """The migration event that says how it ended."""
    ctl = vm.control(ftlab.Deadline(seconds))
    ctl.sock.settimeout(seconds * ftlab.SLOW)
    while True:
        event = ctl.events.pop(0) if ctl.events else ctl.line()
        if event.get("event") == "migration" and event["status"] not in UNDER_WAY:
            return event


def migrate(vm, uri, how="precopy", **options):
    """Asks for it and waits for its end, as the control socket has it."""
    vm.status()
    vm.ctl.events = []
    status = vm.call("migrate", **{how: uri}, **options)
    return status if status["status"] not in UNDER_WAY else last_event(vm)


def all_there(vm):
    vm.wait_status(lambda s: s["migration"]["status"] == "completed", "all of its memory", 30)


def journey(lab, ways):
    """(kind of link, options) of MIGRATIONS in each way: over both kinds in both directions. On a slow machine of an
    eighth, if no number was asked for."""
    moves = [(("tcp", "unix")[(n + n // 2) % 2], options) for options in ways for n in range(MIGRATIONS)]
    return moves if MIGRATIONS > 2 else eighth(lab, moves)


def sound(move):
    """The guest has found nothing wrong so far."""
    text = move.vm.console_text()
    expect(move.vm.alive() and not re.search("CORRUPT|TRAP|FAILED|STALLED|BACKWARDS", text), f"{move.vm.code}: {text}")


def writer_moves(lab, ways, cmdline):
    move = Move(lab, boot(lab, "writer", f"{cmdline} report=1", memory="128M"))
    move.vm.wait_console("^READY")
    for kind, options in journey(lab, ways):
        done = move.go(kind, **options)
        move.vm.wait_state("RUNNING")
        all_there(move.vm)
        move.vm.wait_console("^speed")
        sound(move)
        expect(done["downtime-us"]["total"] > 0 and done["ram"]["total"] == 128 << 20, f"{done}")


@test(30 * MIGRATIONS)
def migrate_writer(lab):
    """there and back while the guest writes; what it wrote is what it reads (MIGRATIONS=N in each way)"""
    writer_moves(lab, PRECOPY, "pages=200 tick=5")


@test(45 * MIGRATIONS)
def postcopy_writer(lab):
    """the same in each way that has memory come afterwards"""
    writer_moves(lab, LAZY, "pages=2000 tick=20")


def hash_moves(lab, ways):
    """Guests that compute, until all is done; each is moved up to the last quarter of its work."""
    work, left = hash_work(128, 16000), journey(lab, ways)
    want, last = f"digest {host_digest(lab, *work)}", work[1] * 3 // 4
    while left:
        move = Move(lab, boot(lab, "hash", hash_cmdline(work)))
        wait_hash(lab, move.vm, work)
        at = 0
        while left and at < last:
            kind, options = left.pop(0)
            move.go(kind, **options)
            all_there(move.vm)
            move.vm.wait_console("^hash ", 30)
            at = int(re.findall(r"^hash (\d+)", move.vm.console_text(), re.M)[-1])
        expect(move.vm.wait_exit(60) == 0 and want in move.vm.console_text(), f"not {want}: {move.vm.console_text()}")
        lab.release(move.vm)


@test(30 * MIGRATIONS)
def migrate_hash(lab):
    """in the middle of a computation: the right result"""
    hash_moves(lab, PRECOPY)


@test(60 * MIGRATIONS)
def postcopy_hash(lab):
    """the same in each way that has memory come afterwards"""
    hash_moves(lab, LAZY)


def counts(line):
    """Of each CPU of the smp guest."""
    return [int(n) for n in re.findall(r"(\d+)/\d+", line)]


def smp_moves(lab, ways, cpus):
    move = Move(lab, boot(lab, "smp", "", cpus=cpus))
    move.vm.wait_console("^READY")
    for kind, options in journey(lab, ways):
        random_wait(lab, move.vm, 0.1, 0.4)
        move.go(kind, **options)
        all_there(move.vm)
        sound(move)
    lines = move.vm.wait_console("^(smp .*)\n(?:.*\n)*?(smp .*)\n", 20)
    before, after = counts(lines[1]), counts(lines[2])
    expect(len(before) == cpus and all(a < b for a, b in zip(before, after)), f"a CPU stands: {lines[0]}")
    sound(move)
    lab.release(move.vm)


@test(30 * MIGRATIONS)
def migrate_smp(lab):
    """two and four CPUs, there and back"""
    for cpus in eighth(lab, (2, 4)):
        smp_moves(lab, PRECOPY, cpus)


@test(45 * MIGRATIONS)
def postcopy_smp(lab):
    """four CPUs, in each way that has memory come afterwards"""
    smp_moves(lab, LAZY, 4)


def disk_guest(lab, env=None, cpus=1):
    """A VM that knows what its disk must hold, whose lock tells who has it."""
    disk = ["-d", f"id=d0,path={lab.disk(f'disk{lab.next_serial()}', 8)}"]
    move = Move(lab, boot(lab, "blk", "ops=0 region=8K", *disk, cpus=cpus, env=env), *disk)
    move.vm.wait_console("^READY")
    return move


def works(lab, vm):
    """It runs, and its disk takes what it writes."""
    vm.wait_state("RUNNING")
    random_wait(lab, vm, 0.1, 0.2)
    expect(vm.alive() and not re.search("CORRUPT|TRAP|FAILED", vm.console_text()), vm.console_text())


@test(30 * MIGRATIONS)
def migrate_disk(lab):
    """an image that both hosts open: its lock goes along; each sector is what was written last"""
    move = disk_guest(lab, cpus=2)
    for kind, options in journey(lab, PRECOPY):
        random_wait(lab, move.vm, 0.1, 0.4)
        move.go(kind, **options)
        move.vm.wait_state("RUNNING")
        intruder = Vm(lab, "A", ["-k", f"{ftlab.GUESTS}/blk.elf", "-m", "64M", *move.args], name="other")
        expect(intruder.wait_exit(10) == 1 and "in use" in intruder.log_text(), intruder.log_text())
        lab.release(intruder)
        works(lab, move.vm)


@test(45 * MIGRATIONS)
def postcopy_blk(lab):
    """a disk whose rings and buffers are not there yet"""
    move = disk_guest(lab)
    for kind, options in journey(lab, LAZY):
        move.go(kind, **options)
        works(lab, move.vm)
        all_there(move.vm)


def kv_moves(lab, ways):
    """Under load, with its disk."""
    disk = lab.disk("disk", 32)
    args = ["-d", f"id=d0,path={disk}", "-n", NET]
    move = Move(lab, boot(lab, "kv", f"ip={GUEST_IP}", *args), *args)
    load = start_load(lab)
    for kind, options in journey(lab, ways):
        random_wait(lab, load, 0.1, 0.5)
        move.go(kind, **options)
        lab.probe()
        all_there(move.vm)
    check_load(lab, [load], disk)


@test(45 * MIGRATIONS)
def migrate_kv(lab):
    """kv under load, there and back: connections and echo streams kept, the history is that of one server"""
    kv_moves(lab, PRECOPY)


@test(45 * MIGRATIONS)
def postcopy_kv(lab):
    """the same in each way that has memory come afterwards"""
    kv_moves(lab, LAZY)


def paused_moves(lab, ways):
    """A VM that is paused when it leaves, and until it has been looked at."""
    move = Move(lab, boot(lab, "writer", "pages=300 total=6000 mode=random tick=5 report=1", memory="64M"))
    for kind, options in journey(lab, ways):
        move.vm.wait_console("^speed")
        random_wait(lab, move.vm, 0, 0.1)
        move.vm.call("pause")
        before = move.vm.memory()
        move.go(kind, **options)
        move.vm.wait_state("PAUSED")
        all_there(move.vm)
        lines = changed(before, move.vm.memory())
        expect(len(lines) <= 1, f"{kind} {options}: not what it was, in lines at {lines[:8]}, {len(lines)} in all")
        move.vm.call("resume")
    move.vm.wait_console("^speed")
    sound(move)


@test(30 * MIGRATIONS)
def migrate_pages(lab):
    """a paused guest: each page of its memory is what it was at the source"""
    paused_moves(lab, PRECOPY)


@test(45 * MIGRATIONS)
def postcopy_pages(lab):
    """the same in each way that has memory come afterwards"""
    paused_moves(lab, LAZY)


@test(60)
def migrate_paused(lab):
    """a VM that the user had paused stays so, and goes on where it is told to"""
    move = Move(lab, boot(lab, "idle", "hz=20 verbose=1"))
    move.vm.wait_console("^tick 1")
    move.vm.call("pause")
    move.go("tcp")
    move.vm.wait_state("PAUSED")
    expect(move.vm.status()["paused"], "not paused by the user")
    move.go("unix")
    move.vm.wait_state("PAUSED")
    expect("tick" not in move.vm.console_text(), "it ran")
    move.vm.call("resume")
    move.vm.wait_state("RUNNING")
    move.vm.wait_console("^tick")


@test(60)
def migrate_restored(lab):
    """one that was restored, and has not run since, migrates, too"""
    vm = boot(lab, "idle", "hz=20 verbose=1")
    vm.wait_console("^tick 1")
    vm.call("snapshot", 30, file=lab.path("snap"))
    lab.release(vm)
    move = Move(lab, Vm(lab, "A", ["--restore", lab.path("snap"), "--paused"]))
    move.vm.wait_state("PAUSED")
    move.go("tcp")
    move.vm.wait_state("PAUSED")
    move.vm.call("resume")
    move.vm.wait_console("^tick")


@test(60)
def migrate_reboot(lab):
    """a guest that resets itself again and again is moved in the middle of it"""
    kernel = ["-k", f"{ftlab.GUESTS}/reset.elf"]
    vm = boot(lab, "reset", "boots=0 gap=20")
    move = Move(lab, vm, *kernel)
    vm.wait_console("^boot 2")
    for kind in ("tcp", "unix"):
        move.go(kind)
        move.vm.wait_console("^boot")
        move.vm.wait_status(lambda s: s["resets_total"] > 2, "resets at the destination")


def command(vm, name, *args, seconds=30):
    """`ftvmm NAME VM ...` as a user has it: exit code, and what it said."""
    p = subprocess.run([FTVMM, name, vm.name, *args], capture_output=True, text=True, timeout=seconds * ftlab.SLOW,
                       env=dict(os.environ, XDG_RUNTIME_DIR=vm.run_dir), check=False)
    return p.returncode, p.stdout, p.stderr


def client(lab, vm, *args, seconds=30):
    """`ftvmm migrate` as a user has it."""
    return command(vm, "migrate", *args, seconds=seconds)


@test(60)
def migrate_client(lab):
    """the command: JSON lines, exit codes, and its death does not matter"""
    move = Move(lab, boot(lab, "writer", "pages=50 tick=10", memory="128M"))
    move.vm.wait_console("^READY")
    uri = f"unix:{lab.path('in')}"
    code, out, err = client(lab, move.vm, "--precopy", uri)
    expect(code == ftlab.EXIT_FAILED and "goes on here" in err and f"{uri}: cannot connect: No such file" in err and
           "--incoming" in err, f"nobody listens: {code}: {out}{err}")
    code, out, err = client(lab, move.vm, "--precopy", "tcp:127.0.0.1:1")
    expect(code == ftlab.EXIT_FAILED and "tcp:127.0.0.1:1: cannot connect: Connection refused" in err,
           f"nobody listens: {code}: {out}{err}")
    for args, word in ((["--precopy", uri, "--cancel"], "exclude"), ([], "argument is missing"), (["--cancel"], "none is"),
                       (["--precopy", "file:/x"], "file"), (["--precopy", "fd:3"], "connected to again"),
                       (["--downtime", "1s"], "where to"), (["--precopy", uri, "--passes", "0"], "passes"),
                       (["--precopi", uri], "nearest is --precopy"), (["--precopy", "tls:127.0.0.1:1"], "needs a key"),
                       (["--precopy", uri, "--bandwidth", "1K"], "bandwidth"), (["--force"], "--cancel"), (["--precopy", uri, "--postcopy", uri], "exclude"),
                       (["--precopy", uri, "--no-background"], "goes with --postcopy"),
                       (["--auto", uri, "--passes", "0"], "goes with --postcopy"),
                       (["--cancel", "--force"], "none is"), (["--recover", uri], "none is under way"),
                       (["--recover", uri, "--cancel"], "goes alone"), (["--recover", "fd:3"], "connected to again"),
                       (["--recover", uri, "--precopy", uri], "goes alone")):
        code, out, err = client(lab, move.vm, *args)
        expect(code in (1, 2) and word in err and not out, f"{args}: {code}: {out}{err}")
    to = move.destination(uri)
    code, out, err = client(lab, move.vm, "--precopy", uri, "--bandwidth", "64M")
    lines = [json.loads(line) for line in out.splitlines()]
    expect(code == 0 and lines[-1]["status"] == "completed", f"{code}: {out}{err}")
    expect(move.vm.wait_exit() == ftlab.EXIT_GONE, f"exit code {move.vm.code}")
    to.wait_state("RUNNING")
    expect(to.status()["migration"]["status"] == "completed", to.status()["migration"])


def on_terminal(lab, vm, *args):
    """What `ftvmm migrate` writes to a terminal, line by line over each other."""
    ours, theirs = os.openpty()
    with open(ours, "rb", buffering=0) as screen:
        p = subprocess.Popen([FTVMM, "migrate", vm.name, *args], stdout=theirs, stderr=subprocess.DEVNULL,
                             stdin=subprocess.DEVNULL, env=dict(os.environ, XDG_RUNTIME_DIR=vm.run_dir))
        os.close(theirs)
        text = b""
        try:
            while part := screen.read(4096):
                text += part
        except OSError:
            pass  # nobody has the other end any more
    expect(p.wait(30 * ftlab.SLOW) == 0, f"exit code {p.returncode}: {text}")
    return text.decode().split("\r")


@test(60)
def migrate_bar(lab):
    """on a terminal: how the pass gets on; behind the switch what the VM there still lacks"""
    move = Move(lab, boot(lab, "writer", "pages=50 total=4000 mode=seq tick=50", memory="64M"))
    move.vm.wait_console("^speed")
    for how, words in (("--precopy", r"\[#* *\] \d+ MiB sent, \d+ left, pass \d+, \d+ Mbit/s, dirty"),
                       ("--postcopy", r"\[#* *\] \d+ MiB sent, \d+ left, the VM runs there, \d+ pages asked for")):
        to = move.destination(uri := move.uri("unix"))
        lines = on_terminal(lab, move.vm, how, uri, "--bandwidth", "16M")
        expect(any(re.match(words, line) for line in lines), f"{how}: {lines}")
        to.wait_state("RUNNING")
        all_there(to)
        lab.release(move.vm)
        move.vm, move.host = to, move.there()


def refused(lab, move, word, *args, at_source=None):
    """The destination has these arguments, and refuses; the VM goes on, and another one can come in there."""
    uri = move.uri("unix")
    to = Vm(lab, "B", ["--incoming", uri, *args])
    to.wait_state("STARTING")
    done = migrate(move.vm, uri)
    expect(done["status"] == "failed" and word in done["error-desc"], f"{args}: {done}")
    move.vm.wait_state("RUNNING")
    to.wait_status(lambda s: s["state"] == "STARTING" and word in s["note"], f"'{word}' there")
    expect(move.vm.status()["migration"]["ram"]["transferred"] == 0, "pages were sent first")
    lab.release(to)


@test(60)
def migrate_refused(lab):
    """what the destination cannot be is said before anything is sent"""
    image = lab.disk("disk", 8)
    move = Move(lab, boot(lab, "idle", "hz=20 verbose=1", "-d", f"id=d0,path={image}", "-n", NET))
    move.vm.wait_console("^READY")
    net = ["-n", NET]
    refused(lab, move, "no image given here", *net)
    refused(lab, move, "not given here", "-d", f"id=d0,path={image}")
    refused(lab, move, "the machine has", "-d", f"id=d0,path={lab.disk('small', 4)}", *net)
    refused(lab, move, "not the one that the source has open", "-d", f"id=d0,path={lab.disk('other', 8)}", *net)
    refused(lab, move, "read-only here", "-d", f"id=d0,path={image},ro", *net)
    refused(lab, move, "has 64M of memory, this side takes 62M at most", "-d", f"id=d0,path={image}", *net, "--max-memory", "62M")
    move.vm.wait_console("^tick")


@test(60)
def migrate_options(lab):
    """combinations that mean nothing are refused at the start, with the reason"""
    uri = f"unix:{lab.path('in')}"
    for args, word in ((["-k", f"{ftlab.GUESTS}/idle.elf", "-m", "64M"], "the source sends it"),
                       (["--restore", "/x"], "--restore and --incoming"), (["--paused"], "--paused"),
                       (["-c", "2"], "the source sends it"), (["--primary", "--peer", uri, "--ft", "mc"], "--incoming"),
                       (["--secondary", "--listen", uri], "--incoming")):
        vm = Vm(lab, "A", ["--incoming", uri, *args])
        expect(vm.wait_exit(10) == 1 and word in vm.log_text(), f"{args}: {vm.code}: {vm.log_text()}")
        lab.release(vm)
    for bad in ("fd:5", "file:/x", "tcp:a", "tls:a:1"):
        vm = Vm(lab, "A", ["--incoming", bad])
        expect(vm.wait_exit(10) == 1 and "incoming" in vm.log_text(), f"{bad}: {vm.code}: {vm.log_text()}")
        lab.release(vm)
    vm = Vm(lab, "A", ["--primary", "--peer", uri, "--ft", "mc", "-k", f"{ftlab.GUESTS}/idle.elf", "-m", "64M"])
    vm.wait_console("^READY")
    try:
        vm.call("migrate", precopy=uri)
    except ftlab.LabError as e:
        expect("fault tolerance" in str(e), str(e))
    else:
        raise ftlab.LabError("a primary migrates")


def slow(lab, **more):
    """A VM whose migration takes as long as it is let: much memory, little bandwidth."""
    move = Move(lab, boot(lab, "writer", "pages=500 total=8000 mode=random tick=20", memory="128M"), **more)
    move.vm.wait_console("^speed")
    return move


def begin(move, uri, **options):
    """Up to its first pages."""
    move.vm.call("migrate", precopy=uri, bandwidth="4M", **options)
    return move.vm.wait_status(lambda s: s["migration"]["ram"]["transferred"] > 1 << 20, "pages that went out")


@test(60)
def migrate_cancel(lab):
    """given up in the middle: the VM goes on, nothing is left at the destination, and the next one succeeds"""
    move = slow(lab)
    uri = move.uri("tcp")
    to = move.destination(uri)
    status = begin(move, uri)
    expect(status["state"] == "MIGRATING" and status["migration"]["phase"] == "SRC_PASSES", f"{status}")
    there = to.wait_state("MIGRATING")["migration"]
    expect(there["status"] == "active" and there["direction"] == "in", f"{there}")
    for cmd, args, word in (("migrate", {"precopy": uri}, "under way"), ("snapshot", {"file": lab.path("s")}, "migrates"),
                            ("migrate", {"cancel": True, "force": True}, "--force is only")):
        try:
            move.vm.call(cmd, **args)
        except ftlab.LabError as e:
            expect(word in str(e), str(e))
        else:
            raise ftlab.LabError(f"no error for {cmd} {args}")
    code, out, err = client(lab, move.vm, "--cancel")
    expect(code == 0, f"{code}: {out}{err}")
    move.vm.wait_state("RUNNING")
    expect(move.vm.status()["migration"]["status"] == "cancelled", move.vm.status()["migration"])
    there = to.wait_state("STARTING")
    expect("cancelled by the user" in there["note"], there["note"])
    done = migrate(move.vm, uri)
    expect(done["status"] == "completed", f"{done}")
    to.wait_console("^speed")
    expect(not re.search("CORRUPT|TRAP", to.console_text()), to.console_text())


@test(60)
def migrate_cancel_late(lab):
    """it is done when the images are the source's again, and not before"""
    move = disk_guest(lab)
    uri = move.uri("unix")
    to = move.destination(uri, env={"FTVMM_STOP_AT": "mig-locked"})
    move.vm.call("migrate", precopy=uri)
    frozen(to)
    cancel = subprocess.Popen([FTVMM, "migrate", move.vm.name, "--cancel"], stdout=subprocess.PIPE, text=True,
                              env=dict(os.environ, XDG_RUNTIME_DIR=move.vm.run_dir))
    move.vm.wait_status(lambda s: "in use" in s["note"] and s["migration"]["status"] == "cancelling",
                        "images that the other one has still")
    expect(cancel.poll() is None, "it is done before the images are back")
    to.signal(ftlab.signal.SIGCONT)
    out, _ = cancel.communicate(timeout=20 * ftlab.SLOW)
    last = json.loads(out.splitlines()[-1])
    expect(cancel.returncode == 0 and last["status"] == "cancelled" and last["phase"] == "SRC_IDLE", out)
    works(lab, move.vm)


@test(60)
def migrate_limits(lab):
    """a guest that writes more than gets through is not switched: after so long, after so many passes"""
    move = slow(lab)
    uri = move.uri("tcp")
    to = move.destination(uri)
    done = migrate(move.vm, uri, bandwidth="4M", timeout="1s", downtime="1ms")
    expect(done["status"] == "failed" and "--timeout" in done["error-desc"], f"{done}")
    to.wait_state("STARTING")
    # A pass takes longer than a tick of the guest.
    done = migrate(move.vm, uri, passes=2, downtime="1ms", bandwidth="64M")
    expect(done["status"] == "failed" and "after 2 passes" in done["error-desc"] and
           done["ram"]["dirty-sync-count"] == 2, f"{done}")
    to.wait_state("STARTING")
    move.vm.wait_state("RUNNING")
    done = migrate(move.vm, uri, downtime="5s")
    expect(done["status"] == "completed", f"{done}")


@test(120)
def postcopy_late(lab):
    """--auto, half of --timeout is over in the middle of the first pass, or of a later one: the rest comes afterwards"""
    times = min(ftlab.SLOW, 3)
    for bandwidth, seconds in eighth(lab, ((8, 4), (16, 6))):
        move = slow(lab)
        done = move.go("tcp", how="auto", bandwidth=f"{int(bandwidth / times)}M", downtime="1ms",
                       timeout=f"{int(1000 * seconds * times)}ms")
        expect(done["ram"]["postcopy-pages"]["background"], f"{done}")
        all_there(move.vm)
        move.vm.wait_console("^speed")
        sound(move)
        lab.release(move.vm)


@test(60)
def migrate_stop(lab):
    """a VM that is stopped, or ends, in the middle ends here"""
    move = slow(lab)
    uri = move.uri("tcp")
    to = move.destination(uri)
    begin(move, uri)
    expect(move.vm.stop() == 0, f"exit code {move.vm.code}")
    to.wait_state("STARTING")
    lab.release(move.vm)
    move.vm = boot(lab, "hash", "pages=4000 rounds=1000000", memory="128M")
    move.vm.wait_console("^READY")
    begin(move, uri)
    move.vm.call("pause")
    expect(move.vm.status()["paused"], "not paused")
    move.vm.call("resume")
    move.vm.call("migrate", cancel=True)
    move.vm.wait_state("RUNNING")


@test(120)
def migrate_kill_destination(lab):
    """the destination dies at each step: before GO the VM goes on at the source, with its disk"""
    for name in eighth(lab, DEST_BEFORE + ("mig-ready",)):
        move = disk_guest(lab)
        uri = move.uri("unix")
        to = move.destination(uri, env={"FTVMM_DIE_AT": name})
        done = migrate(move.vm, uri)
        if name == "mig-ready" and done["status"] == "unsure":
            expect(to.wait_exit() == -9, f"{name}: exit code {to.code}")
            move.vm.call("migrate", cancel=True, force=True)
        else:
            expect(to.wait_exit() == -9 and done["status"] == "failed", f"{name}: {to.code} {done}")
        works(lab, move.vm)
        lab.release(to)
        move.go("unix")
        works(lab, move.vm)
        lab.release(move.vm)


@test(120)
def migrate_kill_unsure(lab):
    """the destination dies after GO: the source asks, and stands until the user decides"""
    for name in eighth(lab, ("mig-told", "mig-ran")):
        move = disk_guest(lab)
        uri = move.uri("unix")
        to = move.destination(uri, env={"FTVMM_DIE_AT": name})
        done = migrate(move.vm, uri)
        expect(to.wait_exit() == -9 and done["status"] == "unsure", f"{name}: {to.code} {done}")
        status = move.vm.wait_state("PAUSED")
        expect("--cancel --force" in status["note"], status["note"])
        lab.release(to)
        to = move.destination(uri)  # which knows nothing of it
        move.vm.wait_status(lambda s: "not known here" in s["note"], "an answer that says nothing")
        for cmd, args, word in (("resume", {}, "stands for its migration"), ("migrate", {"cancel": True}, "too late"),
                                ("migrate", {"precopy": uri}, "under way"), ("snapshot", {"file": "/x"}, "migrates")):
            try:
                move.vm.call(cmd, **args)
            except ftlab.LabError as e:
                expect(word in str(e), str(e))
            else:
                raise ftlab.LabError(f"no error for {cmd} {args}")
        move.vm.call("migrate", cancel=True, force=True)
        works(lab, move.vm)
        lab.release(to)
        move.go("unix")
        works(lab, move.vm)
        lab.release(move.vm)
    move = disk_guest(lab)
    uri = move.uri("unix")
    to = move.destination(uri, env={"FTVMM_DIE_AT": "mig-ran"})
    expect(migrate(move.vm, uri)["status"] == "unsure", "not unsure")
    move.vm.call("stop")
    expect(move.vm.wait_exit() == ftlab.EXIT_FENCED, f"exit code {move.vm.code}")


@test(120)
def migrate_kill_source(lab):
    """the source dies at each step: before GO nothing is left of it at the destination, after GO it runs there"""
    for name in eighth(lab, SOURCE_BEFORE + SOURCE_AFTER):
        move = disk_guest(lab, env={"FTVMM_DIE_AT": name})
        uri = move.uri("unix")
        to = move.destination(uri)
        try:
            migrate(move.vm, uri)
        except (ftlab.LabError, ConnectionError):
            pass
        expect(move.vm.wait_exit() == -9, f"{name}: exit code {move.vm.code}")
        if name in SOURCE_BEFORE:
            to.wait_status(lambda s: s["state"] == "STARTING" and s["note"] != "waiting for a migration",
                           "the end of the link")
        else:
            works(lab, to)
        lab.release(to, move.vm)


def frozen(vm):
    """Until it has stopped itself."""
    d = ftlab.Deadline(10)
    while ftlab.read_text(f"/proc/{vm.pid}/stat").rsplit(")", 1)[1].split()[0] != "T":
        d.check(f"{vm} to freeze")
        vm.nap()


@test(120)
def migrate_frozen(lab):
    """a destination that freezes at each step: given up in time before GO; after it, asked until it answers"""
    for name in eighth(lab, ("mig-ran", "mig-said")):
        move = disk_guest(lab)
        uri = move.uri("unix")
        to = move.destination(uri, env={"FTVMM_STOP_AT": name})
        move.vm.call("migrate", precopy=uri)
        if name == "mig-ran":
            frozen(to)
            expect(last_event(move.vm)["status"] == "unsure", "not unsure")
            random_wait(lab, move.vm, 1, 3)
            move.vm.wait_state("PAUSED")
            to.signal(ftlab.signal.SIGCONT)
        expect(last_event(move.vm)["status"] == "completed", "not completed")
        expect(move.vm.wait_exit() == ftlab.EXIT_GONE, f"exit code {move.vm.code}")
        to.signal(ftlab.signal.SIGCONT)
        works(lab, to)
        lab.release(to, move.vm)
    for name, word in eighth(lab, (("mig-taken", "--timeout"), ("mig-locked", "--timeout"), ("mig-loaded", "--timeout"))):
        move = disk_guest(lab)
        uri = move.uri("unix")
        to = move.destination(uri, env={"FTVMM_STOP_AT": name})
        # Before the 10 s in which an answer is due after the stop.
        move.vm.call("migrate", precopy=uri, timeout=f"{int(min(1000 + 1000 * ftlab.SLOW, 7000))}ms")
        frozen(to)
        if name == "mig-taken":
            done = last_event(move.vm)
            expect(done["status"] == "failed" and word in done["error-desc"], f"{done}")
        else:
            move.vm.wait_status(lambda s: "in use" in s["note"], "images that the other one has still")
            move.vm.wait_state("PAUSED")
            to.signal(ftlab.signal.SIGCONT)
            done = last_event(move.vm)
            expect(done["status"] == "failed" and word in done["error-desc"], f"{done}")
        to.signal(ftlab.signal.SIGCONT)
        works(lab, move.vm)
        to.wait_state("STARTING")
        done = migrate(move.vm, uri)
        expect(done["status"] == "completed", f"{name}: {done}")
        works(lab, to)
        lab.release(to, move.vm)


@test(60)
def postcopy_told(lab):
    """what both sides tell fits together: pages by kind, faults, block time of each vCPU: status, events, log"""
    vm = boot(lab, "writer", "pages=500 total=4000 mode=random tick=10", memory="128M", cpus=2)
    vm.wait_console("^speed")
    move = Move(lab, vm)
    to = move.destination(uri := move.uri("tcp"))
    to.call("events")
    source = migrate(vm, uri, "postcopy", bandwidth="16M")
    expect(source["status"] == "completed", f"{source}")
    told = last_event(to)
    status = to.status()["migration"]
    expect(told["phase"] in ("DST_RUNS", "DST_HERE") and told["postcopy-vcpus"] == status["postcopy-vcpus"],
           f"{told} {status}")
    ram, pages = status["ram"], status["ram"]["postcopy-pages"]
    sent = source["ram"]["postcopy-pages"]
    expect(ram["remaining"] == source["ram"]["remaining"] == 0, f"{ram}")
    expect(pages["urgent"] + pages["background"] + pages["zero"] == (128 << 20) // 4096, f"{pages}")
    expect(pages == sent and pages["duplicate"] == 0, f"{pages} {sent}")
    expect(ram["postcopy-requests"] == source["ram"]["postcopy-requests"] >= pages["urgent"] > 0, f"{ram} {source}")
    expect(ram["postcopy-bytes"] > 4096, f"{ram}")
    expect(ram["postcopy-pending"]["pages"] == ram["postcopy-pending"]["threads"] == 0 and
           ram["postcopy-pending"]["threads-max"] > 0, f"{ram}")
    everybody = status["postcopy-vcpus"] + [status["postcopy-others"]]
    expect(len(everybody) == 3 and sum(w["faults"] for w in everybody) == ram["postcopy-faults"] > 0, f"{status}")
    expect(all(w["max-us"] <= w["blocked-us"] for w in everybody), f"{everybody}")
    took = status["postcopy-latency-us"]
    expect(0 < took["p50"] <= took["p99"] <= took["max"] == max(w["max-us"] for w in everybody), f"{status}")
    expect(0 < sum(status["postcopy-latency-dist"]) <= ram["postcopy-faults"], f"{status}")
    blocked = status["postcopy-vcpu-blocktime"]
    expect(blocked == [round(w["blocked-us"] / 1000) for w in status["postcopy-vcpus"]] or
           all(abs(b - w["blocked-us"] / 1000) <= 1 for b, w in zip(blocked, status["postcopy-vcpus"])), f"{status}")
    expect(status["postcopy-blocktime"] <= min(blocked) + 1, f"{status}")
    for who in ("vcpu0", "vcpu1", "others"):
        expect(re.search(rf"postcopy: {who}: \d+ faults", to.log_text()), to.log_text())


def stuck(lab, move, env=None):
    """The VM runs there, and its memory comes only as it is asked for. Source and destination."""
    uri = move.uri("unix")
    to = move.destination(uri, env=env)
    move.vm.call("migrate", **{"postcopy": uri, "no-background": True})
    move.vm.wait_status(lambda s: s["migration"]["phase"] == "SRC_SERVE", "a VM that runs there")
    to.wait_state("RUNNING")
    return move.vm, to


@test(60)
def postcopy_no_background(lab):
    """nothing is pushed; what is refused meanwhile on both sides; a destination that is stopped lets the source go"""
    source, to = stuck(lab, Move(lab, boot(lab, "writer", "pages=200 tick=10", memory="128M")))
    status = source.status()
    expect(status["state"] == "MIGRATING", f"{status}")
    to.wait_console("^speed")
    for vm, cmd, args, word in ((to, "pause", {}, "comes in"), (to, "snapshot", {"file": "/x"}, "comes in"),
                                (to, "migrate", {"precopy": "unix:/x"}, "comes in"),
                                (source, "migrate", {"cancel": True}, "too late"), (source, "resume", {}, "stands"),
                                (source, "migrate", {"cancel": True, "force": True}, "--force is only")):
        try:
            vm.call(cmd, **args)
        except ftlab.LabError as e:
            expect(word in str(e), f"{cmd} {args}: {e}")
        else:
            raise ftlab.LabError(f"no error for {cmd} {args}")
    source.call("stop")
    expect(source.alive() and to.state() == "RUNNING", "the source left with the VM's memory")
    to.stop()
    expect(source.wait_exit() == ftlab.EXIT_GONE, f"exit code {source.code}")


def cpu_ticks(vm):
    """What its vCPUs have had of CPUs so far."""
    total = 0
    for task in os.listdir(f"/proc/{vm.pid}/task"):
        with open(f"/proc/{vm.pid}/task/{task}/stat", encoding="utf-8") as f:
            name, rest = f.read().split("(", 1)[1].rsplit(")", 1)
        if name.startswith("vcpu"):
            total += sum(int(n) for n in rest.split()[11:13])
    return total


@test(60)
def postcopy_source_rests(lab):
    """from the switch on no vCPU of the source takes any time, while the guest gets on at the destination"""
    move = Move(lab, boot(lab, "writer", "pages=200 tick=0 report=1", memory="128M"))
    move.vm.wait_console("^speed", 20)
    source, to = stuck(lab, move)
    before = cpu_ticks(source)
    expect(before > 0, "no time of the source's vCPU is seen at all")
    to.wait_console(r"^speed[\s\S]*^speed[\s\S]*^speed", 20)
    expect(cpu_ticks(source) == before, f"{before} ticks at the switch, {cpu_ticks(source)} now")
    expect(cpu_ticks(to) > 0, "no time of the destination's vCPU is seen")


@test(60)
def postcopy_snapshot(lab):
    """a VM whose memory came afterwards is saved and restored as any other, and moves on"""
    move = Move(lab, boot(lab, "writer", "pages=2000 tick=20 report=1", memory="128M"))
    move.vm.wait_console("^speed")
    move.go("unix", how="postcopy")
    all_there(move.vm)
    move.vm.call("snapshot", 30, file=lab.path("snap"))
    lab.release(move.vm)
    move = Move(lab, Vm(lab, "A", ["--restore", lab.path("snap")]))
    move.vm.wait_console("^speed")
    move.go("unix", how="postcopy")
    all_there(move.vm)
    move.vm.wait_console("^speed")
    sound(move)


@test(90)
def postcopy_source_dies(lab):
    """the destination says so, and then the VM stands, in a state of its own; its control socket answers, what has come
    can be kept, and it can be stopped"""
    source, to = stuck(lab, Move(lab, boot(lab, "writer", "pages=200 tick=10", memory="128M", cpus=2)))
    source.kill()
    to.wait_status(lambda s: "link lost" in s["note"], "a note that the link is lost")
    expect(to.status()["migration"]["phase"] == "DST_CUT" and to.state() == "RUNNING", f"{to.status()}")
    asked = subprocess.run([FTVMM, "wait", to.name, "INCOMPLETE", "--timeout", f"{int(45 * ftlab.SLOW)}s"],
                           env=dict(os.environ, XDG_RUNTIME_DIR=to.run_dir), check=False)
    status = to.status()
    expect(asked.returncode == 0 and status["state"] == "INCOMPLETE" and not status["paused"] and
           status["migration"]["phase"] == "DST_ORPHAN" and status["migration"]["status"] == "postcopy-paused",
           f"{asked}: {status}")
    note = status["note"]
    expect("has not asked for 30 s" in note and "ftvmm stop NAME" in note and "--recover URI" in note, note)
    before = cpu_ticks(to)
    expect(command(to, "status")[0] == 4, "it is shown as a VM that is well")
    _, metrics, _ = command(to, "metrics")
    expect(re.search(r'^ftvmm_ft_state\{vm="[^"]*",state="INCOMPLETE"\} 1$', metrics, re.M), metrics)
    for cmd in ("pause", "resume"):
        try:
            to.call(cmd)
        except ftlab.LabError as e:
            expect("has not asked" in str(e), str(e))
        else:
            raise ftlab.LabError(f"no error for {cmd}")
    file = lab.path("arrived")
    said = subprocess.run([FTVMM, "snapshot", to.name, file, "arrived"], capture_output=True, text=True,
                          env=dict(os.environ, XDG_RUNTIME_DIR=to.run_dir))
    expect(said.returncode == 0 and "had not arrived" in said.stdout, f"{said}")
    missing = int(said.stdout.split()[0])
    expect(missing * 4096 == to.status()["migration"]["ram"]["remaining"] and os.path.getsize(file) > 1024,
           f"{missing} missing, {os.path.getsize(file)} bytes: {to.status()['migration']['ram']}")
    expect(cpu_ticks(to) - before <= 2, f"its vCPUs take time while it stands: {before}, {cpu_ticks(to)}")
    to.call("stop")
    to.wait_exit(10)
    said = subprocess.run([FTVMM, "run", "--restore", file, "--console", "none"], text=True, stderr=subprocess.PIPE,
                          env=dict(os.environ, XDG_RUNTIME_DIR=to.run_dir))
    expect(said.returncode == 1 or said.returncode == 2, f"{said}")
    expect("had arrived when a source died" in said.stderr, said.stderr)


@test(120)
def postcopy_source_silent_long(lab):
    """nobody asks for so long that the VM stands; then the way to the source is there again: it goes on, whole"""
    wire = ftlab.Wire(lab)
    move = Move(lab, boot(lab, "writer", "pages=100 total=12000 mode=seq tick=50", memory="128M"))
    move.vm.wait_console("^speed")
    source, to = move.vm, move.destination(f"tcp:{LINK_IP['B']}:{ftlab.FT_PORT}")
    source.call("migrate", postcopy=wire.peer_of["A"], bandwidth="8M")
    to.wait_status(lambda s: s["migration"]["phase"] == "DST_FILL", "a VM that runs there")
    source.signal(ftlab.signal.SIGSTOP)
    wire.do("cut")
    to.wait_state("INCOMPLETE", seconds=45)
    source.signal(ftlab.signal.SIGCONT)
    to.wait_state("RUNNING", seconds=20)
    expect(source.wait_exit(60) == ftlab.EXIT_GONE, f"exit code {source.code}: {source.log_text()}")
    all_there(to)
    to.wait_console("^speed")
    expect(not re.search("CORRUPT|TRAP", to.console_text()), to.console_text())


@test(60)
def migrate_client_source_dies(lab):
    """whoever waits at a source that dies is not told that the VM goes on there, but where to look"""
    move = Move(lab, boot(lab, "writer", "pages=200 tick=10", memory="128M"))
    uri = move.uri("unix")
    to = move.destination(uri)
    p = subprocess.Popen([FTVMM, "migrate", move.vm.name, "--postcopy", uri, "--no-background"], text=True,
                         stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                         env=dict(os.environ, XDG_RUNTIME_DIR=move.vm.run_dir))
    to.wait_state("RUNNING")
    move.vm.kill()
    err = p.communicate(timeout=30 * ftlab.SLOW)[1]
    expect(p.returncode == ftlab.EXIT_FENCED and "status at the other host" in err, f"{p.returncode}: {err}")
    to.call("stop", timeout_ns=0)


@test(60)
def postcopy_destination_dies(lab):
    """the source keeps what is here until the user says that nobody needs it: then it ends, and never runs the VM"""
    move = Move(lab, boot(lab, "writer", "pages=200 tick=10", memory="128M"))
    uri = move.uri("unix")
    source, to = move.vm, move.destination(uri)
    follower = subprocess.Popen([FTVMM, "migrate", source.name, "--postcopy", uri, "--no-background"], text=True,
                                stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                                env=dict(os.environ, XDG_RUNTIME_DIR=source.run_dir))
    source.wait_status(lambda s: s.get("migration", {}).get("phase") == "SRC_SERVE", "a VM that runs there")
    to.kill()
    source.wait_status(lambda s: "link lost" in s["note"] and "--cancel --force" in s["note"], "what to do")
    for cmd, args in (("stop", {}), ("migrate", {"cancel": True})):
        try:
            source.call(cmd, **args)
        except ftlab.LabError as e:
            expect("needs what is here" in str(e) and "--cancel --force" in str(e), str(e))
        else:
            raise ftlab.LabError(f"no error for {cmd} {args}")
    source.signal(ftlab.signal.SIGTERM)
    source.wait_log("needs what is here")
    expect(source.state() == "PAUSED", f"{source.status()}")
    code, out, err = client(lab, source, "--cancel", "--force")
    expect(code == 0 and not err, f"{code}: {out}{err}")
    expect(source.wait_exit() == ftlab.EXIT_GONE, f"exit code {source.code}: {source.log_text()}")
    _, err = follower.communicate(timeout=20 * ftlab.SLOW)
    expect(follower.returncode == ftlab.EXIT_GONE and "the VM is the destination's" in err,
           f"who began it: {follower.returncode}: {err}")


def cut_again_and_again(lab, move, scheme):
    wire = ftlab.Wire(lab)
    move.vm.wait_console("^speed")
    to = move.destination(f"{scheme}:{LINK_IP['B']}:{ftlab.FT_PORT}")
    move.vm.call("migrate", **{"postcopy": wire.peer_of["A"].replace("tcp:", f"{scheme}:"), "bandwidth": "8M"})
    move.vm.wait_log("downtime")
    for n in range(1, 4):
        random_wait(lab, move.vm, 0.2, 0.6)
        wire.do("cut")
        move.vm.wait_log("(?s)" + ".*".join(["link lost"] * n))
        move.vm.wait_log("(?s)" + ".*".join(["link is back"] * n))
    move.vm.wait_exit(60)
    expect(move.vm.code == ftlab.EXIT_GONE, f"exit code {move.vm.code}: {move.vm.log_text()}")
    all_there(to)
    to.wait_console("^speed")
    expect(not re.search("CORRUPT|TRAP", to.console_text()), to.console_text())


@test(90)
def postcopy_cut(lab):
    """the link is cut after the switch, again and again: it is connected again, and all of it comes"""
    move = Move(lab, boot(lab, "writer", "pages=100 total=12000 mode=seq tick=50", memory="128M"))
    cut_again_and_again(lab, move, "tcp")


@test(90)
def postcopy_cut_slow(lab):
    """a link on which it takes longer to say what is there than the source waits for a word: it is mended all the same"""
    wire = ftlab.Wire(lab)
    move = Move(lab, boot(lab, "writer", "pages=200 tick=10", memory="1G"))
    move.vm.wait_console("^speed")
    to = move.destination(f"tcp:{LINK_IP['B']}:{ftlab.FT_PORT}")
    move.vm.call("migrate", **{"postcopy": wire.peer_of["A"], "no-background": True})
    move.vm.wait_status(lambda s: s["migration"]["phase"] == "SRC_SERVE", "a VM that runs there")
    wire.do("rate 6000")
    wire.do("cut")
    move.vm.wait_log("link is back", 40)
    wire.do("rate 0")
    to.wait_log("link is back")
    to.wait_console("^speed")
    to.stop()
    expect(move.vm.wait_exit() == ftlab.EXIT_GONE, f"exit code {move.vm.code}")
    expect(not re.search("CORRUPT|TRAP", to.console_text()), to.console_text())


def two_ways(lab, move, env=None, **options):
    """A migration over the proxy, which dies: no way is left but the one that it returns. Destination, way."""
    wire, other = ftlab.Wire(lab), f"unix:{lab.path('other')}"
    to = move.destination(f"tcp:{LINK_IP['B']}:{ftlab.FT_PORT}", env=env)
    wire.do("delay 0")  # it listens
    move.vm.call("migrate", **options, **{"postcopy": wire.peer_of["A"]})
    if env:
        frozen(to)
    else:
        move.vm.wait_status(lambda s: s["migration"]["phase"] == "SRC_SERVE", "a VM that runs there")
        random_wait(lab, move.vm, 0.1, 0.4)
    wire.kill()
    move.vm.wait_status(lambda s: s["state"] == "PAUSED" and "--recover URI" in s["note"], "what to do")
    if env:
        to.signal(ftlab.signal.SIGCONT)
    return to, other


@test(90)
def postcopy_recover(lab):
    """the way to the destination is gone: by hand, over another one, also when nobody knows yet where the VM runs"""
    for env in eighth(lab, (None, {"FTVMM_STOP_AT": "mig-ran"})):
        move = Move(lab, boot(lab, "writer", "pages=100 total=12000 mode=seq tick=50", memory="128M"))
        move.vm.wait_console("^speed")
        expect(client(lab, move.vm, "--recover", "unix:/x")[2].count("none is under way"), "nothing to recover")
        to, other = two_ways(lab, move, env, bandwidth="8M")
        code, out, err = client(lab, move.vm, "--recover", other)  # nobody is there yet
        expect(code == 0, f"{code}: {out}{err}")
        code, out, err = client(lab, to, "--recover", f"unix:{lab.path('none/x')}")
        expect(code == 2 and "none/x" in err, f"{code}: {out}{err}")
        code, out, err = client(lab, to, "--recover", other)
        expect(code == 0, f"{code}: {out}{err}")
        move.vm.wait_exit(60)
        expect(move.vm.code == ftlab.EXIT_GONE, f"exit code {move.vm.code}: {move.vm.log_text()}")
        all_there(to)
        to.wait_console("^speed")
        expect(not re.search("CORRUPT|TRAP", to.console_text()), to.console_text())
        to.wait_status(lambda s: s["migration"]["phase"] == "DST_HERE", "the source's last word")
        code, out, err = client(lab, to, "--recover", other)
        expect(code == 2 and "all of the VM is here" in err, f"{code}: {out}{err}")
        lab.release(to, move.vm)


def recover(lab, vm, uri, word=None):
    """By hand; word: of the reason for which it is refused, a pattern."""
    code, out, err = client(lab, vm, "--recover", uri)
    expect(code == (2 if word else 0) and re.search(word or "", err), f"{uri}: {code}: {out}{err}")


@test(90)
def postcopy_file(lab):
    """no network is left: what the destination lacks is carried over in a file; one that is not whole, or another's,
    changes nothing"""
    good, bad = lab.path("pages"), lab.path("bad")
    move = Move(lab, boot(lab, "writer", "pages=100 total=12000 mode=seq tick=50", memory="128M"))
    move.vm.wait_console("^speed")
    to, _ = two_ways(lab, move, bandwidth="8M")
    to.wait_status(lambda s: s["migration"]["phase"] == "DST_CUT", "an end of the link")
    recover(lab, move.vm, f"file:{lab.path('none/x')}", "none/x")
    recover(lab, move.vm, f"file:{good}")
    expect(move.vm.state() == "PAUSED", f"{move.vm.status()}")
    with open(good, "rb") as f:
        data = f.read()
    size = len(data)
    damaged = data[:size // 3] + bytes([data[size // 3] ^ 1]) + data[size // 3 + 1:]
    for name, content, word in (("empty", b"", "too early"), ("a text", b"hello\n" * 99, "preface"),
                                ("damaged", damaged, "checksum"), ("cut", data[:size // 2], "truncated|too early")):
        with open(bad, "wb") as f:
            f.write(content)
        recover(lab, to, f"file:{bad}", word)
        status = to.wait_status(lambda s: s["migration"]["phase"] == "DST_CUT" and "file: " in s["note"], "the reason")
        expect(status["migration"]["ram"]["remaining"] > 0, f"{name}: {status}")
    recover(lab, to, f"file:{lab.path('none')}", "cannot open")
    other = Vm(lab, "A", ["-k", f"{ftlab.GUESTS}/idle.elf", "-m", "64M"], name="other")
    other.wait_console("^READY")
    other.call("snapshot", 30, file=bad)
    lab.release(other)
    recover(lab, to, f"file:{bad}", "not of this migration")

    recover(lab, to, f"file:{good}")
    all_there(to)
    to.wait_console("^speed")
    recover(lab, to, f"file:{good}", "all of the VM's memory is here")
    code, out, err = client(lab, move.vm, "--cancel", "--force")
    expect(code == 0, f"{code}: {out}{err}")
    expect(move.vm.wait_exit() == ftlab.EXIT_GONE, f"exit code {move.vm.code}: {move.vm.log_text()}")
    expect(not re.search("CORRUPT|TRAP", to.console_text()), to.console_text())
    lab.release(move.vm)
    move.vm, move.host = to, "B"
    move.go("unix", how="postcopy")
    all_there(move.vm)
    move.vm.wait_console("^speed")


@test(90)
def postcopy_file_rest(lab):
    """after a pass over memory, and when the link was back once: only what the destination did not say it has is in it"""
    wire, path = ftlab.Wire(lab), lab.path("pages")
    move = Move(lab, boot(lab, "writer", "pages=100 total=12000 mode=seq tick=50", memory="128M"))
    move.vm.wait_console("^speed")
    to = move.destination(f"tcp:{LINK_IP['B']}:{ftlab.FT_PORT}")
    move.vm.call("migrate", **{"postcopy": wire.peer_of["A"], "bandwidth": "8M", "passes": 1, "downtime": "1ms"})
    move.vm.wait_status(lambda s: s["migration"]["phase"] == "SRC_SERVE", "a VM that runs there", 40)
    wire.do("cut")
    lacks = int(move.vm.wait_log(r"link is back; the destination lacks (\d+) pages")[1])
    random_wait(lab, move.vm, 0.1, 0.3)
    wire.kill()
    move.vm.wait_status(lambda s: "--recover URI" in s["note"], "what to do")
    to.wait_status(lambda s: s["migration"]["phase"] == "DST_CUT", "an end of the link")
    recover(lab, move.vm, f"file:{path}")
    written = move.vm.wait_log(r"bytes, (\d+) pages, and (\d+) of zeros")
    expect(int(written[1]) + int(written[2]) == lacks, f"{written[0]}, and {lacks} were missing")
    recover(lab, to, f"file:{path}")
    all_there(to)
    to.wait_console("^speed")
    expect(client(lab, move.vm, "--cancel", "--force")[0] == 0, "the source is not let go")
    expect(move.vm.wait_exit() == ftlab.EXIT_GONE, f"exit code {move.vm.code}: {move.vm.log_text()}")
    expect(not re.search("CORRUPT|TRAP", to.console_text()), to.console_text())


def where(move, to):
    """Waits until it is decided which of the two has the VM, and all of it; that one is the next source."""
    d = ftlab.Deadline(40)
    while move.vm.alive():
        d.check("the end of the migration")
        try:
            if move.vm.status()["migration"]["status"] == "failed":
                break
        except ftlab.LabError:
            pass  # it leaves
        move.vm.nap(0.02)
    if move.vm.alive():
        move.vm.wait_state("RUNNING")
        to.wait_state("STARTING")
        move.lab.release(to)
        return False
    expect(move.vm.code == ftlab.EXIT_GONE, f"the source's exit code is {move.vm.code}: {move.vm.log_text()}")
    to.wait_state("RUNNING")
    all_there(to)
    move.lab.release(move.vm)
    move.vm, move.host = to, move.there()
    return True


@test(90 * MIGRATIONS)
def migrate_random(lab):
    """in random ways, the link cut at a random moment: it runs at exactly one side, whole (MIGRATIONS=n for more)"""
    wire = ftlab.Wire(lab)
    move = Move(lab, boot(lab, "writer", "pages=300 total=6000 mode=random tick=20", memory="64M"))
    move.vm.wait_console("^speed")
    moved = 0
    for n in range(2 * MIGRATIONS + ftlab.work(2 * MIGRATIONS)):
        to = move.destination(f"tcp:{LINK_IP[move.there()]}:{ftlab.FT_PORT}")
        options = dict(lab.rng.choice(PRECOPY + LAZY))
        how = options.pop("how")
        lab.note(f"migration {n}: {how} {options}")
        move.vm.call("migrate", **{how: wire.peer_of[move.host]}, **options)
        random_wait(lab, move.vm, 0, 0.15)
        wire.do("cut")
        moved += where(move, to)
        move.vm.wait_console("^speed")
        expect(not re.search("CORRUPT|TRAP", move.vm.console_text()), move.vm.console_text())
    lab.note(f"{moved} moved")


@test(120)
def postcopy_kill_destination(lab):
    """the destination dies at each step before GO: the VM goes on at the source, and the next one succeeds"""
    for name in eighth(lab, DEST_BEFORE):
        move = disk_guest(lab)
        uri = move.uri("unix")
        to = move.destination(uri, env={"FTVMM_DIE_AT": name})
        done = migrate(move.vm, uri, "postcopy")
        expect(to.wait_exit() == -9 and done["status"] == "failed", f"{name}: {to.code} {done}")
        works(lab, move.vm)
        lab.release(to)
        move.go("unix", how="postcopy")
        works(lab, move.vm)
        all_there(move.vm)
        lab.release(move.vm)


@test(60)
def postcopy_refused(lab):
    """a destination that may not have userfaults says what mends it, and precopy comes in there all the same"""
    move = Move(lab, boot(lab, "idle", "hz=20 verbose=1"))
    move.vm.wait_console("^tick 1")
    uri = move.uri("unix")
    # No rights, and a /dev without the device: as in a container.
    before = ["unshare", "--mount", "--", "sh", "-c",
              "mount --bind /dev/null /dev/userfaultfd; "
              "exec setpriv --bounding-set -sys_ptrace --inh-caps -sys_ptrace -- \"$@\"", "sh"]
    to = Vm(lab, "B", ["--incoming", uri], before=before)
    to.wait_state("STARTING")
    to.wait_log("only precopy")
    done = migrate(move.vm, uri, "postcopy")
    expect(done["status"] == "failed" and "userfault" in done["error-desc"], f"{done}")
    move.vm.wait_state("RUNNING")
    to.wait_state("STARTING")
    expect(migrate(move.vm, uri)["status"] == "completed", "precopy is refused, too")
    to.wait_console("^tick")

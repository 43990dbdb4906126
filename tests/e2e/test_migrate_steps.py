"""Live migration at each of its steps: whoever dies, freezes, is cut off or is told to give up there, the VM runs on at
exactly one side, or stands with a state that says why."""

import json
import os
import re
import signal
import subprocess

import ftlab
from ftlab import LINK_IP, Vm, expect
from testlib import eighth, hash_cmdline, hash_work, host_digest, test, wait_hash
from test_boot import boot
from test_migrate import (DEST_AFTER, DEST_BEFORE, DEST_LAZY, DEST_MENDS, DEST_PAIR, MIGRATIONS, SOURCE_AFTER,
                          SOURCE_BEFORE, SOURCE_LAZY, SOURCE_MENDS, Move, all_there, disk_guest, frozen, migrate, where,
                          works)

# Without a pass nothing is sent before the switch.
LAZY_BEFORE = tuple(n for n in SOURCE_BEFORE if n != "mig-pages")
LOST = "link lost"
MANY = MIGRATIONS >= 10
LONG = 1800 if MANY else 240


def a_few(lab, cases, n):
    """All of them with MIGRATIONS=10 and more, else n of them, by the seed; on a slow machine an eighth of that."""
    return cases if MANY else eighth(lab, lab.rng.sample(cases, min(n, len(cases))))


def begin(vm, uri, **options):
    """Asked for; how it ends is seen elsewhere."""
    vm.call("migrate", postcopy=uri, **options)


def dies(vm):
    expect(vm.wait_exit(20) == -9, f"{vm}: exit code {vm.code}, not killed at its step: {vm.log_text()}")


def until_lost(to):
    """It has noticed: by then either nothing is missing, or it says what is."""
    return to.wait_status(lambda s: LOST in s["note"] or s["migration"]["status"] == "completed",
                          "the end of the link, and a state that says so", 30)


def cut_off(lab, move, env, to_env, **options):
    """A VM that runs at the destination with a part of its memory, whose link breaks then. Source and destination."""
    wire = ftlab.Wire(lab)
    to = move.destination(f"tcp:{LINK_IP[move.there()]}:{ftlab.FT_PORT}", env=to_env)
    begin(move.vm, wire.peer_of[move.host], bandwidth="1M", **options)  # the guest has touched but some 50 pages
    to.wait_status(lambda s: s["migration"]["phase"] == "DST_FILL", "a VM that runs there")
    wire.do("cut")
    return wire, to


@test(LONG)
def postcopy_kill_source(lab):
    """the source dies at each step: before GO nothing is left at the destination, after GO it says what is missing"""
    for name in a_few(lab, LAZY_BEFORE + SOURCE_AFTER + SOURCE_LAZY, 5):
        lab.note(f"step {name}")
        move = disk_guest(lab, env={"FTVMM_DIE_AT": name})
        uri = move.uri("unix")
        to = move.destination(uri)
        begin(move.vm, uri)
        dies(move.vm)
        if name == "mig-answered":
            # A step of loading, too: then it is dropped.
            to.wait_status(lambda s: "onnection" in s["note"] or "link" in s["note"], "a state that says why")
        elif name in SOURCE_BEFORE or name == "mig-paired":
            to.wait_status(lambda s: s["state"] == "STARTING" and s["note"] != "waiting for a migration",
                           "the end of the link")
        else:
            status = until_lost(to)
            expect(status["migration"]["phase"] in ("DST_CUT", "DST_RUNS", "DST_HERE"), f"{name}: {status}")
            to.wait_state("RUNNING")
        lab.release(to, move.vm)
    for name in a_few(lab, SOURCE_MENDS, 1):
        lab.note(f"step {name}")
        move = disk_guest(lab, env={"FTVMM_DIE_AT": name})
        _, to = cut_off(lab, move, None, None)
        dies(move.vm)
        until_lost(to)
        to.wait_state("RUNNING")
        lab.release(*lab.processes)


def runs_again(source):
    status = source.wait_status(lambda s: s["migration"]["status"] == "failed" or LOST in s["note"],
                                "a state that says why")
    return status["migration"]["status"] == "failed"


@test(LONG)
def postcopy_kill_destination_after(lab):
    """the destination dies at each step from READY on: nobody runs it, and the source says what it knows"""
    for name in a_few(lab, DEST_PAIR + DEST_AFTER + DEST_LAZY, 5):
        lab.note(f"step {name}")
        move = disk_guest(lab)
        uri = move.uri("unix")
        to = move.destination(uri, env={"FTVMM_DIE_AT": name})
        begin(move.vm, uri)
        dies(to)
        if name == "mig-pair":
            move.vm.wait_state("RUNNING")
        elif name in ("mig-ready", "mig-told", "mig-ran"):
            status = move.vm.wait_status(lambda s: s["state"] == "RUNNING" or "--cancel --force" in s["note"],
                                         "a state that says why")
            if status["state"] != "RUNNING":
                move.vm.call("migrate", cancel=True, force=True)
        elif name == "mig-whole":
            expect(move.vm.wait_exit() == ftlab.EXIT_GONE, f"{name}: exit code {move.vm.code}")
            lab.release(move.vm)
            continue
        elif name == "mig-wants" and runs_again(move.vm):
            pass  # which is a step of loading, too
        else:
            move.vm.wait_status(lambda s: s["state"] == "PAUSED" and LOST in s["note"], "a state that says why")
            expect(move.vm.status()["migration"]["phase"].startswith("SRC_CUT"), f"{name}: {move.vm.status()}")
            lab.release(move.vm)
            continue
        works(lab, move.vm)
        lab.release(to)
        move.go("unix", how="postcopy")
        works(lab, move.vm)
        lab.release(move.vm)
    for name in a_few(lab, DEST_MENDS, 1):
        lab.note(f"step {name}")
        move = disk_guest(lab)
        cut_off(lab, move, None, {"FTVMM_DIE_AT": name})
        dies(lab.processes[-1])
        move.vm.wait_status(lambda s: s["state"] == "PAUSED" and LOST in s["note"], "a state that says why")
        lab.release(*lab.processes)


@test(90)
def migrate_kill_receiver(lab):
    """the receiver dies in the middle of a pass, over each kind of link, and is frozen first: the VM goes on, and moves
    to a new one at the same address"""
    move = Move(lab, writer(lab, None))
    for kind in ("tcp", "unix"):
        for frozen_first in (False, True):
            uri = move.uri(kind)
            to = move.destination(uri)
            move.vm.call("migrate", precopy=uri, bandwidth="4M", downtime="1ms")
            move.vm.wait_status(lambda s: s["migration"]["ram"]["transferred"] > 1 << 20, "pages that went out")
            if frozen_first:
                to.signal(signal.SIGSTOP)
                move.vm.nap(lab.rng.uniform(0, 0.5))
            to.kill()
            move.vm.wait_status(lambda s: s["migration"]["status"] == "failed", "its failure")
            runs_whole(move.vm)
            lab.release(to)
        to = move.destination(uri)
        done = migrate(move.vm, uri, downtime="5s")
        expect(done["status"] == "completed", f"{kind}: {done}")
        expect(move.vm.wait_exit() == ftlab.EXIT_GONE, f"exit code {move.vm.code}")
        lab.release(move.vm)
        move.vm, move.host = to, move.there()
        runs_whole(move.vm)


def freeze_and_cut(lab, move, wire, at_source, to, options):
    """The link is cut while one side is at a step, and it goes on."""
    how = dict(options)
    move.vm.call("migrate", **{how.pop("how"): wire.peer_of[move.host]}, **how)
    frozen(move.vm if at_source else to)
    wire.do("cut")
    (move.vm if at_source else to).signal(signal.SIGCONT)


def cut_at(lab, name, at_source, options):
    """Cut at the step; if the VM went there, and is cut once more while that is mended, that is no loss, either."""
    # The other side stands at a step of what follows: behind a precopy's end the source asks, and nothing is mended.
    follows = DEST_MENDS if at_source else ("mig-asks",) if options["how"] == "precopy" else SOURCE_MENDS[1:]
    envs = [{"FTVMM_STOP_AT": name}, {"FTVMM_STOP_AT": lab.rng.choice(follows)}]
    wire = ftlab.Wire(lab)
    move = Move(lab, writer(lab, envs[not at_source]))
    to = move.destination(f"tcp:{LINK_IP[move.there()]}:{ftlab.FT_PORT}", env=envs[at_source])
    freeze_and_cut(lab, move, wire, at_source, to, options)
    lab.note(f"{name}: cut once")
    twice = again(lab, move, wire, to)
    moved = where(move, to)
    if not moved:
        to = move.destination(f"tcp:{LINK_IP[move.there()]}:{ftlab.FT_PORT}")
        how = dict(options)
        move.vm.call("migrate", **{how.pop("how"): wire.peer_of[move.host]}, **how)
        moved = where(move, to)
        expect(moved, f"{name}: the second one did not get there")
    expect(twice or name not in ("mig-told", "mig-ran"), f"{name}: GO was said and RUNS was not: no second cut?")
    runs_whole(move.vm)
    lab.release(*lab.processes)


def again(lab, move, wire, to):
    """A second cut, where it is awaited: one side stands at a step of mending. False: it did not come to that."""
    d = ftlab.Deadline(40)
    while move.vm.alive() and to.alive():
        for vm in (to, move.vm):
            if is_frozen(vm):
                wire.do("cut")
                vm.signal(signal.SIGCONT)
                lab.note(f"cut twice: {vm}")
                return True
        try:
            if move.vm.status(1)["state"] == "RUNNING":
                return False
        except ftlab.LabError:
            if not is_frozen(move.vm):
                return False
        d.check("the end, or a second cut")
        move.vm.nap()
    return False


def mended_after(lab, name, at_source):
    """The link is cut in the middle of a postcopy, again at this step of mending it, and once more at some moment."""
    env = {"FTVMM_STOP_AT": name}
    move = Move(lab, writer(lab, env if at_source else None))
    wire, to = cut_off(lab, move, None, None if at_source else env)
    victim = move.vm if at_source else to
    frozen(victim)
    wire.do("cut")
    victim.signal(signal.SIGCONT)
    victim.nap(lab.rng.uniform(0, 1))
    wire.do("cut")
    expect(where(move, to), f"{name}: it runs at the source")
    runs_whole(move.vm)
    lab.release(*lab.processes)


@test(LONG)
def postcopy_cut_mends(lab):
    """the link is cut, again at each step of mending it, and then once more: the VM runs there, whole"""
    cases = [(n, True) for n in SOURCE_MENDS] + [(n, False) for n in DEST_MENDS]
    for name, at_source in a_few(lab, cases, 3):
        lab.note(f"step {name}")
        mended_after(lab, name, at_source)


@test(60 * MIGRATIONS)
def postcopy_random(lab):
    """cut at random instants, three in each postcopy of one VM, to and fro: it goes on, whole (MIGRATIONS=n for more)"""
    wire = ftlab.Wire(lab)
    move = Move(lab, boot(lab, "writer", "pages=300 total=6000 mode=random tick=20", memory="64M"))
    move.vm.wait_console("^speed")
    cuts = moved = times = 0
    wanted = 2 * MIGRATIONS if MANY else 1 + ftlab.work(2 * MIGRATIONS - 1)
    while times < wanted or not moved and times < 20:  # a few may all be cut before the switch
        times += 1
        source, to = move.vm, move.destination(f"tcp:{LINK_IP[move.there()]}:{ftlab.FT_PORT}")
        begin(source, wire.peer_of[move.host], bandwidth="24M", passes=lab.rng.choice((0, 0, 1)), downtime="1ms")
        for _ in range(3):
            source.nap(lab.rng.uniform(0.05, 0.7))
            wire.do("cut")
        moved += where(move, to)
        cuts += len(re.findall("^.*error: postcopy: link lost", ftlab.read_text(source.log), re.M))
        runs_whole(move.vm)
    lab.note(f"{moved} moved, {cuts} links were lost behind the switch")
    expect(moved > 0 and cuts >= moved, f"{moved} moved, and only {cuts} links were lost behind the switch")


def is_frozen(vm):
    return ftlab.read_text(f"/proc/{vm.pid}/stat").rsplit(")", 1)[-1].split()[:1] == ["T"]


def writer(lab, env):
    writes = "pages=300 total=2000 mode=random tick=20"  # so much goes within a downtime of 5 s on the slowest link
    vm = Vm(lab, "A", ["-k", f"{ftlab.GUESTS}/writer.elf", "-a", writes, "-m", "64M"], env)
    vm.wait_console("^speed")
    return vm


def runs_whole(vm):
    vm.wait_state("RUNNING")
    vm.wait_console("^speed")
    expect("CORRUPT" not in vm.console_text() and "TRAP" not in vm.console_text(), vm.console_text())


@test(LONG)
def migrate_cut_steps(lab):
    """the link is cut at each step of a precopy, and again in what follows: the VM runs on, whole"""
    cases = [(n, True) for n in SOURCE_BEFORE + SOURCE_AFTER] + [(n, False) for n in DEST_BEFORE + DEST_AFTER]
    for name, at_source in a_few(lab, cases, 3):
        cut_at(lab, name, at_source, {"how": "precopy", "downtime": "5s"})


@test(LONG)
def postcopy_cut_steps(lab):
    """the link is cut at each step of a postcopy, and again while that is mended: the VM runs there, whole"""
    cases = [(n, True) for n in LAZY_BEFORE + SOURCE_AFTER + SOURCE_LAZY]
    cases += [(n, False) for n in DEST_BEFORE + DEST_PAIR + DEST_AFTER + DEST_LAZY]
    for name, at_source in a_few(lab, cases, 4):
        cut_at(lab, name, at_source, {"how": "postcopy"})


def cancel_at(lab, name, how):
    """The user gives up while the source is at the step."""
    move = disk_guest(lab, env={"FTVMM_STOP_AT": name})
    uri = move.uri("unix")
    to = move.destination(uri)
    move.vm.call("migrate", **{how: uri})
    frozen(move.vm)
    move.vm.ctl.sock.sendall(json.dumps({"id": 99, "cmd": "migrate", "cancel": True}).encode() + b"\n")
    move.vm.signal(signal.SIGCONT)
    try:
        answer = move.vm.ctl.line()
        while answer.get("id") != 99:
            answer = move.vm.ctl.line()
    except ConnectionError:
        answer = {"error": "it has left"}
    lab.note(f"{how}, {name}: {answer}")
    early = name in SOURCE_BEFORE[:-2] + ("mig-paired",)  # mig-sent: READY may have come; mig-go: GO is being said
    expect("ok" in answer or not early, f"{how}, {name}: {answer}")
    if "ok" in answer:
        works(lab, move.vm)
        move.vm.wait_status(lambda s: s["migration"]["status"] == "cancelled", "that it was cancelled")
        to.wait_status(lambda s: s["state"] == "STARTING" and s["note"], "the end, there")
        done = migrate(move.vm, uri, how)
        expect(done["status"] == "completed", f"{how}, {name}: {done}")
    expect(move.vm.wait_exit() == ftlab.EXIT_GONE, f"{how}, {name}: exit code {move.vm.code}")
    works(lab, to)
    lab.release(to, move.vm)


@test(LONG)
def migrate_cancel_steps(lab):
    """given up at each step: before GO the VM goes on here and nothing is left there, after it it is too late"""
    cases = [(n, "precopy") for n in SOURCE_BEFORE + SOURCE_AFTER]
    cases += [(n, "postcopy") for n in LAZY_BEFORE + SOURCE_AFTER + SOURCE_LAZY]
    for name, how in a_few(lab, cases, 5):
        cancel_at(lab, name, how)


# --- who freezes, or falls silent, after the switch -------------------------------------------------------------------


def filling(lab, **options):
    """The VM runs at B, and its memory comes slowly. Its source, B, and the wire between."""
    wire = ftlab.Wire(lab)
    move = Move(lab, boot(lab, "writer", "pages=100 total=12000 mode=seq tick=50", memory="128M"))
    move.vm.wait_console("^speed")
    to = move.destination(f"tcp:{LINK_IP['B']}:{ftlab.FT_PORT}")
    move.vm.call("migrate", postcopy=options.pop("uri", None) or wire.peer_of["A"], bandwidth="8M", **options)
    to.wait_status(lambda s: s["migration"]["phase"] == "DST_FILL", "a VM that runs there")
    return move.vm, to, wire


def whole_in_the_end(source, to):
    expect(source.wait_exit(60) == ftlab.EXIT_GONE, f"exit code {source.code}: {source.log_text()}")
    all_there(to)
    runs_whole(to)


@test(120)
def postcopy_frozen_source(lab):
    """a source that freezes after the switch: the destination says so, answers, and goes on when it does"""
    source, to, _ = filling(lab)
    source.signal(signal.SIGSTOP)
    status = to.wait_status(lambda s: "nothing has come" in s["note"], "that nothing comes", 30)
    expect(status["migration"]["phase"] == "DST_FILL", f"{status}")
    expect(status["migration"]["ram"]["remaining"] > 0, f"{status}")
    source.signal(signal.SIGCONT)
    to.wait_status(lambda s: not s["note"], "that it comes again")
    whole_in_the_end(source, to)


@test(120)
def postcopy_frozen_destination(lab):
    """a destination that freezes after the switch: the source says that the link is lost, and it is mended"""
    source, to, _ = filling(lab)
    to.signal(signal.SIGSTOP)
    status = source.wait_status(lambda s: s["state"] == "PAUSED" and LOST in s["note"], "a link that is lost", 40)
    expect("the VM runs at the destination" in status["note"], f"{status}")
    to.signal(signal.SIGCONT)
    whole_in_the_end(source, to)


@test(120)
def postcopy_silent(lab):
    """a link that falls silent after the switch, without an end: both sides say so in time, and it is mended"""
    source, to, _ = filling(lab, uri=f"tcp:{LINK_IP['B']}:{ftlab.FT_PORT}")
    lab.ip("B", "link set ft0 down")
    to.wait_status(lambda s: LOST in s["note"], "a link that is lost, at the destination", 40)
    source.wait_status(lambda s: s["state"] == "PAUSED" and LOST in s["note"], "the same, at the source", 40)
    lab.ip("B", "link set ft0 up")
    whole_in_the_end(source, to)


# --- a guest that ends, or boots again, while its memory comes ---------------------------------------------------------


@test(90)
def postcopy_guest_ends(lab):
    """while memory comes a guest that ends lets the source go; one that resets itself boots when all of it is there"""
    work = hash_work(128, 2000)
    move = Move(lab, boot(lab, "hash", hash_cmdline(work), memory="128M"))
    wait_hash(lab, move.vm, work)
    to = move.destination(uri := move.uri("unix"))
    move.vm.call("migrate", **{"postcopy": uri, "no-background": True})
    expect(to.wait_exit(60) == 0 and f"digest {host_digest(lab, *work)}" in to.console_text(),
           f"exit code {to.code}: {to.console_text()}")
    expect(move.vm.wait_exit() == ftlab.EXIT_GONE, f"exit code {move.vm.code}: {move.vm.log_text()}")
    lab.release(to, move.vm)

    kernel = ["-k", f"{ftlab.GUESTS}/reset.elf"]
    move = Move(lab, boot(lab, "reset", "boots=0 gap=300", memory="64M"), *kernel)
    move.vm.wait_console("^boot 2")
    to = move.destination(uri := move.uri("unix"))
    move.vm.call("migrate", **{"postcopy": uri, "no-background": True})
    to.wait_status(lambda s: s["migration"]["phase"] == "DST_FILL", "a VM that runs there")
    to.wait_log("boots again when all of its memory is here")
    status = to.status()
    expect(status["migration"]["phase"] == "DST_FILL" and "boot" not in to.console_text(), f"{status}")
    to.call("stop", timeout_ns=0)
    expect(move.vm.wait_exit() == ftlab.EXIT_GONE, f"exit code {move.vm.code}")


@test(90)
def postcopy_reboot(lab):
    """a guest that resets itself all the time is moved to and fro with its memory behind it"""
    kernel = ["-k", f"{ftlab.GUESTS}/reset.elf"]
    move = Move(lab, boot(lab, "reset", "boots=0 gap=20", cpus=2), *kernel)
    move.vm.wait_console("^boot 2")
    for kind in ("tcp", "unix"):
        move.go(kind, how="postcopy", bandwidth="4M")
        all_there(move.vm)
        move.vm.wait_console("^boot")
        move.vm.wait_status(lambda s: s["resets_total"] > 2, "resets at the destination")


@test(120, mem="8G")
def postcopy_above_4g(lab):
    """memory on both sides of the hole below 4 GiB, sparse: what is above it comes as it is asked for, and behind"""
    move = Move(lab, boot(lab, "writer", "pages=100 total=3000 mode=random tick=20 skip=3060M", memory="5G"))
    move.vm.wait_console("^speed", 20)
    for how in ({"how": "postcopy", "bandwidth": "16M"}, {"how": "postcopy", "passes": 1, "downtime": "1ms"}):
        done = move.go("unix", **how)
        all_there(move.vm)
        if "passes" not in how:  # else what is left behind the pass may fit, and nothing comes behind
            pages = move.vm.status()["migration"]["ram"]["postcopy-pages"]
            expect(pages["urgent"] > 0 and pages["zero"] > 700000, f"{done}: {pages}")
        runs_whole(move.vm)


# --- who dies while pages are carried over by hand ---------------------------------------------------------------------


def recover(vm, path):
    """`ftvmm migrate NAME --recover file:PATH`, under way."""
    return subprocess.Popen([ftlab.FTVMM, "migrate", vm.name, "--recover", f"file:{path}"], text=True,
                            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                            env=dict(os.environ, XDG_RUNTIME_DIR=vm.run_dir))


def no_network(lab):
    """A VM at B with a part of its memory, the rest at A, and nothing between them. Source, destination."""
    move = Move(lab, boot(lab, "writer", "pages=100 total=12000 mode=seq tick=50", memory="128M"))
    move.vm.wait_console("^speed")
    wire, to = cut_off(lab, move, None, None)
    wire.kill()
    move.vm.wait_status(lambda s: "--recover URI" in s["note"], "what to do")
    to.wait_status(lambda s: s["migration"]["phase"] == "DST_CUT", "an end of the link")
    return move.vm, to


@test(120)
def postcopy_file_dies(lab):
    """whoever writes or reads the file dies at some moment of it: the other one says what it knows, and can go on"""
    source, to = no_network(lab)
    path = lab.path("pages")
    asked = recover(source, path)
    source.nap(lab.rng.uniform(0, 0.06))
    source.kill()
    asked.communicate(timeout=20 * ftlab.SLOW)
    if os.path.exists(path):  # it was whole before
        expect(recover(to, path).wait(30 * ftlab.SLOW) == 0, "a file that is there is not whole")
        all_there(to)
    else:
        status = to.status()
        expect(status["migration"]["phase"] == "DST_CUT" and LOST in status["note"], f"{status}")
        asked = recover(to, path)
        _, err = asked.communicate(timeout=20 * ftlab.SLOW)
        expect(asked.returncode == 2 and "cannot open" in err, f"{asked.returncode}: {err}")
    lab.release(*lab.processes)

    source, to = no_network(lab)
    expect(recover(source, path).wait(30 * ftlab.SLOW) == 0, "no file")
    asked = recover(to, path)
    to.nap(lab.rng.uniform(0, 0.06))
    to.kill()
    _, err = asked.communicate(timeout=20 * ftlab.SLOW)
    lab.note(f"the receiver died, and its command ended with {asked.returncode}: {err}")
    status = source.status()
    expect(status["state"] == "PAUSED" and LOST in status["note"] and status["migration"]["phase"].startswith("SRC_CUT"),
           f"{status}")
    source.call("migrate", cancel=True, force=True)
    expect(source.wait_exit() == ftlab.EXIT_GONE, f"exit code {source.code}: {source.log_text()}")

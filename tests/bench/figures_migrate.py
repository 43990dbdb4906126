"""Live migration: how long the guest stands, in turns with QEMU; and its speed before, meanwhile and after."""

import os
import statistics
import time

import progress
from benchlib import QemuVm, ftlab, has_qemu, median, rounds, slowly
from test_migrate import Move, all_there, migrate as ask

PORT = 7998  # of QEMU's migration
RAM = {"ftvmm": "ftvmm-ram", "qemu": "memory-backend-memfd"}
ROUNDS = 5
DOWNTIME_MS = 50
BEFORE, AFTER = 1.0, 1.0  # seconds of a curve at each end
CURVE_MIB_PER_S = 64
STRETCH_NS = 25_000_000


def guest(memory_mib):
    """A quarter of its memory is data, of which it changes a little again and again."""
    return f"mode=hot tick={slowly(10)} pages=64 total={memory_mib << 6} work=1000 report=1"


def rest(seconds):
    time.sleep(seconds * min(ftlab.SLOW, 4))


# --- one migration, either program -----------------------------------------------------------------


def boot(lab, cmdline, memory_mib):
    vm = ftlab.Vm(lab, "A", ["-k", os.path.join(ftlab.GUESTS, "writer.elf"), "-a", cmdline, "-m", f"{memory_mib}M"])
    vm.wait_console("^speed", 60)
    return vm


def watch(program, source, destination):
    console = source.console_text()
    return progress.Watch((source.pid, RAM[program]), (destination.pid, RAM[program]), progress.counter_at(console))


def whole_gap(seen):
    """When the guest stood, as soon as it has been seen to go on."""
    d = ftlab.Deadline(20)
    while not progress.gap(seen.samples):
        d.check("the guest to get on at the destination")
        rest(0.05)
    return progress.gap(seen.end())


def ours(lab, how, memory_mib):
    """ms that the guest stood, and what the program says of it."""
    move = Move(lab, boot(lab, guest(memory_mib), memory_mib))
    to = move.destination(uri := move.uri("tcp"))
    seen = watch("ftvmm", move.vm, to)
    done = ask(move.vm, uri, how, downtime=f"{DOWNTIME_MS}ms")
    ftlab.expect(done["status"] == "completed", f"{done}")
    all_there(to)
    stood, on = whole_gap(seen)
    lab.release(move.vm, to)
    return (on - stood) / 1e6, done["downtime-us"]["total"] / 1e3


def qemu(lab, host, memory_mib, *more):
    return QemuVm(lab, host, "writer", guest(memory_mib), "-object",
                  f"memory-backend-memfd,id=ram0,size={memory_mib}M,share=on", "-machine", "memory-backend=ram0", *more,
                  memory=f"{memory_mib}M")


def theirs(lab, how, memory_mib):
    """The same of QEMU, with the same limits."""
    a, b = qemu(lab, "A", memory_mib), qemu(lab, "B", memory_mib, "-incoming", "defer")
    d = ftlab.Deadline(90)
    while "speed" not in a.console_text():
        d.check("the guest under QEMU")
        a.nap(0.05)
    capabilities = [{"capability": "postcopy-ram", "state": how == "postcopy"}]
    uri = f"tcp:{ftlab.LINK_IP['B']}:{PORT}"
    for vm in (a, b):
        vm.command("migrate-set-capabilities", capabilities=capabilities)
    b.command("migrate-incoming", uri=uri)
    a.command("migrate-set-parameters", **{"max-bandwidth": 1 << 40, "downtime-limit": DOWNTIME_MS})
    seen = watch("qemu", a, b)
    a.command("migrate", uri=uri)
    if how == "postcopy":
        a.command("migrate-start-postcopy")
    while (s := a.command("query-migrate"))["status"] not in ("completed", "failed", "cancelled"):
        d.check("QEMU's migration")
        a.nap(0.05)
    ftlab.expect(s["status"] == "completed", f"QEMU's migration: {s}")
    stood, on = whole_gap(seen)
    lab.release(a, b)
    return (on - stood) / 1e6, s["downtime"]


# --- figures ---------------------------------------------------------------------------------------


def in_turns(lab, how, memory_mib):
    own, peer = [], []
    for _ in range(rounds(ROUNDS, 3)):
        own.append(ours(lab, how, memory_mib))
        if has_qemu():
            peer.append(theirs(lab, how, memory_mib))
    return own, peer


def add(report, how, memory_mib, own, peer, target):
    mine = median(ms for ms, _ in own)
    theirs_ms = median(ms for ms, _ in peer) if peer else None
    ratio = mine / theirs_ms if peer else None
    report.add(f"{how} downtime, {memory_mib} MiB", "ms", mine, f"<= {target} of QEMU's",
               ratio <= target if peer else None, peer=theirs_ms, ratio=ratio, as_told=[told for _, told in own], seen=[ms for ms, _ in own],
               peer_as_told=[told for _, told in peer], peer_seen=[ms for ms, _ in peer])
    return mine


def downtime(lab, report):
    """how long the guest stands in a migration, in turns with QEMU: precopy, postcopy, small and large"""
    small, large = (256, 2048) if ftlab.SLOW < 2 else (64, 256)
    add(report, "precopy", small, *in_turns(lab, "precopy", small), 0.15)
    a = add(report, "postcopy", small, *in_turns(lab, "postcopy", small), 0.5)
    b = add(report, "postcopy", large, *in_turns(lab, "postcopy", large), 0.5)
    report.add(f"postcopy downtime, {large} to {small} MiB", "ms", b, "within 20 %", 0.8 <= b / a <= 1.2, floor=a)


CURVES = {"precopy": {"how": "precopy"}, "postcopy": {"how": "postcopy"}, "hybrid": {"how": "postcopy", "passes": 1}}


def curve_of(lab, options):
    move = Move(lab, boot(lab, f"mode=random tick={slowly(20)} pages=50 total=20000 work=1000 report=1", 256))
    to = move.destination(uri := move.uri("tcp"))
    seen = watch("ftvmm", move.vm, to)
    rest(BEFORE)
    begin = time.monotonic_ns()
    done = ask(move.vm, uri, **options, bandwidth=f"{CURVE_MIB_PER_S}M", timeout="30s")
    ftlab.expect(done["status"] == "completed", f"{done}")
    all_there(to)
    end = time.monotonic_ns()
    rest(AFTER)
    stood, on = whole_gap(seen)
    samples = seen.samples
    rows = progress.speeds(samples, begin, STRETCH_NS)
    full = statistics.mean(v for t, v in rows if t < 0)
    ftlab.expect(full, "the guest did not get on before it was moved")
    lab.release(move.vm, to)
    return {"seconds": [round(t, 3) for t, _ in rows], "percent": [round(100 * v / full, 1) for _, v in rows],
            "end": round((end - begin) / 1e9, 3), "switch": round((stood - begin) / 1e9, 4),
            "stood_ms": round((on - stood) / 1e6, 2), "mib_per_s": CURVE_MIB_PER_S,
            "bytes": done["ram"]["transferred"]}


def curve(lab, report):
    """the guest's speed over time in precopy, postcopy and hybrid; plot.py draws it"""
    for name, options in CURVES.items():
        c = curve_of(lab, dict(options))
        meanwhile = [p for t, p in zip(c["seconds"], c["percent"]) if 0 <= t <= c["end"]]
        report.add(f"speed in {name}", "%", sum(meanwhile) / len(meanwhile), curve=c)


# A guest that changes more than its link takes, and how many passes there are before it runs at the other host.
WAYS = {"no pass": {"how": "postcopy"}, "1 pass": {"how": "postcopy", "passes": 1},
        "2 passes": {"how": "postcopy", "passes": 2}, "4 passes": {"how": "postcopy", "passes": 4},
        "auto": {"how": "auto"}}
DATA_PAGES = 20000


def faster_than_its_link(lab):
    return Move(lab, boot(lab, f"mode=random tick={slowly(20)} pages=2000 total={DATA_PAGES} work=1000 report=1", 256))


def one_way(lab, options):
    """What source and destination say of it when all is there."""
    move = faster_than_its_link(lab)
    to = move.destination(uri := move.uri("tcp"))
    done = ask(move.vm, uri, **options, bandwidth=f"{CURVE_MIB_PER_S}M", downtime="10ms", timeout="60s")
    ftlab.expect(done["status"] == "completed", f"{done}")
    all_there(to)
    there = to.status()["migration"]
    lab.release(move.vm, to)
    return {"downtime": done["downtime-us"]["total"] / 1e3, "time": done["total-time"] / 1e3,
            "bytes": done["ram"]["transferred"] / (1 << 20), "faults": there["ram"]["postcopy-faults"]}


def passes(lab, report):
    """a guest that writes faster than its link: precopy gives up; downtime, time, bytes, faults by the passes before"""
    move = faster_than_its_link(lab)
    to = move.destination(uri := move.uri("tcp"))
    done = ask(move.vm, uri, bandwidth=f"{CURVE_MIB_PER_S}M", downtime="100ms", passes=4)
    report.add("precopy of 4 passes: expected downtime", "ms", done["expected-downtime"], "> 100: given up",
               done["status"] == "failed" and done["expected-downtime"] > 100)
    lab.release(move.vm, to)
    data = DATA_PAGES / 256
    for name, options in WAYS.items():
        all_of_it = [one_way(lab, dict(options)) for _ in range(rounds(3, 1))]
        got = {key: median(one[key] for one in all_of_it) for key in all_of_it[0]}
        pure = not options.get("passes") and options["how"] == "postcopy"
        report.add(f"{name}: downtime", "ms", got["downtime"])
        for key, unit, floor, bound in (("time", "s", data / CURVE_MIB_PER_S, 1.2), ("bytes", "MiB", data, 1.05)):
            ratio = got[key] / floor
            report.add(f"{name}: {key}", unit, got[key], f"<= {bound}" if pure else "",
                       ratio <= bound if pure else None, floor=floor, ratio=ratio)
        report.add(f"{name}: faults", "", got["faults"])

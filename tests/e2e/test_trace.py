"""What a VM tells of itself: `ftvmm trace`, and the log as JSON."""

import json
import os
import re
import signal
import subprocess

import ftlab
from ftlab import FTVMM, GUESTS, Pair, Process, Vm, expect
from testlib import Skip, test
from test_boot import boot
from test_migrate import Move

PARTS = ("stop", "bitmap", "copy", "state")


class Trace(Process):
    """An `ftvmm trace` of that VM, which has begun."""

    def __init__(self, lab, vm, seconds=600):
        self.vm = vm
        vm.status()  # it can be asked
        self.file = lab.path(f"trace{lab.next_serial()}")
        super().__init__(lab.ns[vm.host], [FTVMM, "trace", vm.name, self.file, "--seconds", str(seconds)],
                         self.file + ".log", env={"XDG_RUNTIME_DIR": vm.run_dir})
        lab.processes.append(self)
        d = ftlab.Deadline(10)
        while not os.path.exists(self.file) or not os.path.getsize(self.file):
            expect(self.alive(), f"trace: {self.log_text()}")
            d.check("the first spans of a trace")
            self.nap()

    def read(self, ended):
        """All events, and what is said of the whole."""
        code = self.wait_exit(20)
        expect(code == 0, f"trace: exit code {code}: {self.log_text()}")
        with open(self.file, encoding="utf-8") as f:
            trace = json.load(f)
        about, events = trace["otherData"], trace["traceEvents"]
        spans = [e for e in events if e["ph"] in "Xi"]
        expect(about["ended"] == ended and about["spans"] == len(spans) and not about["lost"] and not about["unknown"],
               f"{about}, {len(spans)} spans")
        check_nested(events)
        return spans, about

    def interrupt(self):
        self.signal(signal.SIGINT)
        return self.read("user")


def check_nested(events):
    """Of two spans of a track one is in the other, or behind it."""
    tracks = {}
    for e in events:
        if e["ph"] == "X":
            tracks.setdefault(e["tid"], []).append(e)
    named = {e["tid"] for e in events if e["ph"] == "M" and e["name"] == "thread_name"}
    expect(set(tracks) <= named, f"tracks without a name: {set(tracks) - named}")
    for spans in tracks.values():
        around = []
        for e in sorted(spans, key=lambda e: (e["ts"], -e["dur"])):
            while around and around[-1]["ts"] + around[-1]["dur"] <= e["ts"] + 0.0005:
                around.pop()
            last = around[-1] if around else None
            expect(not last or e["ts"] + e["dur"] <= last["ts"] + last["dur"] + 0.0015, f"{e} laps over {last}")
            around.append(e)


def named(spans, name):
    return [s for s in spans if s["name"] == name]


def one(spans, name):
    found = named(spans, name)
    expect(len(found) == 1, f"{len(found)} spans '{name}' in {sorted({s['name'] for s in spans})}")
    return found[0]


def epochs_of(vm, more=0):
    """epochs_total, when it has grown by so many."""
    now = vm.status()["epochs_total"]
    return vm.wait_status(lambda s: s["epochs_total"] >= now + more, f"{more} epochs", 30)["epochs_total"]


@test(90)
def trace_epochs(lab):
    """as many pauses as epochs, each made of its parts; a second trace is refused; both sides tell the same"""
    pair = Pair(lab, guest="writer", cmdline="mode=random tick=5 pages=64", disk=0, net=False)
    pair.protect()
    for vm, name in ((pair.vm["A"], "pause"), (pair.vm["B"], "receive")):
        before = epochs_of(vm)
        trace = Trace(lab, vm)
        begun = epochs_of(vm)
        with open(lab.path("no"), "w") as f:
            f.write("kept")
        p = ftlab.run(FTVMM, "trace", vm.name, lab.path("no"), check=False,
                      env=dict(os.environ, XDG_RUNTIME_DIR=vm.run_dir))
        expect(p.returncode == 2 and "another one is under way" in p.stdout and os.path.getsize(lab.path("no")) == 4,
               f"a second trace: {p.returncode} {p.stdout}")
        seen = epochs_of(vm, 30)
        spans, about = trace.interrupt()
        after = epochs_of(vm)
        expect(len(named(spans, name)) == about["epochs"], f"{len(named(spans, name))} of '{name}': {about}")
        expect(seen - begun <= about["epochs"] <= after - before, f"{before} {begun} {seen} {after}: {about}")
    spans, _ = Trace(lab, pair.vm["A"], 1).read("time")
    numbers = [s["args"]["epoch"] for s in named(spans, "pause")]
    expect(numbers == list(range(numbers[0], numbers[0] + len(numbers))), f"epochs {numbers}")
    for pause in named(spans, "pause"):
        parts = [s for s in spans if s["name"] in PARTS and s["args"]["epoch"] == pause["args"]["epoch"]]
        sum_ = sum(s["dur"] for s in parts)
        expect(len(parts) == 4 and abs(sum_ - pause["dur"]) < 0.01, f"{pause}: {parts}")
        expect(pause["args"]["why"] == "interval", f"{pause}")
    for epoch in named(spans, "epoch")[1:]:
        parts = [s for s in spans if s["name"] in ("pause", "send", "ack") and s["args"]["epoch"] == epoch["args"]["epoch"]]
        sum_ = sum(s["dur"] for s in parts)
        expect(len(parts) == 3 and abs(sum_ - epoch["dur"]) < 0.01, f"{epoch}: {parts}")
    expect(pair.vm["A"].stop() == 0, "stop")


def uprobe():
    """The static probe of FTVMM, as a line of the kernel's uprobe_events."""
    notes = ftlab.run("readelf", "-n", FTVMM).stdout
    found = re.search(r"Provider: ftvmm\s+Name: span\s+Location: (0x\w+),.*\n\s+Arguments: (.*)", notes)
    if not found:
        raise Skip("ftvmm was built without <sys/sdt.h> (systemtap-sdt-dev)")
    name, ns, epoch, n = (r if r[1:].isdigit() else r[1:] for r in re.findall(r"8@%(r\w+)", found[2]))
    # What is loaded from there on is at the same place in the file.
    return f"p:ftvmm/span {FTVMM}:{found[1]} name=+0(%{name}):string ns=%{ns}:u64 epoch=%{epoch}:u64 n=%{n}:u64"


class Uprobe:
    """What hits the probe, while this lives."""
    ROOT = "/sys/kernel/tracing"

    def __init__(self):
        if not os.path.exists(f"{self.ROOT}/instances"):
            ftlab.run("mount", "-t", "tracefs", "tracefs", self.ROOT, check=False)
        if not os.path.exists(f"{self.ROOT}/uprobe_events"):
            raise Skip("this kernel has no uprobe_events, or does not let us have them")

    def __enter__(self):
        self.write("uprobe_events", uprobe())
        self.write("events/ftvmm/enable", "1")
        return self

    def __exit__(self, *_):
        self.write("events/ftvmm/enable", "0")
        self.write("uprobe_events", "-:ftvmm/span")

    def write(self, name, text):
        fd = os.open(f"{self.ROOT}/{name}", os.O_WRONLY | os.O_APPEND)  # not to be truncated, and it cannot seek
        try:
            os.write(fd, f"{text}\n".encode())
        finally:
            os.close(fd)

    def hits(self, pid):
        """(name, nanoseconds, epoch, n), oldest first."""
        pattern = rf'-{pid} .*span: .*name="(.*)" ns=(\d+) epoch=(\d+) n=(\d+)'
        text = ftlab.read_text(f"{self.ROOT}/trace")
        return [(m[1], int(m[2]), int(m[3]), int(m[4])) for m in re.finditer(pattern, text)]


@test(60)
def trace_probe(lab):
    """a tracer of the kernel has the same spans at the static probe, without anybody who asks the VM for them"""
    pair = Pair(lab, guest="writer", cmdline="mode=random tick=5 pages=64", disk=0, net=False)
    a, b = pair.protect()
    before = epochs_of(a)
    with Uprobe() as probe:
        begun = epochs_of(a)
        seen = epochs_of(a, 20)
        hits, theirs = probe.hits(a.pid), probe.hits(b.pid)
    after = epochs_of(a)
    pauses = [h for h in hits if h[0] == "pause"]
    expect(seen - begun - 1 <= len(pauses) <= after - before, f"{len(pauses)} pauses: {before} {begun} {seen} {after}")
    numbers = [h[2] for h in pauses]
    expect(numbers == list(range(numbers[0], numbers[0] + len(numbers))), f"epochs {numbers}")
    expect(all(h[3] > 0 and 0 < h[1] < 1e9 * ftlab.SLOW for h in pauses), f"pages, or times: {pauses[:3]}")
    for name in PARTS:
        expect(len([h for h in hits if h[0] == name]) >= len(pauses) - 1, f"{name}: {len(hits)}")
    expect({h[0] for h in theirs} == {"receive", "commit"}, f"the secondary's: {theirs[:4]}")


@test(60)
def trace_first_sync(lab):
    """a pair that comes into step: the sync, its first epoch, the states"""
    pair = Pair(lab, guest="idle", cmdline="hz=10", disk=0, net=False)
    a = pair.primary("A")
    a.wait_state("UNPROTECTED")
    trace = Trace(lab, a)
    pair.secondary("B")
    pair.in_step()
    spans, _ = trace.interrupt()
    expect(one(spans, "first sync")["args"]["bytes"] > 0, "an empty sync")
    expect([s["name"] for s in spans if s["ph"] == "i"] == ["SYNCING", "PROTECTED"], "states")
    expect(named(spans, "pause")[0]["args"]["why"] == "first", f"{named(spans, 'pause')[0]}")


@test(60)
def trace_takeover(lab):
    """the primary is killed: its trace is whole, the secondary's has the takeover"""
    pair = Pair(lab, guest="idle", cmdline="hz=10", disk=0, net=False)
    a, b = pair.protect()
    traces = Trace(lab, a), Trace(lab, b)
    epochs_of(a, 3)
    a.kill()
    b.wait_status(lambda s: s["role"] == "primary", "a takeover")
    traces[0].read("VM")
    spans, _ = traces[1].interrupt()
    takeover, load = one(spans, "takeover"), one(spans, "load")
    expect(abs(takeover["dur"] - b.status()["takeover_us"]) < 2, f"{takeover}, {b.status()['takeover_us']}")
    expect(takeover["ts"] <= one(spans, "claim")["ts"] <= load["ts"] < takeover["ts"] + takeover["dur"], f"{takeover} {load}")
    expect([s["name"] for s in spans if s["ph"] == "i"] == ["TAKING-OVER", "DEGRADED"], "states")


@test(60)
def trace_migration(lab):
    """a VM that leaves and its destination: whole files, that of the source up to its end"""
    move = Move(lab, boot(lab, "writer", "mode=seq tick=20 pages=64"))
    source = move.vm
    trace = Trace(lab, source)
    uri = move.uri("tcp")
    to = move.destination(uri)
    other = Trace(lab, to)
    source.call("migrate", precopy=uri)
    expect(source.wait_exit(30) == ftlab.EXIT_GONE, f"{source.code}")
    spans, _ = trace.read("VM")
    down = one(spans, "downtime")
    for name in ("halt", "drain", "last pages", "there", "run"):
        part = one(spans, name)
        expect(down["ts"] <= part["ts"] and part["ts"] + part["dur"] <= down["ts"] + down["dur"] + 0.01, f"{down} {part}")
    whole = one(spans, "migration")
    expect(whole["ts"] <= one(spans, "connect")["ts"] <= one(spans, "passes")["ts"] < down["ts"], f"{whole}")
    expect(spans[-1]["name"] == "MIGRATED", f"{spans[-1]}")
    spans, _ = other.interrupt()
    expect(one(spans, "comes in")["args"]["bytes"] > 0, f"{spans}")


@test(60)
def log_in_the_journal(lab):
    """standard error is the file that JOURNAL_STREAM names: priorities, and no times, also when the start fails"""
    for kernel, pattern in ((f"{GUESTS}/hello.elf", r"<6>ftvmm\[vm\] info: "), ("/bin/sh", r"<3>ftvmm\[vm\] error: ")):
        with open(lab.path("journal"), "w+b") as f:
            st = os.fstat(f.fileno())
            env = dict(os.environ, XDG_RUNTIME_DIR=lab.path("A"), JOURNAL_STREAM=f"{st.st_dev}:{st.st_ino}")
            subprocess.run([FTVMM, "run", "-k", kernel, "-m", "64M", "--console", "none"], stderr=f, env=env,
                           stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, timeout=60, check=False)
            f.seek(0)
            lines = f.read().decode().splitlines()
        expect(lines and all(re.match(pattern, line) for line in lines), f"{lines}")


@test(60)
def log_is_json(lab):
    """--log json: each line is an object with time, level, name and text, also when the start fails; else a time in front"""
    vm = boot(lab, "hello", "", "--log", "json", "--verbose")
    vm.wait_exit()
    lines = [json.loads(line) for line in vm.log_text().splitlines()]
    expect(lines and all(set(o) == {"time", "level", "name", "text"} and o["name"] == "vm" for o in lines), f"{lines}")
    expect(any("STARTING -> RUNNING" in o["text"] and o["level"] == "info" for o in lines), f"{lines}")
    failed = Vm(lab, "A", ["-k", "/bin/sh", "-m", "64M", "--log", "json"])
    failed.wait_exit()
    why = json.loads(failed.log_text().splitlines()[-1])
    expect(failed.code == 1 and why["level"] == "error" and why["text"], f"{failed.code} {why}")
    plain = boot(lab, "hello", "")
    plain.wait_exit()
    time = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z "
    expect(all(re.match(time + r"ftvmm\[vm\] (error|warning|info): ", line) for line in plain.log_text().splitlines()),
           plain.log_text())

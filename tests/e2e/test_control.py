"""The control socket: every answer and every event of VMs that do all kinds of things is what docs/control.md says."""

import os
import re

import ftlab
from ftlab import FTVMM, ROOT, Control, Pair, expect
from testlib import test
from test_boot import NET, boot
from test_migrate import Move

TYPES = {"text": str, "number": (int, float), "bool": bool, "list": list}


def read_schema():
    """{(part, of): {name: type}} of docs/control.md; a whole reply or event of one type has the name ""."""
    with open(os.path.join(ROOT, "docs/control.md"), encoding="utf-8") as f:
        text = f.read().split("<!-- from protocol control -->")[1]
    schema = {}
    for title, body in re.findall(r"^### (.+)\n((?:(?!^### ).*\n)*)", text, re.M):
        kind, _, of = title.rpartition(" ")
        part = None
        for line in body.splitlines():
            whole = re.fullmatch(r"(reply|member): a (\w+): .*", line)
            cells = [c.strip() for c in line.strip("|").split("|")]
            if whole:
                schema.setdefault((kind or "reply", of), {})[""] = whole[2]
            elif line.startswith("|") and cells[1] == "type":
                part = {"request": "request", "reply": "reply"}.get(cells[0], kind)
            elif line.startswith("|") and not cells[0].startswith("-"):
                schema.setdefault((part, of), {})[cells[0]] = cells[1]
        schema.setdefault((kind or "reply", of), {})
    return schema


class Checked(Control):
    """A connection on which nothing is said that is not in the page."""

    schema = read_schema()

    def line(self):
        line = super().line()
        if "event" in line:
            about = {k: v for k, v in line.items() if k not in ("event", "time")}
            expect(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", line["time"]), f"{line}")
            self.check(("event", line["event"]), about)
        return line

    def call(self, cmd, **args):
        ok = super().call(cmd, version=1, **args)
        self.check(("reply", cmd), ok)
        return ok

    def check(self, of, value):
        rows = self.schema.get(of)
        expect(rows is not None, f"docs/control.md has no {of}")
        if "" in rows:
            self.check(("object", rows[""]), value)
            return
        self.members(of, rows, value, "")
        for name, type_ in rows.items():
            at = value
            for part in [] if type_.endswith("?") else name.split("."):
                expect(part in at, f"{of}: no {name}: {value}")
                at = at[part]

    def members(self, of, rows, value, path):
        for key, member in value.items():
            name = f"{path}.{key}".lstrip(".")
            type_ = next((t for n, t in rows.items() if re.fullmatch(re.escape(n).replace(r"\*", r".+?"), name)), None)
            if type_ and type_.rstrip("?") not in TYPES:
                self.check(("object", type_.rstrip("?")), member)
            elif isinstance(member, dict) and not type_:
                self.members(of, rows, member, name)
            else:
                kind = TYPES.get((type_ or "").rstrip("?"), ())
                good = isinstance(member, kind) and (kind is bool) == isinstance(member, bool)
                expect(good, f"{of}: {name}: {member} is not '{type_}'")


def checked(vm):
    vm.status()
    vm.ctl.close()
    vm.ctl = Checked(vm.socket_path(), 20 * ftlab.SLOW)
    vm.call("events")
    return vm


def ends(vm):
    """All that it still says."""
    try:
        while vm.ctl.line():
            pass
    except ConnectionError:
        pass


@test(90)
def control_pair(lab):
    """a pair of each mode with disk and network: syncs, settings, a pause, a trace, a takeover, a stop"""
    for mode in ("mc", "colo"):
        pair = Pair(lab, ft=mode)
        a, b = (checked(vm) for vm in pair.protect())
        a.call("set", epoch_ns=10000000, output_limit_bytes=1 << 20, ft="kemari")
        a.call("pause")
        a.call("resume")
        a.call("trace", session=3)
        a.call("trace", session=3, end=True)
        a.call("dump")
        for vm in (a, b):
            vm.status()
        a.kill()
        b.wait_state("DEGRADED")
        b.call("stop", timeout_ns=0)
        ends(b)
        lab.release(*pair.vm.values())


@test(90)
def control_move(lab):
    """all devices; a snapshot; a migration by precopy with copied disks, and one by postcopy"""
    image = lab.disk("image", 8)
    vm = checked(boot(lab, "writer", "mode=seq tick=20 pages=64", "-d", f"id=d0,path={image}", "-n", NET,
                      "--vsock", f"path={lab.path('vs')}"))
    vm.call("snapshot", file=lab.path("snapshot"))
    vm.status()
    for options in ({"how": "precopy"}, {"how": "postcopy"}):
        move = Move(lab, vm, "-d", f"id=d0,path={image}", "-n", NET, "--vsock", f"path={lab.path('vs' + options['how'])}")
        move.host = vm.host
        uri = move.uri("unix")
        to = checked(move.destination(uri))
        vm.call("migrate", **{options["how"]: uri, "timeout": "30s", "downtime": 100, "bandwidth": 1 << 30})
        ends(vm)
        expect(vm.wait_exit() == ftlab.EXIT_GONE, f"{vm.code}")
        to.wait_status(lambda s: s["migration"]["status"] == "completed", "all of its memory", 30)
        lab.release(vm)
        vm = to
    vm.call("stop", timeout_ns=0)
    ends(vm)


@test(60)
def control_version(lab):
    """a client of another version is told so, and does nothing"""
    vm = boot(lab, "idle", "hz=10")
    vm.wait_state("RUNNING")
    try:
        vm.call("stop", version=2)
        expect(False, "a request of version 2 was served")
    except ftlab.LabError as e:
        expect("speaks version 1" in str(e), f"{e}")
    p = ftlab.run(FTVMM, "pause", vm.name, env=dict(os.environ, XDG_RUNTIME_DIR=vm.run_dir))
    expect(p.returncode == 0, p.stdout)
    vm.wait_state("PAUSED")
    expect(vm.stop() == 0, f"{vm.code}")

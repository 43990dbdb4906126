"""Live migration: there and back, what is refused, what is given up, and what nobody answers."""

import json
import os
import re
import subprocess

import ftlab
from ftlab import GUEST_IP, LINK_IP, FTVMM, Vm, expect
from testlib import (check_load, hash_cmdline, hash_work, host_digest, random_wait, start_load, test, wait_hash)
from test_boot import NET, boot

PORT = 7950


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
        if event.get("event") == "migration" and event["status"] != "active":
            return event


def migrate(vm, uri, **options):
    """Asks for it and waits for its end, as the control socket has it."""
    vm.status()
    vm.ctl.events = []
    status = vm.call("migrate", precopy=uri, **options)
    return status if status["status"] != "active" else last_event(vm)


@test(60)
def migrate_writer(lab):
    """there and back over tcp and unix while the guest writes; what it wrote is what it reads"""
    move = Move(lab, boot(lab, "writer", "pages=200 tick=5 report=1", memory="128M"))
    move.vm.wait_console("^READY")
    for kind in ("tcp", "unix", "tcp", "unix"):
        done = move.go(kind)
        move.vm.wait_state("RUNNING")
        move.vm.wait_console("^speed")
        expect(done["downtime-us"]["total"] > 0 and done["ram"]["total"] == 128 << 20, f"{done}")
    expect(move.vm.alive() and not re.search("CORRUPT|TRAP", move.vm.console_text()), move.vm.console_text())


@test(60)
def migrate_hash(lab):
    """in the middle of a computation, twice: the right result"""
    work = hash_work(128, 16000)
    want = f"digest {host_digest(lab, *work)}"
    move = Move(lab, boot(lab, "hash", hash_cmdline(work)))
    wait_hash(lab, move.vm, work)
    move.go("tcp")
    move.go("unix")
    expect(move.vm.wait_exit(30) == 0 and want in move.vm.console_text(), f"not {want}: {move.vm.console_text()}")

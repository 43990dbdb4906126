"""A systemd of its own for a host of the laboratory: process 1 of namespaces in which it finds nothing but the units of
configs/systemd and what these need of others, by name."""

import json
import os
import re
import shutil
import subprocess
import time

import ftlab
from ftlab import FTVMM, GUEST_IP, GUEST_MAC, GUESTS, LINK_IP, ROOT, Deadline, LabError, Process, expect

SYSTEMD = "/lib/systemd/systemd"
UNITS = os.path.join(ROOT, "configs/systemd")
# Of a system: there for what the units say of them, and empty.
TARGETS = ("sysinit", "basic", "multi-user", "shutdown", "network-online", "remote-fs", "umount", "ready")
# /run and /usr/local/bin are empty, /etc is a copy: what is written there is gone with it.
BEGIN = """set -e
mount -t tmpfs none /run
mkdir -p /run/systemd /run/etc
cp -a /etc/. /run/etc
mount --bind /run/etc /etc
mkdir -p /etc/ftvmm
cp {folder}/vm.json /etc/ftvmm/demo.json
mount -t tmpfs none /usr/local/bin
ln -s {ftvmm} /usr/local/bin/ftvmm
exec env -i PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin container=ftlab SYSTEMD_UNIT_PATH={folder}/units \\
	SYSTEMD_LOG_TARGET=console {systemd} --system --unit=ready.target
"""


def cgroup_root():
    for path in "/sys/fs/cgroup/systemd", "/sys/fs/cgroup":
        if os.path.exists(os.path.join(path, "cgroup.procs")):
            return path
    return None


def missing():
    """Why it cannot be had here, or None."""
    for program in SYSTEMD, "systemctl", "systemd-analyze":
        if not shutil.which(program):
            return f"{program} is not there"
    return None if cgroup_root() else "there is no cgroup file system for systemd"


class Host:
    def __init__(self, lab, host, watchdog="30s"):
        self.lab, self.host = lab, host
        self.folder = lab.path(f"900-systemd-{host}")
        units = os.path.join(self.folder, "units")
        shutil.copytree(UNITS, units)
        for name in TARGETS:
            with open(os.path.join(units, f"{name}.target"), "w") as f:
                f.write("[Unit]\nDefaultDependencies=no\n")
        for unit in os.listdir(UNITS):  # in its place on a machine of this speed
            os.makedirs(os.path.join(units, f"{unit}.d"), exist_ok=True)
            with open(os.path.join(units, f"{unit}.d", "watchdog.conf"), "w") as f:
                f.write(f"[Service]\nWatchdogSec={ftlab.patience(watchdog)}\n")
        self.image = os.path.join(self.folder, "disk")
        self.write_json()
        begin = os.path.join(self.folder, "begin")
        with open(begin, "w") as f:
            f.write(BEGIN.format(folder=self.folder, ftvmm=FTVMM, systemd=SYSTEMD))
        self.cgroup = os.path.join(cgroup_root(), f"ftlab{os.getpid()}-{host}")
        os.makedirs(self.cgroup, exist_ok=True)
        self.proc = Process(lab.ns[host], ["sh", "-c", f"echo $$ > {self.cgroup}/cgroup.procs && exec unshare "
                            f"--pid --fork --mount --mount-proc --uts --kill-child sh {begin}"],
                            lab.path(f"900-systemd-{host}-log"))
        lab.processes.append(self.proc)
        lab.closing.append(self)
        d = Deadline(30)
        while not self.first() or self.systemctl("is-active", "ready.target", check=False).strip() != "active":
            expect(self.proc.alive(), f"systemd on host {host}: {self.proc.log_text()}")
            d.check(f"systemd on host {host}")
            self.proc.nap(max(0.1, 10 * ftlab.POLL))  # to ask takes a program's start

    def write_json(self):
        other = "B" if self.host == "A" else "A"
        with open(os.path.join(self.folder, "vm.json"), "w") as f:
            json.dump({"kernel": f"{GUESTS}/kv.elf", "cmdline": f"ip={GUEST_IP}", "memory": "64M", "console": "none",
                       "disk": [{"id": "d0", "path": self.image}],
                       "net": [{"id": "n0", "tap": "t0", "bridge": "br0", "mac": GUEST_MAC.hex(":")}],
                       "listen": f"tcp:{LINK_IP[self.host]}:{ftlab.FT_PORT}",
                       "peer": [f"tcp:{LINK_IP[other]}:{ftlab.FT_PORT}"], "ft": "mc", "epoch": ftlab.usual_epoch(),
                       "peer-timeout": ftlab.patience("500ms"), "arbiter": f"file:{self.lab.path('arbiter')}/vm",
                       "insecure": True}, f)

    def first(self):
        """Its process 1, by this machine's number; None before it is there, or when it is gone."""
        pid = self.proc.pid
        return next((int(p) for p in ftlab.read_text(f"/proc/{pid}/task/{pid}/children").split()), None)

    def inside(self, *argv, check=True):
        first = self.first()
        if not first:
            raise LabError(f"there is no systemd on host {self.host}: {self.proc.log_text()}")
        p = subprocess.run(["nsenter", "-t", str(first), "-m", "-p", "-n", "--", "env", "-u", "XDG_RUNTIME_DIR", *argv],
                           stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120)
        self.lab.note(f"host {self.host}: {' '.join(argv)}: {p.returncode} {p.stdout.strip()[:200]}")
        expect(not check or p.returncode == 0, f"host {self.host}: {' '.join(argv)}: {p.returncode} {p.stdout}")
        return p.stdout

    def systemctl(self, *argv, check=True):
        return self.inside("systemctl", *argv, check=check)

    def show(self, unit, key):
        return self.systemctl("show", "-P", key, unit).strip()

    def wait(self, what, fn, want, seconds=30):
        d = Deadline(seconds)
        while (is_ := fn()) not in want:
            d.check(f"{what} {'/'.join(want)} on host {self.host}, is {is_}")
            self.proc.nap(max(0.1, 10 * ftlab.POLL))  # to ask takes a program's start

    def wait_state(self, *states):
        self.inside("ftvmm", "wait", "demo", ",".join(states), "--timeout", f"{int(min(110, 30 * ftlab.SLOW))}s")

    def wait_unit(self, unit, *states):
        self.wait(unit, lambda: self.show(unit, "ActiveState"), states)

    def signal_main(self, unit, sig):
        pid = self.show(unit, "MainPID")
        expect(re.fullmatch("[1-9][0-9]*", pid), f"{unit} has no process")
        self.inside("kill", f"-{sig}", pid)

    def close(self):
        """With its process 1 all others end. A cgroup is busy until the last is forgotten, and of the old kind tells
        nobody when it is not: it is looked at until then."""
        self.proc.close()
        d = Deadline(20)
        while os.path.exists(self.cgroup):
            try:
                for folder, _, _ in os.walk(self.cgroup, topdown=False):
                    os.rmdir(folder)
            except OSError as e:
                d.check(f"the end of all that was in {e.filename}")
                time.sleep(ftlab.POLL)

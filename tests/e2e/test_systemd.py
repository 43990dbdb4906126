"""As services: what systemd is told, and the units of configs/systemd under a real systemd."""

import os
import signal
import socket
import subprocess

import ftlab
import sdlab
from ftlab import GUESTS, Deadline, Pair, Vm, expect
from test_stop import SlowImage, full_queue
from testlib import Skip, random_wait, some, start_load, test

STANDBY, PRIMARY = "ftvmm-standby@demo.service", "ftvmm-primary@demo.service"


class Told:
    """What comes in at a NOTIFY_SOCKET; an abstract one is host A's."""

    def __init__(self, lab, abstract=False):
        path = lab.path(f"notify{lab.next_serial()}")
        self.socket = lab.socket_in("A", socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("\0" + path if abstract else path)
        self.env = {"NOTIFY_SOCKET": ("@" if abstract else "") + path}
        self.lines = []
        lab.closing.append(self)

    def close(self):
        self.socket.close()

    def wait(self, line, seconds=20):
        """Until that line comes, or is the first of a kind: STATUS=PROTECTED."""
        d = Deadline(seconds)
        while True:
            d.check(f"'{line}' from a VM, which said {self.lines[-12:]}")
            self.socket.settimeout(max(0.01, d.left()))
            try:
                got = self.socket.recv(4096).decode().splitlines()
            except TimeoutError:
                continue
            self.lines += got
            if any(x.startswith(line) for x in got):
                return got

    def silent(self, seconds):
        self.socket.settimeout(seconds)
        try:
            return not self.socket.recv(4096)
        except TimeoutError:
            return True


@test(60)
def systemd_told(lab):
    """readiness, state and end of a VM, and a watchdog that stops when it does; its children inherit nothing"""
    for abstract in False, True:
        told = Told(lab, abstract)
        vm = Vm(lab, "A", ["-k", f"{GUESTS}/idle.elf", "-m", "64M", "-a", "hz=10"],
                env={**told.env, "WATCHDOG_USEC": "200000"})
        told.wait("READY=1")
        expect("STATUS=RUNNING" in told.lines, told.lines)
        for _ in range(3):
            told.wait("WATCHDOG=1")
        vm.signal(signal.SIGSTOP)
        while not told.silent(1):
            pass
        vm.signal(signal.SIGCONT)
        told.wait("WATCHDOG=1")
        expect(vm.stop() == 0, vm)
        told.wait("STOPPING=1")
    vm = Vm(lab, "A", ["-k", f"{GUESTS}/idle.elf", "-m", "64M"], env={"NOTIFY_SOCKET": "/no/such"})
    vm.wait_log("NOTIFY_SOCKET '/no/such': No such file or directory; systemd is not told")
    vm.wait_state("RUNNING")
    told = Told(lab)
    vm = Vm(lab, "A", ["-k", f"{GUESTS}/idle.elf", "-m", "64M"], name="another",
            env={**told.env, "WATCHDOG_USEC": "100000", "WATCHDOG_PID": "1"})
    told.wait("READY=1")
    expect(told.silent(1), "it feeds another process's watchdog")
    program, seen = lab.path("program"), lab.path("seen")
    with open(program, "w") as f:
        f.write(f"#!/bin/sh\nenv > {seen}\nexit 1\n")
    os.chmod(program, 0o755)
    vm = Vm(lab, "A", ["--primary", "-k", f"{GUESTS}/idle.elf", "-m", "64M", "--ft", "mc", "--peer", "tcp:127.0.0.1:1",
                       "--arbiter", f"exec:{program}"], name="third", env={**told.env, "WATCHDOG_USEC": "1"})
    expect(vm.wait_exit() == 1, vm)
    said = ftlab.read_text(seen)
    expect("PATH=" in said and "NOTIFY_SOCKET" not in said and "WATCHDOG" not in said, said)
    told.wait("STOPPING=1")
    told = Told(lab)  # the others speak every some seconds
    vm = Vm(lab, "A", ["-k", "/no/such", "-m", "64M"], env=told.env)
    expect(vm.wait_exit() == 1 and told.silent(0.1), "wrong words say something to systemd")


@test(60)
def systemd_told_of_pair(lab):
    """a secondary is ready when it listens; the state of both sides, a note that is new, and a takeover"""
    pair, told = Pair(lab), {h: Told(lab) for h in "AB"}
    b = pair.secondary("B", env=told["B"].env)
    told["B"].wait("READY=1")
    expect("STATUS=STARTING: waiting for a primary" in told["B"].lines, told["B"].lines)
    wrong = pair.peer_of["A"]
    pair.peer_of["A"] = f"tcp:{ftlab.LINK_IP['B']}:1"
    a = pair.primary("A", env=told["A"].env)
    told["A"].wait("READY=1")
    told["A"].wait("STATUS=UNPROTECTED: peer ")  # no change of state: it is said again
    a.call("set", peer=wrong)
    for host in "AB":
        told[host].wait("STATUS=PROTECTED")
    a.kill()
    told["B"].wait("STATUS=DEGRADED: took over")
    expect(b.stop() == 0, b)
    told["B"].wait("STOPPING=1")


@test(120)
def systemd_told_in_drain(lab):
    """a secondary that ends when its image has taken all does not look hung to its watchdog until then"""
    told = Told(lab)
    with SlowImage(lab) as slow:
        pair = full_queue(lab, slow, env={"B": {**told.env, "WATCHDOG_USEC": "200000"}})
        b = pair.vm["B"]
        b.signal(signal.SIGTERM)
        b.wait_log("go to the image first")
        told.wait("STOPPING=1")
        for _ in range(5):
            got = told.wait("WATCHDOG=1")
            expect("READY=1" not in got, got)
        expect(b.alive(), b)
        slow.thaw()
        expect(b.wait_exit(30) == 0, f"exit code {b.code}: {b.log_text()}")
        expect(pair.vm["A"].wait_exit() == 0, pair.vm["A"])


@test(60, vm=False)
def systemd_verify(lab):
    """systemd finds nothing wrong with the units"""
    if why := sdlab.missing():
        raise Skip(why)
    units = [os.path.join(sdlab.UNITS, u) for u in sorted(os.listdir(sdlab.UNITS))]
    names = [u.replace("@.", "@demo.") for u in units]
    p = subprocess.run(["unshare", "--mount", "sh", "-c", f"mount -t tmpfs none /usr/local/bin && ln -s {ftlab.FTVMM} "
                        f"/usr/local/bin/ftvmm && systemd-analyze verify --man=no {' '.join(names)}"],
                       stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60)
    # Other units of this machine are looked at, too.
    wrong = [line for line in p.stdout.splitlines() if "ftvmm" in line]
    expect(not wrong, p.stdout)


def hangs(host):
    """The side that stands by: systemd ends it, and starts it again."""
    pid = host.show(STANDBY, "MainPID")
    host.signal_main(STANDBY, "STOP")
    host.wait("MainPID", lambda: str(host.show(STANDBY, "MainPID") in (pid, "0")), ("False",))
    host.wait_state("PROTECTED")


@test(180)
def systemd_pair(lab):
    """a pair of services under load: stopped, killed, hung, its host shut down; it is protected again each time"""
    if why := sdlab.missing():
        raise Skip(why)
    os.mkdir(lab.path("arbiter"))
    a, b = sdlab.Host(lab, "A"), sdlab.Host(lab, "B", watchdog="2s")
    with open(a.image, "wb") as f:
        f.truncate(64 << 20)
    for host in a, b:
        host.systemctl("start", STANDBY)
        expect(host.show(STANDBY, "StatusText") == "STARTING: waiting for a primary", host.show(STANDBY, "StatusText"))
    a.systemctl("start", PRIMARY)
    expect(a.show(STANDBY, "ActiveState") == "inactive", "the standby unit was not ended")
    a.wait_state("PROTECTED")
    load = start_load(lab)
    # Where the VM runs neither unit does anything to it.
    a.systemctl("start", STANDBY)
    expect((a.show(STANDBY, "ActiveState"), a.show(PRIMARY, "ActiveState")) == ("inactive", "active"), "both, or none")

    # The primary's unit is stopped: the VM goes to B, and this host stands by.
    random_wait(lab, load, 0.1, 0.4)
    a.systemctl("stop", PRIMARY)
    b.wait_state("DEGRADED", "SYNCING", "PROTECTED")
    a.wait_unit(STANDBY, "active")
    a.wait_state("PROTECTED")
    b.systemctl("start", PRIMARY)
    expect((b.show(STANDBY, "ActiveState"), b.show(PRIMARY, "ActiveState")) == ("active", "inactive"), "both, or none")
    expect(b.show(STANDBY, "StatusText").startswith("PROTECTED"), b.show(STANDBY, "StatusText"))

    # B is killed: A takes over, B is started again and stands by.
    random_wait(lab, load, 0.1, 0.4)
    b.signal_main(STANDBY, "KILL")
    a.wait_state("DEGRADED", "SYNCING", "PROTECTED")
    b.wait_state("PROTECTED")

    if True in some(lab, (True, False), 1):
        hangs(b)

    # `ftvmm failover`: the side that handed over is started again by itself.
    random_wait(lab, load, 0.1, 0.4)
    said = a.inside("ftvmm", "failover", "demo", "--test")
    expect("this host stands by" in said, said)
    b.wait_state("DEGRADED", "SYNCING", "PROTECTED")
    a.wait_state("PROTECTED")

    # B's host is shut down: the VM goes first.
    random_wait(lab, load, 0.1, 0.4)
    b.systemctl("start", "shutdown.target")
    expect(b.show(STANDBY, "ActiveState") == "inactive", b.show(STANDBY, "ActiveState"))
    a.wait_state("DEGRADED")
    lab.probe()
    random_wait(lab, load, 0.1, 0.4)
    load.finish()
    a.inside("ftvmm", "stop", "demo")
    a.wait_unit(STANDBY, "inactive")
    lab.check([load], a.image)

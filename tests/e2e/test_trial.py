"""`ftvmm trial`: two hosts and a client of this machine, of which nothing is seen there, and nothing is left. That the
README's pair runs on them is seen by the examples of the documentation, which do (tests/docs/lab.py)."""

import json
import os
import re
import signal
import subprocess

import ftlab
from ftlab import FTVMM, Deadline, expect
from testlib import Skip, test

BASE = "/var/lib/ftvmm-trial"
# Whoever listens there says its name to who comes.
LISTEN = "import socket; s = socket.create_server(('{}', 99)); print('listens', flush=True); s.accept()[0].send(b'{}')"
ASK = "import socket; print(socket.create_connection(('{}', 99), 10).recv(9).decode())"


class Machine:
    """Namespaces that stand for a whole machine: what a trial leaves behind is seen in them, and nothing else is."""

    def __init__(self):
        script = "mount -t tmpfs none /var/lib && ip link set lo up && echo ready && exec env --ignore-signal=CHLD cat"
        self.holder = subprocess.Popen(["unshare", "--net", "--mount", "--pid", "--uts", "--fork", "--mount-proc",
                                        "sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        expect(self.holder.stdout.readline() == "ready\n", "namespaces cannot be made here")
        with open(f"/proc/{self.holder.pid}/task/{self.holder.pid}/children", encoding="ascii") as f:
            self.pid = int(f.read().split()[0])

    def argv(self, *words):
        return ["nsenter", f"--target={self.pid}", "--net", "--mount", "--pid", "--uts", "--", *words]

    def run(self, *words, code=0):
        """What it says; it must end with that code."""
        p = ftlab.run(*self.argv(*words), check=False)
        expect(p.returncode == code, f"{' '.join(words)}: exit code {p.returncode}: {p.stdout}")
        return p.stdout

    def trial(self, *words, code=0, program=FTVMM):
        return self.run(program, "trial", *words, code=code)

    def start(self, *words):
        """In the background; returns when it has said a line."""
        p = subprocess.Popen(self.argv(*words), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        expect(p.stdout.readline() == "listens\n", f"{words} does not listen")
        return p

    def processes(self):
        """All but the first, what looks for them, and who is dead and about to be buried."""
        lines = self.run("ps", "-eo", "pid=,stat=,args=").splitlines()
        return [line for line in lines if not re.match(r" *1 | *\d+ Z|.* ps -eo", line)]

    def traces(self):
        """What there is besides processes."""
        said = self.run("sh", "-c", "ip -j link; echo; cat /proc/self/mountinfo; echo; find /var/lib; echo; hostname")
        links, mounts, files, name = said.split("\n\n")
        return [x["ifname"] for x in json.loads(links)], mounts.splitlines(), files.split(), [name]

    def expect_same(self, before, now):
        """A mount may go: when another test removes what is mounted there."""
        for old, new in zip(before, now, strict=True):
            left = [x for x in new if x not in old]
            expect(not left, f"left: {left}")

    def expect_clean(self, before):
        """No process, and nothing that was not there before."""
        left = self.processes()
        expect(not left, f"left: {left}")
        self.expect_same(before, self.traces())

    def await_quiet(self, what):
        d = Deadline(10)
        while left := self.processes():
            d.check(f"the end of all {what}: {left}")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.holder.stdin.close()
        self.holder.wait()
        self.holder.stdout.close()


@test(60, vm=False)
def trial_hosts(lab):
    """hosts with processes, folders and names of their own, linked as the examples have them; then nothing is left"""
    with Machine() as machine:
        before = machine.traces()
        said = machine.trial()
        for what in "shell A", "shell B", "shell client", "tmux", "end":
            expect(f"{FTVMM} trial {what}" in said, f"it does not say how to go on with '{what}': {said}")
        for host in "A", "B", "client":
            said = machine.trial("run", host, "sh", "-c", "hostname; pwd; ls; ls -A /run; echo $XDG_RUNTIME_DIR")
            expect(said.split() == [host, f"/srv/{host}", "build", "configs"], said)
        expect(machine.trial("run", "A", "--", "ftvmm", "version").startswith("ftvmm "), "not in the PATH")
        machine.trial("run", "A", "sh", "-c", "exit 7", code=7)
        machine.trial("run", "A", "sh", "-c", "echo for all > /srv/shared/note; echo for A > note")
        expect(machine.trial("run", "B", "sh", "-c", "cat /srv/shared/note; ls") == "for all\nbuild\nconfigs\n",
               "B does not see what is shared, or sees what is not")

        # The guest's place is taken by an address on each bridge.
        machine.trial("run", "A", "ip", "address", "add", "10.77.0.2/24", "dev", "ftbr0")
        machine.trial("run", "B", "ip", "address", "add", "10.77.0.3/24", "dev", "ftbr0")
        for at, address, asker in (("A", "10.77.1.1", "B"), ("B", "10.77.1.2", "A"), ("A", "10.77.0.2", "client"),
                                   ("B", "10.77.0.3", "client"), ("client", "10.77.0.1", "A")):
            listener = machine.start(FTVMM, "trial", "run", at, "python3", "-c", LISTEN.format(address, at))
            said = machine.trial("run", asker, "python3", "-c", ASK.format(address))
            expect(said == at + "\n", f"{asker} asks {address} of {at}: {said}")
            expect(listener.wait(10 * ftlab.SLOW) == 0, "the listener failed")
            listener.stdout.close()

        # Who is killed by its name on A, and has no parent any more, is gone there; B's goes on.
        for host in "AB":
            machine.trial("run", host, "sh", "-c", "sleep 1000 < /dev/null > /dev/null 2>&1 &")
        machine.trial("run", "A", "pkill", "-9", "-f", "sleep 1000")
        machine.trial("run", "B", "pgrep", "-f", "sleep 1000")
        d = Deadline(10)
        while "sleep 1000" in machine.trial("run", "A", "ps", "-eo", "args="):
            d.check("the end of a process on A")
        expect("defunct" not in machine.trial("run", "A", "ps", "-eo", "args="), "A does not bury its dead")

        now = machine.traces()
        machine.expect_same(before[:2] + before[3:], now[:2] + now[3:])
        machine.trial("end")
        machine.expect_clean(before)
        expect("there is none" in machine.trial("end", code=1), "ended twice")


@test(60, vm=False)
def trial_names(lab):
    """a second one of the same name is refused, of another name it is another"""
    with Machine() as machine:
        machine.trial()
        expect("there is one already" in machine.trial(code=1), "no word of the first one")
        said = machine.trial("--name", "two")
        expect(f"{FTVMM} trial --name two shell A" in said, said)
        machine.trial("run", "A", "touch", "/srv/shared/one", "one")
        expect(machine.trial("--name", "two", "run", "A", "ls", "/srv/shared") == "", "two trials share a folder")
        machine.trial("end")
        expect("there is none" in machine.trial("run", "A", "true", code=1), "the first one was not ended")
        machine.trial("--name", "two", "run", "A", "true")
        machine.trial("--name", "two", "end")
        expect(not machine.processes(), machine.processes())


@test(120, vm=False)
def trial_cut(lab):
    """SIGINT and SIGKILL for the tool while it makes a trial: nothing is left but a trial that is whole"""
    with Machine() as machine:
        before, whole, begin = machine.traces(), 0, ftlab.mono()
        machine.trial()
        took = (ftlab.mono() - begin) / 1e9
        machine.trial("end")
        cuts = max(4, ftlab.work(24))
        for i in range(cuts):
            sig = (signal.SIGINT, signal.SIGKILL)[i % 2]
            # nsenter waits for it, so it is killed by its own PID.
            p = subprocess.Popen(machine.argv("sh", "-c", f"echo $$; exec {FTVMM} trial"), stdin=subprocess.DEVNULL,
                                 stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            pid = p.stdout.readline().strip()
            try:
                p.wait(lab.rng.uniform(0, took))
            except subprocess.TimeoutExpired:
                ftlab.run(*machine.argv("kill", f"-{sig}", pid), check=False)
            code = p.wait(20 * ftlab.SLOW)
            p.stdout.close()
            if code == 128 + signal.SIGINT:
                machine.expect_clean(before)
                continue
            if "first=" in ftlab.run(*machine.argv("sh", "-c", f"cat {BASE}/default/pids || :")).stdout:
                whole += 1
            else:
                machine.await_quiet("that a killed tool left")
            # What a kill before the first process left is only a folder, and in nobody's way.
            if i % 4 == 1 and not machine.processes():
                machine.trial()
            ftlab.run(*machine.argv(FTVMM, "trial", "end"), check=False)
            machine.expect_clean(before)
        print(f"# {whole} of {cuts} were whole")


@test(60, vm=False)
def trial_killed(lab):
    """kill -9 for the first process of a trial ends all in it; kill -9 for that of a host is said"""
    with Machine() as machine:
        before = machine.traces()
        machine.trial()
        machine.trial("run", "B", "sh", "-c", "sleep 1000 < /dev/null > /dev/null 2>&1 &")
        machine.run("sh", "-c", f"eval $(cat {BASE}/default/pids); kill -9 $first")
        machine.await_quiet("that ran in a trial")
        expect("there is none" in machine.trial("run", "A", "true", code=1), "it is thought alive")
        machine.trial()
        machine.run("sh", "-c", f"eval $(cat {BASE}/default/pids); kill -9 $A; while [ -e /proc/$A ]; do :; done")
        expect("host A is dead" in machine.trial("run", "A", "true", code=1), "host A is thought alive")
        machine.trial("run", "B", "true")
        machine.trial("end")
        machine.expect_clean(before)


@test(60, vm=False)
def trial_refused(lab):
    """what it cannot do is said, and nothing is left"""
    with Machine() as machine:
        before = machine.traces()
        nobody = machine.run("setpriv", "--reuid=65534", "--clear-groups", FTVMM, "trial", code=1)
        expect("take root: sudo" in nobody, nobody)
        for words, why in ((("--name", "a/b"), "name 'a/b'"), (("--name", 33 * "x"), "at most 32"), (("shell",), "usage"),
                           (("run", "A"), "usage"), (("end", "now"), "usage"), (("make",), "usage")):
            said = machine.trial(*words, code=1)
            expect(why in said, f"{words}: {said}")
        expect("usage: ftvmm trial" in machine.trial("--help"), "no help")
        # An `ip` that is missing, and one that fails.
        ip = os.path.realpath(machine.run("sh", "-c", "PATH=$PATH:/usr/sbin:/sbin; command -v ip").strip())
        machine.run("mount", "--bind", "/dev/null", ip)
        said = machine.trial(code=1)
        expect("there is no ip" in said, said)
        machine.run("umount", ip)
        machine.run("mount", "--bind", os.path.realpath("/bin/false"), ip)
        expect("it was not made" in machine.trial(code=1), "a failure is not said")
        machine.run("umount", ip)
        machine.expect_clean(before)
        machine.trial()
        expect("no host 'C'" in machine.trial("shell", "C", code=1), "host C")
        expect("this is A, a host of trial" in machine.trial("run", "A", "ftvmm", "trial", code=1), "a trial in a trial")
        machine.trial("end")


@test(120)
def trial_installed(lab):
    """what is installed brings what the examples name"""
    if ftlab.SANITIZED:
        raise Skip("another build's tests do not make this one")
    root = lab.path("root")
    ftlab.run("make", "-C", ftlab.ROOT, "install", f"DESTDIR={root}", "PREFIX=/usr", timeout=100)
    program = f"{root}/usr/bin/ftvmm"
    with Machine() as machine:
        expect(f"{program} trial shell A" in machine.trial(program=program), "it does not name itself")
        said = machine.trial("run", "A", "ftvmm", "run", "-k", "build/guests/hello.elf", "-m", "64M", program=program)
        expect("READY" in said, said)
        machine.trial("run", "client", "build/normal/tests/lin/kvclient", "--help", program=program)
        machine.trial("run", "B", "ftvmm", "key", "/srv/shared/demo-key", program=program)
        machine.trial("run", "B", "ftvmm", "check", "configs/examples/secondary.json", program=program)
        machine.trial("end", program=program)

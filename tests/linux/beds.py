"""Two machines, each a bed of its own, joined by two cables: host A is far away, all else is here."""

import json
import os
import shutil
import socket

import ftlab
from far import ADDRESS, PORT
from ftlab import FT_PORT, Deadline, Vm, expect
from linuxlab import FT_ARGS, LOGS, NET, Ping, Shell, check_clock, check_guest_log, guest_args
from testlib import random_wait, test

# tests/pool.py fills in the ports.
BED = {"net": ("--net", "listen:{0}", "--net", "listen:{1}"),
       "far": ("-m", "2G", "--net", "connect:127.0.0.1:{0}", "--net", "connect:127.0.0.1:{1}")}
NEAR = "10.79.0.2"
DATE_SLACK = 4  # the clocks of the two machines differ, s


class Far:
    """Host A's commands."""

    def __init__(self, lab):
        self.lab, self.lines, self.serial = lab, None, 0
        d = Deadline(30)
        while not self.lines:
            sock = lab.socket_in("B", socket.AF_INET, socket.SOCK_STREAM)
            sock.settimeout(5)
            try:
                sock.connect((ADDRESS, PORT))
                self.lines = sock.makefile("rw")
            except OSError:
                sock.close()
                d.check("the far bed")
        sock.settimeout(60)
        lab.closing.append(sock)

    def ask(self, **request):
        self.lines.write(json.dumps(request) + "\n")
        self.lines.flush()
        return json.loads(self.lines.readline())

    def start(self, *args):
        """ftvmm run in the background; its pid."""
        self.serial += 1
        self.log = f"/tmp/far-log{self.serial}"
        self.lab.note(f"far host A: {' '.join(args)}")
        return self.ask(argv=[ftlab.FTVMM, "run", *args, "--insecure", "--console", "/tmp/far-console"], log=self.log)["pid"]

    def state(self):
        p = self.ask(argv=[ftlab.FTVMM, "status", "vm", "--json"])
        try:
            return json.loads(p["text"])["state"]
        except (ValueError, KeyError):
            return f"none: {p['text'].strip()}"

    def wait_state(self, state, seconds=30):
        d = Deadline(seconds)
        while (seen := self.state()) != state:
            d.check(f"{state} of the far host, which is {seen}: {self.ask(argv=['tail', '-n', '5', self.log])['text']}")

    def crash(self):
        self.lines.write('{"crash": true}\n')
        self.lines.flush()


def plug_in(lab):
    """The first cable is B's link to A, the second joins the clients' switch."""
    ftlab.run("ip", "link", "set", "bed0", "netns", lab.ns["B"])
    ftlab.run("ip", "link", "set", "bed1", "netns", lab.ns["S"])
    lab.ip("B", f"address add {NEAR}/24 dev bed0", "link set bed0 up")
    lab.ip("S", "link set bed1 master br0 up")


@test(400)
def beds_takeover(lab):
    """SIGKILL in one machine, the other takes over, and back; then the power of one fails"""
    plug_in(lab)
    far = Far(lab)
    arbiter = os.path.join(LOGS, "arbiter")  # on this machine's host: storage that both share
    shutil.rmtree(arbiter, ignore_errors=True)
    os.mkdir(arbiter)
    ftlab.run("truncate", "-s", "16M", lab.path("disk"))
    far.ask(argv=["truncate", "-s", "16M", "/tmp/disk"])
    both = ["-n", NET, "--ft", "mc", *FT_ARGS, "--peer-timeout", "5s", "--arbiter", f"file:{arbiter}/vm"]
    args_a = [*both, "-d", "id=d0,path=/tmp/disk", "--peer", f"tcp:{NEAR}:{FT_PORT}"]
    args_b = [*both, "-d", f"id=d0,path={lab.path('disk')}", "--peer", f"tcp:{ADDRESS}:{FT_PORT}",
              "--secondary", "--listen", f"tcp:{NEAR}:{FT_PORT}"]
    kernel = guest_args(lab, "agent", memory="256M", cmdline=f"ftvmm.ip={ftlab.GUEST_IP}/24")
    initrd = kernel.index("-i") + 1
    shutil.copy(kernel[initrd], os.path.join(LOGS, "far-initramfs"))
    kernel[initrd] = os.path.join(LOGS, "far-initramfs")

    b = Vm(lab, "B", args_b)
    b.wait_state("STARTING")
    pid = far.start("--primary", *kernel, *args_a)
    b.wait_state("PROTECTED", seconds=30)
    shell, ping = Shell(lab), Ping(lab)
    shell.watch_clock()
    shell.run("dd if=/dev/urandom of=/dev/vda bs=64k count=16 conv=fsync")
    digest = shell.run("head -c 1M /dev/vda | sha256sum")

    shell.start("sleep 1; echo $((6 * 7))")
    random_wait(lab, b, 0.2, 2)
    far.ask(argv=["kill", "-KILL", str(pid)])
    b.wait_state("DEGRADED", seconds=20)
    expect(shell.finish() == "42", "the connection has lost or mixed up bytes")
    ping.more()

    far.start(*args_a, "--secondary", "--listen", f"tcp:{ADDRESS}:{FT_PORT}")
    b.wait_state("PROTECTED", seconds=30)
    random_wait(lab, b, 0.2, 2)
    shell.start("echo $((7 * 7))")
    b.kill()
    far.wait_state("DEGRADED")
    expect(shell.finish() == "49", "the connection has lost or mixed up bytes")
    lab.release(b)

    b = Vm(lab, "B", args_b)
    b.wait_state("PROTECTED", seconds=30)
    shell.start("sleep 1; echo $((8 * 8))")
    random_wait(lab, b, 0.2, 2)
    far.crash()
    b.wait_state("DEGRADED", seconds=20)
    expect(shell.finish() == "64", "the connection has lost or mixed up bytes")
    ping.more()
    shell.run("echo 3 > /proc/sys/vm/drop_caches")
    seen = shell.run("head -c 1M /dev/vda | sha256sum")
    expect(seen == digest, "the disk has not what was written in the other machine")
    check_clock(shell, DATE_SLACK)
    check_guest_log(shell)

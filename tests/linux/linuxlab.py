"""Linux guests in the laboratory of tests/e2e: how one is started, a shell in it, its kernel log."""

import os
import re
import select
import socket
import stat
import sys
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "e2e"))
import ftlab
from ftlab import GUEST_IP, Deadline, Pair, Process, Vm, expect, read_text

LINUX = os.path.join(ftlab.ROOT, "build/linux")
TOOLS = os.path.join(ftlab.ROOT, "build/linux-tests")
LOGS = os.path.join(ftlab.ROOT, "build/test-logs")  # shared with the beds
KERNELS, IMAGES = ("cloud", "standard"), ("vmlinux", "vmlinuz")
SHELL_PORT = 7
VSOCK_PORT = 5005
FT_ARGS = ["--epoch", "100ms", "--heartbeat", "500ms"]  # as the bed needs them
NET = f"id=n0,tap=t0,bridge=br0,mac={ftlab.GUEST_MAC.hex(':')}"


def newc(files):
    """A cpio archive of (name, mode, bytes), as kernels read it."""
    out = bytearray()
    for number, (name, mode, data) in enumerate([*files, ("TRAILER!!!", 0, b"")], 1):
        raw = name.encode() + b"\0"
        fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(raw), 0)
        out += b"070701" + b"".join(b"%08x" % f for f in fields) + raw
        out += bytes(-len(out) % 4) + data
        out += bytes(-len(out) % 4)
    return bytes(out)


def initramfs(lab, kernel):
    """That kernel's, with the scripts and programs of guest/ added."""
    path = lab.path(f"initramfs-{kernel}")
    if not os.path.exists(path):
        added = []
        for folder, target in ((os.path.join(HERE, "guest"), "run.d"), (TOOLS, "bin")):
            for name in sorted(os.listdir(folder)):
                if not name.endswith(".c"):
                    with open(os.path.join(folder, name), "rb") as f:
                        added.append((f"{target}/{name}", stat.S_IFREG | 0o755, f.read()))
        with open(f"{LINUX}/{kernel}/initramfs", "rb") as f, open(path, "wb") as g:
            data = f.read()
            g.write(data + bytes(-len(data) % 4) + newc(added))
    return path


def guest_args(lab, run, kernel="cloud", image="vmlinux", cpus=1, memory="384M", cmdline=""):
    """Kernel, initramfs, size: what a secondary does not get."""
    words = f"console=ttyS0 quiet {f'ftvmm.run={run}' if run else ''} {cmdline}"
    args = ["-k", f"{LINUX}/{kernel}/{image}", "-i", initramfs(lab, kernel), "-m", memory, "-c", str(cpus)]
    return [*args, "-a", " ".join(words.split())]


def root_args(lab, services="shell", memory="384M", cpus=1, kernel="cloud", image="vmlinux"):
    """The root image of guests/linux, only read; a second disk holds its /data."""
    args = guest_args(lab, "", kernel, image, cpus, memory,
                      f"root=/dev/vda ro ftvmm.ip={GUEST_IP}/24 ftvmm.services={services}")
    return [*args, "-d", f"id=root,path={LINUX}/root.img,ro"]


def linux(lab, run, *args, net=True, host="A", env=None, **guest):
    """A Linux guest that is not protected. With net it has GUEST_IP."""
    if net:
        guest["cmdline"] = f"ftvmm.ip={GUEST_IP}/24 {guest.get('cmdline', '')}"
        args = ("-n", NET, *args)
    return Vm(lab, host, [*guest_args(lab, run, **guest), *args], env=env)


class LinuxPair(Pair):
    """A protected Linux guest with run.d/agent, a disk, a network card and a vsock."""

    def __init__(self, lab, kernel="cloud", image="vmlinux", cpus=1, memory="256M", extra=(), **pair):
        super().__init__(lab, disk=pair.pop("disk", 16), memory=memory, cpus=cpus, timeout="5s",
                         extra=[*FT_ARGS, *extra], **pair)
        self.guest_args = guest_args(lab, "agent", kernel, image, cpus, memory, f"ftvmm.ip={GUEST_IP}/24")
        self.vsock = {h: lab.path(f"{self.serial:03}-vsock-{h}") for h in "AB"}
        for path in self.vsock.values():
            lab.closing.append(VsockEcho(path))

    def host_args(self, host):
        return [*super().host_args(host), "--vsock", f"path={self.vsock[host]}"]

    def protect(self, seconds=30, env=None):
        return super().protect(seconds, env)

    def in_step(self, seconds=30):
        super().in_step(seconds)


class Ping(Process):
    """The client pings the guest twice a second."""

    def __init__(self, lab):
        super().__init__(lab.ns["C"], ["busybox", "ping", "-i", "0.5", GUEST_IP],
                         lab.path(f"{lab.next_serial():03}-ping"))
        lab.processes.append(self)

    def answers(self):
        return read_text(self.log).count(" bytes from ")

    def more(self, seconds=10):
        """Until one more is answered."""
        d, seen = Deadline(seconds), self.answers()
        while self.answers() == seen:
            expect(self.alive(), f"ping ended: {self.log_text()}")
            d.check("an answer to a ping")
            self.nap(0.05)


def ctl(vm, *argv, check=True):
    """One `ftvmm COMMAND` for that VM, as a user gives it."""
    return ftlab.run(ftlab.FTVMM, argv[0], vm.name, *argv[1:], check=check,
                     env=dict(os.environ, XDG_RUNTIME_DIR=vm.run_dir))


class Shell:
    """A shell in the guest, of run.d/agent, over one TCP connection."""

    def __init__(self, lab, vm=None, seconds=30, address=GUEST_IP, node="C"):
        self.data, self.serial = b"", 0
        d = Deadline(seconds)
        while True:
            expect(not vm or vm.alive(), f"{vm} ended with {vm and vm.code}")
            self.sock = lab.socket_in(node, socket.AF_INET, socket.SOCK_STREAM)
            self.sock.settimeout(max(0.1, min(5, d.left())))
            try:
                self.sock.connect((address, SHELL_PORT))
                self.seconds = seconds
                break
            except OSError:
                self.sock.close()
                d.check(f"the guest's shell at {address}")
                time.sleep(0.05)
        lab.closing.append(self.sock)

    def watch_clock(self):
        self.run("clockwatch /tmp/clockwatch > /dev/null 2>&1 &")

    def start(self, script):
        """Send it; its output is for finish()."""
        self.serial += 1
        self.sock.sendall(f"{script}\necho \"<<end {self.serial} $?>>\"\n".encode())

    def busy(self):
        """No output of what start() began has come yet."""
        return not select.select([self.sock], [], [], 0)[0]

    def finish(self, seconds=30, check=True):
        """Output of the oldest command that was not finished yet."""
        d = Deadline(seconds)
        end = re.compile(rb"^<<end \d+ (\d+)>>\n", re.M)
        while not (match := end.search(self.data)):
            d.check(f"the guest's shell, which said {self.data[-200:]!r}")
            self.sock.settimeout(d.left())
            try:
                more = self.sock.recv(65536)
            except TimeoutError:
                continue
            expect(more, f"the guest closed the connection of its shell after {self.data[-200:]!r}")
            self.data += more
        text, self.data = self.data[:match.start()].decode(errors="replace"), self.data[match.end():]
        expect(not check or match[1] == b"0", f"in the guest: exit code {match[1].decode()}: {text}")
        return text.strip()

    def run(self, script, seconds=30, check=True):
        self.start(script)
        return self.finish(seconds, check)


def check_clock(shell, slack=1):
    """clockwatch has seen no clock go back, and the date is the host's, by that many seconds."""
    seen = re.fullmatch(r"reads (\d+) backwards (\d+) gap (\d+)", shell.run("cat /tmp/clockwatch"))
    expect(seen and int(seen[1]) and not int(seen[2]), f"clockwatch: {seen and seen[0]}")
    before = time.time()
    found = re.findall(r"time\.tv_u?sec: +(\d+)", shell.run("adjtimex"))
    now = int(found[0]) + int(found[1]) / 1e6
    expect(before - slack <= now <= time.time() + slack, f"the guest's date is off by {now - before:.3f} s")


class VsockEcho(threading.Thread):
    """The host's end of a guest's call to a vsock port: sends back what it gets."""

    def __init__(self, path):
        super().__init__(daemon=True)
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.bind(f"{path}_{VSOCK_PORT}")
        self.sock.listen()
        self.start()

    def run(self):
        while True:
            try:
                one, _ = self.sock.accept()
            except OSError:
                return
            with one:
                while data := one.recv(4096):
                    one.sendall(data)

    def close(self):
        self.sock.close()


# --- the kernel log ---------------------------------------------------------------------------------

TROUBLE = re.compile(r"acpi|virtio|clocksource|kvm|apic|\btsc\b|watchdog|lockup|\bbug\b|warning|call trace|"
                     r"stall|hung task|unhandled|\boops\b|unchecked msr|nobody cared|i/o error", re.I)
LOG_LINE = re.compile(r"<(\d+)>\[ *[\d.]+\] ?(.*)")


def allowed_lines():
    with open(os.path.join(HERE, "allowed_log.txt")) as f:
        return [re.compile(line.rstrip("\n")) for line in f if line.strip() and line[0] != "#"]


def check_kernel_log(text):
    """Text as of `dmesg -r`. Warnings and worse that name trouble and are not allowed fail the test."""
    allowed, bad = allowed_lines(), []
    for line in text.splitlines():
        match = LOG_LINE.match(line.strip())
        if match and int(match[1]) % 8 <= 4 and TROUBLE.search(match[2]):
            if not any(a.fullmatch(match[2]) for a in allowed):
                bad.append(match[2])
    expect(not bad, f"{len(bad)} lines of the kernel log that tests/linux/allowed_log.txt does not have: " +
           " | ".join(bad[:8]))


def check_guest_log(shell):
    """The same of a running guest."""
    check_kernel_log(shell.run("dmesg -r | grep '^<[0-4]>' || true"))


def console_log(vm):
    """What run.d/check printed of the kernel log."""
    match = re.search(r"^--- kernel log\r?$(.*)^--- end\r?$", vm.console_text(), re.M | re.S)
    expect(match, "no kernel log on the console")
    return match[1]


def checked(vm):
    """{part: (verdict, words)} of run.d/check."""
    found = re.findall(r"^check (\w+) (ok|FAIL|none) ?(.*?)\r?$", vm.console_text(), re.M)
    return {name: (verdict, words) for name, verdict, words in found}

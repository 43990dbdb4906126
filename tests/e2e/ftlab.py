"""The laboratory of the end-to-end tests: hosts made of network namespaces, virtual machines run by
ftvmm in them, clients, and what one needs to watch and to kill them. See tests/README.md."""

import ctypes
import json
import os
import re
import select
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
BUILD = os.path.join(ROOT, os.environ.get("FTVMM_BUILD", "build/normal"))
FTVMM = os.path.join(BUILD, "ftvmm")
# A sanitizer keeps freed memory for a while: limits of memory say nothing then.
SANITIZED = os.path.basename(BUILD) in ("asan", "tsan")
# A system call that is not on the list ends the program, and so the test. Sanitizers make some of their own.
SANDBOX = "strict"
TOOLS = os.path.join(ROOT, "build/normal/tests")
GUESTS = os.path.join(ROOT, "build/guests")

CLIENT_IP, GUEST_IP = "10.77.0.1", "10.77.0.2"
GUEST_IPS = (GUEST_IP, "10.77.0.3")  # of its cards, if it has two
LINK_IP = {"A": "10.78.0.1", "B": "10.78.0.2", "D": "10.78.1.3"}
FT_PORT = 7900
GUEST_MAC = bytes.fromhex("525400e20002")
GUEST_MACS = (GUEST_MAC, bytes.fromhex("525400e20003"))
EXIT_DONE, EXIT_USAGE, EXIT_FAILED, EXIT_GONE, EXIT_UNPROTECTED, EXIT_FENCED = range(6)

PREFIX = "ftlab"
CLONE_NEWNET = 0x40000000
POLL = 0.005  # seconds from question to question; longer on a slow machine, whose time they take
TAKEOVER_SECONDS = 2  # beside the time in which a silent peer counts as alive
SLOW = 1  # every deadline times this, every amount of work by it: measured by tests/worker.py
SLOW_FROM = 3  # from there on less is done, of all kinds
SLOW_POLL = 0.05  # at most
libc = ctypes.CDLL(None, use_errno=True)


class LabError(Exception):
    """A test's expectation does not hold."""


def expect(condition, what):
    if not condition:
        raise LabError(what)


def mono():
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC)


def work(amount):
    """What a machine gets through that is as slow as this one in the time that another needs for that amount."""
    return max(1, int(amount / SLOW))


def slow_is(times):
    """This machine is so many times as slow as one with KVM of its own."""
    global SLOW, POLL
    SLOW, POLL = times, max(POLL, min(POLL * times, SLOW_POLL))


def milliseconds(time_):
    number, unit = re.fullmatch(r"(\d+)(ms|s)", time_).groups()
    return int(number) * (1 if unit == "ms" else 1000)


def patience(time_):
    """A --peer-timeout for a machine as slow as this one: shorter silences than a few seconds say little on one."""
    ms = milliseconds(time_)
    return f"{int(max(ms, min(ms * SLOW, 2000)))}ms"


def usual_epoch():
    """Longer on a slow machine: it would spend its time on epochs that nobody waits for."""
    return "100ms" if SLOW > SLOW_FROM else "25ms"


class Deadline:
    def __init__(self, seconds):
        self.seconds = seconds * SLOW
        self.end = time.monotonic() + self.seconds

    def left(self):
        return self.end - time.monotonic()

    def check(self, what):
        if self.left() <= 0:
            raise LabError(f"after {self.seconds:g} s still waiting for {what}")


def run(*argv, check=True, timeout=60, **kw):
    p = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                       timeout=timeout * SLOW, **kw)
    if check and p.returncode:
        raise LabError(f"{' '.join(argv)}: exit code {p.returncode}: {p.stdout.strip()}")
    return p


def die_with_parent():
    libc.prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG


def born_in(ns):
    """What a child does first: it dies with this program, and lives in that network namespace."""
    die_with_parent()
    fd = os.open(f"/run/netns/{ns}", os.O_RDONLY | os.O_CLOEXEC)
    if libc.setns(fd, CLONE_NEWNET):
        os._exit(126)


def read_text(path):
    try:
        with open(path, errors="replace") as f:
            return f.read()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def tail(path, lines=12):
    return "\n".join(read_text(path).splitlines()[-lines:])


class Process:
    """A program in a network namespace; wakes whoever waits when it ends."""

    def __init__(self, ns, argv, log, env=None, stdout=None, stdin=subprocess.DEVNULL):
        self.argv, self.log, self.code = argv, log, None
        with open(log, "ab") as err:
            self.proc = subprocess.Popen(argv, stdin=stdin, stdout=stdout or err, stderr=err,
                                         env=dict(os.environ, **(env or {})),
                                         preexec_fn=lambda: born_in(ns))
        self.pid = self.proc.pid
        self.pidfd = os.pidfd_open(self.pid)

    def alive(self):
        if self.code is None:
            self.code = self.proc.poll()
        return self.code is None

    def nap(self, seconds=None):
        """At most that long (POLL), less if the process ends."""
        select.select([self.pidfd], [], [], POLL if seconds is None else max(0, seconds))

    def wait_exit(self, seconds=10):
        """Exit code; negative signal number."""
        d = Deadline(seconds)
        while self.alive():
            d.check(f"the end of {self}")
            self.nap(d.left())
        return self.code

    def signal(self, sig):
        if self.alive():
            self.proc.send_signal(sig)

    def kill(self):
        """SIGKILL, and it is gone on return. When it was sent, CLOCK_MONOTONIC ns."""
        at = mono()
        self.signal(signal.SIGKILL)
        self.proc.wait()
        self.alive()
        return at

    def close(self):
        if self.pidfd >= 0:
            if self.alive():
                self.kill()
            os.close(self.pidfd)
            self.pidfd = -1

    def log_text(self):
        return read_text(self.log)

    def __str__(self):
        return f"{os.path.basename(self.argv[0])}[{self.pid}]"


class Control:
    """One connection to a control socket."""

    def __init__(self, path, seconds=5):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(seconds)
        self.sock.connect(path)
        self.data, self.serial, self.events = b"", 0, []

    def line(self):
        while b"\n" not in self.data:
            more = self.sock.recv(65536)
            if not more:
                raise ConnectionError("control socket closed")
            self.data += more
        line, self.data = self.data.split(b"\n", 1)
        line = json.loads(line)
        return line if "greeting" not in line else self.line()

    def call(self, cmd, **args):
        self.serial += 1
        self.sock.sendall(json.dumps({"id": self.serial, "cmd": cmd, **args}).encode() + b"\n")
        while True:
            answer = self.line()
            if "event" in answer:
                self.events.append(answer)
            elif answer.get("id") == self.serial:
                break
        if "error" in answer:
            raise LabError(f"{cmd}: {answer['error']}")
        return answer["ok"]

    def close(self):
        self.sock.close()


def sandboxed(binary, env):
    made_so = os.path.basename(os.path.dirname(binary)) in ("asan", "tsan")
    how = "off" if made_so or "LD_PRELOAD" in env else SANDBOX  # what is loaded before has calls of its own
    return ["--sandbox", how] if how else []


class Vm(Process):
    """One `ftvmm run` on host A or B."""

    def __init__(self, lab, host, args, env=None, binary=None, name="vm", console=True, before=(), insecure=True):
        self.lab, self.host, self.name = lab, host, name
        self.serial = lab.next_serial()
        self.console = os.path.join(lab.work, f"{self.serial:03}-{host}-console")
        self.run_dir = os.path.join(lab.work, host)
        self.ctl = None
        argv = [*before, binary or FTVMM, "run", *sandboxed(binary or FTVMM, env or {}), *args]
        if insecure and not any("tls:" in a for a in args):  # the hosts are one machine; TLS has tests of its own
            argv.append("--insecure")
        if console:
            argv += ["--console", self.console]
        if name != "vm":
            argv += ["--name", name]
        super().__init__(lab.ns[host], argv,
                         os.path.join(lab.work, f"{self.serial:03}-{host}-log"),
                         env={"XDG_RUNTIME_DIR": self.run_dir, **(env or {})})
        lab.note(f"host {host}: pid {self.pid}: {' '.join(argv)} {env or ''}")
        lab.processes.append(self)

    def control(self, d):
        """The control connection, made when first asked for."""
        path = self.socket_path()
        while not self.ctl:
            expect(self.alive(), f"{self} ended with {self.code}: {tail(self.log, 3)}")
            d.check(f"the control socket of {self}")
            try:
                self.ctl = Control(path, max(0.1, d.left()))
            except (FileNotFoundError, ConnectionError):
                self.nap()
        return self.ctl

    def call(self, cmd, seconds=5, **args):
        ctl = self.control(Deadline(seconds))
        ctl.sock.settimeout(seconds * SLOW)
        try:
            return ctl.call(cmd, **args)
        except (ConnectionError, OSError) as e:
            ctl.close()
            self.ctl = None
            self.nap(1)
            self.alive()
            raise LabError(f"{self} on host {self.host}: {cmd}: {e or 'control socket closed'} (exit "
                           f"code {self.code}): {tail(self.log, 3)}"
                           f" {tail(self.console, 3)}") from e

    def status(self, seconds=5):
        return self.call("status", seconds)

    def state(self):
        return self.status()["state"]

    def wait_status(self, accept, what, seconds=10):
        """Ask until accept(status) is true; that status."""
        d = Deadline(seconds)
        while True:
            status = self.status(max(0.1, d.left()))
            if accept(status):
                return status
            if d.left() <= 0:
                raise LabError(f"{self} on host {self.host}: waited {d.seconds:g} s for {what}, is "
                               f"{status['state']} ({status.get('note', '')})")
            self.nap()

    def wait_state(self, *states, seconds=10):
        return self.wait_status(lambda s: s["state"] in states, "/".join(states), seconds)

    def wait_log(self, pattern, seconds=10):
        return self.wait_text(self.log, pattern, seconds)

    def wait_console(self, pattern, seconds=10):
        return self.wait_text(self.console, pattern, seconds)

    def wait_text(self, path, pattern, seconds):
        d = Deadline(seconds)
        regex = re.compile(pattern, re.M)
        while True:
            last = not self.alive()
            match = regex.search(read_text(path))
            if match:
                return match
            expect(not last, f"{self} ended with {self.code} without '{pattern}' in {path}: "
                             f"{tail(self.log, 3)}")
            d.check(f"'{pattern}' in {path}")
            self.nap(2 * POLL)

    def console_text(self):
        return read_text(self.console)

    def ram(self):
        """The file that is the guest's memory."""
        folder = f"/proc/{self.pid}/fd"
        for fd in os.listdir(folder):
            try:
                if os.readlink(f"{folder}/{fd}").startswith("/memfd:ftvmm-ram"):
                    return f"{folder}/{fd}"
            except FileNotFoundError:
                pass
        raise LabError(f"{self} has no memory of a guest")

    def memory(self):
        """What the guest's memory holds."""
        with open(self.ram(), "rb") as f:
            return f.read()

    def ram_bytes(self):
        """Of the host's memory that are behind the guest's."""
        return os.stat(self.ram()).st_blocks * 512

    def settle(self):
        """The kernel frees what a killed process had open a little later."""
        d = Deadline(5)
        while True:
            try:
                Control(self.socket_path(), 1).close()
            except (FileNotFoundError, ConnectionError):
                return
            d.check(f"the end of what {self} had open")
            select.select([], [], [], POLL)

    def socket_path(self):
        return os.path.join(self.run_dir, "ftvmm", self.name + ".sock")

    def stop(self, seconds=10):
        self.call("stop", seconds)
        return self.wait_exit(seconds)

    def close(self):
        if self.ctl:
            self.ctl.close()
            self.ctl = None
        super().close()


class Load(Process):
    """kvclient in the client's namespace."""

    def __init__(self, lab, udp=2, tcp=2, echo=1, stream=1, server=GUEST_IP, **options):
        serial = lab.next_serial()
        self.history = os.path.join(lab.work, f"{serial:03}-history")
        self.summary_path = os.path.join(lab.work, f"{serial:03}-summary")
        argv = [os.path.join(TOOLS, "lin/kvclient"), "--server", server, "--history", self.history,
                "--udp", str(udp), "--tcp", str(tcp), "--echo", str(echo), "--stream", str(stream),
                "--client-base", str(1 + 1000 * serial), "--seed", str(lab.rng.randrange(1, 1 << 31)),
                "--connect-timeout", str(int(10000 * SLOW)), "--drain", str(int(min(8000 * SLOW, 20000)))]
        if SLOW > 2:  # without a pause they would take all of the one processor from an unprotected guest
            options = {"rate": 20, "stream_rate": 50000, "echo_rate": 5000, **options}
        for key, value in options.items():
            argv += ["--" + key.replace("_", "-"), str(value)]
        with open(self.summary_path, "wb") as out:
            super().__init__(lab.ns["C"], argv, os.path.join(lab.work, f"{serial:03}-kvclient"),
                             stdout=out)
        lab.note(f"client: {' '.join(argv)}")
        lab.processes.append(self)

    def wait_ready(self, seconds=10):
        """Until all clients are connected. Before that kvclient does not end in order."""
        d = Deadline(seconds)
        while "kvclient: ready" not in self.log_text():
            expect(self.alive(), f"kvclient ended with {self.code}: {self.log_text()}")
            d.check("the connections of kvclient")
            self.nap()

    def finish(self, seconds=30, stop=True, answered=True):
        """End the load; its summary. answered: a server is there, and has time for what was asked of it."""
        if stop:
            self.signal(signal.SIGTERM if answered else signal.SIGINT)
        self.wait_exit(seconds)
        text = read_text(self.summary_path).strip()
        expect(self.code in (0, 1) and text, f"kvclient: exit code {self.code}: {self.log_text()}")
        return json.loads(text.splitlines()[-1])


class Wire(Process):
    """The proxy of tests/wire on a host, for these ways: where it listens, and to what it connects. By default on A,
    for both directions of the link between the hosts."""

    def __init__(self, lab, host="A", ways=((f"127.0.0.1:{FT_PORT + 1}", f"{LINK_IP['B']}:{FT_PORT}"),
                                            (f"{LINK_IP['A']}:{FT_PORT + 1}", f"{LINK_IP['A']}:{FT_PORT}"))):
        serial = lab.next_serial()
        self.path = lab.path(f"{serial:03}-wire-ctl")
        argv = [os.path.join(TOOLS, "wire/wire"), "--ctl", self.path, "--seed", str(lab.rng.randrange(1, 1 << 31))]
        for listen, to in ways:
            argv += ["--listen", listen, "--to", to]
        super().__init__(lab.ns[host], argv, lab.path(f"{serial:03}-wire"))
        lab.processes.append(self)
        self.lab = lab
        self.peer_of = {"A": f"tcp:127.0.0.1:{FT_PORT + 1}",
                        "B": f"tcp:{LINK_IP['A']}:{FT_PORT + 1}"}

    def do(self, command):
        """One command, in force on return."""
        d = Deadline(5)
        while True:
            expect(self.alive(), f"wire ended: {self.log_text()}")
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as s:
                s.settimeout(5)
                try:
                    s.connect(self.path)
                except (FileNotFoundError, ConnectionError):
                    d.check("the proxy's control socket")
                    self.nap()
                    continue
                s.sendall(command.encode() + b"\n")
                answer = s.makefile().readline().strip()
                break
        expect(not answer.startswith("error"), f"wire: {command}: {answer}")
        self.lab.note(f"wire: {command}")
        return answer


def packet_filter(mac, size):
    """Classic BPF: frames whose source is mac, the first bytes of them."""
    high, low = struct.unpack("!IH", mac)
    code = [(0x20, 0, 0, 6), (0x15, 0, 3, high), (0x28, 0, 0, 10), (0x15, 0, 1, low),
            (0x06, 0, 0, size), (0x06, 0, 0, 0)]
    raw = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *i) for i in code))
    return raw, struct.pack("HL", len(code), ctypes.addressof(raw))


def kv_get(ident):
    """A request to the kv guest, over UDP: guests/kv_proto.h."""
    return struct.pack("<IB3xQIIQQ", 0x71766b66, 1, ident, 0, 0, 0, 0)


class FrameWatch:
    """Records when frames of the guest come out of a host: at the switch's port of that host."""

    def __init__(self, lab, host, size=64, mac=GUEST_MAC):
        self.host, self.size, self.last, self.first, self.count = host, size, None, None, 0
        self.sock = lab.socket_in("S", socket.AF_PACKET, socket.SOCK_RAW, 0)
        raw, program = packet_filter(mac, size)
        self.sock.setsockopt(socket.SOL_SOCKET, 26, program)  # SO_ATTACH_FILTER
        self.sock.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)  # SO_RCVBUFFORCE
        self.sock.setsockopt(socket.SOL_SOCKET, 35, 1)  # SO_TIMESTAMPNS
        # Bound last: nothing unfiltered gets in.
        self.sock.bind(("s" + host, 3))  # ETH_P_ALL
        self.sock.setblocking(False)
        lab.closing.append(self.sock)

    def drain(self):
        """Frames since the last call, as (CLOCK_REALTIME ns, bytes)."""
        frames = []
        while True:
            try:
                data, control, _, address = self.sock.recvmsg(self.size, 128)
            except BlockingIOError:
                return frames
            if address[2] == 4:  # PACKET_OUTGOING: from the switch to the host
                continue
            sec, nsec = struct.unpack("ll", control[0][2])
            frames.append((sec * 1000000000 + nsec, data))
            self.count += 1


class Lab:
    """Hosts A and B and client C on one switch, and a link of their own between A and B:

        C c0 --- switch S --- br0 of A --- tap of the guest
                    |
                    +-------- br0 of B --- tap of the guest          A ft0 --- ft0 B
    """

    count = 0

    def __init__(self, rng, verbose=False):
        self.rng, self.verbose = rng, verbose
        self.processes, self.closing, self.lines, self.serial = [], [], [], 0
        self.ns = {}
        self.work = None
        Lab.count += 1
        try:
            self.build()
        except BaseException:
            self.close(keep=False)
            raise

    def build(self):
        sweep()
        self.work = tempfile.mkdtemp(prefix=f"{PREFIX}-")
        for host in "AB":
            os.mkdir(os.path.join(self.work, host))
        names = {node: f"{PREFIX}{os.getpid()}-{Lab.count}{node}" for node in "SABC"}
        self.ns = names
        cable = "link add {} netns {} type veth peer name {} netns {}"
        # Few calls: starting a program is what takes long on an emulated machine.
        self.ip(None, *(f"netns add {name}" for name in names.values()),
                *(cable.format("s" + node, names["S"], port, names[node])
                  for node, port in (("A", "up0"), ("B", "up0"), ("C", "c0"))),
                cable.format("ft0", names["A"], "ft0", names["B"]))
        bridge = "link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0"
        for node in "SAB":
            ports = ("sA", "sB", "sC") if node == "S" else ("up0",)
            link = (f"address add {LINK_IP[node]}/24 dev ft0", "link set ft0 up") if node != "S" else ()
            self.ip(node, bridge, *(f"link set {p} master br0 up" for p in ports),
                    "link set br0 up", "link set lo up", *link)
        self.ip("C", f"address add {CLIENT_IP}/24 dev c0", "link set c0 up", "link set lo up")

    def third(self):
        """One more host, D, linked to both."""
        os.mkdir(os.path.join(self.work, "D"))
        name = f"{PREFIX}{os.getpid()}-{Lab.count}D"
        run("ip", "netns", "add", name)
        self.ns["D"] = name
        self.ip(None, f"link add sD netns {self.ns['S']} type veth peer name up0 netns {name}",
                *(f"link add ft1 netns {self.ns[host]} type veth peer name {port} netns {name}"
                  for host, port in (("A", "ft0"), ("B", "ft1"))))
        self.ip("S", "link set sD master br0 up")
        self.ip("D", "link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0",
                "link set up0 master br0 up", "link set br0 up", "link set lo up",
                f"address add {LINK_IP['D']}/24 dev ft0", "address add 10.78.2.3/24 dev ft1",
                "link set ft0 up", "link set ft1 up", f"route add {LINK_IP['A']} dev ft0",
                f"route add {LINK_IP['B']} dev ft1")
        self.ip("A", "address add 10.78.1.1/24 dev ft1", "link set ft1 up")
        self.ip("B", "address add 10.78.2.2/24 dev ft1", "link set ft1 up",
                f"route add {LINK_IP['D']} dev ft1")

    def ip(self, node, *commands):
        argv = ["ip"] + (["-netns", self.ns[node]] if node else []) + ["-batch", "-"]
        run(*argv, input="\n".join(commands) + "\n")

    def next_serial(self):
        self.serial += 1
        return self.serial

    def note(self, text):
        line = f"{time.clock_gettime(time.CLOCK_MONOTONIC):.3f} {text}"
        self.lines.append(line)
        if self.verbose:
            print("#", line, flush=True)

    def path(self, name):
        return os.path.join(self.work, name)

    def disk(self, name, megabytes=64):
        path = self.path(name)
        with open(path, "wb") as f:
            f.truncate(megabytes << 20)
        return path

    def socket_in(self, node, family, kind, proto=0):
        """A socket that belongs to that namespace."""
        here = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        there = os.open(f"/run/netns/{self.ns[node]}", os.O_RDONLY)
        try:
            expect(libc.setns(there, CLONE_NEWNET) == 0, "setns failed")
            return socket.socket(family, kind, proto)
        finally:
            expect(libc.setns(here, CLONE_NEWNET) == 0, "setns failed")
            os.close(here)
            os.close(there)

    def probe(self, seconds=10, ip=GUEST_IP):
        """Until the kv guest answers a GET over UDP. The time of the answer, CLOCK_MONOTONIC ns."""
        d = Deadline(seconds)
        with self.socket_in("C", socket.AF_INET, socket.SOCK_DGRAM) as s:
            s.connect((ip, 7000))
            s.settimeout(4 * POLL)
            asked = set()  # an answer may come after the next question
            while True:
                ident = (1 << 63) | self.rng.getrandbits(48)
                asked.add(ident)
                d.check("an answer of the kv guest")
                try:
                    s.send(kv_get(ident))
                    while struct.unpack_from("<Q", s.recv(2048), 8)[0] not in asked:
                        pass
                    return mono()
                except TimeoutError:
                    pass
                except OSError:  # no route or ARP yet
                    select.select([], [], [], 2 * POLL)

    def release(self, *processes):
        """End and forget these; their logs stay. What they had open is free again on return."""
        for p in processes:
            if p:
                p.close()
                if p in self.processes:
                    self.processes.remove(p)
        for p in processes:
            if isinstance(p, Vm):
                p.settle()

    def image_has_all(self, image):
        """After a takeover the VM runs while what was acknowledged before is still on its way into its own image."""
        for vm in self.processes:
            if isinstance(vm, Vm) and vm.alive() and any(f"path={image}" == w for a in vm.argv for w in a.split(",")):
                vm.wait_status(lambda s: not s.get("images_behind"), "the image to have all that was acknowledged", 30)

    def check(self, loads, image=None, *options):
        """kvcheck over the histories; raises on a violation. Its words."""
        argv = [os.path.join(TOOLS, "lin/kvcheck"), *options]
        if image:
            self.image_has_all(image)
            argv += ["--image", image]
        p = run(*argv, *(l.history for l in loads), check=False, timeout=120)
        expect(p.returncode == 0, f"kvcheck: exit code {p.returncode}: {p.stdout.strip()}")
        return p.stdout.strip()

    def check_logs(self):
        """A sanitizer's or our own report of a bug in the program fails any test."""
        for name in sorted(os.listdir(self.work)):
            if name.endswith("-log"):
                match = re.search(r".*(Sanitizer|runtime error:|bug in ftvmm).*", read_text(self.path(name)))
                expect(not match, f"{name}: {match and match[0]}")

    def report(self, lines=12):
        """What one wants to see after a failure."""
        out = self.lines[-lines:]
        for name in sorted(os.listdir(self.work)):
            path = self.path(name)
            if re.match(r"\d+-.*(log|console|kvclient|summary|wire)$", name) and os.path.getsize(path):
                out.append(f"--- {path}")
                out.append(tail(path, lines))
        return "\n".join(out)

    def close(self, keep):
        for p in reversed(self.processes):
            p.close()
        for s in self.closing:
            s.close()
        self.processes, self.closing = [], []
        if self.ns:
            run("ip", "-force", "-batch", "-", check=False,
                input="".join(f"netns delete {name}\n" for name in self.ns.values()))
        self.ns = {}
        if self.work and not keep:
            shutil.rmtree(self.work, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        failed = kind is not None
        try:
            if failed:
                print("\n".join("# " + line for line in self.report().splitlines()))
                print(f"# logs are kept in {self.work}", flush=True)
        finally:
            self.close(keep=failed)


def sweep():
    """Namespaces of earlier laboratories whose process has ended without tidying up."""
    try:
        names = os.listdir("/run/netns")
    except FileNotFoundError:
        return
    for name in names:
        match = re.fullmatch(PREFIX + r"(\d+)-\d+[SABCD]", name)
        if match and not os.path.exists(f"/proc/{match[1]}"):
            run("ip", "netns", "delete", name, check=False)


class Pair:
    """A guest protected by a primary and a secondary; knows how either side is started."""

    def __init__(self, lab, guest="kv", cmdline=f"ip={GUEST_IP}", memory="64M", cpus=1, disk=64,
                 net=True, epoch=None, extra=(), binary=None, arbiter=True, timeout="500ms",
                 wire=None, ft="mc", scheme="tcp", shared=False, nics=1, disk_more="", net_more=""):
        self.lab, self.binary, self.net, self.memory, self.timeout = lab, binary, net, memory, patience(timeout)
        self.serial = lab.next_serial()
        self.image, self.shared, self.cpus, self.nics = {}, shared, cpus, nics if net else 0
        self.disk_more, self.net_more = disk_more, net_more
        if disk:
            self.image = {h: lab.path(f"{self.serial:03}-disk-{'AB' if shared else h}") for h in "AB"}
            with open(self.image["A"], "wb") as f:
                f.truncate(disk << 20)
            self.write_ballast(disk)
        if self.nics > 1:
            cmdline += f" ip2={GUEST_IPS[1]}"
        self.guest_args = ["-k", os.path.join(GUESTS, guest + ".elf"), "-a",
                           cmdline + (f" cpus={cpus}" if cpus > 1 else ""), "-m", memory,
                           "-c", str(cpus)]
        self.arbiter_dir = lab.path(f"{self.serial:03}-arbiter")
        os.mkdir(self.arbiter_dir)
        epoch = epoch or usual_epoch()
        # The test machine may be busy: silence means death later than by default.
        self.pair_args = ["--ft", ft, "--epoch", epoch, "--peer-timeout", self.timeout, *extra]
        # True: a folder; else what each host is to ask, or nothing.
        if arbiter is True:
            arbiter = dict.fromkeys("AB", f"file:{self.arbiter_dir}/vm")
        self.arbiter_of = arbiter or {}
        self.listen = {h: f"{scheme}:{LINK_IP[h]}:{FT_PORT}" for h in LINK_IP}
        self.peer_of = {"A": self.listen["B"], "B": self.listen["A"]}
        if wire:
            self.peer_of = wire.peer_of
        self.vm = {"A": None, "B": None}

    def write_ballast(self, megabytes):
        """Something to copy in the first sync, in the last part of the disk: guests leave it alone."""
        self.ballast_at, self.ballast = (megabytes - 2) << 20, self.lab.rng.randbytes(300000)
        with open(self.image["A"], "r+b") as f:
            f.seek(self.ballast_at)
            f.write(self.ballast)

    def check_ballast(self, host):
        with open(self.image[host], "rb") as f:
            f.seek(self.ballast_at)
            expect(f.read(len(self.ballast)) == self.ballast,
                   f"host {host}'s image has lost what was on the disk before")

    def host_args(self, host):
        args = []
        if self.image:
            args += ["-d", f"id=d0,path={self.image[host]}" + (",ft=shared" if self.shared else "") + self.disk_more]
        for i in range(self.nics):
            args += ["-n", f"id=n{i},tap=t{i},bridge=br0,mac={GUEST_MACS[i].hex(':')}{self.net_more}"]
        return args + self.common_args(host)

    def common_args(self, host):
        """Of either role, whatever devices it has."""
        arbiter = ["--arbiter", self.arbiter_of[host]] if self.arbiter_of else []
        return [*self.pair_args, *arbiter, "--peer", self.peer_of[host]]

    def primary(self, host, *more, env=None):
        self.vm[host] = Vm(self.lab, host, ["--primary", *self.guest_args, *self.host_args(host),
                                            *more], env, self.binary)
        return self.vm[host]

    def secondary(self, host, *more, env=None):
        self.vm[host] = Vm(self.lab, host, ["--secondary", "--listen", self.listen[host],
                                            *self.host_args(host), *more], env, self.binary)
        return self.vm[host]

    def protect(self, seconds=15, env=None):
        """B stands by, A runs, and they are in step. Both."""
        b = self.secondary("B", env=(env or {}).get("B"))
        b.wait_state("STARTING", seconds=seconds)
        a = self.primary("A", env=(env or {}).get("A"))
        self.in_step(seconds)
        return a, b

    def in_step(self, seconds=15):
        for host in "AB":
            self.vm[host].wait_state("PROTECTED", seconds=seconds)

    def taken_over(self, host, since):
        """That side runs the guest, in the time that README.md promises (P6). since: when the other one was
        killed or frozen."""
        status = self.vm[host].wait_status(lambda s: s["role"] == "primary" and s["first_entry_mono_ns"],
                                           "a vCPU that runs after the takeover")
        took = (status["first_entry_mono_ns"] - since) / 1e9
        bound = milliseconds(self.timeout) / 1000 + TAKEOVER_SECONDS * SLOW
        expect(0 < took < bound, f"the guest runs {took:.3f} s after the death, not within {bound:g} s")
        return status

    def other(self, host):
        return "B" if host == "A" else "A"

    def end(self):
        self.lab.release(*self.vm.values())


def main_signals():
    """A polite end also on SIGTERM."""
    def leave(sig, frame):
        raise KeyboardInterrupt
    signal.signal(signal.SIGTERM, leave)

"""Vsock: streams between the guest and programs of the host, and what becomes of them at a takeover."""

import os
import signal
import socket
import struct
import threading

import ftlab
from ftlab import EXIT_FENCED, Pair, Vm, expect
from testlib import random_wait, test
from test_boot import boot
from test_snapshot import restore, snapshot

ECHO, COUNT, NOBODY = 5000, 5001, 5002


class Stream:
    """A connection to a port of the guest, as a program of the host makes it."""

    def __init__(self, path, port, seconds=10):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(seconds * ftlab.SLOW)
        self.sock.connect(path)
        self.sock.sendall(f"CONNECT {port}\n".encode())
        line = b""
        while not line.endswith(b"\n"):
            c = self.sock.recv(1)
            if not c:
                raise ConnectionRefusedError(f"guest port {port}: {line}")
            line += c
        expect(line.startswith(b"OK "), f"not OK but {line}")

    def exactly(self, n):
        data = b""
        while len(data) < n:
            more = self.sock.recv(n - len(data))
            if not more:
                raise ConnectionResetError(f"end after {len(data)} of {n} bytes")
            data += more
        return data

    def count(self):
        """The next number."""
        self.sock.sendall(b"?")
        return struct.unpack("<Q", self.exactly(8))[0]

    def rest(self):
        """Everything up to the end, which must come."""
        data = b""
        try:
            while True:
                more = self.sock.recv(65536)
                if not more:
                    return data
                data += more
        except ConnectionResetError:
            return data

    def close(self):
        self.sock.close()


class Listener:
    """The program behind a host port that the guest connects to."""

    def __init__(self, path, port=6000, seconds=10):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.bind(f"{path}_{port}")
        self.sock.listen(8)
        self.sock.settimeout(seconds * ftlab.SLOW)

    def accept(self):
        sock, _ = self.sock.accept()
        sock.settimeout(10 * ftlab.SLOW)
        return sock

    def close(self):
        self.sock.close()


def echo(path, data):
    """Sends it all, while reading; what came back up to the end."""
    s, got = Stream(path, ECHO), []
    reader = threading.Thread(target=lambda: got.append(s.rest()))
    reader.start()
    s.sock.sendall(data)
    s.sock.shutdown(socket.SHUT_WR)
    reader.join(30)
    s.close()
    expect(got, "the echo has no end")
    return got[0]


class VsockPair(Pair):
    def __init__(self, lab, cmdline="out=0", **options):
        super().__init__(lab, "vsock", cmdline, disk=0, net=False, **options)
        self.path = {h: lab.path(f"{self.serial:03}-v{h}") for h in "AB"}

    def protect(self, *args, **kw):
        a, b = super().protect(*args, **kw)
        a.wait_console("^READY")
        return a, b

    def host_args(self, host):
        return super().host_args(host) + ["--vsock", f"path={self.path[host]}"]


def resets(vm):
    return vm.console_text().count("transport reset")


@test(60)
def vsock_echo(lab):
    """echo both ways, many at once, refused ports, and the socket file goes with the VM"""
    path = lab.path("v")
    listener = Listener(path)
    vm = boot(lab, "vsock", "out=6000", "--vsock", f"path={path},cid=77")
    vm.wait_console("^cid 77$")
    vm.wait_console("^READY")
    out = listener.accept()
    expect(out.recv(100) == b"hello 1\n", "the guest did not say hello")
    data = lab.rng.randbytes(3 << 20)
    results = {}

    def one(i):
        part = data[i * 1000:]
        results[i] = echo(path, part) == part

    threads = [threading.Thread(target=one, args=(i,)) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(40)
    expect(results == {i: True for i in range(4)}, f"echoes: {results}")
    counter = Stream(path, COUNT)
    expect([counter.count() for _ in range(3)] == [1, 2, 3], "the counter does not count")
    try:
        Stream(path, NOBODY)
        expect(False, "a port where nothing listens was connected")
    except ConnectionRefusedError:
        pass
    out.sendall(b"and back")
    expect(out.recv(100) == b"and back", "no echo on the guest's connection")
    vm.call("pause")
    counter.sock.sendall(b"?")
    vm.call("resume")
    expect(struct.unpack("<Q", counter.exactly(8))[0] == 4, "a pause has cost a byte")
    expect(resets(vm) == 0, "a pause was told as a reset")
    status = vm.wait_status(lambda s: s["vsock"]["connections"] == 2, "the end of the echoes")["vsock"]
    expect(status == {"connections": 2, "from_host": 6, "from_host_refused": 0, "from_guest": 1,
                      "from_guest_failed": 0, "bad_packets": 0}, f"status: {status}")
    expect(vm.stop() == 0, f"exit code {vm.code}")
    expect(counter.rest() == b"" and out.recv(1) == b"", "connections did not end with the VM")
    expect(not os.path.exists(path), "the socket file is left over")


@test(60)
def vsock_busy(lab):
    """a path that another VM or no socket has: an error; what a dead process left is replaced"""
    path = lab.path("v")
    vm = boot(lab, "vsock", "out=0", "--vsock", f"path={path}")
    vm.wait_console("^READY")
    second = Vm(lab, "B", ["-k", f"{ftlab.GUESTS}/vsock.elf", "--vsock", f"path={path}"])
    expect(second.wait_exit() == 1 and "another process listens" in second.log_text(),
           f"{second.code}: {second.log_text()}")
    expect(Stream(path, COUNT).count() == 1, "the first VM has lost its socket")
    vm.kill()
    expect(os.path.exists(path), "nothing is left to be replaced")
    lab.release(vm)
    vm = boot(lab, "vsock", "out=0", "--vsock", f"path={path}")
    vm.wait_console("^READY")
    expect(Stream(path, COUNT).count() == 1, "no new socket")
    expect(vm.stop() == 0, f"exit code {vm.code}")
    with open(path, "w", encoding="utf-8") as f:
        f.write("precious")
    vm = boot(lab, "vsock", "out=0", "--vsock", f"path={path}")
    expect(vm.wait_exit() == 1 and "is no socket" in vm.log_text(), f"{vm.code}: {vm.log_text()}")
    expect(ftlab.read_text(path) == "precious", "a file was replaced")


@test(60)
def vsock_snapshot(lab):
    """restored: the guest is told once that its connections are gone, and serves new ones"""
    path = lab.path("v")
    vm = boot(lab, "vsock", "out=0", "--vsock", f"path={path}")
    vm.wait_console("^READY")
    stream = Stream(path, COUNT)
    expect(stream.count() == 1, "the counter does not count")
    snapshot(vm, lab.path("snap"))
    expect(stream.count() == 2 and resets(vm) == 0, "a snapshot has broken a connection")
    lab.release(vm)
    vm = restore(lab, lab.path("snap"))
    expect(vm.wait_exit() == 1 and "add --vsock path=SOCK" in vm.log_text(),
           f"{vm.code}: {vm.log_text()}")
    vm = restore(lab, lab.path("snap"), "--vsock", f"path={path}")
    vm.wait_console("^transport reset 1$")
    expect(Stream(path, COUNT).count() == 2, "not the state of the snapshot")
    expect(resets(vm) == 1, f"{resets(vm)} resets")
    expect(vm.stop() == 0, f"exit code {vm.code}")


@test(60)
def vsock_not_given(lab):
    """a secondary without --vsock refuses a primary with one, and says what to add"""
    pair = VsockPair(lab)
    pair.vm["B"] = Vm(lab, "B", ["--secondary", "--listen", f"tcp:{ftlab.LINK_IP['B']}:{ftlab.FT_PORT}",
                                 *Pair.host_args(pair, "B")])
    pair.vm["B"].wait_state("STARTING")
    a = pair.primary("A")
    a.wait_log("refuses: .*add --vsock path=SOCK")
    a.wait_state("UNPROTECTED")
    pair.end()


@test(120)
def vsock_takeover(lab):
    """the primary is killed: no answer is forgotten, its connections end, the survivor's socket serves"""
    for _ in range(ftlab.work(3)):
        pair = VsockPair(lab, cmdline="out=6000")
        listeners = {h: Listener(pair.path[h]) for h in "AB"}
        a, b = pair.protect()
        out = listeners["A"].accept()
        expect(out.recv(100) == b"hello 1\n", "the guest did not say hello")
        expect(os.path.exists(pair.path["A"]) and not os.path.exists(pair.path["B"]),
               "the side that stands by has a socket")
        stream, idle, last = Stream(pair.path["A"], COUNT), Stream(pair.path["A"], ECHO), 0
        kill = threading.Timer(lab.rng.uniform(0.3, 0.8), a.kill)
        kill.start()
        try:
            while True:
                stream.sock.sendall(b"?" * 20)
                last = struct.unpack("<20Q", stream.exactly(160))[-1]
        except (ConnectionError, BrokenPipeError):
            pass
        kill.join()
        expect(last > 20 and idle.rest() == b"" and out.recv(1) == b"",
               f"{last} answers, or a connection that has not ended")
        b.wait_state("DEGRADED")
        b.wait_console("^transport reset 1$")
        expect(listeners["B"].accept().recv(100) == b"hello 2\n", "the guest did not connect again")
        number = Stream(pair.path["B"], COUNT).count()
        expect(number > last, f"the survivor counts {number}, {last} was answered before")
        data = lab.rng.randbytes(200000)
        expect(echo(pair.path["B"], data) == data, "no echo at the survivor")
        expect(resets(b) == 1, f"{resets(b)} resets")
        # Protected again, over what the killed process left.
        a = pair.secondary("A")
        pair.in_step()
        expect(Stream(pair.path["B"], COUNT).count() == number + 1 and resets(b) == 1,
               "protection has reset connections")
        lab.note(f"{last} answers before the kill, {number} after")
        pair.end()
        for l in listeners.values():
            l.close()


@test(60)
def vsock_held(lab):
    """without an ack nothing comes out: no OK, no bytes, no end, no connection"""
    pair = VsockPair(lab, cmdline="out=6000", timeout="20s")
    a, b = pair.protect()
    stream = Stream(pair.path["A"], COUNT)
    expect(stream.count() == 1, "the counter does not count")
    b.signal(signal.SIGSTOP)
    asking = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    asking.connect(pair.path["A"])
    asking.sendall(f"CONNECT {COUNT}\n?".encode())
    refused = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    refused.connect(pair.path["A"])
    refused.sendall(f"CONNECT {NOBODY}\n".encode())
    listener = Listener(pair.path["A"])
    stream.sock.sendall(b"?")
    # The guest has the byte by then, and has tried to connect out again: all of it is held.
    a.wait_status(lambda s: s["held_packets"] >= 4, "held output")
    a.nap(0.7)
    for what in (stream.sock, asking, refused):
        what.setblocking(False)
        try:
            expect(False, f"unacknowledged: {what.recv(100)}")
        except BlockingIOError:
            pass
    listener.sock.setblocking(False)
    try:
        listener.sock.accept()
        expect(False, "unacknowledged: a connection")
    except BlockingIOError:
        pass
    b.signal(signal.SIGCONT)
    for what in (stream.sock, asking, refused):
        what.settimeout(10 * ftlab.SLOW)
    expect(struct.unpack("<Q", stream.exactly(8))[0] in (2, 3), "a wrong number")
    expect(asking.makefile("rb").readline().startswith(b"OK "), "not OK")
    expect(refused.recv(1) == b"", "not refused")
    listener.sock.settimeout(10 * ftlab.SLOW)
    expect(listener.accept().recv(100) == b"hello 1\n", "the guest did not say hello")
    pair.in_step()
    pair.end()


@test(60)
def vsock_fenced(lab):
    """a primary that was away and lost the VM ends its connections without another byte"""
    pair = VsockPair(lab)
    a, b = pair.protect()
    stream = Stream(pair.path["A"], COUNT)
    last = stream.count()
    a.signal(signal.SIGSTOP)
    stream.sock.sendall(b"?" * 100)
    b.wait_state("DEGRADED")
    number = Stream(pair.path["B"], COUNT).count()
    expect(number > last, f"the survivor counts {number}, {last} was answered before")
    a.signal(signal.SIGCONT)
    expect(stream.rest() == b"", "the fenced side has answered")
    expect(a.wait_exit(20) == EXIT_FENCED, f"exit code {a.code}: {a.log_text()}")
    random_wait(lab, b, 0.0, 0.2)
    expect(Stream(pair.path["B"], COUNT).count() == number + 1, "the survivor has lost its count")
    pair.end()


@test(60)
def vsock_verify(lab):
    """under --verify both sides are equal after every epoch, with traffic"""
    pair = VsockPair(lab, extra=["--verify"], timeout="2s")
    a = pair.primary("A")
    a.wait_console("^READY")  # the first epoch has a driver that runs
    b = pair.secondary("B")
    pair.in_step()
    stream, data = Stream(pair.path["A"], COUNT), lab.rng.randbytes(300000)
    begin = b.status()["epochs_total"]
    for n in range(1, 40):
        expect(stream.count() == n, "the counter does not count")
    expect(echo(pair.path["A"], data) == data, "no echo")
    b.wait_status(lambda s: s["epochs_total"] >= begin + 40 or s["state"] != "PROTECTED", "40 epochs", 30)
    for vm in (a, b):
        expect(vm.state() == "PROTECTED", f"{vm} is {vm.state()}: {vm.log_text()}")
    pair.end()

"""A guest that attacks its own devices: it may stop them, and reset them, and nothing else.

FT_ATTACKS=N (1) multiplies the number of attacks; `--seed` repeats a run, and `first=N ops=1` in the
guest's command line repeats one attack."""

import os
import re
import socket

import ftlab
from ftlab import Deadline, GUESTS, Pair, Vm, expect
from test_protect import same_images
from testlib import Skip, eighth, test

TIMES = int(os.environ.get("FT_ATTACKS", "1"))
ASAN = os.path.join(ftlab.ROOT, "build/asan/ftvmm")
NET = "id=n0,tap=t0,bridge=br0,mac=" + ftlab.GUEST_MAC.hex(":")
BAD = r"FAILED|STALLED|CORRUPT|TRAP|AddressSanitizer|runtime error"
# How many attacks make one run, on a machine with KVM of its own; a pass of regs and of flood is long.
ATTACKS = {"rings": 400, "status": 400, "regs": 10, "race": 300, "mix": 300, "flood": 5, "pieces": 30}
ANON_KIB = 32 << 10  # the disk may use 20 MiB for requests; under 2 MiB is usual


class Frames:
    """Something for the guest to receive: broadcasts of every length, and programs at its vsock."""

    def __init__(self, lab, vsock):
        self.lab, self.vsock, self.programs = lab, vsock, []
        if os.path.exists(vsock + "_6000"):
            os.unlink(vsock + "_6000")
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(vsock + "_6000")
        self.listener.listen(16)
        self.listener.setblocking(False)
        lab.closing.append(self.listener)
        self.sock = lab.socket_in("C", socket.AF_PACKET, socket.SOCK_RAW, 0)
        self.sock.bind(("c0", 0))
        self.sock.setblocking(False)
        lab.closing.append(self.sock)

    def connect(self):
        """One connects, one is connected to; the oldest go."""
        for how in (self.call, self.answer):
            try:
                how()
            except (BlockingIOError, FileNotFoundError, ConnectionError):
                pass
        for old in self.programs[:-20]:
            old.close()
        del self.programs[:-20]

    def call(self):
        program = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.programs.append(program)
        program.setblocking(False)
        program.connect(self.vsock)
        program.send(b"CONNECT %d\n" % self.lab.rng.randrange(4) + bytes(self.lab.rng.randrange(9999)))

    def answer(self):
        program = self.listener.accept()[0]
        self.programs.append(program)
        program.setblocking(False)
        program.send(bytes(self.lab.rng.randrange(1, 99999)))

    def send(self, count=16):
        self.connect()
        for _ in range(count):
            size = self.lab.rng.randrange(46, 1500)
            try:
                self.sock.send(b"\xff" * 6 + b"\x02\0\0\0\0\1\x88\xb5" + bytes(size))
            except BlockingIOError:
                return


class DirectPair(Pair):
    """With O_DIRECT the kernel does reorder requests that overlap."""

    def host_args(self, host):
        args = [a + ",direct" if a.startswith("id=d0,") else a for a in super().host_args(host)]
        return args + ["--vsock", f"path={self.vsock(host)}"]

    def vsock(self, host):
        return self.lab.path(f"{self.serial:03}-v{host}")


def attacks_done(vm):
    """Number of the last attack that was survived."""
    done = re.findall(r"^attack (\d+) ok$", vm.console_text(), re.M)
    return int(done[-1]) if done else 0


def look(vm):
    found = re.search(f"^.*({BAD}).*$", vm.console_text() + vm.log_text(), re.M)
    expect(not found, f"{vm}: {found and found[0][:200]}")


def watch(vm, until, frames=None, seconds=30, anon_kib=None):
    """Until the guest has survived that many attacks, with an eye on memory."""
    d = Deadline(seconds)
    while (done := attacks_done(vm)) < until:
        expect(vm.alive(), f"{vm} ended with {vm.code} after attack {done}: {vm.log_text()}")
        look(vm)
        d.check(f"attack {until} of {vm}; {done} are done")
        if frames:
            frames.send()
        if anon_kib:
            check_memory(vm, anon_kib)
        vm.nap(0.02)


def check_memory(vm, limit_kib):
    text = ftlab.read_text(f"/proc/{vm.pid}/status")
    anon = re.search(r"^RssAnon:\s+(\d+) kB", text, re.M)
    if anon and not ftlab.SANITIZED:
        vm.anon_kib = max(getattr(vm, "anon_kib", 0), int(anon[1]))
        expect(vm.anon_kib < limit_kib, f"{vm} has {vm.anon_kib} KiB of memory beside the guest's")


def cmdline(lab, mode, cpus):
    return f"mode={mode} ops=0 seed={lab.rng.randrange(1, 1 << 31)} cpus={cpus}"


def attack(lab, mode, binary=None):
    cpus = 2 if mode == "race" else 1
    asan = binary is not None
    words = cmdline(lab, mode, cpus) + (" kicks=20000" if asan else "")
    disk = lab.disk(f"{lab.next_serial():03}-disk", 16)
    vm = Vm(lab, "A", ["-k", f"{GUESTS}/hostile.elf", "-a", words, "-m", "64M", "-c", str(cpus),
                       "-d", f"id=d0,path={disk}", "-n", NET,
                       "--vsock", f"path={lab.path('v')}"], binary=binary)
    frames = Frames(lab, lab.path("v"))
    half = max(2, ftlab.work(ATTACKS[mode] * TIMES / (4 if asan else 2)))
    seconds = 30 * TIMES * (4 if asan else 1)
    limit = None if asan else ANON_KIB
    try:
        watch(vm, half, frames, seconds, limit)
        first = sum(vm.status()["device_faults"].values())
        watch(vm, 2 * half, frames, seconds, limit)
        faults = sum(vm.status()["device_faults"].values())
        expect(mode in ("regs", "flood", "pieces") or 0 < first < faults,
               f"the guest's lies were not counted: {first} faults, then {faults}")
        expect(vm.stop() == 0, f"stop: exit code {vm.code}")
        look(vm)
    except ftlab.LabError as e:
        raise ftlab.LabError(f"{words}: {e}") from e
    lab.note(f"{words}: {faults} faults, at most {getattr(vm, 'anon_kib', 0)} KiB")
    lab.release(vm)


@test(60 * TIMES)
def hostile_devices(lab):
    """attacks on rings, device states, registers; a CPU that races the device; floods"""
    for mode in eighth(lab, ("rings", "rings", "status", "regs", "race", "flood")):
        attack(lab, mode)


@test(120 * TIMES)
def hostile_asan(lab):
    """the same with the address and undefined-behaviour sanitizers (make V=asan build/asan/ftvmm)"""
    if not os.path.exists(ASAN):
        raise Skip(f"{ASAN} is not built")
    for mode in ("rings", "status", "regs", "race", "flood"):
        attack(lab, mode, ASAN)


def protected(lab, mode, attacks, binary=None):
    cpus = 2 if mode == "race" else 1
    pair = DirectPair(lab, guest="hostile", cmdline=cmdline(lab, mode, 1), cpus=cpus, disk=16,
                      extra=["--verify"], epoch="10ms", timeout="2s", binary=binary)
    pair.protect()
    a, b = pair.vm["A"], pair.vm["B"]
    begin = attacks_done(a)
    frames = Frames(lab, pair.vsock("A"))
    watch(a, begin + ftlab.work(attacks * TIMES), frames, 60 * TIMES, None if binary else ANON_KIB)
    for vm in (a, b):
        expect(vm.state() == "PROTECTED", f"{vm} is {vm.state()}: {vm.log_text()}")
        look(vm)
    return pair


@test(90 * TIMES)
def hostile_verify(lab):
    """under --verify each epoch's memory and state are the same; at the end so are the images"""
    for mode in eighth(lab, ("rings", "mix", "race", "pieces")):
        pair = protected(lab, mode, ATTACKS[mode])
        a, b = pair.vm["A"], pair.vm["B"]
        expect(a.stop() == 0, f"stop of the primary: exit code {a.code}: {a.log_text()}")
        b.wait_state("STARTING")
        expect(b.stop() == 0, f"stop of the secondary: exit code {b.code}")
        same_images(pair)
        pair.end()


@test(90 * TIMES)
def hostile_kill(lab):
    """the primary is killed in mid-attack: the survivor goes on with the attacks"""
    for mode in eighth(lab, ("rings", "status", "race")):
        pair = protected(lab, mode, ATTACKS[mode] // 4)
        a, b = pair.vm["A"], pair.vm["B"]
        a.nap(lab.rng.uniform(0, 0.2))
        a.kill()
        b.wait_state("DEGRADED")
        last = attacks_done(a)
        watch(b, last + 20, Frames(lab, pair.vsock("B")), 60)
        expect(b.stop() == 0, f"stop of the survivor: exit code {b.code}")
        look(b)
        pair.end()

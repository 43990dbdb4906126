"""Every guest under plain `ftvmm run`."""

import os
import re
import socket

import ftlab
from ftlab import GUESTS, GUEST_IP, Deadline, Vm, expect
from testlib import eighth, host_digest, some, test

NET = "id=n0,tap=t0,bridge=br0,mac=" + ftlab.GUEST_MAC.hex(":")


def boot(lab, guest, cmdline="", *args, memory="64M", cpus=1, env=None):
    cmdline = f"{cmdline} cpus={cpus}".strip()
    return Vm(lab, "A", ["-k", f"{GUESTS}/{guest}.elf", "-a", cmdline, "-m", memory, "-c", str(cpus),
                         *args], env)


def ends(vm, code, *patterns, seconds=20):
    """The exit code is that one, and each pattern is on the console."""
    vm.wait_exit(seconds)
    text = vm.console_text()
    expect(vm.code == code, f"exit code {vm.code}, not {code}: {vm.log_text()}{text}")
    for p in patterns:
        expect(re.search(p, text, re.M), f"nothing matches '{p}' in: {text}")
    vm.lab.release(vm)
    return text


@test(60, mem="8G")
def boot_hello(lab):
    """hello, with and without devices, from 64M to 5G"""
    ends(boot(lab, "hello", "a=1"), 0, "^READY", "^hello from CPL3", "^cpus 1")
    disk = lab.disk("disk", 4)
    ends(boot(lab, "hello", "devices=1", "-d", f"id=d0,path={disk}", "-n", NET, cpus=2), 0,
         "^cpus 2", "^disk 0: 8192 sectors flush", "^net 0: 52:54:00:e2:00:02",
         "^rng: [0-9a-f]{4}")
    for memory, kib in (("64M", 65536), ("256M", 262144), ("1G", 1048576), ("5G", 5242880)):
        text = ends(boot(lab, "hello", memory=memory), 0, "^memory [0-9]+ KiB")
        seen = int(re.search(r"^memory (\d+) KiB", text, re.M)[1])
        expect(kib - 2048 <= seen <= kib, f"-m {memory}: the guest sees {seen} KiB")


@test(60)
def boot_console(lab):
    """console to standard output, a file, nowhere"""
    for console in ("stdio", "none"):
        p = ftlab.run(ftlab.FTVMM, "run", "-k", f"{GUESTS}/hello.elf", "-m", "64M", "--console", console,
                      env=dict(os.environ, XDG_RUNTIME_DIR=lab.path("A")))
        expect(("hello from CPL3" in p.stdout) == (console == "stdio"), f"{console}: {p.stdout}")


@test(60)
def boot_exit_codes(lab):
    """the guest's exit code becomes ours"""
    ends(boot(lab, "writer", "words=511"), 1, "^writer: words must be")
    ends(boot(lab, "blk"), 2, "^blk: no disk")


@test(60)
def boot_hash(lab):
    """the hash guest's digest is the host's; it uses the vector registers that there are"""
    with open("/proc/cpuinfo") as f:
        flags = f.read().split()
    vector = "avx512" if "avx512f" in flags else "avx" if "avx" in flags else "sse"
    vm = boot(lab, "hash", "pages=256 rounds=2000 seed=7")
    ends(vm, 0, f"^vector {vector}$", "^READY", "^digest " + host_digest(lab, 256, 2000, 7))


@test(60)
def boot_writer(lab):
    """writer in every mode"""
    for args in eighth(lab, ("mode=hot tick=5", "mode=seq tick=5 work=0 words=500",
                              "mode=random tick=20 words=64 total=300", "tick=0")):
        ends(boot(lab, "writer", f"{args} pages=64 seconds=1 report=500"), 0, "^READY",
             "^writer ok passes=[1-9]")


@test(60)
def boot_smp(lab):
    """1, 2, 4 and 8 CPUs"""
    for cpus in some(lab, (1, 2, 4, 8), 2):
        ends(boot(lab, "smp", "seconds=1", cpus=cpus), 0, "^READY", "^smp ok")


@test(90)
def boot_blk(lab):
    """a disk: writes, reads, flush, discard, zeroes"""
    ops = ftlab.work(3000)
    for i, how in enumerate(eighth(lab, ("", ",direct"))):
        disk = lab.disk(f"disk{i}", 32)
        ends(boot(lab, "blk", f"ops={ops} seed={lab.rng.randrange(1 << 16)}", "-d",
                  f"id=d0,path={disk}{how}"), 0, "^READY", f"^blk ok ops={ops} reads=[1-9].*queues=1$", seconds=40)


@test(60)
def boot_blk_queues(lab):
    """a disk with as many queues as CPUs"""
    ops = ftlab.work(3000)
    for cpus in eighth(lab, (2, 8)):
        disk = lab.disk(f"disk{cpus}", 32)
        ends(boot(lab, "blk", f"ops={ops} depth=16 seed={lab.rng.randrange(1 << 16)}", "-d",
                  f"id=d0,path={disk}", cpus=cpus), 0, "^READY", f"^blk ok ops={ops}.*queues={cpus}$", seconds=40)


@test(60)
def boot_idle(lab):
    """a guest that halts, and is paused, resumed and stopped"""
    vm = boot(lab, "idle", "hz=20 verbose=1")
    vm.wait_console("^tick 1")
    vm.call("pause")
    vm.wait_state("PAUSED")
    size = len(vm.console_text())
    vm.nap(0.3)
    expect(len(vm.console_text()) == size, "a paused guest went on")
    vm.call("resume")
    vm.wait_state("RUNNING")
    vm.wait_console("^tick 3")
    expect(vm.stop() == 0, f"stop: exit code {vm.code}")


@test(60)
def boot_one_processor(lab):
    """busy CPUs that share one processor with the loop stop when they are told to, not a second later"""
    vm = boot(lab, "smp", cpus=3)
    for task in os.listdir(f"/proc/{vm.pid}/task"):
        os.sched_setaffinity(int(task), {max(os.sched_getaffinity(0))})
    vm.wait_console("^READY")
    begin, pauses = ftlab.mono(), 12
    for _ in range(pauses):
        vm.call("pause")
        vm.call("resume")
        vm.nap(0.05)
    expect(ftlab.mono() - begin < pauses * 5 * 10**8, f"{pauses} pauses took {(ftlab.mono() - begin) // 10**6} ms")
    expect(vm.stop() == 0, f"stop: exit code {vm.code}")


@test(90)
def boot_net(lab):
    """echo over a tap: UDP, and 10 MiB over TCP"""
    vm = boot(lab, "echo", f"ip={GUEST_IP}", "-n", NET)
    vm.wait_console("^READY")
    with lab.socket_in("C", socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.settimeout(0.5)
        s.connect((GUEST_IP, 7))
        d = Deadline(5)
        answer = None
        while answer != b"hello":
            d.check("an echo over UDP")
            try:
                s.send(b"hello")
                answer = s.recv(100)
            except TimeoutError:
                pass
    echo_tcp(lab, 10 << 20)
    vm.close()


def echo_tcp(lab, total):
    """Sends that much, and expects it back."""
    import select
    block = lab.rng.randbytes(65521)
    sent = received = 0
    with lab.socket_in("C", socket.AF_INET, socket.SOCK_STREAM) as s:
        s.settimeout(5)
        s.connect((GUEST_IP, 7))
        s.setblocking(False)
        d = Deadline(60)
        while received < total:
            d.check(f"the echo of byte {received}")
            r, w, _ = select.select([s], [s] if sent < total else [], [], 1)
            if w:
                at = sent % len(block)
                sent += s.send(block[at:at + min(len(block) - at, total - sent)])
            if r:
                data = s.recv(1 << 16)
                expect(data, f"the connection ended after {received} bytes")
                at = received % len(block)
                want = (block + block)[at:at + len(data)]
                expect(data == want[:len(data)], f"wrong byte near {received}")
                received += len(data)

"""What a guest has freed does not travel, and the balloon works, with Linux's own driver."""

import re

from ftlab import Deadline, LINK_IP, FT_PORT, Vm, expect
from linuxlab import FT_ARGS, Shell, check_guest_log, ctl, guest_args, linux
from testlib import test

MEMORY = 512
USED_PERCENT, SENT_PERCENT = 60, 45
TIMEOUT = ["--peer-timeout", "10s"]


def guest_ram(vm):
    """MiB of guest memory that the host has given out."""
    return vm.ram_bytes() >> 20


def wait_ram(vm, most, seconds=60):
    d = Deadline(seconds)
    while guest_ram(vm) > most:
        d.check(f"the guest's memory to fall to {most} MiB, it is at {guest_ram(vm)} MiB")
        vm.nap(0.2)


@test(240)
def memory_freed(lab):
    """a guest used and freed 60 % of its memory: the first sync sends at most 45 % of it"""
    a = Vm(lab, "A", ["--primary", *guest_args(lab, "mem", memory=f"{MEMORY}M",
                                               cmdline=f"ftvmm.percent={USED_PERCENT}"),
                      "--ft", "mc", *FT_ARGS, *TIMEOUT, "--peer", f"tcp:{LINK_IP['B']}:{FT_PORT}"])
    a.wait_console("^used ", 90)
    before = guest_ram(a)
    expect(before > MEMORY * USED_PERCENT // 100, f"only {before} MiB were used")
    a.wait_console("^freed ", 60)
    wait_ram(a, MEMORY * SENT_PERCENT // 100)
    b = Vm(lab, "B", ["--secondary", "--listen", f"tcp:{LINK_IP['B']}:{FT_PORT}", "--ft", "mc", *FT_ARGS,
                      *TIMEOUT])
    status = a.wait_status(lambda s: s["state"] == "PROTECTED", "protection", 90)
    sent = status["sync_pages"] * 4096
    lab.note(f"{before} MiB in use, then {guest_ram(a)}; the first sync sent {sent >> 20} MiB")
    expect(0 < sent <= MEMORY * SENT_PERCENT // 100 << 20, f"the first sync sent {sent >> 20} of {MEMORY} MiB")
    expect(guest_ram(b) <= MEMORY * SENT_PERCENT // 100, f"{guest_ram(b)} MiB at the secondary")
    a.kill()
    b.wait_state("DEGRADED", seconds=60)
    ctl(b, "stop")
    expect("switched off" in b.log_text(), b.log_text())


@test(180)
def memory_balloon(lab):
    """the balloon takes memory from a guest and gives it back"""
    vm = linux(lab, "agent", memory=f"{MEMORY}M")
    shell = Shell(lab, vm, 90)

    def free():
        return int(re.search(r"MemFree: +(\d+)", shell.run("cat /proc/meminfo"))[1]) >> 10
    before = free()
    ctl(vm, "set", "balloon=128M")
    vm.wait_status(lambda s: s["balloon_bytes"] == 128 << 20, "a balloon of 128M", 60)
    expect(free() < before - 100, f"{before} MiB were free, now {free()}")
    ctl(vm, "set", "balloon=0")
    vm.wait_status(lambda s: s["balloon_bytes"] == 0, "no balloon", 60)
    expect(free() > before - 20, f"{before} MiB were free, now {free()}")
    check_guest_log(shell)

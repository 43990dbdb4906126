"""Power button, reboot, panic, watchdog, clocks of one Linux guest."""

import re
import signal
import time

from ftlab import expect
from linuxlab import KERNELS, Shell, check_guest_log, ctl, linux
from terminal import Terminal
from testlib import test



def idle(lab, **guest):
    vm = linux(lab, "idle", net=False, **guest)
    vm.wait_console("^ready", 60)
    return vm


@test(120)
def power_stop(lab):
    """`ftvmm stop` presses the power button: the guest switches itself off"""
    for kernel in KERNELS:
        vm = idle(lab, kernel=kernel)
        ctl(vm, "stop")
        expect(vm.wait_exit(20) == 0, f"{kernel}: exit code {vm.code}")
        expect("switched off" in vm.log_text(), f"{kernel}: it did not switch itself off: {vm.log_text()}")
        lab.release(vm)


@test(60)
def power_console(lab):
    """a shell at `ftvmm console`, by the port's interrupts; it switches the guest off"""
    vm = linux(lab, "", net=False)
    vm.wait_console("^/ # ", 30)
    terminal = Terminal(lab, tty=True)
    terminal.type("echo $((6 * 7))\r")
    terminal.wait("\n42\r?\n")
    terminal.type("grep ttyS0 /proc/interrupts; poweroff -f\r")
    terminal.wait_exit(0)
    expect(vm.wait_exit(10) == 0 and "switched off" in vm.log_text(), f"exit code {vm.code}: {vm.log_text()}")
    expect(re.search(rb"\d+: +[1-9]\d* .*ttyS0", terminal.seen), f"no interrupts of the port: {terminal.seen[-300:]}")


@test(90)
def power_sigterm(lab):
    """SIGTERM does the same; a second one does not wait"""
    vm = idle(lab, cpus=2)
    vm.signal(signal.SIGTERM)
    expect(vm.wait_exit(20) == 0 and "switched off" in vm.log_text(), f"exit code {vm.code}: {vm.log_text()}")
    lab.release(vm)
    vm = linux(lab, "agent")
    Shell(lab, vm).run("killall acpid")
    vm.signal(signal.SIGTERM)
    vm.wait_log("power button pressed")
    vm.signal(signal.SIGTERM)
    expect(vm.wait_exit(5) == 0, f"exit code {vm.code}")
    expect("in time" not in vm.log_text(), "the second SIGTERM waited for the deadline")


@test(90)
def power_ignored(lab):
    """a guest that does not listen is stopped after the deadline"""
    vm = linux(lab, "agent")
    Shell(lab, vm).run("killall acpid")
    begin = time.monotonic()
    said = ctl(vm, "stop", "timeout=2s").stdout
    expect("did not switch itself off in time, and was stopped" in said, said)
    expect(vm.wait_exit(20) == 0, f"exit code {vm.code}")
    expect(time.monotonic() - begin > 1.9, "it was stopped before its time")
    expect("did not switch itself off" in vm.log_text(), f"no such word in the log: {vm.log_text()}")


@test(180)
def power_reboot(lab):
    """`reboot` boots again, each kernel; with --no-reboot it is the end"""
    for kernel, image, cpus in (("cloud", "vmlinux", 1), ("standard", "vmlinuz", 2)):
        vm = linux(lab, "agent", kernel=kernel, image=image, cpus=cpus)
        shell = Shell(lab, vm)
        first = shell.run("cat /proc/sys/kernel/random/boot_id")
        shell.start("reboot -f")
        vm.wait_console("(?s)^ready.*^ready", 60)
        second = Shell(lab, vm).run("cat /proc/sys/kernel/random/boot_id")
        expect(first != second, f"{kernel}: the same boot_id {first}")
        expect(vm.status()["resets_total"] == 1, f"{kernel}: resets_total {vm.status()['resets_total']}")
        lab.release(vm)
    vm = linux(lab, "agent", "--no-reboot")
    Shell(lab, vm).start("reboot -f")
    expect(vm.wait_exit(20) == 0, f"exit code {vm.code}")


@test(150)
def power_panic(lab):
    """a panic is seen through pvpanic: in the log, as an event; panic=-1 resets, panic=0 stays"""
    for word, cpus in (("panic=0", 1), ("panic=-1", 2)):
        vm = linux(lab, "agent", "--no-reboot", cpus=cpus, cmdline=word)
        shell = Shell(lab, vm)
        vm.call("events")
        shell.start("echo c > /proc/sysrq-trigger")
        vm.wait_log("panic", 20)
        if word == "panic=-1":
            expect(vm.wait_exit(20) == 0, f"exit code {vm.code}")
        else:
            vm.status()
            events = [e["event"] for e in vm.ctl.events]
            expect("guest-panic" in events, f"events: {events}")
            expect(vm.alive(), f"{word}: it ended with {vm.code}")
        lab.release(vm)


WATCHDOG_S = 6


@test(150)
def power_watchdog(lab):
    """a watchdog that is fed lets the guest be, one that is not resets it"""
    vm = linux(lab, "agent", "--no-reboot")
    shell = Shell(lab, vm)
    shell.run(f"watchdog -T {WATCHDOG_S} -t 1 /dev/watchdog0; cat /sys/class/watchdog/watchdog0/state")
    shell.run(f"sleep {2 * WATCHDOG_S}")
    expect(vm.alive(), f"it was fed, and yet: exit code {vm.code}: {vm.log_text()}")
    check_guest_log(shell)
    shell.start("killall -KILL watchdog")
    vm.wait_exit(WATCHDOG_S + 10)
    expect("watchdog" in vm.log_text(), f"the log does not name the watchdog: {vm.log_text()}")


@test(90)
def power_clocks(lab):
    """CMOS clock and kvm-clock show the host's time"""
    for kernel in KERNELS:
        vm = linux(lab, "agent", kernel=kernel)
        shell = Shell(lab, vm)
        source = shell.run("cat /sys/devices/system/clocksource/clocksource0/current_clocksource")
        expect(source == "kvm-clock", f"{kernel}: clock source {source}")
        for what, command in (("CMOS clock", "cat /sys/class/rtc/rtc0/since_epoch"), ("date", "date +%s")):
            before = time.time()
            seen = int(shell.run(command))
            expect(int(before) - 1 <= seen <= time.time() + 1, f"{kernel}: {what} is off by {seen - before:.1f} s")
        lab.release(vm)

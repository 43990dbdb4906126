"""Power button, watchdog, panic, VM generation ID: what the ACPI tables point at."""

import re

import ftlab
from ftlab import GUESTS, Pair, Vm, expect
from testlib import random_wait, test


def power_vm(lab, cmdline="ignore=0", *args):
    vm = Vm(lab, "A", ["-k", f"{GUESTS}/power.elf", "-m", "64M", "-a", cmdline, *args])
    vm.wait_console("^READY")
    return vm


def generations(vm):
    return re.findall(r"^generation ([0-9a-f]{32})", vm.console_text(), re.M)


@test(30)
def power_button(lab):
    """stop presses the button, by command and by signal; the guest switches itself off"""
    vm = power_vm(lab)
    vm.stop()
    expect(vm.code == 0 and "guest ended: switched off" in vm.log_text(), vm.log_text())
    lab.release(vm)
    vm = power_vm(lab)
    vm.signal(ftlab.signal.SIGTERM)
    vm.wait_exit(10)
    expect(vm.code == 0 and "guest ended: switched off" in vm.log_text(), vm.log_text())


@test(30)
def power_ignored(lab):
    """a guest that ignores the button is stopped at the deadline, or by a second stop"""
    vm = power_vm(lab, "ignore=1")
    vm.call("stop", timeout_ns=500000000)
    vm.wait_exit(10)
    expect(vm.code == 0 and "did not switch itself off in time" in vm.log_text(), vm.log_text())
    expect("event 1" in vm.console_text(), "the guest has not seen the button")
    lab.release(vm)
    vm = power_vm(lab, "ignore=1")
    vm.call("stop", timeout_ns=100000000000)
    vm.wait_console("^event 1")
    vm.call("stop")
    vm.wait_exit(10)
    expect(vm.code == 0 and "in time" not in vm.log_text(), vm.log_text())


@test(30)
def power_watchdog(lab):
    """a watchdog that is not fed resets the guest; with --no-reboot it ends the VM with 2"""
    vm = power_vm(lab, "watchdog=300")
    vm.wait_exit(15)
    expect(vm.code == 0 and "booted again" in vm.console_text(), vm.log_text())
    expect("watchdog: no sign of life" in vm.log_text(), vm.log_text())
    lab.release(vm)
    vm = power_vm(lab, "watchdog=300", "--no-reboot")
    vm.wait_exit(15)
    expect(vm.code == 2, f"exit code {vm.code}: {vm.log_text()}")
    lab.release(vm)
    vm = power_vm(lab, "watchdog=3000 feed=1")
    vm.wait_console(r"^alive 512")
    vm.stop()
    expect("switched off" in vm.log_text(), vm.log_text())


@test(30)
def power_panic(lab):
    """a kernel that panics is in the log and in the events; the VM goes on"""
    vm = Vm(lab, "A", ["-k", f"{GUESTS}/power.elf", "-m", "64M", "-a", "panic=1"])
    vm.wait_console("^READY")
    vm.wait_log("its kernel panicked")
    vm.stop()
    expect(vm.code == 0, f"exit code {vm.code}")


@test(60)
def power_protected(lab):
    """in a pair: a new generation ID after the takeover only; the button works on both sides"""
    for press_first in (False, True):
        pair = Pair(lab, "power", f"ignore={int(press_first)}", disk=0, net=False,
                    extra=("--verify",))
        a, b = pair.protect()
        random_wait(lab, a, 0.0, 0.3)
        if press_first:
            a.call("stop", timeout_ns=100000000000)
            a.wait_console("^event 1")
        a.kill()
        b.wait_state("DEGRADED")
        b.wait_console("^event [23]")
        b.wait_console("^generation")
        before, after = generations(a), generations(b)
        expect(len(before) == 1 and len(after) == 1 and before != after,
               f"generation IDs {before} then {after}")
        if press_first:
            pair.end()
            continue
        b.stop()
        expect(b.code == 0 and "guest ended: switched off" in b.log_text(), b.log_text())
        lab.release(a, b)

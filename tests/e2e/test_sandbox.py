"""What whoever takes a thread over may ask of the kernel: nothing that ftvmm has no use for."""

import glob
import os
import signal
import subprocess

import ftlab
from ftlab import GUESTS, Pair, Vm, expect
from testlib import Skip, check_load, random_wait, start_load, test

COMPROMISE = os.path.join(ftlab.TOOLS, "hostile/compromise")
# capabilities(7): what ftvmm keeps of root's rights, as /proc shows them.
CAPS = {1: "DAC_OVERRIDE", 2: "DAC_READ_SEARCH", 3: "FOWNER", 10: "NET_BIND_SERVICE", 12: "NET_ADMIN", 14: "IPC_LOCK",
        19: "SYS_PTRACE", 23: "SYS_NICE", 24: "SYS_RESOURCE"}
SYS_ADMIN = 21


def threads(pid):
    """Ids and names of the program's own threads: not of those that the kernel has put there."""
    for path in sorted(glob.glob(f"/proc/{pid}/task/*/comm")):
        try:
            with open(path, encoding="ascii") as f:
                name = f.read().strip()
        except (FileNotFoundError, ProcessLookupError):  # a job's, which has ended
            continue
        if not name.startswith(("kvm-", "iou-")):
            yield int(path.split("/")[4]), name


def compromise(vm, tid, kind):
    """What the kernel said to each attempt."""
    p = subprocess.run([COMPROMISE, str(vm.pid), str(tid), kind], text=True, capture_output=True, check=False,
                       timeout=20 * ftlab.SLOW)
    expect(p.returncode == 0, f"{kind} {tid}: {p.stderr}")
    return dict(line.rsplit(": ", 1) for line in p.stdout.splitlines())


def attack(vm):
    """Every thread; returns their names."""
    names = []
    for tid, name in threads(vm.pid):
        said = compromise(vm, tid, "vcpu" if name.startswith("vcpu") else "process")
        expect(len(said) >= 40, f"{name}: {len(said)} attempts")
        expect(set(said.values()) == {"EPERM"}, f"{name}: {[s for s in said.items() if s[1] != 'EPERM']}")
        names.append(name)
    return names


def status_of(pid, tid):
    with open(f"/proc/{pid}/task/{tid}/status", encoding="ascii") as f:
        return dict(line.rstrip("\n").split(":\t", 1) for line in f if ":\t" in line)


def check_rights(vm, more=()):
    allowed = sum(1 << bit for bit in (*CAPS, *more))
    for tid, name in threads(vm.pid):
        s = status_of(vm.pid, tid)
        expect(s["Seccomp"] == "2" and s["NoNewPrivs"] == "1", f"{name}: {s}")
        for of in "CapEff", "CapPrm":
            expect(int(s[of], 16) & ~allowed == 0, f"{name}: {of} {s[of]}")
    return status_of(vm.pid, vm.pid)


def idle(lab, how):
    vm = Vm(lab, "A", ["-k", f"{GUESTS}/idle.elf", "--sandbox", how])
    vm.wait_state("RUNNING")
    return vm


@test(60)
def sandbox_vm(lab):
    """each thread of a VM tries what it has no use for; without the sandbox, the same is let in"""
    vm = idle(lab, "on")
    names = attack(vm)
    expect({"ftvmm", "log", "vcpu0"} <= set(names), names)
    check_rights(vm)
    expect(vm.stop() == 0, f"exit code {vm.code}: {vm.log_text()}")
    vm = idle(lab, "off")
    said = compromise(vm, vm.pid, "vcpu")
    expect("EPERM" not in said.values(), [name for name, what in said.items() if what == "EPERM"])
    expect(vm.stop() == 0, f"exit code {vm.code}: {vm.log_text()}")


@test(90)
def sandbox_pair(lab):
    """so does each thread of both sides while they protect a VM: nothing comes of it, and B takes over"""
    pair = Pair(lab, disk=32, extra=["--sandbox", "on"])
    a, b = pair.protect()
    load = start_load(lab)
    random_wait(lab, load, 0.1, 0.3)
    names = attack(a), attack(b)
    expect(all(len(n) >= 4 for n in names), names)
    check_rights(a)
    check_rights(b)
    expect(a.status()["state"] == "PROTECTED", a.log_text())
    random_wait(lab, load, 0.1, 0.3)
    a.kill()
    b.wait_state("DEGRADED")
    lab.probe()
    attack(b)
    check_load(lab, [load], pair.image["B"])


@test(30)
def sandbox_strict(lab):
    """with --sandbox strict the first attempt ends the program"""
    vm = idle(lab, "strict")
    p = subprocess.run([COMPROMISE, str(vm.pid), str(vm.pid), "process"], text=True, capture_output=True, check=False,
                       timeout=20 * ftlab.SLOW)
    expect(p.returncode == 1 and not p.stdout, f"{p.returncode}: {p.stdout} {p.stderr}")
    expect(vm.wait_exit(10) == -signal.SIGSYS, f"exit code {vm.code}")


@test(60)
def sandbox_exec(lab):
    """an arbiter's program keeps all rights, and then vCPUs alone have a list; root's rights are dropped all the same"""
    if os.geteuid():
        raise Skip("not root: there are no rights to drop")
    image, program = lab.path("image"), lab.path("program")
    with open(image, "wb") as f:
        f.truncate(8 << 20)
    with open(program, "w", encoding="ascii") as f:
        # No program of its own for that: the call has 1.8 s on the slowest machine, too.
        f.write('#!/bin/sh\nwhile read -r line; do case $line in CapEff:*|Seccomp:*|NoNewPrivs:*) echo "$line"; esac; done '
                f'< /proc/self/status >> $0.said\nexec {ftlab.ROOT}/configs/arbiter-flock "$@"\n')
    os.chmod(program, 0o755)
    vm = Vm(lab, "A", ["--sandbox", "on", "--primary", "--ft", "mc", "--peer", f"unix:{lab.work}/nobody", "-k", f"{GUESTS}/idle.elf", "-d",
                       f"id=d0,path={image}", "--arbiter", f"exec:{program}"],
            env={"FTVMM_ARBITER_DIR": lab.work})
    vm.wait_state("UNPROTECTED")
    s = status_of(vm.pid, vm.pid)
    expect(s["Seccomp"] == "0" and not int(s["CapEff"], 16) >> SYS_ADMIN & 1, s)
    for tid, name in threads(vm.pid):
        if name.startswith("vcpu"):
            said = compromise(vm, tid, "vcpu")
            expect(set(said.values()) == {"EPERM"}, said)
    expect("of vCPU threads only" in vm.log_text(), vm.log_text())
    # Its peer was not there before it had claimed the VM: nothing runs then.
    expect("RUNNING" not in vm.log_text(), vm.log_text())
    with open(f"{program}.said", encoding="ascii") as f:
        said = set(f.read().split("\n")) - {""}
    with open("/proc/self/status", encoding="ascii") as f:
        ours = [line.split()[1] for line in f if line.startswith("CapEff:")]
    expect(said == {f"CapEff:\t{ours[0]}", "Seccomp:\t0", "NoNewPrivs:\t0"}, said)
    vm.kill()

"""What a user gets wrong: one line on standard error that says what and which, and exit code 1."""

import json
import os
import re

import ftlab
from ftlab import GUESTS, Pair, expect
from testlib import Skip, test
from test_boot import NET, boot

KERNEL = ["-k", f"{GUESTS}/hello.elf", "-m", "64M"]


def refused(lab, args, pattern, code=1, host="A"):
    """Exit code, one line, and what it must say."""
    p = ftlab.run("nsenter", f"--net=/run/netns/{lab.ns[host]}", "--", ftlab.FTVMM, *args, check=False,
                  timeout=20, env=dict(os.environ, XDG_RUNTIME_DIR=lab.path(host)))
    lines = p.stdout.strip().splitlines()
    expect(p.returncode == code and len(lines) == 1 and re.search(pattern, lines[0]),
           f"{' '.join(args)}: exit code {p.returncode}, not {code} with '{pattern}': {p.stdout}")


@test(60)
def cli_options(lab):
    """unknown and missing options and values"""
    run = ["run", *KERNEL]
    for args, pattern in (
            (["run", "--memroy", "64M"], "nearest is --memory"),
            (["run"], "no kernel"),
            (["run", "-k"], "needs a value"),
            (["run", "-z"], "no such option"),
            (["run", "-k", f"{GUESTS}/hello.elf", "-m", "65M"], "memory"),
            (["run", "-k", f"{GUESTS}/hello.elf", "-m", "1Q"], "memory"),
            (["run", "-k", f"{GUESTS}/hello.elf", "-m", "1T0"], "memory"),
            ([*run, "-c", "0"], "cpus"),
            ([*run, "-c", "9999"], "cpus"),
            ([*run, "-d", "id=d0"], "path is missing"),
            ([*run, "-d", "id=d0,path=x,colour=red"], "colour"),
            ([*run, "-n", "id=n0"], "tap or socket is missing"),
            ([*run, "-n", "id=n0,socket=s,bridge=b"], "bridge goes with tap"),
            ([*run, "-n", "id=n0,socket=none.sock"], "passt --socket none.sock"),
            ([*run, "-n", "id=n0,tap=t0,mac=1:2"], "mac"),
            ([*run, "-n", "id=n0,tap=a/b"], "no name"),
            ([*run, "--name", "a/b"], "--name"),
            ([*run, "--ft", "mc"], "--primary or --secondary|no meaning"),
            ([*run, "--primary"], "--peer"),
            ([*run, "--primary", "--peer", "tcp:10.0.0.1:1"], "--ft"),
            ([*run, "--primary", "--secondary"], "exclude"),
            ([*run, "--primary", "--peer", "tcp:10.0.0.1:1", "--ft", "magic"], "ft"),
            ([*run, "--primary", "--peer", "tls:10.0.0.1:1", "--ft", "mc"], "tls"),
            ([*run, "--primary", "--peer", "udp:1", "--ft", "mc"], "peer"),
            ([*run, "--primary", "--peer", "tcp:10.0.0.1:1", "--ft", "mc", "--arbiter", "coin"],
             "arbiter"),
            ([*run, "--primary", "--peer", "tcp:10.0.0.1:1", "--ft", "mc", "--epoch", "0"], "epoch"),
            (["run", "--secondary"], "--listen"),
            (["run", "--secondary", "--listen", "tcp:10.0.0.1:1", *KERNEL], "no meaning|has no meaning"),
            (["flurb"], "flurb"),
            (["status", "nosuch"], "nosuch"),
            (["stop"], "name"),
            (["set", "vm", "epoch=1y"], "epoch"),
    ):
        refused(lab, args, pattern)


@test(120, vm=False)
def cli_install(lab):
    """what `make install` puts somewhere `make uninstall` takes away"""
    if ftlab.SANITIZED:
        raise Skip("another build's tests do not make this one")
    root = lab.path("root")

    def make(target):
        ftlab.run("make", "-C", ftlab.ROOT, target, f"DESTDIR={root}", "PREFIX=/usr", timeout=100)
        return sorted(os.path.relpath(os.path.join(d, f), root) for d, _, files in os.walk(root) for f in files)
    files = make("install")
    expect({"usr/bin/ftvmm", "usr/lib/systemd/system/ftvmm-standby@.service", "usr/lib/ftvmm/build/guests/kv.elf",
            "usr/share/bash-completion/completions/ftvmm"} <= set(files), files)
    left = make("uninstall")
    expect(not left, left)


@test(60)
def cli_files(lab):
    """files that are missing, empty, of a wrong size or kind"""
    run = ["run", *KERNEL]
    small, odd = lab.path("small"), lab.path("odd")
    open(small, "w").close()
    with open(odd, "wb") as f:
        f.write(b"x" * 1000)
    for args, pattern in (
            (["run", "-k", "/no/such/kernel"], "/no/such/kernel"),
            (["run", "-k", lab.work], "not a regular file"),
            (["run", "-k", small], "empty"),
            (["run", "-k", odd], odd),
            ([*run, "-i", "/no/initrd"], "/no/initrd"),
            ([*run, "-d", "id=d0,path=/no/disk"], "/no/disk"),
            ([*run, "-d", f"id=d0,path={small}"], "multiple of 512"),
            ([*run, "-d", f"id=d0,path={odd}"], "multiple of 512"),
            ([*run, "-d", f"id=d0,path={lab.work}"], "neither a file nor"),
            ([*run, "--console", "/no/such/folder/console"], "/no/such/folder/console"),
            (["run", "--restore", "/no/snapshot"], "/no/snapshot"),
            (["run", "/no/vm.json"], "/no/vm.json"),
    ):
        refused(lab, args, pattern)
    with open(lab.path("qcow2"), "wb") as f:
        f.write(b"QFI\xfb" + bytes(65532))
    vm = boot(lab, "idle", "", "-d", f"id=d0,path={lab.path('qcow2')}")
    vm.wait_log("looks like a qcow2 image")


@test(60)
def cli_json(lab):
    """a JSON file with mistakes, and one without"""
    def json_file(text):
        path = lab.path("vm.json")
        with open(path, "w") as f:
            f.write(text if isinstance(text, str) else json.dumps(text))
        return path
    for text, pattern in (
            ("{", "vm.json"),
            ("[1]", "vm.json"),
            ({"kernle": "x"}, "nearest is 'kernel'"),
            ({"cpus": "many"}, "cpus"),
            ({"cpus": -1}, "cpus"),
            ({"memory": [1]}, "memory"),
            ({"disk": [{"id": "d0", "pth": "x"}]}, "pth"),
            ("{" + '"a":{' * 5000 + "}" * 5001, "vm.json"),
    ):
        refused(lab, ["run", json_file(text)], pattern)
    path = json_file({"kernel": f"{GUESTS}/hello.elf", "memory": "64M", "cpus": 2, "cmdline": "cpus=2",
                      "console": "stdio"})
    p = ftlab.run(ftlab.FTVMM, "run", path, env=dict(os.environ, XDG_RUNTIME_DIR=lab.path("A")))
    expect("cpus 2" in p.stdout, p.stdout)


@test(60)
def cli_busy(lab):
    """a name, an image or a tap that another VM uses"""
    disk = lab.disk("disk", 4)
    vm = boot(lab, "idle", "", "-d", f"id=d0,path={disk}", "-n", NET)
    vm.wait_console("^READY")
    refused(lab, ["run", *KERNEL], "named 'vm' is running")
    refused(lab, ["run", *KERNEL, "--name", "w", "-d", f"id=d0,path={disk}"], re.escape(disk))
    refused(lab, ["run", *KERNEL, "--name", "w", "-d", f"id=d0,path={disk},ro"], re.escape(disk))
    refused(lab, ["run", *KERNEL, "--name", "w", "-n", "id=n0,tap=t0"], "t0")
    refused(lab, ["run", *KERNEL, "--name", "w", "-n", "id=n0,tap=t1,bridge=nosuch"], "nosuch")
    refused(lab, ["run", *KERNEL, "--name", "w", "-n", "id=n0,tap=t1,bridge=up0"], "up0")
    refused(lab, ["run", *KERNEL, "--name", "w", "-n", "id=n0,tap=up0"], "up0")
    expect(vm.alive() and vm.state() == "RUNNING", "the first VM has suffered")
    expect("t1" not in ftlab.run("ip", "-netns", lab.ns["A"], "link").stdout, "a tap was left behind")


@test(60)
def cli_no_kvm(lab):
    """without /dev/kvm, and with something else in its place, it says so, and what to do"""
    for mount, pattern in (("-t tmpfs none /dev", "is missing: load .* `tests/testbed/testbed --"),
                           ("--bind /dev/null /dev/kvm", "/dev/kvm: ")):
        p = ftlab.run("unshare", "-m", "sh", "-c",
                      f"mount {mount} && exec {ftlab.FTVMM} run {' '.join(KERNEL)}",
                      check=False, env=dict(os.environ, XDG_RUNTIME_DIR=lab.path("A")))
        expect(p.returncode == 1 and re.search(pattern, p.stdout) and len(p.stdout.splitlines()) == 1,
               f"exit code {p.returncode}: {p.stdout}")


@test(60)
def cli_arbiter(lab):
    """a second primary of the same VM is refused, unless it insists"""
    pair = Pair(lab, disk=0, net=False, guest="idle", cmdline="hz=10")
    a = pair.primary("A")
    a.wait_state("UNPROTECTED")
    b = pair.primary("B")
    expect(b.wait_exit() == ftlab.EXIT_FENCED and "--claim" in b.log_text(),
           f"exit code {b.code}: {b.log_text()}")
    lab.release(b)
    expect(a.stop() == 0, f"exit code {a.code}")
    a.settle()
    a = pair.primary("A")  # an orderly end without a secondary: nothing to insist on
    a.wait_state("UNPROTECTED")
    lab.release(a)
    b = pair.primary("B", "--claim")
    b.wait_state("UNPROTECTED")


@test(60)
def cli_status(lab):
    """the subcommands against a running VM"""
    vm = boot(lab, "idle", "hz=20")
    vm.wait_console("^READY")

    def command(*args, code=0):
        p = ftlab.run(ftlab.FTVMM, *args, check=False,
                      env=dict(os.environ, XDG_RUNTIME_DIR=lab.path("A")))
        expect(p.returncode == code, f"{' '.join(args)}: exit code {p.returncode}: {p.stdout}")
        return p.stdout
    status = json.loads(command("status", "vm", "--json"))
    for key in ("name", "role", "state", "mode", "generation", "epoch", "peer", "pause_us",
                "epochs_total", "dirty_pages", "held_packets", "ack_lag_us"):
        expect(key in status, f"status has no '{key}'")
    expect("p50" in status["pause_us"] and "p99" in status["pause_us"], "pause_us")
    expect("RUNNING" in command("status"), "status")
    command("pause", "vm")
    expect("PAUSED" in command("status", "vm"), "status after pause")
    command("resume", "vm")
    expect(json.loads(command("status", "vm", "--json"))["state"] == "RUNNING", "after resume")
    for what in ("epoch=50ms", "output-limit=1M", "ft=mc"):  # without a role they would change nothing
        command("set", "vm", what, code=2)
    command("set", "vm", "epoch=1us", code=1)
    command("set", "vm", "balloon=16M", "epoch=20ms", code=2)
    command("set", "vm", "balloon=16M")
    command("set", "vm", "balloon=4T", code=2)
    command("set", "vm", "peer=fd", code=1)
    command("set", "vm", "peer=tcp:10.0.0.1:1", code=2)
    status = json.loads(command("status", "vm", "--json"))
    expect(status["balloon_target_bytes"] == 16 << 20 and status["balloon_bytes"] == 0, status)
    command("snapshot", "vm", lab.path("snap"))
    expect("the guest does not listen to its power button, and was stopped" in command("stop", "vm"), "not said")
    expect(vm.wait_exit() == 0, f"exit code {vm.code}")


@test(60)
def cli_dump(lab):
    """the state of a VM that runs and of its snapshot, by device and field; what differs"""
    vm = boot(lab, "idle", "hz=20")
    vm.wait_console("^READY")

    def command(*args, code=0):
        p = ftlab.run(ftlab.FTVMM, *args, check=False,
                      env=dict(os.environ, XDG_RUNTIME_DIR=lab.path("A")))
        expect(p.returncode == code, f"{' '.join(args)}: exit code {p.returncode}: {p.stdout}")
        return p.stdout
    text = command("dump", "vm")
    for line in (r"vcpu\[0\]\.regs\.rip = \d+", r"chips\[0\]\.clock_ns = \d+", r"serial\[0\]\.lcr = \d+"):
        expect(re.search(f"^{line}", text, re.M), f"no {line}: {text}")
    expect(vm.status()["state"] == "RUNNING", "it stands")
    command("pause", "vm")
    command("snapshot", "vm", lab.path("snap"))
    expect(command("dump", "--diff", "vm", lab.path("snap")) == "", "a paused VM and its snapshot")
    both = [json.loads(command("dump", what, "--json")) for what in ("vm", lab.path("snap"))]
    expect(both[0] == both[1] and int(both[0]["state"]["vcpu[0]"]["regs"]["rip"], 16), both[0])
    command("resume", "vm")
    vm.wait_status(lambda s: s["state"] == "RUNNING", "running", 8)
    text = command("dump", "--diff", "vm", lab.path("snap"), code=4)
    expect(re.search(r"^chips\[0\] clock_ns: 0x\w+ 0x\w+$", text, re.M), text)
    with open(lab.path("snap"), "r+b") as f:
        f.seek(-50, os.SEEK_END)
        f.truncate()
    refused(lab, ["dump", lab.path("snap")], "truncated: the stream ends", 2)
    told = json.loads(command("stop", "vm", "--json"))
    expect(told["forced"] and vm.wait_exit() == 0, told)


@test(60)
def cli_set_epoch(lab):
    """the epoch can be changed under protection"""
    pair = Pair(lab, disk=0, epoch="10s")
    a = pair.primary("A")
    a.call("set", epoch_ns=5000000)
    pair.secondary("B")
    pair.in_step()
    start = a.status()["epochs_total"]
    a.wait_status(lambda s: s["epochs_total"] >= start + 40, "40 epochs of 5 ms", 8)

"""A planned change of sides: `ftvmm failover`."""

import os
import re
import shutil
import signal
import subprocess

import ftlab
from ftlab import EXIT_FENCED, Deadline, FrameWatch, LabError, Pair, Vm, Wire, expect
from testlib import check_load, eighth, random_wait, start_load, test
from test_cli import refused
from test_protect import same_images

EXIT_HANDED_OVER = 3


def failover(lab, host):
    """The command, started; its standard output and exit code come later."""
    return subprocess.Popen([ftlab.FTVMM, "failover", "vm"], stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, text=True,
                            env=dict(os.environ, XDG_RUNTIME_DIR=lab.path(host)))


def ends(command, code, pattern=""):
    out, _ = command.communicate(timeout=20 * ftlab.SLOW)
    expect(command.returncode == code and re.search(pattern, out),
           f"failover: exit code {command.returncode}, not {code} with '{pattern}': {out}")


@test(60)
def failover_and_back(lab):
    """under load, there and back and there: nothing is lost, no --claim is needed"""
    pair = Pair(lab)
    pair.protect()
    load = start_load(lab, udp=2, tcp=2, echo=1, stream=1)
    here, gaps = "A", []
    for _ in range(ftlab.work(3)):
        there = pair.other(here)
        old, new = pair.vm[here], pair.vm[there]
        generation = old.status()["generation"]
        random_wait(lab, load, 0.1, 0.4)
        ends(failover(lab, here), 0)
        expect(old.wait_exit(5) == EXIT_HANDED_OVER, f"exit code {old.code}: {old.log_text()}")
        status = new.wait_state("DEGRADED")
        expect(status["generation"] == generation + 1, f"generation {status['generation']}")
        new.wait_log("primary: hands over")
        gaps.append(status["takeover_us"] / 1000)
        lab.probe()
        pair.secondary(here)
        pair.in_step()
        here = there
    random_wait(lab, load, 0.1, 0.2)
    summary = check_load(lab, [load], pair.image[here])[0]
    pair.check_ballast(here)
    lab.note(f"takeovers {gaps} ms, longest gap {summary['client_gap_ms']:.0f} ms")
    pair.end()


@test(90)
def failover_test(lab):
    """a drill: handed over, protected again, and told so; without somebody who stands by, that is told"""
    pair = Pair(lab, disk=32)
    a, b = pair.protect()
    load = start_load(lab)
    random_wait(lab, load, 0.1, 0.3)
    env = dict(os.environ, XDG_RUNTIME_DIR=lab.path("A"))
    drill = subprocess.Popen([ftlab.FTVMM, "failover", "vm", "--test"], stdout=subprocess.PIPE,
                             stderr=subprocess.STDOUT, text=True, env=env)
    expect(a.wait_exit(20) == EXIT_HANDED_OVER, f"exit code {a.code}: {a.log_text()}")
    lab.release(a)
    pair.secondary("A")
    ends(drill, 0, r"^handed over in \d+\.\d{3} s\nprotected again \d+\.\d{3} s later: this host stands by, "
                   r"generation 2\n$")
    pair.in_step()
    lab.probe()
    # At the other side, where nobody is to stand by again, and a drill of what is none.
    env["XDG_RUNTIME_DIR"] = lab.path("B")
    p = subprocess.run([ftlab.FTVMM, "failover", "vm", "--test", "--timeout", "300ms", "--json"], text=True,
                       env=env, capture_output=True, check=False, timeout=60 * ftlab.SLOW)
    expect(p.returncode == 2 and not p.stdout and "not protected again: here is nobody who stands by" in p.stderr,
           f"{p.returncode} {p.stdout} {p.stderr}")
    expect(b.wait_exit(10) == EXIT_HANDED_OVER, f"exit code {b.code}")
    pair.vm["A"].wait_state("DEGRADED")
    for words, why in ((["--tset"], "there are --test and --timeout TIME"), (["--timeout", "1s"], "is of --test"),
                       (["--test", "--timeout", "x"], "'x' is not a time")):
        refused(lab, ["failover", "vm", *words], why)
    lab.probe()
    check_load(lab, [load], pair.image["A"])


@test(60)
def failover_refused(lab):
    """where nobody would run the VM afterwards"""
    plain = Vm(lab, "A", ["-k", f"{ftlab.GUESTS}/idle.elf", "-m", "64M"])
    plain.wait_state("RUNNING")
    refused(lab, ["failover", "vm"], "this VM has no fault tolerance", code=2)
    lab.release(plain)
    pair = Pair(lab, "idle", "hz=10", disk=0, net=False)
    a, b = pair.protect()
    refused(lab, ["failover", "vm"], "a secondary takes over by itself", code=2, host="B")
    a.call("pause")
    refused(lab, ["failover", "vm"], "paused", code=2)
    a.call("resume")
    shutil.move(pair.arbiter_dir, pair.arbiter_dir + ".away")
    refused(lab, ["failover", "vm"], "arbiter", code=2)
    shutil.move(pair.arbiter_dir + ".away", pair.arbiter_dir)
    expect((a.state(), b.state()) == ("PROTECTED", "PROTECTED"), f"{a.state()}, {b.state()}")
    b.kill()
    a.wait_state("DEGRADED")
    refused(lab, ["failover", "vm"], "DEGRADED: there is no secondary in step", code=2)


@test(60)
def failover_secondary_lost(lab):
    """the secondary dies before it has the last epoch: the VM goes on where it was"""
    pair = Pair(lab)
    a, b = pair.protect()
    load = start_load(lab)
    b.signal(signal.SIGSTOP)
    command = failover(lab, "A")
    a.wait_log("failover: handing over")
    b.kill()
    ends(command, 2, "the secondary was lost")
    a.wait_state("DEGRADED")
    lab.probe()
    check_load(lab, [load], pair.image["A"])


@test(60)
def failover_stopped(lab):
    """`stop` while the secondary is to have the last epoch: nobody runs the VM then, and it can be started again"""
    pair = Pair(lab, timeout="10s")
    a, b = pair.protect()
    lab.probe()
    b.signal(signal.SIGSTOP)
    command = failover(lab, "A")
    a.wait_log("failover: handing over")
    refused(lab, ["failover", "vm"], "being handed over", code=2)
    a.call("stop", timeout_ns=0)
    b.signal(signal.SIGCONT)
    expect(a.wait_exit(5) == 0, f"exit code {a.code}: {a.log_text()}")
    ends(command, 2, "was not handed over: it was stopped, or ended, before that")
    b.wait_log("stopped in order")
    expect(b.state() == "STARTING", f"it runs at the other side: {b.log_text()}")
    pair.primary("A")
    pair.in_step()
    lab.probe()


@test(60)
def failover_primary_lost(lab):
    """the primary dies instead of saying that it hands over: a takeover like any other"""
    pair = Pair(lab)
    a, b = pair.protect(env={"A": {"FTVMM_DIE_AT": "goodbye"}})
    load = start_load(lab)
    ends(failover(lab, "A"), 2, "did not say that it was handed over")
    expect(a.wait_exit(5) == -signal.SIGKILL, f"exit code {a.code}")
    b.wait_state("DEGRADED")
    lab.probe()
    check_load(lab, [load], pair.image["B"])


@test(60)
def failover_unclaimed(lab):
    """the secondary cannot reach the arbiter: the VM goes on where it was, and not twice"""
    pair = Pair(lab)
    way = lab.path("way")
    os.symlink(pair.arbiter_dir, way)
    b = pair.secondary("B", "--arbiter", f"file:{way}/vm")
    b.wait_state("STARTING")
    a = pair.primary("A")
    pair.in_step()
    load = start_load(lab)
    os.unlink(way)
    command = failover(lab, "A")
    b.wait_state("TAKING-OVER")
    ends(command, 2, "the secondary was lost")
    expect("did not claim" in a.wait_state("DEGRADED")["note"], a.log_text())
    lab.probe()
    os.symlink(pair.arbiter_dir, way)
    b.wait_state("STARTING", "SYNCING", "PROTECTED")
    pair.in_step()
    check_load(lab, [load], pair.image["A"])
    pair.end()


def roles(pair):
    """Host by role of those that live; whoever does not has left in order. And their status."""
    found, status = {}, {}
    for host, vm in pair.vm.items():
        try:
            status[host] = vm.status()
            found.setdefault(status[host]["role"], []).append(host)
        except LabError:
            expect(not vm.alive() and vm.code in (EXIT_HANDED_OVER, EXIT_FENCED),
                   f"host {host}: exit code {vm.code}: {vm.log_text()}")
    return found, status


def runner(pair, load, generation, seconds=30):
    """The one side that runs the guest under a later generation; the other one has gone, or stands by."""
    d = Deadline(seconds)
    while True:
        d.check("one side to run the guest")
        found, status = roles(pair)
        going = [h for h in found.get("primary", []) if status[h]["generation"] > generation and
                 status[h]["state"] in ("DEGRADED", "SYNCING", "PROTECTED")]
        expect(len(going) < 2, "both sides run the guest")
        if going and len(found["primary"]) == 1 and \
                all(s["state"] != "TAKING-OVER" for s in status.values()):
            return going[0]
        load.nap(0.02)


def protect_again(pair, load, seconds=30):
    """Start who has left as secondary, until both are in step, though the link may be cut once more. Who runs it."""
    d = Deadline(seconds)
    while True:
        d.check("both sides to be in step")
        found, status = roles(pair)
        if len(status) == 2 and all(s["state"] == "PROTECTED" for s in status.values()):
            return found["primary"][0]
        for host, vm in list(pair.vm.items()):
            if not vm.alive():
                pair.lab.release(vm)
                pair.secondary(host)
        load.nap(0.02)


@test(240)
def failover_cut(lab):
    """the link is cut at some byte of a hand-over, eight times: one side runs it, and nothing is lost"""
    wire = Wire(lab)
    pair = Pair(lab, disk=32, wire=wire, epoch="100ms")
    pair.protect()
    load = start_load(lab)
    here, moved, tries = "A", 0, max(2, ftlab.work(8))
    watch = {h: FrameWatch(lab, h) for h in "AB"}
    for _ in range(tries):
        generation = pair.vm[here].status()["generation"]
        # Some 64 bytes are a heartbeat or an ack; the words of a hand-over come after those of an epoch.
        way, most = lab.rng.choice((("a2b", 700), ("b2a", 200), ("b2a", 200)))
        count = lab.rng.randrange(1, most)
        wire.do(f"after {count} {way} cut")
        command = failover(lab, here)
        now = runner(pair, load, generation)
        command.communicate(timeout=20 * ftlab.SLOW)
        lab.probe()
        frames = {h: [t for t, _ in w.drain()] for h, w in watch.items()}
        if now != here and frames[now]:
            late = [t for t in frames[here] if t > frames[now][0]]
            expect(not late, f"{len(late)} frames of the guest left host {here} after the change")
        moved += now != here
        here = protect_again(pair, load)
        for w in watch.values():
            w.drain()
    lab.note(f"{moved} of {tries} went to the other side")
    check_load(lab, [load], pair.image[here])
    pair.end()


class FullDisk:
    """Of a guest that writes to ever more places, and knows what it wrote: until host A's file system is full."""

    def __init__(self, lab, depth=4, **options):
        self.folder = lab.path("small")
        os.mkdir(self.folder)
        ftlab.run("mount", "-t", "tmpfs", "-o", "size=48M", "none", self.folder)
        self.pair = Pair(lab, guest="blk", cmdline=f"ops=0 region=64K depth={depth}", net=False, disk=64, **options)
        was, self.pair.image["A"] = self.pair.image["A"], os.path.join(self.folder, "disk")
        ftlab.run("cp", "--sparse=always", was, self.pair.image["A"])

    def fill(self):
        with open(os.path.join(self.folder, "full"), "wb", buffering=0) as f:
            try:
                while True:
                    f.write(bytes(1 << 16))
            except OSError:
                pass

    def __enter__(self):
        return self

    def __exit__(self, *what):
        self.pair.end()
        ftlab.run("umount", self.folder)


@test(90)
def disk_error_failover(lab):
    """an image that fails is no error of the guest's: the other side has the VM then, and does it there"""
    with FullDisk(lab, extra=["--on-disk-error", "failover"]) as disk:
        pair = disk.pair
        a, b = pair.protect()
        disk.fill()
        expect(a.wait_exit(40) == EXIT_HANDED_OVER, f"exit code {a.code}: {a.log_text()}")
        expect(re.search("disk d0: (write|zero) at .*No space left.*; handing the VM over", a.log_text()), a.log_text())
        b.wait_state("DEGRADED")
        random_wait(lab, b, 0.5, 1.0)
        expect(b.alive() and not re.search("CORRUPT|FAILED|error", b.console_text()), b.console_text())
        pair.check_ballast("B")


@test(90)
def disk_error_guest(lab):
    """by default it is the guest's, and so it is when nobody else can have the VM"""
    for options in eighth(lab, ([], ["--on-disk-error", "failover"])):
        with FullDisk(lab, extra=options) as disk:
            if options:
                a = disk.pair.primary("A")
                a.wait_state("UNPROTECTED")
            else:
                a, _ = disk.pair.protect()
            disk.fill()
            a.wait_console("FAILED|error|failed", 40)
            a.wait_log(r"disk d0: (write|zero) of \d+ bytes at \d+: No space left on device; \d+ such errors")
            if options:
                a.wait_log("there is no secondary in step")
        os.rmdir(lab.path("small"))


@test(90)
def disk_error_alike(lab):
    """a write that failed here is an event, and not in the other side's image either"""
    with FullDisk(lab, depth=1) as disk:
        a, b = disk.pair.protect()
        ctl = ftlab.Control(a.socket_path(), 40 * ftlab.SLOW)
        ctl.call("events")
        disk.fill()
        event = ctl.line()
        while event["event"] != "disk-error":
            event = ctl.line()
        expect((event["disk"], event["error"], event["errors"]) == ("d0", "No space left on device", 1), event)
        expect(event["op"] in ("write", "zero"), event)
        ctl.close()
        a.wait_exit(40)
        b.wait_state("STARTING", seconds=40)  # it has all that the guest did before its end
        expect(b.stop() == 0, f"exit code {b.code}")
        same_images(disk.pair)
        expect("may differ" not in a.log_text(), a.log_text())

"""A planned change of sides: `ftvmm failover`."""

import os
import re
import shutil
import signal
import subprocess

import ftlab
from ftlab import Pair, Vm, expect
from testlib import check_load, random_wait, start_load, test
from test_cli import refused

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
    for _ in range(3):
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
    command.communicate(timeout=20 * ftlab.SLOW)
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
    ends(failover(lab, "A"), 0)
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

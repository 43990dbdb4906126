#!/usr/bin/env python3
"""Redis on Debian's kernel in a protected VM, whose host is killed again and again, under the eyes of its clients.
usage: demo.py [--kills N] [--seed N]. Where /dev/kvm cannot run Linux, in the test bed (tests/testbed)."""

import argparse
import os
import random
import sys

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, "..")]
import pool
import ftlab
import host
import worker
from ftlab import LabError
from testlib import random_wait
from workclients import Redis, redis_connect
from worklab import ROOT, WorkPair

CLIENTS = 4


def say(text):
    print(text, flush=True)


def kill_once(lab, pair, clients, here):
    """SIGKILL for the side that runs the VM. Takeover time in ms; the other side, protected again."""
    killed = ftlab.mono()
    here, dead = pair.kill(here), here
    took = (pair.vm[here].status()["first_run_mono_ns"] - killed) / 1e6
    for client in clients:
        client.more(1)
    answered = (ftlab.mono() - killed) / 1e6
    pair.protect_here(here)
    protected = (ftlab.mono() - killed) / 1e9
    say(f"  kill -9 on host {dead}: the guest runs on host {here} after {took:.0f} ms, has answered all clients "
        f"after {answered:.0f} ms, is protected again after {protected:.1f} s")
    random_wait(lab, pair.vm[here], 1, 3)
    return took, here


def demo(lab, kills, epoch):
    pair, here = WorkPair(lab, "redis", memory="256M", epoch=epoch), "A"
    say("host A: a VM with Debian's kernel and Redis (appendfsync always)")
    pair.boot()
    clients = [Redis(lab, n) for n in range(CLIENTS)]
    pair.protect_here(here)
    say(f"host B: protects it, checkpoints every {epoch}. {CLIENTS} clients write and check every answer")
    for client in clients:
        client.more(5)
    times = []
    for _ in range(kills):
        took, here = kill_once(lab, pair, clients, here)
        times.append(took)
    lost = "0"
    try:
        for client in clients:
            client.finish()
        stream = redis_connect(lab)
        for client in clients:
            client.audit(stream)
    except LabError as e:
        say(str(e))
        lost = "NOT 0"
    kept = sum(not c.trouble for c in clients)
    say(f"\n{kills} kills; the longest times:")
    say(f"takeover {max(times):.0f} ms · client gap {max(c.gap for c in clients) * 1000:.0f} ms · acknowledged "
        f"{sum(c.acked for c in clients):,} · lost {lost} · TCP connections kept {kept}/{CLIENTS}")
    return 0 if lost == "0" and kept == CLIENTS else 1


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=4)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1, 1 << 31))
    args = parser.parse_args()
    if not os.path.isdir(ROOT):
        say("no guest; make linux-guest builds it")
        return 1
    where, why = host.place(host.LINUX)
    if "FTVMM_IN_BED" not in os.environ:
        say(why)
    if where == "bed":
        return pool.run_in_bed(os.path.abspath(__file__), ["--kills", str(args.kills), "--seed", str(args.seed)])
    ftlab.main_signals()
    ftlab.slow_is(worker.measure_slow())
    with ftlab.Lab(random.Random(args.seed)) as lab:
        return demo(lab, args.kills, "100ms" if ftlab.SLOW > 2 else "25ms")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
    except LabError as e:
        say(f"demo failed: {e}")
        sys.exit(1)

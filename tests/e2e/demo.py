#!/usr/bin/env python3
"""A protected VM whose host is killed again and again, under the eyes of its clients.
usage: demo.py [--kills N] [--seed N]. Where KVM cannot run the guest, in a bed (tests/testbed)."""

import argparse
import os
import random
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import pool
import ftlab
import host
import worker
from ftlab import Lab, Load, Pair
from testlib import flowing, random_wait

CLIENTS = 8  # over UDP, and as many over TCP


def say(text):
    print(text, flush=True)


def kill_once(lab, pair, load, here):
    """SIGKILL for the side that runs the VM. Takeover time in ms; the other side, protected again."""
    there = pair.other(here)
    killed = pair.vm[here].kill()
    status = pair.vm[there].wait_state("DEGRADED")
    took = (status["first_run_mono_ns"] - killed) / 1e6
    answered = (lab.probe() - killed) / 1e6
    pair.secondary(here)
    pair.in_step()
    protected = (ftlab.mono() - killed) / 1e6
    say(f"  kill -9 on host {here}: the guest runs on host {there} after {took:.0f} ms, answers after "
        f"{answered:.0f} ms, is protected again after {protected:.0f} ms")
    random_wait(lab, load, 2, 4)
    return took, there


def demo(lab, kills):
    pair = Pair(lab)
    say("hosts A and B: a key-value server in a VM on A, protected by B, checkpoints every 25 ms")
    pair.protect()
    lab.probe()
    load = Load(lab, udp=CLIENTS, tcp=CLIENTS, echo=2, stream=2)
    flowing(lab, load)
    say(f"clients: {CLIENTS} over UDP, {CLIENTS} over TCP, 2 TCP echoes and 2 TCP streams; every answer is recorded")
    random_wait(lab, load, 2, 3)
    here, times = "A", []
    for _ in range(kills):
        took, here = kill_once(lab, pair, load, here)
        times.append(took)
    s = load.finish()
    say("checking the history for linearizability, and the disk image against it ...")
    lost = "0"
    try:
        say("  " + lab.check([load], pair.image[here]).splitlines()[0])
    except ftlab.LabError as e:
        say(str(e))
        lost = "NOT 0"
    kept = f"{s['tcp_kept'] - s['silent']}/{s['tcp_total']}"
    say(f"\n{kills} kills; the longest times:")
    say(f"takeover {max(times):.0f} ms · client gap {s['client_gap_ms']:.0f} ms · acknowledged "
        f"{s['acked']:,} · lost {lost} · TCP connections kept {kept}")
    good = lost == "0" and not s["silent"] and s["tcp_kept"] == s["tcp_total"] and not s["bad_replies"] and \
        s["echo_ok"] == s["echo_total"] and s["stream_ok"] == s["stream_total"]
    return 0 if good else 1


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=4)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1, 1 << 31))
    args = parser.parse_args()
    where, why = host.place(host.BARE)
    if "FTVMM_IN_BED" not in os.environ:
        say(why)
    if where == "bed":
        return pool.run_in_bed(os.path.abspath(__file__), ["--kills", str(args.kills), "--seed", str(args.seed)])
    ftlab.main_signals()
    ftlab.slow_is(worker.measure_slow())
    with Lab(random.Random(args.seed)) as lab:
        return demo(lab, args.kills)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
    except ftlab.LabError as e:
        say(f"demo failed: {e}")
        sys.exit(1)

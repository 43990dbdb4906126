#!/usr/bin/env python3
"""How much of each room of the program do histories come to? By the clang build, which counts where
it comes: lines at which something begins.
usage: tests/sim/cover.py [--seconds N] [--seed N] [--files]"""

import argparse
import collections
import os
import re
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SIM, EDGES = "build/fuzz/tests/sim/sim", "build/fuzz/sim.edges"
ROOMS = ("ft/common/", "ft/epoch/", "ft/role/", "net/obuf", "vmm/copy/", "vmm/wire/", "postcopy/")


def lines():
    """Each line of the program that has a place which the build counts: was one reached?"""
    with open(os.path.join(ROOT, EDGES)) as f:
        places = [l.split() for l in f]
    said = subprocess.run(["llvm-symbolizer", "--no-inlines", "--functions=none", "--output-style=GNU", "--obj=" + SIM],
                          cwd=ROOT, input="".join(f"{a}\n" for _, a in places), check=True, capture_output=True,
                          text=True).stdout.splitlines()
    said = [l for l in said if l]
    assert len(said) == len(places), f"{len(places)} places, {len(said)} answers of llvm-symbolizer"
    reached = {}
    for (seen, _), place in zip(places, said):
        file, _, line = re.sub(rf".*/(?=({'|'.join(ROOMS)}))", "", place).partition(":")
        reached[file, line.split()[0]] = reached.get((file, line.split()[0]), False) or seen == "1"
    return reached


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--seconds", default="20")
    p.add_argument("--seed", default="1")
    p.add_argument("--files", action="store_true", help="each file of these rooms")
    a = p.parse_args()
    done = subprocess.run([SIM, "--runs", "1000000", "--seconds", a.seconds, "--seed", a.seed, "--edges", EDGES],
                          cwd=ROOT, capture_output=True, text=True)
    print(done.stdout.splitlines()[-1])
    count = collections.defaultdict(lambda: [0, 0])
    for (file, _), seen in lines().items():
        for room in ROOMS:
            if file.startswith(room) and file.endswith(".c"):
                for name in [room] + [file] * a.files:
                    count[name][0] += seen
                    count[name][1] += 1
    for name, (seen, all_) in sorted(count.items()):
        print(f"# {name}: {seen} of {all_} lines reached, {100 * seen // all_} %")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())

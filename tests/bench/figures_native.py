"""Figures of code that needs no vCPU, and so neither /dev/kvm nor root: native_*.c, measured where this runs."""

import json
import os
import shutil
import subprocess
import tempfile

from benchlib import ftlab, median

TOOLS = os.path.join(ftlab.TOOLS, "bench")
SECONDS = 300
# Of the ratio to the floor: at most, or at least.
TARGETS = {
    "remote fault beside a push, p50": ("<=", 1.25),
    "remote fault beside a push, p99": ("<=", 2),
    "push beside faults": (">=", 0.7),
    "a thread that does not fault, beside one": (">=", 0.95),
    "push of all memory": (">=", 0.8),
    "bytes on the wire for touched memory": ("<=", 1.02),
}


def target(name, ratio):
    """How the target reads, and whether it is met; of a figure that is for information, nothing."""
    if name not in TARGETS:
        return "", None
    sign, bound = TARGETS[name]
    return f"{sign} {bound:.2f}", ratio <= bound if sign == "<=" else ratio >= bound


def figures(report, tool, *arguments):
    """Each line of the tool's output is a figure with its samples, floor and ours in turns."""
    p = subprocess.run([os.path.join(TOOLS, tool), *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                       text=True, timeout=SECONDS, preexec_fn=ftlab.die_with_parent)
    if p.returncode:
        raise ftlab.LabError(f"{tool} {' '.join(arguments)}: exit code {p.returncode}: {p.stderr.strip()}")
    for line in p.stdout.splitlines():
        f = json.loads(line)
        ratio = median(ours / floor for floor, ours in zip(f["floor"], f["ours"]))
        report.add(f["name"], f["unit"], median(f["ours"]), *target(f["name"], ratio), floor=median(f["floor"]),
                   ratio=ratio, samples={"floor": f["floor"], "ours": f["ours"]})


def in_folder(report, name):
    """With files of its own, beside the build: on a real disk, as a rule."""
    folder = tempfile.mkdtemp(prefix="bench-", dir=os.path.join(ftlab.ROOT, "build"))
    try:
        figures(report, "native_io", name, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def pages(report):
    """page writer and reader, and when LZ4 is tried, against memcpy"""
    figures(report, "native_pages")


def capture(report):
    """copies of pages that were marked dirty, against memcpy of as many"""
    figures(report, "native_ft", "capture")


def commit(report):
    """an epoch's pages staged and committed, against memcpy of as many"""
    figures(report, "native_ft", "commit")


def transfer(report):
    """whole epochs from capture to ack over loopback, against as many plain bytes"""
    figures(report, "native_ft", "epochs")


def sync(report):
    """first sync of memory over loopback, against plain TCP"""
    figures(report, "native_ft", "sync")


def compare(report):
    """outputs of two machines compared, against memcpy and memcmp of as many"""
    figures(report, "native_compare")


def frames(report):
    """frames over loopback, large and small, against plain TCP"""
    figures(report, "native_io", "frames")


def arbiter(report):
    """claim and release of a generation in files, against write, fsync, link, fsync"""
    in_folder(report, "arbiter")


def disk(report):
    """disk writes without and with a log, and the log applied, against pwrite"""
    in_folder(report, "disk")


def postcopy(report):
    """remote faults, alone and beside a push, and the push, of threads in place of vCPUs, over loopback"""
    figures(report, "native_postcopy", "faults")
    figures(report, "native_postcopy", "bulk")

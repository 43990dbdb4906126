"""What an image says of itself, in its attribute user.ftvmm: none that may be older is started unasked."""

import errno
import os
import shutil
import time

import ftlab
from ftlab import EXIT_FENCED, FTVMM, GUESTS, Pair, Vm, expect
from test_cli import refused
from test_stop import IDLE
from testlib import Skip, test


def marked(pair, host):
    """Of which generation it is, and what; None: nothing."""
    try:
        word = os.getxattr(pair.image[host], "user.ftvmm").decode().split()
    except OSError as e:
        expect(e.errno == errno.ENODATA, f"{pair.image[host]}: {e}")
        return None
    expect(word[:2] == ["1", "vm"], f"{pair.image[host]} says {word}")
    return int(word[2]), word[3]


def becomes(pair, host, generation, word):
    """Soon: marks are written behind what they say."""
    d = ftlab.Deadline(10)
    while marked(pair, host) != (generation, word):
        d.check(f"host {host}'s image to be {word} of generation {generation}, not {marked(pair, host)}")
        time.sleep(ftlab.POLL)


def made(lab, **options):
    """A pair of images that can say something."""
    pair = Pair(lab, **{**IDLE, **options})
    try:
        os.setxattr(pair.image["A"], "user.other", b"x")
    except OSError as e:
        raise Skip(f"the file system of {lab.path('')} has no extended attributes: {e}") from None
    return pair


def not_plain(lab, pair, host):
    """That image does not start as a VM of its own; the check says so, too."""
    disk = ["-d", f"id=d0,path={pair.image[host]}"]
    refused(lab, ["run", "-k", f"{GUESTS}/hello.elf", *disk], "one of the two images of the VM 'vm'",
            code=EXIT_FENCED, host=host)
    p = ftlab.run(FTVMM, "check", "-k", f"{GUESTS}/hello.elf", *disk, check=False)
    expect(p.returncode and "one of the two images" in p.stdout, p.stdout)


def not_primary(lab, pair, host, pattern):
    vm = pair.primary(host)
    expect(vm.wait_exit(10) == EXIT_FENCED, f"host {host} started: exit code {vm.code}: {vm.log_text()}")
    vm.wait_log(pattern)
    lab.release(vm)


def stopped(pair):
    """In order, both."""
    a, b = (pair.vm[h] for h in ("AB" if pair.vm["A"].status()["role"] == "primary" else "BA"))
    expect(a.stop() == 0, f"exit code {a.code}")
    b.wait_state("STARTING")
    b.stop()
    pair.end()


def through_a_takeover(lab, **options):
    pair = made(lab, **options)
    a, b = pair.protect()
    becomes(pair, "A", 1, "run")
    becomes(pair, "B", 1, "behind")
    if options:
        a.wait_status(lambda s: s["twin"]["checkpoints_total"] > 2, "checkpoints with a twin", 30)
        expect(marked(pair, "B") == (1, "behind"), marked(pair, "B"))
    since = ftlab.mono()
    a.kill()
    pair.taken_over("B", since)
    becomes(pair, "B", 2, "run")
    not_plain(lab, pair, "A")
    a = pair.secondary("A")
    pair.in_step()
    becomes(pair, "A", 2, "behind")
    stopped(pair)
    for host in "AB":
        expect(marked(pair, host) == (2, "whole"), marked(pair, host))
        not_plain(lab, pair, host)


@test(60)
def mark_takeover(lab):
    """each image says whose it is, through a kill and a stop; neither starts as a VM of its own beside the other"""
    through_a_takeover(lab)


@test(60)
def mark_twin(lab):
    """a guest that runs at both sides has one image that runs"""
    through_a_takeover(lab, ft="colo", epoch="5ms")


@test(60)
def mark_handed(lab):
    """after a hand-over the old side's image is behind, when its process has ended"""
    pair = made(lab)
    a, b = pair.protect()
    a.call("failover")
    expect(a.wait_exit(10) == 3, f"exit code {a.code}")
    expect(marked(pair, "A") == (1, "behind"), marked(pair, "A"))
    becomes(pair, "B", 2, "run")
    b.stop()


@test(60)
def mark_own(lab):
    """--claim makes it a VM of its own, and takes the mark off; a copy says nothing"""
    pair = made(lab)
    pair.protect()
    stopped(pair)
    copy = lab.path("copy")
    shutil.copyfile(pair.image["A"], copy)
    for args in (["--claim", "-d", f"id=d0,path={pair.image['A']}"], ["-d", f"id=d0,path={copy}"],
                 ["-d", f"id=d0,path={pair.image['A']}"]):
        vm = Vm(lab, "A", ["-k", f"{GUESTS}/hello.elf", *args], console=False)
        expect(vm.wait_exit(10) == 0, f"exit code {vm.code}: {vm.log_text()}")
    expect(marked(pair, "A") is None, marked(pair, "A"))


@test(60)
def mark_half(lab):
    """an image in whose first sync the other side died is half another's: not started, not by the arbiter's leave"""
    pair = made(lab, arbiter=False)
    b = pair.secondary("B")
    b.wait_state("STARTING")
    a = pair.primary("A", env={"FTVMM_DIE_AT": "sync-disk"})
    a.wait_exit(10)
    b.wait_state("STARTING")
    expect(marked(pair, "B") == (1, "half"), marked(pair, "B"))
    b.stop()
    not_primary(lab, pair, "B", "neither an old image nor a new one")
    not_plain(lab, pair, "B")


@test(60)
def mark_behind(lab):
    """without an arbiter a secondary's image is not started unasked"""
    pair = made(lab, arbiter=False)
    a, b = pair.protect()
    becomes(pair, "B", 1, "behind")
    b.kill()
    a.wait_state("DEGRADED")
    a.stop()
    not_primary(lab, pair, "B", "was a secondary's: the other side's image may be newer")
    becomes(pair, "A", 1, "run")
    lab.release(a, b)
    pair.secondary("B").wait_state("STARTING")
    pair.primary("A")
    pair.in_step()
    pair.end()


@test(60)
def mark_arbiter_gone(lab):
    """the arbiter's folder is not mounted, or an old copy: the images know better, and nothing starts"""
    pair = made(lab)
    pair.protect()
    stopped(pair)
    for name in os.listdir(pair.arbiter_dir):
        os.unlink(os.path.join(pair.arbiter_dir, name))
    for host in "AB":
        not_primary(lab, pair, host, "of generation 1, and the arbiter knows none after 0")
    a = pair.primary("A", "--claim")
    a.wait_state("UNPROTECTED")
    becomes(pair, "A", 1, "run")
    a.stop()


@test(60)
def mark_other_vm(lab):
    """a secondary does not overwrite an image of another VM"""
    pair = made(lab)
    pair.protect()
    stopped(pair)
    vm = Vm(lab, "B", ["--secondary", "--listen", pair.listen["B"], *pair.host_args("B")], name="other")
    expect(vm.wait_exit(10) == EXIT_FENCED, f"exit code {vm.code}")
    vm.wait_log("is an image of the VM 'vm', and 'other' would overwrite it")

"""A secondary that has an image of before: what differs is brought over, and nothing else."""

import ftlab
from ftlab import Pair, expect
from testlib import check_load, random_wait, start_load, test

DISK_MB, BALLAST_MB, BLOCK = 96, 64, 65536


def random_megabytes(lab, path, at, count):
    with open(path, "r+b") as f:
        f.seek(at << 20)
        for _ in range(count):
            f.write(lab.rng.randbytes(1 << 20))


def same(a, b):
    """The number of the first block that differs, or None."""
    with open(a, "rb") as f, open(b, "rb") as g:
        block = 0
        while True:
            x, y = f.read(BLOCK), g.read(BLOCK)
            if x != y:
                return block
            if not x:
                return None
            block += 1


def synced(vm):
    """Bytes of all first syncs of this process, memory too."""
    return vm.status()["sync_bytes"]


def pair_of(lab, **more):
    pair = Pair(lab, disk=DISK_MB, memory="32M", **more)
    random_megabytes(lab, pair.image["A"], DISK_MB - BALLAST_MB - 8, BALLAST_MB)
    return pair


def stopped_equal(lab, pair, host):
    """Stopped in order, the images of both sides are the same."""
    expect(pair.vm[host].stop(30) == 0, f"exit code {pair.vm[host].code}")
    pair.vm[pair.other(host)].wait_state("STARTING")
    lab.release(*pair.vm.values())
    block = same(pair.image["A"], pair.image["B"])
    expect(block is None, f"block {block} differs")


@test(120)
def resync_few(lab):
    """an image that missed some writes gets these alone; an empty one, all"""
    pair = pair_of(lab)
    a, b = pair.protect(60)
    whole = synced(a)
    expect(whole > BALLAST_MB << 20, f"{whole} bytes to an empty image of {BALLAST_MB} MiB")
    load = start_load(lab)
    random_wait(lab, load, 0.1, 0.3)
    a.kill()
    b.wait_state("DEGRADED")
    random_wait(lab, load, 0.1, 0.3)
    lab.release(a)
    pair.secondary("A")
    pair.in_step(60)
    few = synced(b)
    expect(few < 40 << 20, f"{few} bytes to an image that had nearly all; {whole} to an empty one")
    random_wait(lab, load, 0.1, 0.3)
    check_load(lab, [load], pair.image["B"])
    stopped_equal(lab, pair, "B")


@test(120)
def resync_foreign(lab):
    """an image with other contents, data where there is none, holes where there is some: the same in the end"""
    pair = pair_of(lab)
    with open(pair.image["B"], "wb") as f:
        f.truncate(DISK_MB << 20)
    # Over the end of the ballast and over its beginning; then single sectors, and a hole in it.
    random_megabytes(lab, pair.image["B"], 8, 24)
    random_megabytes(lab, pair.image["B"], DISK_MB - 12, 12)
    with open(pair.image["A"], "rb") as f, open(pair.image["B"], "r+b") as g:
        for _ in range(400):
            at = lab.rng.randrange(0, (DISK_MB << 20) // 512) * 512
            f.seek(at)
            g.seek(at)
            g.write(bytes(x ^ 1 for x in f.read(512)) if lab.rng.random() < 0.5 else bytes(512))
    a, _ = pair.protect(60)
    load = start_load(lab)
    random_wait(lab, load, 0.2, 0.5)
    check_load(lab, [load], pair.image["A"])
    expect(a.status()["state"] == "PROTECTED", a.log_text())
    stopped_equal(lab, pair, "A")


@test(150)
def resync_cut(lab):
    """the secondary dies in the middle of it, again and again, while the guest writes; then it is brought to its end"""
    pair = pair_of(lab)
    a, b = pair.protect(60)
    load = start_load(lab)
    for _ in range(max(2, ftlab.work(4))):
        b.kill()
        a.wait_state("DEGRADED", "UNPROTECTED", "SYNCING", seconds=20)
        lab.release(b)
        random_megabytes(lab, pair.image["B"], lab.rng.randrange(0, DISK_MB - 16), 16)
        b = pair.secondary("B")
        b.wait_state("SYNCING", "PROTECTED", seconds=20)
        random_wait(lab, load, 0.0, 0.1)
    pair.in_step(60)
    random_wait(lab, load, 0.1, 0.3)
    a.kill()
    b.wait_state("DEGRADED")
    lab.probe()
    lab.release(a)
    pair.secondary("A")
    pair.in_step(60)
    check_load(lab, [load], pair.image["B"])
    stopped_equal(lab, pair, "B")

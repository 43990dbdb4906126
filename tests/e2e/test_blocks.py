"""Images of which the medium has blocks of 4096 bytes."""

import os

import ftlab
from ftlab import Pair, expect
from testlib import test


class Medium:
    """A file system on a loop device with such blocks."""

    def __init__(self, lab):
        self.folder = lab.path("medium")
        os.mkdir(self.folder)
        self.device = ftlab.run("losetup", "-f", "--show", "--sector-size", "4096", lab.disk("medium.img", 128)).stdout.strip()

    def __enter__(self):
        ftlab.run("mkfs.ext4", "-q", "-b", "4096", self.device)
        ftlab.run("mount", self.device, self.folder)
        return self

    def __exit__(self, *what):
        ftlab.run("umount", self.folder, check=False)
        ftlab.run("losetup", "-d", self.device, check=False)


@test(90)
def direct_blocks(lab):
    """a side whose image takes larger blocks than the guest has is refused, and says so; with the same ones it is a pair"""
    with Medium(lab) as medium:
        image = os.path.join(medium.folder, "disk") + ",direct"
        p = ftlab.run(ftlab.FTVMM, "run", "--console", "none", "-k", f"{ftlab.GUESTS}/idle.elf", "-d",
                      f"id=d0,path={lab.disk('medium/disk', 16)},direct", check=False, timeout=20)
        expect(p.returncode == 1 and "takes requests of 4096 bytes with 'direct'" in p.stdout, p.stdout)
        os.unlink(lab.path("medium/disk"))

        pair = Pair(lab, guest="idle", cmdline="quiet", net=False, disk=16)
        own, pair.image["B"] = pair.image["A"], image
        b, a = pair.secondary("B"), pair.primary("A")
        a.wait_log("takes requests of 4096 bytes with 'direct', the guest's blocks have 512")
        b.wait_log("takes requests of 4096 bytes with 'direct'")
        expect(a.state() == "UNPROTECTED", a.status())
        lab.release(a, b)

        pair.image["A"] = own + ",block=4096"
        b, a = pair.secondary("B"), pair.primary("A", "--claim")
        pair.in_step()
        expect(a.stop() == 0 and b.stop() == 0, "it did not stop in order")
        lab.release(a, b)

"""The Debian package: it builds, lintian finds nothing, what it installs runs, and nothing is left of it."""

import glob
import os
import re
import shutil
import subprocess

import ftlab
from ftlab import expect
from testlib import Skip, test

# A distributor has an address.
NOT_OURS = "bogus-mail-host,bogus-mail-host-in-debian-changelog"
IN_A_ROOT = r"""
set -eu
mount -t tmpfs none "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay none -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" "$1/root" || exit 77
cp "$2" "$1/root/package.deb"
chroot "$1/root" sh -eu -c '
    dpkg -i package.deb
    which ftvmm
    ftvmm version
    ls -d /etc/ftvmm
    man -w ftvmm || true
    ftvmm run --help | head -1
    cp /etc/hostname /etc/ftvmm/mine.json
    dpkg -P ftvmm
    ls /etc/ftvmm
    rm -r /etc/ftvmm
'
cd "$1/upper"
echo LEFT
find . -path '*ftvmm*'
"""


def tree(lab):
    """What a clone has, and what is compiled already."""
    files = subprocess.run(["git", "-C", ftlab.ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
                           check=True, capture_output=True, text=True).stdout.strip("\0").split("\0")
    there = lab.path("ftvmm-0.1")
    for name in [f for f in files if os.path.exists(os.path.join(ftlab.ROOT, f))]:
        os.makedirs(os.path.dirname(os.path.join(there, name)), exist_ok=True)
        shutil.copy2(os.path.join(ftlab.ROOT, name), os.path.join(there, name))
    for room in "vmm", "net", "devices", "ft", "postcopy":
        shutil.copytree(os.path.join(ftlab.BUILD, room), os.path.join(there, "build/normal", room))
    return there


@test(240)
def deb_package(lab):
    """builds, is clean to lintian, installs, runs, and is purged without a trace but what the user has put beside it"""
    if ftlab.SANITIZED or not os.path.isdir(os.path.join(ftlab.ROOT, ".git")):
        raise Skip("from a clone, and a usual build")
    missing = [p for p in ("dpkg-buildpackage", "dh", "lintian", "scdoc") if not shutil.which(p)]
    if missing:
        raise Skip(f"needs {', '.join(missing)}: configs/deps.sh test")
    there = tree(lab)
    p = subprocess.run(["dpkg-buildpackage", "-b", "-us", "-uc"], cwd=there, text=True, check=False,
                       stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=200 * ftlab.SLOW)
    expect(p.returncode == 0, p.stdout[-2000:])
    with open(os.path.join(there, "debian/changelog"), encoding="utf-8") as f:
        version = re.match(r"ftvmm \((.*)\)", f.readline())[1]
    deb, = glob.glob(f"{os.path.dirname(there)}/ftvmm_{version}_*.deb")
    changes, = glob.glob(f"{os.path.dirname(there)}/ftvmm_{version}_*.changes")
    p = subprocess.run(["lintian", "--allow-root", "--suppress-tags", NOT_OURS, "--fail-on", "error,warning", changes],
                       text=True, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    expect(p.returncode == 0 and not re.search("^[EW]:", p.stdout, re.M), p.stdout)
    folder = lab.path("overlay")
    os.mkdir(folder)
    p = subprocess.run(["unshare", "-m", "sh", "-c", IN_A_ROOT, "sh", folder, deb], text=True, check=False,
                       stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=100 * ftlab.SLOW)
    if p.returncode == 77:
        raise Skip(f"no overlay file system here: {p.stdout.strip().splitlines()[-1]}")
    said, _, left = p.stdout.partition("LEFT\n")
    expect(p.returncode == 0, p.stdout)
    for line in "/usr/bin/ftvmm", f"ftvmm {version}, stream version", "/etc/ftvmm", "usage: ftvmm run", "mine.json":
        expect(line in said, f"{line}: {said}")
    expect(not left, left)

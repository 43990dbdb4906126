"""Databases and a web server in a protected guest, whose primary is killed again and again."""

import os
import re
import signal
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.append(os.path.join(HERE, "..", "docs"))
import ftlab
import test_docs
from ftlab import GUEST_IP, expect
from linuxlab import Shell, check_guest_log
from testlib import random_wait, test
from workclients import Download, Postgres, Redis, Wrong, pg_connect, redis_connect, sha256_of
from worklab import ROOT, Mounted, WorkPair

PARTS_OF_LINUX = ("root",)
KILLS = int(os.environ.get("LINUX_KILLS") or 6)


def check_files(lab, image):
    """After an orderly end: file system and files are sound. They are mounted on return."""
    ftlab.run("e2fsck", "-fn", image, timeout=600)
    files = Mounted(lab, image)
    said = files.run("redis-check-aof", "/data/redis/appendonlydir/appendonly.aof.manifest").stdout
    expect("All AOF files and manifest are valid" in said, said)
    return files


def check_image(lab, image, work):
    """Likewise, and servers on it know all that was acknowledged."""
    files = check_files(lab, image)
    servers = [files.start("101:101", "redis-server", "/etc/redis.conf"),
               files.start("102:102", "/usr/lib/postgresql/current/bin/postgres", "-D", "/data/postgres", "-k", "/tmp")]
    work.audit(lab, "127.0.0.1")
    for server in servers:
        server.signal(signal.SIGINT)
        expect(server.wait_exit(60) == 0, f"{server} ended with {server.code}: {server.log_text()}")
    files.close()
    ftlab.run("e2fsck", "-fn", image, timeout=600)


def pg_amcheck(lab):
    """Of the database in the guest, by the program of its own version."""
    p = ftlab.run("nsenter", f"--net=/run/netns/{lab.ns['C']}", "--", "chroot", ROOT, "pg_amcheck", "-h", GUEST_IP,
                  "-U", "postgres", "--all", "--heapallindexed", "--rootdescend", check=False, timeout=600)
    expect(p.returncode == 0, f"pg_amcheck: exit code {p.returncode}: {p.stdout}")


def patient(connect, *args):
    """Until the server answers."""
    d = ftlab.Deadline(30)
    while True:
        try:
            return connect(*args)
        except (ConnectionError, Wrong):  # not yet there, or still recovering
            d.check("the server's answer")
            time.sleep(0.1)


class Work:
    """All clients."""

    def __init__(self, lab, downloads=2):
        self.kills = 0
        Postgres.set_up(lab)
        self.redis = [Redis(lab, n) for n in range(2)]
        self.postgres = [Postgres(lab, n) for n in range(2)]
        path = f"{ROOT}/srv/www/50m"
        size, digest = os.path.getsize(path), sha256_of(path)
        self.downloads = [Download(lab, n, size, digest, lambda: self.kills) for n in range(downloads)]
        self.all = self.redis + self.postgres + self.downloads

    def more(self, count=2):
        """Until each has got so many answers more: it goes on."""
        for client in self.all:
            client.more(count)

    def finish(self):
        for client in self.all:
            client.ending.set()
        for client in self.all:
            client.finish(200)

    def audit(self, lab, address=GUEST_IP):
        """Asks anew, over new connections."""
        with_redis, with_pg = patient(redis_connect, lab, address), patient(pg_connect, lab, address)
        for client in self.redis:
            client.audit(with_redis)
        Postgres.audit(self.postgres, with_pg)
        with_redis.close()
        with_pg.close()

    def words(self):
        writes = [sum(c.acked for c in some) for some in (self.redis, self.postgres)]
        done, over = (sum(getattr(d, a) for d in self.downloads) for a in ("downloads", "over_kills"))
        return f"{writes[0]} writes to Redis, {writes[1]} transfers in PostgreSQL, {done} downloads, {over} of them " \
               f"over a kill"


@test(200 + 60 * KILLS)
def work_kills(lab):
    """Redis, PostgreSQL, nginx over LINUX_KILLS (6) kills: no write lost, sums hold, images clean"""
    pair, here = WorkPair(lab, "redis,postgres,nginx,shell"), "A"
    pair.boot()
    work = Work(lab)
    for i in range(KILLS):
        pair.protect_here(here)
        work.more()
        random_wait(lab, pair.vm[here], 0, 3)
        work.kills += 1
        here = pair.kill(here)
        work.more()
        lab.note(f"kill {i + 1}: {work.words()}")
    work.finish()
    print(f"# {KILLS} kills: {work.words()}", flush=True)
    expect(all(d.over_kills for d in work.downloads), "no download was under way when a machine died")
    work.audit(lab)
    pg_amcheck(lab)
    check_guest_log(Shell(lab))
    pair.protect_here(here)
    pair.stop_in_order(here)
    check_image(lab, pair.image[here], work)


@test(180)
def work_readme_vm(lab):
    """README.md's Linux guest starts as it says there, and `ftvmm stop` switches it off"""
    example, = (b for b in test_docs.blocks("README.md") if b.words == ["sh", "linux", "run"])
    script = "\n".join(line for line in example.body if not line.startswith("make "))
    env = {"PATH": f"{os.path.dirname(ftlab.FTVMM)}:{os.environ['PATH']}", "XDG_RUNTIME_DIR": lab.work}
    path = lab.path("readme-log")
    vm = ftlab.Process(lab.ns["A"], ["bash", "-ec", f"cd {ftlab.ROOT}\n{script}"], path, env)
    lab.processes.append(vm)
    d = ftlab.Deadline(25)
    while not re.search("^ready redis", ftlab.read_text(path), re.M):
        expect(vm.alive(), f"{example.where}: ended with {vm.code}: {vm.log_text()}")
        d.check(f"the guest of {example.where}")
        vm.nap(0.1)
    ftlab.run(ftlab.FTVMM, "stop", "web", env=dict(os.environ, **env))
    expect(vm.wait_exit(10) == 0, f"{example.where}: exit code {vm.code}")
    try:
        test_docs.check_output(example, ftlab.read_text(path))
    except test_docs.Failed as e:
        raise ftlab.LabError(str(e)) from e
    os.remove(os.path.join(ftlab.ROOT, "root.img"))  # of the bed's layer over this folder


@test(400)
def work_readme(lab):
    """README.md's demo of Linux does what it says there"""
    example, = (b for b in test_docs.blocks("README.md") if b.words == ["sh", "linux"])
    expect(example.body == ["make demo-linux"], f"{example.where}: this test does not know how to run that")
    p = ftlab.run(os.path.join(HERE, "demo.py"), "--kills", "1", "--seed",
                  str(lab.rng.randrange(1, 1 << 31)), check=False, timeout=390)
    expect(p.returncode == 0, f"exit code {p.returncode}: {p.stdout}")
    try:
        test_docs.check_output(example, p.stdout)
    except test_docs.Failed as e:
        raise ftlab.LabError(str(e)) from e

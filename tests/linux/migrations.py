"""Databases in a guest that migrates there and back, under the eyes of their clients."""

import os

from ftlab import Vm, expect
from linuxlab import NET, Shell, check_guest_log
from test_migrate import Move, all_there
from testlib import changed, random_wait, test
from work import Work, check_files, pg_amcheck
from worklab import data_image, disk_args, kernel_args, switch_off, wait_ready

PARTS_OF_LINUX = ("root",)
MIGRATIONS = int(os.environ.get("MIGRATIONS") or 1)  # in each way
# What a bed gets through in 50 ms is next to nothing.
WAYS = ({"how": "precopy", "downtime": "1s"}, {"how": "postcopy"}, {"how": "postcopy", "passes": 1},
        {"how": "auto", "downtime": "200ms"})
CLOCKS = 2  # lines of memory that KVM writes when it loads them: of the one vCPU, and the date


def move_paused(move, kind, options):
    """It is paused when it leaves, and until it has been looked at."""
    move.vm.call("pause")
    before = move.vm.memory()
    move.go(kind, **options)
    move.vm.wait_state("PAUSED")
    all_there(move.vm)
    lines = changed(before, move.vm.memory())
    expect(len(lines) <= CLOCKS, f"{kind} {options}: not what it was, in lines at {lines[:8]}, {len(lines)} in all")
    move.vm.call("resume")


@test(200 + 120 * MIGRATIONS)
def migrations_work(lab):
    """Redis and PostgreSQL, moved in each way and when they are paused: no write lost, connections kept, image clean"""
    image = data_image(lab.path("data"))
    shared = [*disk_args(image), "-n", NET]
    move = Move(lab, Vm(lab, "A", [*kernel_args("redis,postgres,shell", "320M"), *shared]), *shared)
    wait_ready(move.vm)
    work, shell = Work(lab, downloads=0), Shell(lab, move.vm)
    for n in range(MIGRATIONS):
        for i, options in enumerate(WAYS):
            kind = ("tcp", "unix")[(n + i + i // 2) % 2]
            work.more()
            random_wait(lab, move.vm, 0, 1)
            done = move.go(kind, **options)
            work.more()
            all_there(move.vm)
            lab.note(f"{kind} {options}: {done['downtime-us']}; {work.words()}")
            if i < 2:
                move_paused(move, kind, options)
                work.more()
    work.finish()
    print(f"# {move.count} migrations: {work.words()}", flush=True)
    work.audit(lab)
    pg_amcheck(lab)
    check_guest_log(shell)
    switch_off(move.vm)
    check_files(lab, image).close()

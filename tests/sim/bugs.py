#!/usr/bin/env python3
"""Does the simulation notice? Plants one bug after the other, each a change of one place, and says after how
many histories it was found. usage: tests/sim/bugs.py [--runs N] [--seed N] [--keep] [NAME]..."""

import argparse
import os
import re
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
OUT = "build/sim-bugs"
SEEDS = "tests/sim/seeds"

# Name: file, what is there, what is planted instead. None: a flag of the file's own.
BUGS = {
    "release": ("ft/epoch/engine.c", None, "-DBUG_RELEASE_EARLY"),
    "skip": ("ft/epoch/capture.c", None, "-DBUG_SKIP_PAGE"),
    "partial": ("ft/epoch/stage.c", None, "-DBUG_PARTIAL_EPOCH"),
    "order": ("ft/epoch/disklog.c", None, "-DBUG_DISK_ORDER"),
    "primary-unasked": ("ft/role/claiming.c", "} else if (!a->code) {", "} else if (a->code != 1) {"),
    "takeover-unasked": ("ft/role/takeover.c", "\tif (!a->code) {", "\tif (a->code != 1) {"),
    "ack-believed": ("ft/role/link.c", "w->what == LINK_ACK && heart_suspect(&l->heart)", "false"),
    "pass-unclaimed": ("ft/role/claiming.c", "\tprimary_close(p);\n", "\tprimary_close(p);\n\tobuf_pass(&p->vm->obuf);\n"),
    "done-early": ("ft/role/receiving.c", "else if (diskapply_idle(&s->disks))", "else"),
    "disks-not-held": ("ft/role/takeover.c", "\ttakeover_hold_disks(s);\n", ""),
    "shared-early": ("devices/disk_output.c", None, "-DBUG_SHARED_EARLY"),
    "lock-not-taken": ("ft/role/locking.c", "F_OFD_SETLK, &fl) < 0)\n\t\t\treturn errno ==",
                       "F_OFD_GETLK, &fl) < 0)\n\t\t\treturn errno =="),
    "gone-unlocked": ("ft/role/takeover.c", "\tif (locking_is_needed(s->vm))\n", "\tif (!s)\n"),
    "shared-unsynced": ("devices/disk.c", "\t\toflags |= O_DSYNC;\n", "\t\toflags |= 0;\n"),
    "second-mark": ("ft/epoch/disklog.c", "\tmark(arg, d, r);\n", ""),
    "host-marks": ("vmm/vm/dirty.c", " | mem_take_host_dirty(d->mem, w)", ""),
    "record-ignored": ("vmm/cli/record.c", "if (!rec->generation ||", "if (rec->generation ||"),
    "log-dropped": ("ft/epoch/stage.c", "\tdiskapply_push(s->disks, &s->disklog);\n",
                    "\tdisk_writes_free(&s->disklog);\n"),
    "alone-released": ("ft/role/ending.c", "for them */\n\trecord(p, ARBITER_STOPPED);", "for them */\n\trecord(p, ARBITER_RELEASED);"),
    "unsure-released": ("ft/role/ending.c", "_close(p);\n\tobuf_flush(&p->vm->obuf);\n\trecord(p, ARBITER_STOPPED);",
                        "_close(p);\n\tobuf_flush(&p->vm->obuf);\n\trecord(p, ARBITER_RELEASED);"),
    "images-not-waited-for": ("ft/role/ending.c", "\tif (!p->ft->images_behind)\n\t\tprimary_post(p, PRI_EV_IMAGES);",
                              "\tif (p)\n\t\tprimary_post(p, PRI_EV_IMAGES);"),
    "claim-not-known": ("ft/common/arbiter_file.c", "bool landed = !r &&", "bool landed = r == 1 &&"),
    "back-not-taken": ("ft/role/claiming.c", "if (is_handed(p, a)) {", "if (!a && is_handed(p, a)) {"),
    "left-at-claim": ("ft/role/ending.c", "_HAND_OVER, &w, sizeof(w)))\n\t\tstep_reached(STEP_HANDED);",
                      "_HAND_OVER, &w, sizeof(w)))\n\t\tprimary_post(p, PRI_EV_RUNS);"),
    "token-kept": ("ft/role/takeover.c", "\t\tarbiter_set_token(s->ft->arbiter, 0); /* the next claim is for good */\n", ""),
    "alone-unclaimed": ("ft/role/takeover.c", "\ttakeover_ask(s);\n}\n\n/* Claimed again",
                        "\tsecondary_post(s, SEC_EV_WON);\n}\n\n/* Claimed again"),
    "record-unsynced": ("ft/common/arbiter_file.c", "\treturn fsync(fd);", "\treturn 0;"),
    "folder-unsynced": ("ft/common/arbiter_file.c", "\tif (fsync(dirfd(d)) < 0)\n\t\treturn no_answer(e, \"arbiter folder '%s'\", "
                        "f->folder);\n\tr = scan(f, d, 0, &highest, e);\n\tif (!r && highest == generation)",
                        "\tr = scan(f, d, 0, &highest, e);\n\tif (!r && highest == generation)"),
    "number-not-read": ("ft/common/arbiter_file.c", "\tif (r || is.claim == mine->claim)", "\tif (r || highest == generation)"),
    "end-overlooked": ("ft/common/arbiter_file.c", "mine.generation > 1 && q->why == ARBITER_GO_ON)\n\t\tr = look",
                       "mine.generation > INT64_MAX)\n\t\tr = look"),
    "old-echo": ("ft/common/heart.c", "\tif (echo > h->echoed_ns && echo <= h->last.nonce) {\n\t\th->echoed_ns = echo;",
                 "\tif (echo <= h->last.nonce) {\n\t\th->echoed_ns = loop_now_ns();"),
    "mark-lost": ("ft/epoch/sync.c", "\tif (!r)\n\t\tr = ram_pass_all(ram);",
                  "\tif (!r)\n\t\tr = ram_pass_all(ram);\n\tdirty_forget_host(s->dirty);"),
    "last-blocks": ("ft/epoch/sync.c", "marked(b, ram, &pages) : each_disk(b, disk_pass_marked);", "marked(b, ram, &pages) : 0;"),
    "other-base": ("ft/epoch/bases.c", "return s->copy && s->page == page ? empty(s) : NULL;",
                   "return s->copy ? empty(s) : NULL;"),
    "old-base": ("ft/epoch/capture.c", "\t\t\th->copy = add_page(c, b, h->page, h->copy, true);",
                 "\t\t\tadd_page(c, b, h->page, h->copy, true);"),
    "drain-unsynced": ("ft/role/receiving.c", "if (diskapply_flush(&s->disks))", "if (!s)"),
    "twin-page": ("vmm/machine/mem_split.c", None, "-DBUG_ROLL_BACK"),
    "twin-hidden": ("vmm/copy/page_in.c", "\t\tmem_kept_changed(in->mem, page & ~PAGE_IN_ZERO);\n", ""),
    "twin-block": ("ft/role/twin.c", "\tt->state = TWIN_SPLIT;\n\tdrop_disks(t);\n", "\tt->state = TWIN_SPLIT;\n"),
    "twin-not-asked": ("ft/epoch/lockstep.c", "\twatch_time(l);\n}\n\nstatic bool ready", "\trelease(l, en);\n}\n\nstatic bool ready"),
    "byte-not-compared": ("net/window.c", None, "-DBUG_COMPARE_SHORT"),
    "twin-before-ack": ("ft/epoch/lockstep.c", "obuf_is_turn(&l->vm->obuf) &&", "l &&"),
    "twin-unmerged": ("ft/role/twinning.c", "images_behind = merges ||", "images_behind ="),
    "twin-unclaimed": ("ft/role/twinning.c", "\ttakeover_ask(s);\n", "\tsecondary_post(s, SEC_EV_WON);\n"),
    "twin-keeps-old": ("ft/role/twin.c", "\tjoin(t);\n\tkeep_connections(t);",
                       "\twhile (!replica_roll_back(&t->memory))\n\t\t;\n\tjoin(t);\n\tkeep_connections(t);"),
    "twin-given-back": ("ft/role/secondary.c", "!s->disks.error && !has_twin)", "!s->disks.error)"),
    "twin-goes-on": ("ft/role/twinning.c", "\tif (twin_stand(&s->twin, &e)) {\n\t\tsecondary_reject(s, e.msg);\n\t\treturn;\n\t}\n", "\tif (0)\n\t\tsecondary_reject(s, e.msg);\n"),
    "off-unheard": ("ft/role/dismissing.c", "\t\tstep_reached(STEP_DISMISS_SAID);", "\t\tprimary_post(p, PRI_EV_DONE);"),
    "ready-runs": ("postcopy/phases.c", "ROW(READY, LOST, LISTEN, dest_drop,", "ROW(READY, LOST, RUNS, dest_run,"),
}


def make(*targets):
    subprocess.run(["make", "-s", "-j2", *targets], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def command_of(target):
    """What make would run for it."""
    said = subprocess.run(["make", "-n", "-W", target[1], target[0]], cwd=ROOT, check=True, capture_output=True,
                          text=True).stdout
    return re.sub(r'^.*?printf "[^"]*" [^;]*; ', "", [l for l in said.splitlines() if " CC " in l or " LD " in l][-1].strip())


def text_of(name):
    """The file that it is planted in."""
    path, old, _ = BUGS[name]
    with open(os.path.join(ROOT, path)) as f:
        text = f.read()
    if old is not None and text.count(old) != 1:
        raise SystemExit(f"not ok {name}: its place in {path} is there {text.count(old)} times")
    return text


def build(name):
    path, old, new = BUGS[name]
    text = text_of(name)
    os.makedirs(os.path.join(ROOT, OUT), exist_ok=True)
    source, obj, program = f"{OUT}/{name}.c", f"{OUT}/{name}.o", f"{OUT}/{name}"
    with open(os.path.join(ROOT, source), "w") as f:
        f.write(text if old is None else text.replace(old, new))
    normal = f"build/normal/{path[:-2]}.o"
    compile_ = command_of((normal, path)).replace(f"-o {normal} {path}", f"-MF /dev/null -o {obj} {source}")
    link = command_of(("build/normal/tests/sim/sim", normal))
    # Before the library, which has another one: that is not taken then.
    link = link.replace("-o build/normal/tests/sim/sim", f"-o {program} {obj}")
    subprocess.run(compile_ + (f" {new}" if old is None else " -Wno-error"), cwd=ROOT, check=True, shell=True)
    subprocess.run(link, cwd=ROOT, check=True, shell=True)
    return program


def keep(found):
    """Their lines in tests/sim/seeds, instead of those that were there."""
    with open(os.path.join(ROOT, SEEDS)) as f:
        lines = [l for l in f if not any(f"# planted {name}:" in l for name in found)]
    with open(os.path.join(ROOT, SEEDS), "w") as f:
        f.writelines(lines + [f"{options} # planted {name}: {why}\n" for name, (options, why) in found.items()])


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--runs", type=int, default=2000)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--keep", action="store_true", help="what finds them goes to tests/sim/seeds")
    p.add_argument("--theme", help="only such histories")
    p.add_argument("--kind", help="pair, colo, move or off")
    p.add_argument("--places", action="store_true", help="only looks whether all can be planted")
    p.add_argument("names", nargs="*", metavar="NAME")
    a = p.parse_args()
    missed, lines = 0, {}
    if a.places:
        print(f"ok {len([text_of(name) for name in BUGS])} bugs can be planted")
        return 0
    make("build/normal/tests/sim/sim")
    for name in a.names or BUGS:
        program = build(name)
        only = [w for k in ("theme", "kind") if getattr(a, k) for w in (f"--{k}", getattr(a, k))]
        said = subprocess.run([program, "--until-failure", "--runs", str(a.runs), "--seed", str(a.seed), *only],
                              cwd=ROOT, capture_output=True, text=True).stdout.splitlines()
        found = said[-1].startswith("not ok")
        missed += not found
        why = next((re.sub(r".*VIOLATED at", "after", l) for l in said if "VIOLATED" in l), said[0])
        print(f"{'ok' if found else 'not ok'} {name}: {said[-1].split()[2 if found else 1]} histories: {why if found else 'not found'}",
              flush=True)
        if found:
            options = next(l for l in said if "; step by step:" in l)
            lines[name] = re.sub("^not ok |; step by step.*", "", options), re.sub("^after [0-9.]* ms: ", "", why)
    if a.keep:
        keep(lines)
    return missed > 0


if __name__ == "__main__":
    sys.exit(main())

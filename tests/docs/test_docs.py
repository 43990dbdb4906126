#!/usr/bin/env python3
"""Is the documentation true? Runs every example in it and checks what it names.

usage: test_docs.py [--list] [--update] [NAME...]     --update writes what is printed anew
What needs no VM is checked here; the examples are run by `tests/run docs`, where tests/pool.py says.

An example is a fence of `sh` with words behind it:
    sh host=A         run it on that host (tests/docs/lab.py); it must exit with 0, or with code=N
    sh host=A bg      start it; for `ftvmm run`, go on when its control socket answers
    sh host=A wait    first wait until what was started on that host has ended
    sh trial          run it on the machine itself, with a name of its own for `ftvmm trial`
    sh                only `make TARGET` lines: the target must exist
    sh linux          the same, and tests/linux/work.py runs it
    sh linux run      make TARGET lines, then commands; tests/linux/work.py runs these
A fence of `text` behind it is what it prints: each line must occur, digits and spaces aside.
"""

import functools
import glob
import json
import os
import re
import subprocess
import sys
import time
from xml.etree import ElementTree

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import lab
import man
import monitoring
from lab import BUILD, ROOT, Failed

END = {"<": "<!-- end -->", ";": "; end"}  # by how the mark begins
EXAMPLES = ["README.md", "configs/README.md", *sorted(
    os.path.relpath(p, ROOT) for p in glob.glob(os.path.join(ROOT, "docs/*.md")))]
with open(os.path.join(ROOT, "Makefile"), encoding="utf-8") as makefile:
    ROOMS = next(line for line in makefile if line.startswith("ROOMS := ")).split()[2:]
MAPS = [f"{d}/README.md" for d in ["vmm", "ft", "docs", *ROOMS]]


def read(name):
    with open(os.path.join(ROOT, name), encoding="utf-8") as f:
        return f.read()


def rows(letter, last):
    return [f"{letter}{i}" for i in range(1, last + 1)]


IDS = (rows("M", 51) + rows("MD", 14) + rows("MT", 22) + rows("K", 20) + rows("C", 9) +
       rows("P", 86) + rows("PD", 12) + rows("PT", 26))


# --- examples ------------------------------------------------------------------------------------

class Block:
    def __init__(self, name, line, words, body):
        self.where, self.words, self.body = f"{name}:{line}", words, body
        self.expected = None

    def option(self, key, default=None):
        return next((w[len(key) + 1:] for w in self.words if w.startswith(key + "=")), default)


def blocks(name):
    found, fence = [], None
    for number, line in enumerate(read(name).splitlines(), 1):
        if fence is None and line.startswith("```"):
            fence = Block(name, number, line[3:].split(), [])
        elif fence is not None and line == "```":
            last = found[-1] if found else None
            if fence.words == ["text"] and last is not None and last.expected is None:
                last.expected = fence.body
            else:
                found.append(fence)
            fence = None
        elif fence is not None:
            fence.body.append(line)
    if fence is not None:
        raise Failed(f"{fence.where}: the fence does not end")
    return [b for b in found if b.words[:1] == ["sh"]]


def check_hosts(name):
    """Who reads it knows where to type: when the host is another one, the text before the fence says which."""
    last, text, fence = None, "", None
    for number, line in enumerate(read(name).splitlines(), 1):
        if not line.startswith("```"):
            text += line + "\n" if fence is None else ""
            continue
        if fence is None:
            fence = Block(name, number, line[3:].split(), [])
            host = fence.option("host")
            word = host if host == "client" else f"host {host}"
            if host and host != last and not re.search(rf"\b{word}\b", text):
                raise Failed(f"{fence.where}: on which host? The text before it does not say '{word}'")
            last, text = host or last, ""
        else:
            fence = None


def check_make(block):
    makefile = read("Makefile")
    for line in block.body:
        target = re.fullmatch(r"make ([\w-]+)(?: +#.*)?", line)
        if not target and block.words == ["sh", "linux", "run"]:
            continue
        if not target:
            raise Failed(f"{block.where}: '{line}' is not run by any test; name a host")
        if not re.search(rf"^[\w -]*\b{re.escape(target[1])}\b[\w -]*:", makefile, re.M):
            raise Failed(f"{block.where}: there is no target '{target[1]}'")


def pattern(line):
    parts = re.split(r"(\b[0-9a-f]{16}\b|\d+|\s+)", line.strip())
    return "".join(r"[0-9a-f]{16}" if re.fullmatch("[0-9a-f]{16}", p) else r"\d+" if p.isdigit() else
                   r"\s+" if p.isspace() else re.escape(p) for p in parts)


def check_output(block, output):
    for line in block.expected or []:
        if line.strip() and not re.search(pattern(line), output):
            raise Failed(f"{block.where}: no line like '{line}' in: {output}")


def wait_for_vm(block, host, process, path):
    """Until the VM that was just started can be asked, or has ended."""
    name = re.search(r"--name (\S+)", "\n".join(block.body))
    name = name[1] if name else "demo"
    end = time.monotonic() + 60
    while process.poll() is None:
        # 0 or 4: it answers, protected or not yet.
        if host.run(f"ftvmm status {name}")[0] in (0, 4):
            return
        if time.monotonic() > end:
            raise Failed(f"{block.where}: no answer from '{name}'")
    with open(path, errors="replace") as f:
        raise Failed(f"{block.where}: ended with {process.returncode}: {f.read()}")


def run_block(block, here):
    script = "\n".join(block.body)
    if "trial" in block.words:
        code, output = here.trial(script)
        check_block(block, code, output)
        return
    host = here.host(block.option("host"))
    if "wait" in block.words:
        for process in host.background:
            process.wait(timeout=60)
    if "bg" in block.words:
        process, path = host.start(script)
        if "ftvmm run" in script:
            wait_for_vm(block, host, process, path)
        return
    code, output = host.run(script)
    check_block(block, code, output)


def check_block(block, code, output):
    if code != int(block.option("code", "0")):
        raise Failed(f"{block.where}: exit code {code}: {output}")
    check_output(block, output)


def on_hosts(name):
    """Its examples that take hosts to run them."""
    return [b for b in blocks(name) if b.option("host") or "trial" in b.words]


def run_examples(name):
    todo = on_hosts(name)
    for block in blocks(name):
        if not block.option("host") and "trial" not in block.words:
            check_make(block)
    if not todo:
        return
    with lab.Lab() as here:
        try:
            for block in todo:
                run_block(block, here)
        except BaseException:
            print(here.output())
            raise


# --- what the text names -------------------------------------------------------------------------

@functools.lru_cache(None)
def words_of_sources():
    """Of all code: what a name in the documentation must be among."""
    folders = [f for f in os.listdir(ROOT) if f not in ("build", ".git")]
    names = [os.path.join(where, n) for f in folders for where, _, files in os.walk(os.path.join(ROOT, f))
             for n in files if n.endswith((".c", ".h", ".py", ".sh", ".S"))]
    return {word for n in [*names, "Makefile"] for word in re.findall(r"\w+", read(n))}


def check_names(name):
    """Files in backticks exist, and every other name is in the sources."""
    text = re.sub(r"^```.*?^```$", "", read(name), flags=re.M | re.S)
    bad = []
    for token in re.findall(r"`([^`\n]+)`", text):
        if re.fullmatch(r"[\w./-]+(\.(c|h|md|py|json|sh|S)|/)", token):
            places = [os.path.join(ROOT, token), os.path.join(ROOT, os.path.dirname(name), token)]
            if not token.startswith("build/") and not any(glob.glob(p) for p in places):
                bad.append(token)
        elif re.fullmatch(r"[A-Za-z_]\w+(\(\))?", token) and not os.path.exists(
                os.path.join(ROOT, token)):
            if token.removesuffix("()") not in words_of_sources():
                bad.append(token)
    if bad:
        raise Failed(f"{name} names what does not exist: {', '.join(bad)}")


def check_map(folder):
    """Every source file has a place in the folder's README."""
    text = read(f"{folder}/README.md")
    bad = [p for p in sorted(os.listdir(os.path.join(ROOT, folder)))
           if p.endswith(".c") and not re.search(rf"`{re.escape(p[:-1])}", text)]
    if bad:
        raise Failed(f"{folder}/README.md: no word about {', '.join(bad)}")


def check_ancestry():
    """Every requirement row is there once, with an answer."""
    found = re.findall(r"^\| ([A-Z]+\d+) \| ([^|]*) \|", read("docs/ancestry.md"), re.M)
    ids = [i for i, _ in found]
    wrong = [i for i in IDS if ids.count(i) != 1] + [i for i in ids if i not in IDS]
    if wrong:
        raise Failed(f"docs/ancestry.md: not there exactly once: {', '.join(wrong)}")
    for row, answer in found:
        if answer.strip() not in ("met", "partly", "not yet", "refused"):
            raise Failed(f"docs/ancestry.md: {row}: '{answer}' is no answer")
    check_names("docs/ancestry.md")


def printed(*command):
    return subprocess.run([os.path.join(BUILD, command[0]), *command[1:]], check=True,
                          stdout=subprocess.PIPE, text=True).stdout.strip()


def option_table():
    return printed("ftvmm", "run", "--help-md")


def commands():
    """Name, arguments, help."""
    return re.findall(r"^\| `ftvmm (\w+) ?([^`]*)` \| (.*) \|$", printed("ftvmm", "--help-md"), re.M)


def command_section():
    """The commands as the manual has them."""
    return "\n\n".join(f"{man.usage(name, args)}\n\t{text}" for name, args, text in commands())


# What the program prints and a page has: page, mark, how to get it.
PRINTED = {
    "options": ("docs/operations.md", "<!-- from ftvmm run --help-md -->", option_table),
    "commands": ("docs/man/ftvmm.1.scd", "; from ftvmm --help-md", command_section),
    "primary": ("docs/protocol.md", "<!-- from protocol primary -->",
                lambda: printed("tests/docs/protocol", "primary")),
    "move": ("docs/protocol.md", "<!-- from protocol move -->", lambda: printed("tests/docs/protocol", "move")),
    "secondary": ("docs/protocol.md", "<!-- from protocol secondary -->",
                  lambda: printed("tests/docs/protocol", "secondary")),
    "source": ("docs/migration.md", "<!-- from protocol source -->", lambda: printed("tests/docs/protocol", "source")),
    "metrics": ("docs/monitoring.md", "<!-- from protocol metrics -->", lambda: printed("tests/docs/protocol", "metrics")),
    "control": ("docs/control.md", "<!-- from protocol control -->", lambda: printed("tests/docs/protocol", "control")),
    "trace": ("docs/monitoring.md", "<!-- from protocol trace -->", lambda: printed("tests/docs/protocol", "trace")),
    "state": ("docs/state.md", "<!-- from state -->", lambda: printed("tests/docs/state")),
    "dest": ("docs/migration.md", "<!-- from protocol dest -->", lambda: printed("tests/docs/protocol", "dest")),
}
PRINTED.update(man.printed(commands, option_table))


def between(text, mark):
    start = text.index(mark) + len(mark)
    return start, text.index("\n" + END[mark[0]] + "\n", start) + 1


def check_printed(name):
    """A table in the docs is, row by row, what the program prints."""
    page, mark, get = PRINTED[name]
    text = read(page)
    start, end = between(text, mark)
    have, want = text[start:end].strip().splitlines(), get().splitlines()
    if have != want:
        wrong = [line for line in want if line not in have] + [line for line in have if line not in want]
        raise Failed(f"{page}: not what is printed behind '{mark}' (--update writes it): {'; '.join(wrong)}")


def update_printed():
    for page, mark, get in PRINTED.values():
        text = read(page)
        start, end = between(text, mark)
        with open(os.path.join(ROOT, page), "w", encoding="utf-8") as f:
            f.write(text[:start] + "\n" + get() + "\n" + text[end:])


def check_commands():
    """Every command of the program is explained in docs/operations.md."""
    text = read("docs/operations.md")
    for command, _, _ in commands():
        if not re.search(rf"`ftvmm {command}\b", text):
            raise Failed(f"docs/operations.md does not explain ftvmm {command}")


def check_man():
    """The manual has a page for each command, which explains every option, and all are well formed."""
    man.check_pages(commands)
    for name in ("run", "migrate", "failover", "wait", "trace"):
        text = read(f"docs/man/ftvmm-{name}.1.scd")
        printed_ = option_table() if name == "run" else printed("ftvmm", name, "--help")
        rows = re.findall(r"^\| `--([\w-]+)` \|" if name == "run" else r"^ +--([\w-]+)", printed_, re.M)
        if not rows:
            raise Failed(f"ftvmm {name} --help lists no options")
        for row in rows:
            if not re.search(rf"^\*(?:.*[ *])?--{row}\*", text, re.M):
                raise Failed(f"docs/man/ftvmm-{name}.1.scd does not explain --{row}")


def check_states():
    """Every state of the program is explained in docs/operations.md."""
    text, code = read("docs/operations.md"), read("ft/common/ft.c")
    for state in re.findall(r'"([A-Z-]{5,})"', code):
        if not re.search(rf"^\| {state} \|", text, re.M):
            raise Failed(f"docs/operations.md does not explain the state {state}")


def check_frames():
    """Every frame and state of the protocols is in docs/protocol.md or docs/migration.md, and no other."""
    word = r"\b((?:PRI|MOV|SEC|SRC|DST|FRAME)_[A-Z_]+)\b"
    code = read("vmm/wire/stream.h")
    code += "".join(printed("tests/docs/protocol", t) for t in ("primary", "move", "secondary", "source", "dest"))
    known = set(re.findall(word, code)) - {"FRAME_TYPE_MAX"}
    named = set(re.findall(word, read("docs/protocol.md") + read("docs/migration.md")))
    if known != named:
        raise Failed(f"docs/protocol.md, docs/migration.md: {', '.join(sorted(known ^ named))}")


def check_plot():
    """The picture is what tests/bench/plot.py makes of the run that lies beside it, and shows all of that."""
    p = subprocess.run([os.path.join(ROOT, "tests/bench/plot.py"), os.path.join(ROOT, "docs/migration.json")],
                       stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False)
    if p.returncode:
        raise Failed(f"plot.py: {p.stderr.strip()}")
    if p.stdout != read("docs/migration.svg"):
        raise Failed("docs/migration.svg is not drawn from docs/migration.json: make picture draws both anew")
    lines = ElementTree.fromstring(p.stdout).findall(".//{http://www.w3.org/2000/svg}polyline")
    shown = [len(line.get("points").split()) for line in lines]
    curves = [f["curve"] for f in json.loads(read("docs/migration.json"))["figures"]]
    if len(curves) != 3 or shown != [len(c["percent"]) for c in curves] or min(shown) < 20:
        raise Failed(f"docs/migration.svg: {shown} points, of {[len(c['percent']) for c in curves]}")


TESTS = {f"names:{n}": (lambda n=n: check_names(n)) for n in EXAMPLES + MAPS if n != "docs/ancestry.md"}
TESTS.update({f"map:{d}": (lambda d=d: check_map(d)) for d in ROOMS})
TESTS.update({"ancestry": check_ancestry, "commands": check_commands, "man": check_man, "plot": check_plot, "hosts": lambda: check_hosts("README.md"),
              "states": check_states, "frames": check_frames})
TESTS.update(monitoring.TESTS)
TESTS.update({f"printed:{n}": (lambda n=n: check_printed(n)) for n in PRINTED})


def main():
    names = [a for a in sys.argv[1:] if not a.startswith("-")]
    if "--update" in sys.argv:
        update_printed()
        return 0
    chosen = [t for t in TESTS if not names or any(t.startswith(n) for n in names)]
    if names and not chosen:
        print(f"no test is called {' '.join(names)}; see --list")
        return 2
    if "--list" in sys.argv:
        print("\n".join(chosen))
        return 0
    failed = skipped = 0
    for number, name in enumerate(chosen, 1):
        try:
            TESTS[name]()
            print(f"ok {number} {name}", flush=True)
        except monitoring.Skipped as e:
            skipped += 1
            print(f"ok {number} {name} # SKIP {e}", flush=True)
        except (Failed, OSError, ValueError, subprocess.SubprocessError) as e:
            failed += 1
            print(f"not ok {number} {name} # {e}", flush=True)
    print(f"{len(chosen) - failed - skipped} passed, {failed} failed, {skipped} skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""The shape of the program, for lint.sh: prints every breach as "file:line: what".

- a file includes from its own room or from one below; ROOMS in the Makefile is the order
- no circle inside ft/, of includes and of calls
- functions of at most 60 lines and 6 parameters
- a role's state is set by its table's step only; at most 3 bools in a struct of ft/role
- no variable at file scope that can change, but those below"""
import os, re, subprocess, sys

LINES, PARAMS, BOOLS = 60, 6, 3
# The process's own: what its signal handler writes, the log, the step at which a test has it die.
MUTABLE = {"vmm/cli/cmd_console.c:signalled", "vmm/base/log.c:sink", "vmm/base/log.c:ring", "ft/common/steps.c:asked"}


def rooms():
    for line in open("Makefile"):
        if line.startswith("ROOMS := "):
            return line.split()[2:]
    sys.exit("shape: no ROOMS in the Makefile")


def includes(path, text):
    for n, line in enumerate(text, 1):
        m = re.match(r'#include "([^"]+)"', line)
        if m:
            yield n, m.group(1)


def order(files, names):
    for path, text in files.items():
        for n, inc in includes(path, text):
            room = os.path.dirname(inc)
            if room not in names:
                yield f"{path}:{n}: {inc} is in no room of the program"
            elif names.index(room) > names.index(os.path.dirname(path)):
                yield f"{path}:{n}: {inc} is above it"


def uses(files):
    """file -> the headers that it includes, and the .c files whose functions it names."""
    home = {}
    for path, text in files.items():
        if path.endswith(".c"):
            for _, _, head in functions(text):
                if not head.startswith("static"):
                    home[re.search(r"(\w+)\(", head).group(1)] = path
    graph = {}
    for path, text in files.items():
        code = re.sub(r"/\*.*?\*/|\"(\\.|[^\"])*\"", "", "".join(text), flags=re.S)
        called = set(re.findall(r"(?<![.>])\b\w+", code)) if path.endswith(".c") else set()
        graph[path] = {home[n] for n in called if n in home and n != "main"}
        graph[path].update(i for _, i in includes(path, text))
    return {f: to - {f} for f, to in graph.items()}


def circles(files, folder):
    """Files of a folder of which each needs the next, and the last the first."""
    graph = uses(files)
    done, way = set(), []

    def visit(m):
        if m in way:
            yield " -> ".join(way[way.index(m):] + [m])
        elif m not in done:
            way.append(m)
            for to in sorted(graph.get(m, ())):
                yield from visit(to)
            done.add(way.pop())

    for m in sorted(graph):
        for circle in visit(m):
            if circle.startswith(folder):
                yield f"a circle: {circle}"


def functions(text):
    """(first line, last line, head) of every function: clang-format puts its braces at a line's start or end."""
    start = None
    for n, line in enumerate(text, 1):
        if re.match(r"[a-zA-Z_][^;={]*\(", line) and not line.startswith(("typedef", "#", "static_assert")):
            start, head = n, ""
        if start:
            head += line
            if line.rstrip().endswith(";") and "{" not in head:
                start = None
            elif line.startswith("}"):
                if re.search(r"\w\(", head.split("{")[0]):
                    yield start, n, head.split("{")[0]
                start = None


def sizes(path, text):
    for first, last, head in functions(text):
        name = re.search(r"(\w+)\(", head).group(1)
        if last - first + 1 > LINES:
            yield f"{path}:{first}: {name} has {last - first + 1} lines, {LINES} at most"
        params = re.sub(r"\([^()]*\)", "", head.split("(", 1)[1].rsplit(")", 1)[0])
        if params.count(",") + 1 > PARAMS:
            yield f"{path}:{first}: {name} has {params.count(',') + 1} parameters, {PARAMS} at most"


def variables(path, text):
    in_const = False
    for n, line in enumerate(text, 1):
        m = re.match(r"\} (\w+)(\[[^\]]*\])*( = .*|;)$", line) if not in_const else None
        in_const = in_const and not line.startswith("}") or bool(
            re.match(r"(static const |typedef )[^;]*\{$", line))
        m = m or re.match(r"(?:static |_Thread_local |volatile )*[a-z_][\w ]*?[ *]+(\w+)(\[[^\]]*\])*( =.*|;)$", line)
        if not m or re.match(r"(typedef|extern|return|struct \w+;|union \w+;|enum \w+;)", line):
            continue
        if re.match(r"(static )?const ", line) and "*" not in line.split("=")[0] or "*const " in line:
            continue
        if f"{path}:{m.group(1)}" not in MUTABLE:
            yield f"{path}:{n}: {m.group(1)} can change and is at file scope"


def flags(path, text):
    """The state of a role is in its table."""
    for n, line in enumerate(text, 1):
        if re.search(r"\bfsm\.state = ", line) or (re.search(r"\bf->state = ", line) and path != "ft/common/fsm.c"):
            yield f"{path}:{n}: a state is set by its table's step only"
    for m in re.finditer(r"^struct (\w+) \{\n(.*?)^\}", "".join(text), re.M | re.S):
        bools = sum(line.split(";")[0].count(",") + 1 for line in re.findall(r"^\tbool ([^(]*;)", m.group(2), re.M))
        if path.startswith("ft/role/") and bools > BOOLS:
            yield f"{path}: struct {m.group(1)} has {bools} bools, {BOOLS} at most"


def main():
    names = rooms()
    listed = subprocess.check_output(["git", "ls-files"] + [f"{r}/*.[ch]" for r in names], text=True).split()
    files = {p: open(p).read().splitlines(True) for p in listed if os.path.dirname(p) in names}
    found = list(order(files, names)) + list(circles(files, "ft/"))
    for path, text in files.items():
        found += list(sizes(path, text)) + list(flags(path, text)) + list(variables(path, [l.rstrip() for l in text]))
    if found:
        print("\n".join(found))


main()

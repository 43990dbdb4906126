#!/usr/bin/env python3
"""Draws the guest's speed over time in each kind of migration, as bench.py curve has measured it.
usage: plot.py RUN.json [OUT.svg]     beside OUT.svg goes OUT.json: of the run, what was drawn"""

import json
import math
import os
import sys

WIDTH, PANEL, LEFT, RIGHT, TOP, GAP = 840, 150, 60, 20, 40, 46
INK, FAINT, LINE, SHADE, SWITCH = "#333", "#ccc", "#1f6fb2", "#f1e7d3", "#b3261e"


def curves(run):
    """Name and data of each, of a run of bench.py or of what plot.py has kept of one."""
    found = {}
    for f in run["figures"]:
        c = f.get("curve") or f.get("in_the_emulated_machine", {}).get("curve")
        if c:
            found[f["name"].removeprefix("speed in ")] = c
    return found


def text(x, y, words, anchor="start", colour=INK, size=13, weight="normal"):
    """With a seam of white, so that it can be read on a line."""
    return (f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}" font-size="{size}" '
            f'font-weight="{weight}" stroke="white" stroke-width="3" paint-order="stroke">{words}</text>')


def line(x1, y1, x2, y2, colour=FAINT, width=1, dash=""):
    more = f' stroke-dasharray="{dash}"' if dash else ""
    return (f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" '
            f'stroke-width="{width}"{more}/>')


class Panel:
    def __init__(self, number, first, last, most):
        self.top = TOP + number * (PANEL + GAP) + 20
        self.first, self.last, self.most = first, last, most

    def x(self, seconds):
        return LEFT + (WIDTH - LEFT - RIGHT) * (seconds - self.first) / (self.last - self.first)

    def y(self, percent):
        return self.top + PANEL * (1 - min(percent, self.most) / self.most)

    def axes(self):
        out = [line(LEFT, self.y(p), WIDTH - RIGHT, self.y(p)) + text(LEFT - 8, self.y(p) + 4, f"{p} %", "end", size=11)
               for p in range(0, self.most + 1, 50)]
        for s in range(math.ceil(self.first), math.floor(self.last) + 1):
            out.append(line(self.x(s), self.top + PANEL, self.x(s), self.top + PANEL + 4, INK))
            out.append(text(self.x(s), self.top + PANEL + 16, f"{s} s", "middle", size=11))
        return out

    def draw(self, name, c):
        x0, x1, xs = self.x(0), self.x(c["end"]), self.x(c["switch"])
        left = xs > (LEFT + WIDTH) / 2
        out = [f'<rect x="{x0:.1f}" y="{self.top:.1f}" width="{max(1, x1 - x0):.1f}" height="{PANEL}" fill="{SHADE}"/>']
        out += self.axes()
        points = " ".join(f"{self.x(t):.1f},{self.y(p):.1f}" for t, p in zip(c["seconds"], c["percent"]))
        out.append(f'<polyline points="{points}" fill="none" stroke="{LINE}" stroke-width="1.5"/>')
        out.append(line(xs, self.top, xs, self.top + PANEL, SWITCH, 1, "4 3"))
        out.append(text(xs + (-6 if left else 6), self.top + 14, f"runs there; stood for {c['stood_ms']:.1f} ms",
                        "end" if left else "start", SWITCH, 11))
        out.append(text(LEFT, self.top - 8, name, weight="bold"))
        sent = f"{c['end']:.1f} s, {c['bytes'] / (1 << 20):.0f} MiB sent"
        out.append(text(WIDTH - RIGHT, self.top - 8, sent, "end", size=11))
        return out


def draw(run):
    found = curves(run)
    if not found:
        raise SystemExit("plot.py: no curve in there: tests/bench/bench.py --json RUN.json curve")
    every = [s for c in found.values() for s in c["seconds"]]
    most = 50 * math.ceil(min(150, max(p for c in found.values() for p in c["percent"])) / 50)
    height = TOP + len(found) * (PANEL + GAP) + 20
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif">',
           f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
           text(LEFT, 24, "Speed of a guest that is migrated, of its speed before", size=15, weight="bold")]
    for number, (name, c) in enumerate(found.items()):
        out += Panel(number, min(every), max(every), most).draw(name, c)
    return "\n".join(out + ["</svg>", ""])


def kept(run):
    """One line for each curve."""
    rows = [json.dumps({"name": f"speed in {name}", "curve": c}) for name, c in curves(run).items()]
    head = {k: run[k] for k in ("date", "cpus", "load_before") if k in run}
    return json.dumps(head)[:-1] + ', "figures": [\n' + ",\n".join(rows) + "\n]}\n"


def main():
    if not 2 <= len(sys.argv) <= 3:
        sys.exit(__doc__)
    with open(sys.argv[1], encoding="utf-8") as f:
        run = json.load(f)
    svg = draw(run)
    if len(sys.argv) == 2:
        sys.stdout.write(svg)
        return
    with open(sys.argv[2], "w", encoding="utf-8") as f:
        f.write(svg)
    with open(os.path.splitext(sys.argv[2])[0] + ".json", "w", encoding="utf-8") as f:
        f.write(kept(run))


if __name__ == "__main__":
    main()

"""configs/monitoring: do its parts name what there is, and do what they say? No VM is needed: a control socket is."""

import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
import threading

from lab import BUILD, ROOT, Failed

FOLDER = os.path.join(ROOT, "configs/monitoring")
# Of node-exporter, about the file itself.
OTHERS = {"node_textfile_mtime_seconds"}


class Skipped(Exception):
    """What it takes is not installed."""


def read(name):
    with open(os.path.join(FOLDER, name), encoding="utf-8") as f:
        return f.read()


def metrics():
    """Name of a sample, its type and its labels, as the program has them."""
    table = subprocess.run([os.path.join(BUILD, "tests/docs/protocol"), "metrics"], check=True,
                           stdout=subprocess.PIPE, text=True).stdout
    rows = re.findall(r"^\| (ftvmm_\w+) \| (\w+) \| ([^|]*) \|", table, re.M)
    if len(rows) < 30:
        raise Failed(f"protocol metrics lists only {rows}")
    found = {}
    for name, kind, labels in rows:
        labels = set(re.split(r", ", labels.split(":")[0]))
        for suffix in ("_bucket", "_sum", "_count") if kind == "histogram" else ("",):
            found[name + suffix] = (kind, labels | ({"le"} if suffix == "_bucket" else set()))
    return found


def check_expression(where, text, known):
    """Every name is a metric, with labels that it has; what only grows is not shown as it is."""
    for name, labels in re.findall(r"\b((?:ftvmm|node)_\w+)(?:\{([^}]*)\})?", text):
        if name in OTHERS:
            continue
        if name not in known:
            raise Failed(f"{where}: there is no metric {name}")
        for label in re.findall(r"(\w+)\s*[=!]~?\s*\"", labels):
            if label not in known[name][1] | {"instance"}:
                raise Failed(f"{where}: {name} has no label {label}")
    for by in re.findall(r"\b(?:by|on)\s*\(([^)]*)\)", text):
        if not set(re.split(r",\s*", by)) <= {"instance", "vm", "le"}:
            raise Failed(f"{where}: by {by}")


def check_states(where, text):
    """Words of states are the program's."""
    with open(os.path.join(ROOT, "ft/common/ft.c"), encoding="utf-8") as f:
        words = set(re.findall(r'"([A-Z-]{4,})"', f.read()))
    for value in re.findall(r'\b(?:state|cover)=~?"([^"$]*)"', text):
        if not set(value.split("|")) <= words:
            raise Failed(f"{where}: no such state: {value}")


def check_rules():
    """Alerts name metrics, labels and states that there are."""
    known, text = metrics(), read("ftvmm.rules.yml")
    rules = re.findall(r"- alert: (\w+)\n\s+expr: (.*)\n", text)
    if len(rules) < 10 or len(rules) != text.count("alert:"):
        raise Failed(f"ftvmm.rules.yml: {len(rules)} rules can be read")
    for name, expression in rules:
        check_expression(f"ftvmm.rules.yml: {name}", expression, known)
        check_states(f"ftvmm.rules.yml: {name}", expression)


def check_dashboard():
    """The dashboard is JSON that Grafana takes, and shows what there is."""
    board, known = json.loads(read("ftvmm-dashboard.json")), metrics()
    panels, ids = board["panels"], [p["id"] for p in board["panels"]]
    if len(ids) != len(set(ids)) or len(panels) < 10:
        raise Failed(f"ftvmm-dashboard.json: panels {ids}")
    for panel in panels:
        for target in panel["targets"]:
            where, expression = f"ftvmm-dashboard.json: {panel['title']}", target["expr"]
            check_expression(where, expression, known)
            if "ftvmm_" not in expression:
                raise Failed(f"{where}: shows nothing of ftvmm")
            for name, (kind, _) in known.items():
                grows = kind == "counter" and re.search(rf"\b{name}\b", expression)
                if grows and "rate(" not in expression and panel["fieldConfig"]["defaults"]["unit"] != "short":
                    raise Failed(f"{where}: {name} only grows: rate()")
    for variable in board["templating"]["list"]:
        check_expression("ftvmm-dashboard.json: templating", variable["query"], known)


def check_promtool():
    """Prometheus' own tool takes the rules, and each alert comes when it is to (ftvmm.rules.test.yml)."""
    promtool = shutil.which(os.environ.get("PROMTOOL", "promtool"))
    if not promtool:
        raise Skipped("promtool is not installed (apt-get install prometheus)")
    for words in (["check", "rules", "ftvmm.rules.yml"], ["test", "rules", "ftvmm.rules.test.yml"]):
        p = subprocess.run([promtool, *words], cwd=FOLDER, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                           text=True, check=False)
        if p.returncode:
            raise Failed(f"promtool {' '.join(words)}: {p.stdout}")
    with Host() as host:
        host.serve("web", STATUS)
        text = host.run("ftvmm", "metrics").stdout
        # The older format, which node-exporter's collector reads; 3: advice on names.
        p = subprocess.run([promtool, "check", "metrics"], input=text, stdout=subprocess.PIPE,
                           stderr=subprocess.STDOUT, text=True, check=False)
        if p.returncode not in (0, 3):
            raise Failed(f"promtool check metrics: {p.stdout}")


STATUS = {"name": "web", "role": "primary", "state": "PROTECTED", "cover": "PROTECTED", "mode": "mc",
          "peer": 'a"\\b', "epochs_total": 3, "ack_lag_us": 200, "ack_lag_p99_us": 300,
          "pause_classes": {"le_us": [100, 1000], "pauses": [1, 2, 0]}, "pause_total_us": {"stop": 7}}


class Host:
    """A folder of control sockets, and who answers them."""

    def __enter__(self):
        self.folder, self.sockets = tempfile.mkdtemp(prefix="ftmon-"), []
        os.mkdir(os.path.join(self.folder, "ftvmm"))
        return self

    def __exit__(self, *_):
        for s in self.sockets:
            s.shutdown(socket.SHUT_RDWR)
            s.close()
        shutil.rmtree(self.folder)

    def serve(self, name, status):
        s = socket.socket(socket.AF_UNIX)
        s.bind(os.path.join(self.folder, f"ftvmm/{name}.sock"))
        s.listen()
        self.sockets.append(s)

        def answer():
            while True:
                try:
                    with s.accept()[0] as c:
                        if c.recv(4096):
                            c.sendall(json.dumps({"id": 1, "ok": status}).encode() + b"\n")
                except OSError:
                    return
        threading.Thread(target=answer, daemon=True).start()

    def run(self, *argv, path=BUILD):
        env = dict(os.environ, XDG_RUNTIME_DIR=self.folder, PATH=path + ":" + os.environ["PATH"])
        return subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=60,
                              env=env, check=False)


def check_textfile():
    """The file is whole, readable by others, and stays as it was when there is nothing new to say."""
    script = os.path.join(FOLDER, "ftvmm-textfile")
    with Host() as host:
        file = os.path.join(host.folder, "out", "ftvmm.prom")
        os.mkdir(os.path.dirname(file))
        host.serve("web", STATUS)
        p = host.run(script, file)
        with open(file, encoding="utf-8") as f:
            text = f.read()
        if p.returncode or not text.endswith("\n# EOF\n") or 'ftvmm_up{vm="web"} 1\n' not in text:
            raise Failed(f"ftvmm-textfile: {p.returncode} {p.stderr} {text}")
        if os.stat(file).st_mode & 0o777 != 0o644:
            raise Failed(f"ftvmm-textfile: mode {os.stat(file).st_mode:o}")
        broken = os.path.join(host.folder, "ftvmm-broken")
        os.mkdir(broken)
        with open(os.path.join(broken, "ftvmm"), "w", encoding="utf-8") as f:
            f.write("#!/bin/sh\necho half of\nexit 2\n")
        os.chmod(f.name, 0o755)
        p = host.run(script, file, path=broken)
        with open(file, encoding="utf-8") as f:
            kept = f.read() == text
        if not p.returncode or not kept or os.listdir(os.path.dirname(file)) != ["ftvmm.prom"]:
            raise Failed(f"ftvmm-textfile, when ftvmm fails: {p.returncode} {os.listdir(os.path.dirname(file))}")


TESTS = {"monitoring:rules": check_rules, "monitoring:dashboard": check_dashboard,
         "monitoring:promtool": check_promtool, "monitoring:textfile": check_textfile}

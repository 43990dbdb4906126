"""The OCF agent of configs/ocf: what Pacemaker would ask of it, on both hosts."""

import json
import os
import re
import select
import signal
import xml.etree.ElementTree as ElementTree

import ftlab
from ftlab import FT_PORT, GUEST_IP, GUEST_MAC, GUESTS, LINK_IP, expect
from testlib import check_load, random_wait, start_load, test

AGENT = os.path.join(ftlab.ROOT, "configs/ocf/ftvmm")
SUCCESS, GENERIC, CONFIGURED, INSTALLED, UNIMPLEMENTED, STOPPED, PROMOTED = 0, 1, 6, 5, 3, 7, 8


class Node:
    """A host under Pacemaker: its configuration, and the agent as it is called there."""

    def __init__(self, lab, host):
        self.lab, self.host = lab, host
        other = "B" if host == "A" else "A"
        self.image = lab.disk(f"disk-{host}", 32) if host == "A" else lab.path(f"disk-{host}")
        self.run_dir = lab.path(host)
        config = lab.path(f"{host}.json")
        with open(config, "w") as f:
            json.dump({
                "kernel": f"{GUESTS}/kv.elf", "cmdline": f"ip={GUEST_IP}", "memory": "64M", "console": "none",
                "disk": [{"id": "d0", "path": self.image}],
                "net": [{"id": "n0", "tap": "t0", "bridge": "br0", "mac": GUEST_MAC.hex(":")}],
                "listen": f"tcp:{LINK_IP[host]}:{FT_PORT}", "peer": [f"tcp:{LINK_IP[other]}:{FT_PORT}"],
                "ft": "mc", "epoch": ftlab.usual_epoch(), "peer-timeout": ftlab.patience("500ms"),
                "insecure": True, "arbiter": f"file:{lab.path('arbiter')}/vm"}, f)
        self.env = {"OCF_RESKEY_config": config, "OCF_RESKEY_binary": ftlab.FTVMM, "OCF_RESKEY_name": "vm",
                    "OCF_RESKEY_log": lab.path(f"900-{host}-log"), "HA_RSCTMP": self.run_dir,
                    "XDG_RUNTIME_DIR": self.run_dir}
        lab.closing.append(self)

    def call(self, action, want, **env):
        p = ftlab.run("nsenter", f"--net=/run/netns/{self.lab.ns[self.host]}", "--", AGENT, action, check=False,
                      env={**os.environ, **self.env, **env})
        self.lab.note(f"host {self.host}: {action}: {p.returncode} {p.stdout.strip()[:200]}")
        expect(p.returncode == want, f"host {self.host}: {action}: exit code {p.returncode}, not {want}: {p.stdout}")
        return p.stdout

    def wait_state(self, state, seconds=20):
        ftlab.run(ftlab.FTVMM, "wait", "vm", state, "--timeout", f"{int(seconds * ftlab.SLOW)}s",
                  env={**os.environ, **self.env}, timeout=seconds + 10)

    def pid(self):
        try:
            with open(os.path.join(self.run_dir, "ftvmm-vm.pid")) as f:
                return int(f.read().split()[0])
        except FileNotFoundError:
            return None

    def kill(self):
        """It is gone on return."""
        pid = self.pid()
        end = os.pidfd_open(pid)
        os.kill(pid, signal.SIGKILL)
        expect(select.select([end], [], [], 10 * ftlab.SLOW)[0], f"process {pid} does not end")
        os.close(end)

    def close(self):
        """What a failed test has left."""
        if self.pid() and "ftvmm" in ftlab.read_text(f"/proc/{self.pid()}/cmdline"):
            self.kill()


@test(30, vm=False)
def ocf_data(lab):
    """what the agent says of itself, and what it refuses"""
    node = Node(lab, "A")
    root = ElementTree.fromstring(node.call("meta-data", SUCCESS).split("\n", 2)[2])
    actions = {a.get("name") for a in root.iter("action")}
    expect({"start", "stop", "promote", "demote", "monitor", "meta-data", "validate-all"} == actions, f"{actions}")
    with open(AGENT) as f:
        asked = set(re.findall(r"OCF_RESKEY_(\w+)", f.read()))
    named = {p.get("name") for p in root.iter("parameter")}
    expect(asked == named, f"parameters {named}, but {asked} are looked at")
    node.call("validate-all", SUCCESS)
    node.call("validate-all", CONFIGURED, OCF_RESKEY_config="/nonexistent")
    node.call("start", CONFIGURED, OCF_RESKEY_config="")
    node.call("start", INSTALLED, OCF_RESKEY_binary="/nonexistent")
    node.call("reload", UNIMPLEMENTED)
    node.call("monitor", STOPPED)
    node.call("stop", SUCCESS)
    node.call("promote", GENERIC)
    node.call("demote", GENERIC)


@test(30, vm=False)
def ocf_ended_at_once(lab):
    """a process that ended before the agent looked when it had begun is not taken for one that lives"""
    node = Node(lab, "A")
    p = ftlab.run("sh", "-c", "echo $$")
    with open(os.path.join(node.run_dir, "ftvmm-vm.pid"), "w") as f:
        f.write(f"{p.stdout.strip()} \n")
    node.call("monitor", STOPPED)
    node.call("stop", SUCCESS)


STRANGER = """#!/bin/sh
case $1 in
status) [ -e {lives} ] || exit 1; echo '{{"role":"secondary","state":"STARTING"}}' ;;
stop) echo >> {stops}; [ -e {refuses} ] && exit 2; rm {lives} ;;
esac
"""


@test(30, vm=False)
def ocf_stranger(lab):
    """a VM that the agent has not started is stopped, too; as long as it lives it is not said to be"""
    node = Node(lab, "A")
    at = {n: lab.path(n) for n in ("lives", "refuses", "stops")}
    for n in ("lives", "refuses"):
        open(at[n], "w").close()
    binary = lab.path("stranger")
    with open(binary, "w") as f:
        f.write(STRANGER.format(**at))
    os.chmod(binary, 0o755)
    p = ftlab.run("timeout", str(min(3 * ftlab.SLOW, 9)), AGENT, "stop", check=False,
                  env={**os.environ, **node.env, "OCF_RESKEY_binary": binary})
    expect(p.returncode == 124 and os.path.exists(at["stops"]), f"stop: exit code {p.returncode}: {p.stdout}")
    os.unlink(at["refuses"])
    node.call("stop", SUCCESS, OCF_RESKEY_binary=binary)
    expect(not os.path.exists(at["lives"]), "it was not stopped")


@test(120)
def ocf_life(lab):
    """started, promoted, moved, killed, recovered, stopped, and started again at the right side"""
    os.mkdir(lab.path("arbiter"))
    a, b = Node(lab, "A"), Node(lab, "B")
    for node in (a, b):
        node.call("start", SUCCESS)
        node.call("start", SUCCESS)
        node.call("monitor", SUCCESS)
    a.call("promote", SUCCESS)
    a.call("promote", SUCCESS)
    a.call("monitor", PROMOTED)
    b.wait_state("PROTECTED")
    b.call("monitor", SUCCESS)
    load = start_load(lab)
    random_wait(lab, load, 0.1, 0.4)
    # Moved: the guest goes on at the other side, which is promoted already when it is told to be.
    a.call("demote", SUCCESS)
    a.call("monitor", SUCCESS)
    b.call("promote", SUCCESS)
    b.call("monitor", PROMOTED)
    a.wait_state("PROTECTED")
    lab.probe()
    # Lost: it has taken over before Pacemaker knows.
    b.kill()
    a.wait_state("DEGRADED")
    a.call("monitor", PROMOTED)
    b.call("monitor", STOPPED)
    a.call("promote", SUCCESS)
    b.call("stop", SUCCESS)
    b.call("start", SUCCESS)
    b.wait_state("PROTECTED")
    lab.probe()
    # Frozen: it does not answer, and is ended.
    os.kill(b.pid(), signal.SIGSTOP)
    b.call("monitor", GENERIC)
    b.call("stop", SUCCESS)
    b.call("monitor", STOPPED)
    a.wait_state("DEGRADED")
    check_load(lab, [load], a.image)
    # Stopped while it ran alone: the other image is older, and is not started.
    a.call("demote", SUCCESS)
    a.call("stop", SUCCESS)
    b.call("start", SUCCESS)
    said = b.call("promote", GENERIC)
    expect("--primary has ended" in said and "the other side" in said, said)
    b.call("monitor", STOPPED)
    a.call("start", SUCCESS)
    a.call("promote", SUCCESS)
    lab.probe()
    a.call("stop", SUCCESS)
    a.call("monitor", STOPPED)

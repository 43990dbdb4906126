#!/usr/bin/env python3
"""The far bed of beds.py, host A: joins the cables, then runs what the test asks for, a JSON line for a command.

    {"argv": [...]}                 until it ends       answer {"code": 0, "text": "..."}
    {"argv": [...], "log": FILE}    in the background   answer {"pid": 12}
    {"crash": true}                 the machine is gone at once, as if its power had failed
"""

import json
import os
import socket
import subprocess

ADDRESS, PORT = "10.79.0.1", 7999


def ip(*commands):
    subprocess.run(["ip", "-batch", "-"], input="\n".join(commands) + "\n", text=True, check=True)


def answer(request):
    if "crash" in request:
        with open("/proc/sysrq-trigger", "w") as f:
            f.write("b")
    if "log" in request:
        with open(request["log"], "ab") as log:
            return {"pid": subprocess.Popen(request["argv"], stdin=subprocess.DEVNULL, stdout=log, stderr=log).pid}
    p = subprocess.run(request["argv"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                       text=True, errors="replace")
    return {"code": p.returncode, "text": p.stdout}


def main():
    ip("link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0", "link set bed1 master br0 up",
       "link set br0 up", f"address add {ADDRESS}/24 dev bed0")
    os.environ["XDG_RUNTIME_DIR"] = "/run"
    with socket.create_server((ADDRESS, PORT)) as server:
        while True:
            one, _ = server.accept()
            with one, one.makefile("rw") as lines:
                for line in lines:
                    lines.write(json.dumps(answer(json.loads(line))) + "\n")
                    lines.flush()


if __name__ == "__main__":
    main()

"""`ftvmm check`: what a host lacks, each with its line, and nothing left behind."""

import json
import os
import re
import socket

import ftlab
from ftlab import GUESTS, LINK_IP, Pair, expect
from test_tls import CREDENTIALS, TlsPair, credentials
from testlib import eighth, start_load, test

KERNEL = ["-k", f"{GUESTS}/kv.elf", "-m", "64M"]


def check(lab, host, *args):
    """Exit code, and {what: (is, text)}; the same as text."""
    def run(*more):
        return ftlab.run("nsenter", f"--net=/run/netns/{lab.ns[host]}", "--", ftlab.FTVMM, "check", *args, *more,
                         check=False, timeout=60, env=dict(os.environ, XDG_RUNTIME_DIR=lab.path(host)))
    p, said = run(), run("--json")
    answer = json.loads(said.stdout)
    found = {f["what"]: (f["is"], f["text"]) for f in answer["checks"]}
    expect(len(found) == len(answer["checks"]), f"twice the same: {said.stdout}")
    expect(p.returncode == said.returncode, f"exit codes {p.returncode} and {said.returncode}")
    expect(answer["ok"] == (p.returncode == 0), f"exit code {p.returncode}: {said.stdout}")
    for line, (what, (is_, text)) in zip(p.stdout.splitlines(), found.items(), strict=True):
        # What memory is to be had changes.
        expect(re.match(rf"{is_} +{re.escape(what)} +{'' if what == 'memory' else re.escape(text)}", line),
               f"'{line}' is not '{is_} {what} {text}'")
    return p.returncode, found


def expect_found(found, what, is_, pattern):
    expect(what in found and found[what][0] == is_ and re.search(pattern, found[what][1]),
           f"{what}: not {is_} with '{pattern}': {found.get(what)}")


def links(lab, host):
    """The host's taps, bridges and what belongs to them. Carriers come and go by themselves."""
    return {x["ifname"]: ("UP" in x["flags"], x.get("master"), x["mtu"], x["address"])
            for x in json.loads(ftlab.run("ip", "-n", lab.ns[host], "-j", "link").stdout)}


@test(60)
def check_plain(lab):
    """a VM alone: all well, then each thing that may be missing"""
    image = lab.disk("image")
    disk, net = ["-d", f"id=d0,path={image}"], ["-n", "id=n0,tap=t0,bridge=br0"]
    before, files = links(lab, "A"), os.listdir(lab.path("A"))
    code, found = check(lab, "A", *KERNEL, *disk, *net)
    expect(code == 0 and all(f[0] == "OK" for f in found.values()), found)
    expect(os.listdir(lab.path("A")) == files, "it left a file")
    expect(list(found) == ["name", "kvm", "io_uring", "memory", "disk d0", "net n0"], list(found))
    expect_found(found, "disk d0", "OK", "64M")
    expect(links(lab, "A") == before, "it left a trace in the network")

    odd = lab.path("odd")
    with open(odd, "wb") as f:
        f.truncate(4096 + 512)
    for args, what, is_, pattern in (
            (["-d", f"id=d1,path={odd},block=4096"], "disk d1", "FAILS", "4608 bytes; a raw image is a multiple of its blocks of 4096"),
            (["-d", f"id=d1,path={odd}"], "disk d1", "OK", "odd"),
            (["-n", "id=n0,tap=t0,bridge=nobr"], "net n0", "FAILS", "there is no bridge 'nobr'; make it: ip link add"),
            (["-n", "id=n0,tap=t0,bridge=lo"], "net n0", "FAILS", "'lo' is no bridge"),
            (["-n", f"id=n0,socket={lab.path('passt')}"], "net n0", "FAILS", "start it first: passt --socket"),
            (["-n", f"id=n0,socket={image}"], "net n0", "FAILS", "is no socket"),
            (["-m", "1T"], "memory", "WARN", "give less with -m"),
            (["--console", f"{lab.path('no')}/console"], "console", "FAILS", "No such file or directory"),
            (["-d", f"id=d1,path={lab.disk('ü')},ro"], "disk d1", "OK", "ü', 64M"),
            (["-d", os.fsencode(f"id=d1,path={lab.disk(chr(0xdcff))},ro")], "disk d1", "OK", r"\?', 64M"),
    ):
        code, found = check(lab, "A", *KERNEL, *args)
        expect(code == (2 if is_ == "FAILS" else 0), f"{args}: exit code {code}: {found}")
        expect_found(found, what, is_, pattern)

    # A tap that an administrator made and set up stays as it is, and one that is taken is said to be.
    lab.ip("A", "tuntap add t9 mode tap vnet_hdr", "link set t9 up")
    before = links(lab, "A")
    code, found = check(lab, "A", *KERNEL, "-n", "id=n0,tap=t9,bridge=br0")
    expect(code == 0 and links(lab, "A") == before, found)
    vm = ftlab.Vm(lab, "A", [*KERNEL, "-a", f"ip={ftlab.GUEST_IP}", *disk, "-n", "id=n0,tap=t9,bridge=br0"])
    vm.wait_state("RUNNING")
    before = links(lab, "A")
    code, found = check(lab, "A", *KERNEL, *disk, "-n", "id=n0,tap=t9,bridge=br0")
    expect(code == 2, found)
    expect_found(found, "name", "FAILS", "runs here already; look at it: ftvmm status vm")
    expect_found(found, "disk d0", "FAILS", "another process")
    expect_found(found, "net n0", "FAILS", "in use by another process")
    expect(links(lab, "A") == before and vm.state() == "RUNNING", "the VM that runs was touched")


@test(60, vm=False)
def check_wrong_words(lab):
    """what run would not take is refused in the same words"""
    for args in (["-k", "/no/such/kernel"], ["--memroy", "64M"], [*KERNEL, "--primary"],
                 [*KERNEL, "-d", "id=d0,path=/no/disk"]):
        said = {}
        for command in "run", "check":
            p = ftlab.run(ftlab.FTVMM, command, *args, check=False, timeout=20)
            said[command] = p.stdout
            expect(p.returncode == 1, f"{command} {args}: exit code {p.returncode}")
        expect(said["run"] == said["check"] and said["run"].strip(), said)


def words(pair, host, role):
    own = ["--secondary", "--listen", pair.listen[host], *pair.guest_args[:2]] if role == "secondary" else \
        ["--primary", *pair.guest_args]
    return ["--insecure", *own, *pair.host_args(host)]


@test(60)
def check_pair(lab):
    """both sides of a pair, before anything runs: what is there, what not yet; nothing is made"""
    pair = Pair(lab)
    before = links(lab, "A"), links(lab, "B")
    code, found = check(lab, "B", *words(pair, "B", "secondary"))
    # A host may allow no real-time priority.
    expect(code == 0 and all(f[0] == "OK" for what, f in found.items() if what != "priority"), found)
    expect(list(found) == ["name", "kvm", "io_uring", "priority", "memory", "disk d0", "net n0", "listen", "peer",
                           "arbiter"], list(found))
    expect_found(found, "disk d0", "OK", "is made when a primary connects")
    expect_found(found, "arbiter", "OK", "nobody has run this VM yet")
    code, found = check(lab, "A", *words(pair, "A", "primary"))
    expect(code == 0, found)
    expect_found(found, "peer", "WARN", "Connection refused; the VM runs unprotected until")
    expect(not os.path.exists(pair.image["B"]) and not os.listdir(pair.arbiter_dir), "it made something")
    expect((links(lab, "A"), links(lab, "B")) == before, "it left a trace in the network")

    other = lab.socket_in("B", socket.AF_INET, socket.SOCK_STREAM)
    other.bind((LINK_IP["B"], ftlab.FT_PORT))
    other.listen()
    code, found = check(lab, "B", *words(pair, "B", "secondary"))
    expect(code == 2, found)
    expect_found(found, "listen", "FAILS", "in use")
    other.close()
    for uri, pattern in ((f"unix:{lab.path('sock')}", ""), (f"unix:{lab.path('no')}/sock", "No such file"),
                         (f"unix:{pair.guest_args[1]}", "is not a socket"), ("fd:77", "not an open file descriptor")):
        code, found = check(lab, "B", "--secondary", "--listen", uri)
        expect(code == (2 if pattern else 0) and not os.path.exists(lab.path("sock")), found)
        expect_found(found, "listen", "FAILS" if pattern else "OK", pattern)
    code, found = check(lab, "A", "--primary", *pair.guest_args, "--ft", "mc", "--peer", "tcp:no.such.invalid:7000",
                        "--insecure")
    expect(code == 2, found)
    expect_found(found, "peer", "FAILS", "^tcp:no.such.invalid:7000: ")

    pair.arbiter_of = dict.fromkeys("AB", f"file:{lab.path('nowhere')}/vm")
    code, found = check(lab, "A", *words(pair, "A", "primary"))
    expect(code == 2, found)
    expect_found(found, "arbiter", "FAILS", "nowhere")
    pair.arbiter_of = {}
    code, found = check(lab, "A", *words(pair, "A", "primary"))
    expect(code == 0, found)
    expect_found(found, "arbiter", "WARN", "makes two VMs of one")
    code, found = check(lab, "B", "--secondary", "--listen", pair.listen["B"], "--insecure")
    expect(code == 0, found)
    expect_found(found, "kernel", "WARN", "the guest's first reboot ends the VM")
    expect_found(found, "peer", "WARN", "finds nobody who protects the VM")


@test(120)
def check_beside_a_pair(lab):
    """a pair that runs is not disturbed, and an old side is told that it may not start"""
    pair = Pair(lab)
    a, b = pair.protect()
    load = start_load(lab)
    generation = a.status()["generation"]
    for _ in range(5):
        code, found = check(lab, "A", *words(pair, "A", "primary"))
        expect(code == 2, found)
        expect_found(found, "name", "FAILS", "runs here already")
        expect_found(found, "peer", "OK", "answers")
        expect_found(found, "arbiter", "FAILS", "it may be running")
        code, found = check(lab, "B", *words(pair, "B", "secondary"))
        expect(code == 2, found)
        expect_found(found, "listen", "FAILS", "in use")
        expect_found(found, "arbiter", "OK", "generation 1, held by")
    expect((a.state(), b.state()) == ("PROTECTED", "PROTECTED"), "the pair was disturbed")
    expect(a.status()["generation"] == generation, "claimed")
    a.call("failover")
    expect(a.wait_exit() == 3, a)  # handed over
    b.wait_state("DEGRADED")
    code, found = check(lab, "A", *words(pair, "A", "primary"))
    expect(code == 2, found)
    expect_found(found, "arbiter", "FAILS", "Start this side with --secondary")
    code, found = check(lab, "A", *words(pair, "A", "secondary"))
    expect(code == 0, found)
    expect_found(found, "disk d0", "OK", "overwritten when a primary connects")
    load.finish()
    lab.check([load], pair.image["B"])


@test(60)
def check_tls(lab):
    """a peer's key, and a wrong one, before anything runs"""
    for kind in eighth(lab, CREDENTIALS):
        pair = TlsPair(lab, kind)
        b = pair.secondary("B")
        b.wait_state("STARTING")
        code, found = check(lab, "A", *words(pair, "A", "primary"))
        expect(code == 0, found)
        expect_found(found, "tls", "OK", "")
        expect_found(found, "peer", "OK", "answers")
        right = pair.credentials
        pair.credentials = credentials(lab, kind)
        code, found = check(lab, "A", *words(pair, "A", "primary"))
        expect(code == 2, found)
        expect_found(found, "peer", "FAILS", "TLS: ")
        pair.credentials = dict.fromkeys("AB", [right["A"][0], "/no/such"])
        code, found = check(lab, "A", *words(pair, "A", "primary"))
        expect(code == 2 and "peer" not in found, found)
        expect_found(found, "tls", "FAILS", "/no/such")
        expect(b.state() == "STARTING", b.state())
        pair.end()

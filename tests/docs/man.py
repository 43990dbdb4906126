"""The manual pages, docs/man/*.scd: what of them is printed from the program's tables and docs/operations.md, and whether
they are whole. A page of a command has a head that is printed; what is behind that is written by hand."""

import glob
import os
import re
import shutil
import subprocess

from lab import ROOT, Failed

FOLDER = os.path.join(ROOT, "docs/man")
BEGIN, END = "; from ftvmm --help-md", "; end"
NO_PAGE = {"help", "version"}  # ftvmm(1) says all of them


def read(name):
    with open(os.path.join(ROOT, name), encoding="utf-8") as f:
        return f.read()


def escaped(text):
    return re.sub(r"([\\_*#~])", r"\\\1", text)


def from_markdown(text):
    """Names in bold, links as their words, *emphasis* underlined."""
    text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", text.replace(r"\|", "|").replace(" (below)", ""))
    parts = re.split(r"`([^`]*)`", text)
    for i, part in enumerate(parts):
        if i % 2:
            parts[i] = f"*{escaped(part)}*"
        else:
            pieces = re.split(r"\*\*([^*]*)\*\*|\*([^*]+)\*", part)
            parts[i] = "".join(f"_{escaped(p)}_" if p and k % 3 else escaped(p or "") for k, p in enumerate(pieces))
    return "".join(parts)


def usage(name, args):
    """What is to be replaced is underlined."""
    args = re.sub(r"[A-Z]+(\.json)?|options", r"_\g<0>_", args)
    return f"*ftvmm {name}* {args}".rstrip()


def about(name):
    """The rows of docs/operations.md that explain a command: what is in front, and the text."""
    rows = re.findall(r"^\| ((?:`ftvmm [^|`]*(?:\\\|[^|`]*)*`(?:, )?)+) \| (.*) \|$", read("docs/operations.md"), re.M)
    found = [(head, text) for head, text in rows if re.search(rf"`ftvmm {name}\b", head)]
    if not found:
        raise Failed(f"docs/operations.md does not explain ftvmm {name}")
    return found


def sentences(text):
    text = from_markdown(text)
    return text[0].upper() + text[1:] + ("" if text.endswith(".") else ".")


def head(name, args, text):
    rows = about(name)
    if len(rows) == 1:
        more = sentences(rows[0][1])
    else:
        more = "\n\n".join(f"{from_markdown(h)}\n\t{sentences(t)}" for h, t in rows)
    return (f"# NAME\n\nftvmm-{name} - {escaped(re.split('[;:]', text)[0])}\n\n# SYNOPSIS\n\n{usage(name, args)}\n\n"
            f"# DESCRIPTION\n\n{more}")


def keys(table):
    """Of ftvmm.json(5), from the table of options."""
    rows = re.findall(r"^\| `--([\w-]+)` \| [^|]* \| ((?:\\\||[^|])*) \| ([^|]*) \| ([^|]*) \| ([^|]*) \| (.*) \|$", table, re.M)
    if len(rows) < 35:
        raise Failed(f"of the table of options only {len(rows)} rows can be read")
    text = []
    for name, value, limits, default, roles, what in rows:
        value, limits, default = (c.replace(r"\|", "|").strip() for c in (value, limits, default))
        facts = [f"limits {limits}" if limits else "", f"default {default}" if default else "",
                 "" if len(roles.split()) == 3 else f"of {' and '.join(roles.split())}"]
        facts = ", ".join(f for f in facts if f)
        value = "true or false" if value in ("", "flag") else value
        text.append(f"*{name}*: {escaped(value)}\n\t{escaped(what[0].upper() + what[1:])}{f' ({escaped(facts)})' if facts else ''}.")
    return "\n\n".join(text)


def states():
    """Of ftvmm-ft(7), from docs/operations.md."""
    rows = re.findall(r"^\| ([A-Z-]{5,}) \| ([^|]*) \| ([^|]*) \|$", read("docs/operations.md").split("| STATE | meaning")[1]
                      .split("\n\n")[0], re.M)
    if len(rows) < 10:
        raise Failed(f"docs/operations.md: states {rows}")
    return "\n\n".join(f"*{state}*\n\t{sentences(meaning)}" for state, meaning, _ in rows)


def printed(commands, table):
    """For test_docs.PRINTED: page, mark, how to get it."""
    pages = {f"man:{name}": (f"docs/man/ftvmm-{name}.1.scd", BEGIN, lambda n=name, a=args, t=text: head(n, a, t))
             for name, args, text in commands() if name not in NO_PAGE}
    pages["man:json"] = ("docs/man/ftvmm.json.5.scd", "; from ftvmm run --help-md", lambda: keys(table()))
    pages["man:states"] = ("docs/man/ftvmm-ft.7.scd", "; from docs/operations.md", states)
    return pages


def check_pages(commands):
    """Each command has a page and no other has; scdoc takes all, and man finds nothing to complain of."""
    have = {os.path.basename(p).removesuffix(".scd") for p in glob.glob(f"{FOLDER}/*.scd")}
    want = {f"ftvmm-{name}.1" for name, _, _ in commands() if name not in NO_PAGE} | {"ftvmm.1", "ftvmm.json.5", "ftvmm-ft.7"}
    if have != want:
        raise Failed(f"docs/man: {', '.join(sorted(have ^ want))}")
    for name in sorted(have):
        text = read(f"docs/man/{name}.scd")
        title, section = name.rsplit(".", 1)
        if not text.startswith(f"{title}({section})\n"):
            raise Failed(f"docs/man/{name}.scd does not begin with its name")
        for other, number in re.findall(r"\*([\w.-]+)\*\((\d)\)", text):
            if other.startswith("ftvmm") and f"{other}.{number}" not in have:
                raise Failed(f"docs/man/{name}.scd names {other}({number}), which is not there")
        check_source(name, text)


def check_source(name, text):
    if not shutil.which("scdoc"):
        return
    p = subprocess.run(["scdoc"], input=text, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False)
    if p.returncode:
        raise Failed(f"docs/man/{name}.scd: {p.stderr.strip()}")
    if shutil.which("groff"):
        said = subprocess.run(["groff", "-man", "-ww", "-z", "-K", "utf8"], input=p.stdout, stdout=subprocess.DEVNULL,
                              stderr=subprocess.PIPE, text=True, check=False).stderr
        if said.strip():
            raise Failed(f"docs/man/{name}.scd: groff: {said.strip()}")

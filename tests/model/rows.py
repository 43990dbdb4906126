"""Have the models the states, events and rows of the program's tables (postcopy/phases.c, ft/role)?"""

import re

# What the model does not tell apart: with the same next state, and nothing said that matters.
LIKE = {"LATE": ("CANCEL",), "FAILED": ("CANCEL",), "TIMER": ("CANCEL", "LOST"), "LOST": ("CANCEL",)}
# A user who says what he cannot know, or where to connect; a process that ends in order is one that dies.
OUTSIDE = {"SRC": {"FORCE", "END", "RECOVER"}, "DST": {"END", "FILE"}}
# Postcopy, until the program has any of it: then all of it has to be there under these names.
PLANNED = {"SRC": {"PAIRING", "SERVE", "ENDING", "CUT", "CUT_CONNECT", "CUT_ASKED", "CUT_PAIRING", "PAIRED", "LACKS",
                   "SOME", "HAVE", "EOC"},
           "DST": {"FILL", "CUT", "MENDING", "LACKS", "PAIR", "COMPLETE"}}
# Without these the model has errors; the program may lack them, and it is said each time.
PROPOSED = {"SRC": set(), "DST": {("RUNS", "PART", "RUNS"), ("CUT", "COMPLETE", "RUNS")}}
ROLES = {"SRC": ("source", "SOURCE"), "DST": ("dest", "DEST")}


def rows(text):
    return set(re.findall(r"\bROW\((\w+),\s*(\w+),\s*(\w+)[,)]", text)) - {("state", "event", "next")}


def program(header, code, side):
    """Names and rows of one side."""
    role, macro = ROLES[side]
    names = []
    for what in ("STATES", "EVENTS"):
        body = re.search(rf"#define {macro}_{what}\(X\)(.*?)\n\n", header, re.S)[1]
        names.append(set(re.findall(r"\bX\((\w+),", body)))
    table = re.search(rf"{role}_rows\[\] = \{{(.*?)\n\}};", code, re.S)[1]
    return names[0], names[1], rows(table)


def names(text, side):
    """States and events of a model."""
    states = set(re.findall(rf"\b{side}_(?!EV_)(\w+)", re.search(
        rf"^mtype:{side.lower()} = \{{(.*?)\}}", text, re.S | re.M)[1]))
    events = set(re.findall(rf"\b{side}_EV_(\w+)", re.search(
        rf"^mtype:{side.lower()}ev = \{{(.*?)\}}", text, re.S | re.M)[1]))
    return states, events


def model(text, side):
    states, events = names(text, side)
    role = {"SRC": "Source", "DST": "Destination"}[side]
    return states, events, rows(re.search(rf"^active proctype {role}\(.*?^#undef ROW", text, re.S | re.M)[0])


def covered(row, have):
    """A row of the program that the model need not have by its own name."""
    state, event, after = row
    return after == state or any((state, e, after) in have for e in LIKE.get(event, ()))


def differences(header, code, text, side):
    states, events, table = program(header, code, side)
    m_states, m_events, m_table = model(text, side)
    planned = PLANNED[side] - states - events
    if planned != PLANNED[side]:
        planned = set()  # it is there, at least in part
    stays = {e for _, e, _ in table} - {e for s, e, after in table if s != after}
    outside = OUTSIDE[side] | (LIKE.keys() - m_events) | stays
    found = [f"{side}_{n}: a state, and not in the model" for n in sorted(states - m_states)]
    found += [f"{side}_EV_{n}: an event, and not in the model" for n in sorted(events - m_events - outside)]
    found += [f"{side}: {n} is in the model only"
              for n in sorted((m_states - states - planned) | (m_events - events - planned))]
    found += [f"{side}: {row} is in the program only" for row in sorted(table - m_table)
              if row[1] not in OUTSIDE[side] and not covered(row, m_table)]
    found += [f"{side}: {row} is in the model only" for row in sorted(m_table - table - PROPOSED[side])
              if not planned & set(row)]
    return found, planned or {" ".join(row) for row in PROPOSED[side] - table}


def fault_tolerance(code, text, role):
    """What a model that leaves much out may still not do: a row that the program lacks, or one of the program's
    that leads from a state of the model to another, by an event of the model, and is not there."""
    side = {"Primary": "PRI", "Secondary": "SEC"}[role]
    states, events = names(text, side)
    table = rf"^(?:active proctype {role}|inline {role.lower()}_step)\(.*?^#undef ROW"
    have = rows(re.search(table, text, re.S | re.M)[0])
    program_has = rows(code)
    return ([f"{side}: {row} is not in the program" for row in sorted(have - program_has)] +
            [f"{side}: {row} is in the program only" for row in sorted(program_has - have)
             if {row[0], row[2]} <= states and row[0] != row[2] and row[1] in events])

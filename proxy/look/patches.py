"""What qmail-smtpd can do besides, by its program file and by files in use.

Knows: marks that well-known patches leave in the program and in control.  Knows
not: whether they are switched on by an environment.  Called by ``host``.
"""

from __future__ import annotations

from collections.abc import Iterator

from proxy.look.tree import Found, Tree

_PROGRAM_MAX = 32 << 20

# What is in the program, and what that is called (docs of each patch).
_MARKS = {
    b"CHKUSER": "chkuser",
    b"validrcptto": "validrcptto.cdb",
    b"control/smtpplugins": "qmail-spp",
    b"control/morevalidrcptto.cdb": "sagredo",
    b"control/badrcptto": "badrcptto",
    b"control/goodrcptto": "goodrcptto",
    b"RCPTCHECK": "RCPTCHECK",
    b"control/recipients": "control/recipients",
    b"STARTTLS": "STARTTLS",
    b"AUTH LOGIN": "AUTH",
    b"AUTH PLAIN": "AUTH",
}
_FILES = {
    "validrcptto.cdb": "validrcptto.cdb",
    "smtpplugins": "qmail-spp",
    "recipients": "control/recipients",
    "rcptchecks": "RCPTCHECK",
    "chkuser": "chkuser",
}


def find_patches(tree: Tree, home: str, programs: set[str]) -> Iterator[Found]:
    """``programs``: the paths of qmail-smtpd as they are started."""
    told = set()
    for path in sorted({f"{home}/bin/qmail-smtpd", *programs}):
        content = tree.content(path, _PROGRAM_MAX) if tree.exists(path) else None
        for mark, name in _MARKS.items():
            if content is not None and mark in content and (path, name) not in told:
                told.add((path, name))
                yield Found(name, path, 0, f"{mark.decode()} is in the program")
    for file, name in _FILES.items():
        path = f"{home}/control/{file}"
        if tree.exists(path):
            yield Found(name, path, 0, "is there")

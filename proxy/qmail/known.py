"""The programs that are understood by reading the files that they read.

Knows: which name is whose.  Knows not: the shell, and qmail's own small programs
(:mod:`proxy.qmail.program`).  One line for each program.
"""

from __future__ import annotations

from proxy.qmail import ezmlm
from proxy.qmail.dotforward import dot_forward
from proxy.qmail.effect import Program
from proxy.qmail.ezmlm_dispatch import dispatch
from proxy.qmail.fastforward import fastforward
from proxy.qmail.vpopmail import vdelivermail

# By the last part of the name: they are installed in many places.
PROGRAMS: dict[bytes, Program] = {
    b"vdelivermail": vdelivermail,
    b"fastforward": fastforward,
    b"dot-forward": dot_forward,
    b"ezmlm-dispatch": dispatch,
    **ezmlm.PROGRAMS,
}

"""Descriptors never run out: the cap on connections fits the process's limit.

Knows: getrlimit(2), and how many descriptors a session may need.  Called by
the service at its start.
"""

from __future__ import annotations

import contextlib
import resource

# One for the client, one for the backend; the rest for listening sockets, the
# loop, the log, open cdb files and files that are being read.
_PER_SESSION = 2
_OTHERS = 128


# What "unlimited" comes to: fs.nr_open of proc_sys_fs(5), by default.
_UNLIMITED = 1 << 20


def connections_that_fit(wanted: int) -> int:
    """How many connections can be served, at most ``wanted`` (0: as many as
    possible).  Raises the soft limit of the process as far as it is allowed."""
    soft, hard = map(_number, resource.getrlimit(resource.RLIMIT_NOFILE))
    needed = wanted * _PER_SESSION + _OTHERS if wanted else hard
    if soft < needed:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(needed, hard), hard))
            soft = min(needed, hard)
    fit = max((soft - _OTHERS) // _PER_SESSION, 1)
    return min(wanted, fit) if wanted else fit


def _number(limit: int) -> int:
    return _UNLIMITED if limit == resource.RLIM_INFINITY else limit

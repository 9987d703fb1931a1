"""Linux's capabilities: what capabilities(7) and prctl(2) let a process give up.

Knows: the three system calls, by ctypes.  Knows not: which capability is wanted
(``privileges``).  They hold for the calling thread and for what it starts, so
this is for a process that has one thread yet.  Called by ``privileges`` and
``workers``.
"""

from __future__ import annotations

import ctypes
import functools
import os
import signal
import sys
from typing import Any

# linux/capability.h
DAC_READ_SEARCH = 1 << 2
SETPCAP = 1 << 8
NET_ADMIN = 1 << 12
NET_RAW = 1 << 13
_VERSION_3 = 0x20080522

# linux/prctl.h
_SET_PDEATHSIG = 1
_SET_KEEPCAPS = 8
_CAPBSET_READ, _CAPBSET_DROP = 23, 24
_SET_NO_NEW_PRIVS, _GET_NO_NEW_PRIVS = 38, 39
_CAP_AMBIENT, _CLEAR_ALL = 47, 4


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Half(ctypes.Structure):
    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    )


AVAILABLE = sys.platform == "linux"


@functools.cache
def _libc() -> Any:
    return ctypes.CDLL(None, use_errno=True)


def _call(function: str, *arguments: Any) -> int:
    result: int = getattr(_libc(), function)(*arguments)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), function)
    return result


def _prctl(option: int, value: int = 0) -> int:
    # Unused arguments must be 0, as long as the kernel takes them to be.
    numbers = (ctypes.c_ulong(each) for each in (value, 0, 0, 0))
    return _call("prctl", ctypes.c_int(option), *numbers)


def _sets() -> tuple[_Header, Any]:
    return _Header(_VERSION_3, 0), (_Half * 2)()


def permitted() -> int:
    """The permitted set, a bit for each.  Raises ``OSError``."""
    header, halves = _sets()
    _call("capget", ctypes.byref(header), halves)
    return int(halves[0].permitted | halves[1].permitted << 32)


def limit_to(wanted: int) -> None:
    """Make ``wanted`` the permitted and effective set; nothing is inheritable
    or ambient.  Raises ``OSError``, above all where ``wanted`` is not permitted."""
    header, halves = _sets()
    for half, bits in zip(halves, (wanted & 0xFFFFFFFF, wanted >> 32), strict=True):
        half.permitted = half.effective = bits
    _prctl(_CAP_AMBIENT, _CLEAR_ALL)
    _call("capset", ctypes.byref(header), halves)


def keep_over_setuid(keep: bool) -> None:
    """Whether the permitted set outlives giving up user 0.  Raises ``OSError``."""
    _prctl(_SET_KEEPCAPS, int(keep))


def empty_bounding_set() -> None:
    """No program that is started can have any.  Wants :data:`SETPCAP`; raises
    ``OSError``."""
    for number in range(64):
        try:
            if _prctl(_CAPBSET_READ, number):
                _prctl(_CAPBSET_DROP, number)
        except OSError:
            if permitted() & SETPCAP:
                return  # the kernel knows no capability of that number
            raise


def no_new_privileges() -> None:
    """Set-user-ID programs give no rights any more.  Raises ``OSError``."""
    _prctl(_SET_NO_NEW_PRIVS, 1)


def new_privileges_forbidden() -> bool:
    """Whether :func:`no_new_privileges` was called here or by a supervisor;
    false where that is not known."""
    if not AVAILABLE:
        return False
    try:
        return _prctl(_GET_NO_NEW_PRIVS) == 1
    except (OSError, AttributeError):
        return False


def end_with_parent() -> None:
    """TERM when the parent dies; does nothing where that cannot be had."""
    if AVAILABLE:
        try:
            _prctl(_SET_PDEATHSIG, signal.SIGTERM)
        except (OSError, AttributeError):
            return

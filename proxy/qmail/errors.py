"""The two ways in which looking at a host's files ends without an answer.

``KernelError``  what the *kernel would tell qmail*: part of qmail's own logic
``CannotTell``   what *we* could not find out: always a deferral, never a refusal
"""

from __future__ import annotations

import errno
import os


class KernelError(Exception):
    """The system call that qmail makes here would fail with ``errno``."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code

    @property
    def temporary(self) -> bool:
        """Whether qmail's ``error_temp`` (error_temp.3) holds it temporary."""
        return self.code in TEMPORARY

    def __str__(self) -> str:
        return os.strerror(self.code)


class CannotTell(Exception):
    """A file that qmail could read, but the front door cannot.

    ``path`` is absolute on the qmail host; ``why`` is for the administrator.
    """

    def __init__(self, path: bytes, why: str) -> None:
        super().__init__(path, why)
        self.path = path
        self.why = why

    def __str__(self) -> str:
        return f"{self.path.decode('latin-1')}: {self.why}"


# error_temp.c of notqmail 1.09, where Linux has the code.
TEMPORARY = frozenset(
    {
        errno.EINTR,
        errno.ENOMEM,
        errno.ETXTBSY,
        errno.EIO,
        errno.ETIMEDOUT,
        errno.EAGAIN,
        errno.EDEADLK,
        errno.EBUSY,
        errno.ENFILE,
        errno.EMFILE,
        errno.EFBIG,
        errno.ENOSPC,
        errno.ENETDOWN,
        errno.ENETUNREACH,
        errno.ENETRESET,
        errno.ECONNABORTED,
        errno.ECONNRESET,
        errno.ENOBUFS,
        errno.ETOOMANYREFS,
        errno.ECONNREFUSED,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.EUSERS,
        errno.EDQUOT,
        errno.ESTALE,
        errno.ENOLCK,
    }
)

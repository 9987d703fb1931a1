"""Passwords that stand in files of their own.

Knows: how such a file is read.  Knows not: what the password opens.  Used by the
rules that ask servers.
"""

from __future__ import annotations

from proxy.rules.source import SourceDown

_MAX = 4096


def read_secret(path: str) -> str:
    """The first line of the file at ``path``, which is not below ``qmail.root``.

    Raises :class:`SourceDown` for one that cannot be read, or that has none.
    """
    try:
        with open(path, "rb") as file:
            line = file.readline(_MAX)
        text = line.rstrip(b"\r\n").decode()
    except OSError as error:
        raise SourceDown(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SourceDown(f"{path}: its first line is not UTF-8") from None
    if not text:
        raise SourceDown(f"{path}: its first line is empty")
    return text

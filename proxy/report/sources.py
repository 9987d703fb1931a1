"""The logs on disk: files, rotated sets, directories of multilog and svlogd.

Knows: compression, order, blocks of whole lines.  Knows not: what is in them.
Called by the report's command.  Files are only read.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import IO

STDIN = "-"
BLOCK = 1 << 19
"""Bytes that are read at a time: enough to be fast, few enough to stay small."""
LINE_MAX = 1 << 20
"""What is longer than this is no line of ours: it is cut."""

Advance = Callable[[int], None]
"""Told how many bytes of the files have been read."""


class SourceError(Exception):
    """A log cannot be read; the text names it and says what to do."""


@dataclass(frozen=True)
class Source:
    """One file, or standard input; ``size`` in bytes, where it is known."""

    path: str
    size: int = 0

    @property
    def name(self) -> str:
        """What it is called in messages."""
        return "standard input" if self.path == STDIN else self.path

    def blocks(self, advance: Advance = lambda _: None) -> Iterator[bytes]:
        """Whole lines, each with its newline; raises :class:`SourceError`."""
        try:
            with self._open() as raw, io.BufferedReader(raw, 1 << 16) as buffered:
                yield from _lines(_decompressed(buffered, self.path), raw, advance)
        except (OSError, EOFError, lzma.LZMAError) as error:
            reason = getattr(error, "strerror", None) or str(error) or "cut short"
            raise SourceError(f"{self.name}: {reason}") from error

    def _open(self) -> io.FileIO:
        if self.path == STDIN:
            return io.FileIO(os.dup(sys.stdin.fileno()), "rb")
        return io.FileIO(self.path, "rb")


def _decompressed(buffered: io.BufferedReader[io.FileIO], path: str) -> IO[bytes]:
    """By what the file begins with, and not by its name: logs are renamed."""
    magic = buffered.peek(6)[:6]
    if magic.startswith(b"\x1f\x8b"):
        return gzip.GzipFile(fileobj=buffered)  # type: ignore[return-value]
    if magic.startswith(b"BZh"):
        return bz2.BZ2File(buffered)
    if magic == b"\xfd7zXZ\0":
        return lzma.LZMAFile(buffered)
    if magic.startswith(b"\x28\xb5\x2f\xfd"):
        return _zstandard(buffered, path)
    return buffered


def _zstandard(buffered: IO[bytes], path: str) -> IO[bytes]:
    try:
        from compression import zstd  # type: ignore[import-not-found] # 3.14
    except ImportError:
        raise SourceError(
            f"{path}: this Python ({sys.version_info[0]}.{sys.version_info[1]}) cannot"
            f" read zstd (zstdcat {path} | backstop report -)"
        ) from None
    stream: IO[bytes] = zstd.ZstdFile(buffered)
    return stream


def _lines(stream: IO[bytes], raw: IO[bytes], advance: Advance) -> Iterator[bytes]:
    rest = b""
    told = _place(raw)
    while data := stream.read(BLOCK):
        end = data.rfind(b"\n") + 1
        if end:
            yield rest + data[:end]
            rest = data[end:]
        elif len(rest) < LINE_MAX:
            rest += data
        place = _place(raw)
        if told is None or place is None:
            advance(len(data))
        else:
            advance(place - told)
            told = place
    if rest:
        yield rest + b"\n"


def _place(raw: IO[bytes]) -> int | None:
    try:
        return raw.tell()
    except OSError:  # a pipe
        return None


# Which files.


def sources(paths: Sequence[str]) -> list[Source]:
    """What ``paths`` name: files, ``-``, directories with a ``current`` and what
    multilog or svlogd has rotated there.  Raises :class:`SourceError`."""
    found: list[Source] = []
    for path in paths:
        if path == STDIN:
            found.append(Source(STDIN))
            continue
        try:
            if os.path.isdir(path):
                found += [_file(each) for each in _rotated(path)]
            else:
                found.append(_file(path))
        except OSError as error:
            raise SourceError(f"{path}: {error.strerror}") from error
    unique = list(dict.fromkeys(found))
    if unique.count(Source(STDIN)) and len(unique) > 1:
        raise SourceError("-: standard input cannot be read together with files")
    return unique


def _file(path: str) -> Source:
    status = os.stat(path)
    if not os.access(path, os.R_OK):
        raise SourceError(
            f"{path}: Permission denied (read it as root, or as its group)"
        )
    regular = stat.S_ISREG(status.st_mode)
    return Source(path, status.st_size if regular else 0)


def _rotated(directory: str) -> list[str]:
    names = os.listdir(directory)
    # multilog(8), svlogd(8): @TAI64N.s is finished, .u was cut short by a crash;
    # their names sort as their times do.
    old = sorted(n for n in names if n.startswith("@"))
    current = ["current"] if "current" in names else []
    if not old and not current:
        raise SourceError(
            f"{directory}: no current and no @*.s: not a directory of multilog or"
            " svlogd (name the files)"
        )
    return [os.path.join(directory, name) for name in (*old, *current)]


def in_order(
    given: Sequence[Source], first: Callable[[bytes], int | None]
) -> list[Source]:
    """By the time of the first line that tells one, which ``first`` reads of a
    block; those without one keep their place after the others before them."""
    if len(given) < 2:
        return list(given)
    latest = 0
    keyed = []
    for number, source in enumerate(given):
        when = None
        for count, block in enumerate(source.blocks()):
            when = first(block)
            if when is not None or count >= 3:
                break
        latest = latest if when is None else when
        keyed.append((latest, number, source))
    return [source for _, _, source in sorted(keyed, key=lambda each: each[:2])]

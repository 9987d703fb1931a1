"""The message between 354 and the final dot, as a stream of bytes.

Knows: where a message ends (CRLF.CRLF, nothing else: RFC 5321 §4.1.1.4) and
what a bare LF is.  Knows not: dots inside (they pass as they came, so they
are handled once, by the backend), lines, headers.  Called by the dialogue.
"""

from __future__ import annotations

import re

_END = b"\r\n.\r\n"

# A LF without a CR before it, or the LF in the middle of the end: both in one
# pass, which costs a quarter of looking for each (32 against 138 microseconds
# for 64 KiB of lines).  A CR is always held back with what follows it.
_MARK = re.compile(rb"\n(?:(?<!\r\n)|\.\r\n)")


class MessageStream:
    """Splits what the client sends after 354, however it is cut.

    After each :meth:`feed`, what it returned may be passed on; up to four
    bytes that could be the beginning of the end are held back.  The final
    ``.CRLF`` is never part of what is passed on.
    """

    __slots__ = ("_held", "bare_lf", "ended", "size")

    def __init__(self) -> None:
        # RFC 5321 §4.1.1.4: the CRLF that ends DATA counts as the one before
        # a dot.  qmail-smtpd.c, blast(): state 1 at the start.
        self._held = b"\r\n"
        self.size = -2
        self.bare_lf = False
        self.ended = False

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """``(message, rest)``: bytes of the message, and what follows its end.

        ``bare_lf`` becomes true as soon as a LF without a CR before it was
        seen; ``ended`` when the end was.  ``size`` counts the message's bytes.
        """
        held = self._held
        chunk = held + data if held else data
        end = self._find_end(chunk)
        if end >= 0:
            message, rest = chunk[: end + 2], chunk[end + 5 :]
            self.ended = True
            self._held = b""
        else:
            keep = _partial_end(chunk)
            cut = len(chunk) - keep
            message, rest = chunk[:cut], b""
            self._held = chunk[cut:]
        if self.size < 0:  # the CRLF that was never sent
            taken = min(-self.size, len(message))
            self.size += taken
            message = message[taken:]
        self.size += len(message)
        return message, rest

    def _find_end(self, chunk: bytes) -> int:
        """Where the end begins, or -1; notes a bare LF before it."""
        if not self.bare_lf:
            mark = _MARK.search(chunk)
            if mark is None:
                return -1
            if mark.end() - mark.start() > 1:
                return mark.start() - 1
            self.bare_lf = True
        return chunk.find(_END)


def _partial_end(chunk: bytes) -> int:
    """How many bytes at the end of ``chunk`` may begin ``CRLF.CRLF``."""
    for length in (4, 3, 2, 1):
        if chunk.endswith(_END[:length]):
            return length
    return 0

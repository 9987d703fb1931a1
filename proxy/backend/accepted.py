"""The recipients that a backend has accepted, in case that another connection has to be
told of them."""

from __future__ import annotations

_REMEMBERED_MAX = 65536  # bytes, a session


class Accepted:
    """The recipients that a used connection has accepted, in case that they must be
    told to a new one; no more than :data:`_REMEMBERED_MAX` bytes of them."""

    __slots__ = ("_room", "arguments", "complete")

    def __init__(self) -> None:
        self._room = _REMEMBERED_MAX
        self.arguments: list[bytes] = []
        self.complete = True
        """Whether all of them are here."""

    def add(self, argument: bytes) -> None:
        """One more."""
        self._room -= len(argument)
        if self._room < 0:
            self.complete = False
            self.arguments = []
        else:
            self.arguments.append(argument)

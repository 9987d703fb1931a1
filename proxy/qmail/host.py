"""One qmail host: where its files are, and what qmail was built with.

Knows: what qmail's own files do not say, and what was learnt from them so
far.  Knows not: any rule of delivery.  Made by whoever asks for decisions;
used by ``decide`` and ``local``.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from proxy.qmail.cache import FileCache
from proxy.qmail.moment import Moment
from proxy.qmail.view import FileView
from proxy.qmail.walk import Identity, Walker


@dataclass(frozen=True, slots=True)
class HostSettings:
    """What qmail's own files do not say.

    ``default_delivery`` is qmail-start's first argument (qmail-start.9).
    ``local_ips`` are the IPv4 addresses that qmail-smtpd takes for its own.
    ``break_char`` and ``unsafe_mode`` are conf-break and conf-patrn, compiled
    into qmail; ``alias_user`` is the first of conf-users.
    """

    home: bytes = b"/var/qmail"
    default_delivery: bytes = b"./Mailbox"
    local_ips: frozenset[bytes] = frozenset({b"0.0.0.0", b"127.0.0.1"})
    break_char: bytes = b"-"
    unsafe_mode: int = 0o002
    alias_user: bytes = b"alias"


@dataclass(slots=True)
class QmailHost:
    """A view of the host's files with what was learnt from them so far.

    ``clock`` gives nanoseconds since the epoch, as the files' times do.

    ``on_look`` is told whenever the central files were looked at; then nothing
    is looked at twice until it has :meth:`look_again` called.  The service
    does that for the recipients that arrive in one turn of its loop, so that
    a flood of them costs few looks.
    """

    view: FileView
    settings: HostSettings = field(default_factory=HostSettings)
    cache: FileCache = field(default_factory=FileCache)
    clock: Callable[[], int] = time.time_ns
    on_look: Callable[[], object] | None = None
    _moment: Moment | None = None
    _trusted: bool = False

    def moment(self) -> Moment:
        """The central files as they are now."""
        moment = self._moment
        if self._trusted and moment is not None:
            return moment
        if moment is None or not moment.unchanged():
            moment = Moment(self.view, self.cache, self.settings.home, self.clock)
            self._moment = moment
        if self.on_look is not None:
            self._trusted = True
            moment.ancestors.turn = {}
            self.on_look()
        return moment

    def look_again(self) -> None:
        """The next decision looks at everything anew."""
        self._trusted = False
        if self._moment is not None:
            self._moment.ancestors.turn = None

    def walker(self, identity: Identity) -> Walker:
        """The files as ``identity`` sees them."""
        moment = self._moment
        return Walker(self.view, identity, moment.ancestors if moment else None)

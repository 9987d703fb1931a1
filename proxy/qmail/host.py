"""One qmail host: where its files are, and what qmail was built with.

Knows: what qmail's own files do not say, and what was learnt from them so
far.  Knows not: any rule of delivery.  Made by whoever asks for decisions;
used by ``decide`` and ``local``.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from proxy.qmail.cache import FileCache
from proxy.qmail.moment import Moment
from proxy.qmail.view import FileView
from proxy.qmail.vpopmail_settings import VpopmailSettings
from proxy.qmail.walk import Identity, Walker

# Seconds for which one look may serve several callers.
_FRESH = 0.05


@dataclass(frozen=True, slots=True)
class HostSettings:
    """What qmail's own files do not say.

    ``default_delivery`` is qmail-start's first argument (qmail-start.9).
    ``local_ips`` are the IPv4 addresses that qmail-smtpd takes for its own.
    ``break_char`` and ``unsafe_mode`` are conf-break and conf-patrn, compiled
    into qmail; ``alias_user`` is the first of conf-users.
    ``ezmlm_unknown_words``: whether words that ezmlm-manage does not know are
    accepted, as it does (it answers with help).
    """

    home: bytes = b"/var/qmail"
    default_delivery: bytes = b"./Mailbox"
    local_ips: frozenset[bytes] = frozenset({b"0.0.0.0", b"127.0.0.1"})
    break_char: bytes = b"-"
    unsafe_mode: int = 0o002
    alias_user: bytes = b"alias"
    ezmlm_unknown_words: bool = True
    vpopmail: VpopmailSettings = field(default_factory=VpopmailSettings)


@dataclass(slots=True)
class QmailHost:
    """A view of the host's files with what was learnt from them so far.

    ``clock`` gives nanoseconds since the epoch, as the files' times do.
    """

    view: FileView
    settings: HostSettings = field(default_factory=HostSettings)
    cache: FileCache = field(default_factory=FileCache)
    clock: Callable[[], int] = time.time_ns
    _moment: Moment | None = None
    _looked: float = 0.0

    def moment(self, since: float = math.inf) -> Moment:
        """The central files, looked at after ``since`` (time.monotonic()).

        A caller that has seen an answer at ``since`` finds every change made
        after that.  Where others have looked meanwhile, and only just, it need
        not be done again: a flood of recipients costs few looks.
        """
        moment = self._moment
        now = time.monotonic()
        if moment is not None and since < self._looked and now - self._looked < _FRESH:
            return moment
        self._looked = now
        if moment is None or not moment.unchanged():
            moment = Moment(self.view, self.cache, self.settings.home, self.clock)
            self._moment = moment
        moment.ancestors.turn = {} if since < math.inf else None
        return moment

    def walker(self, identity: Identity) -> Walker:
        """The files as ``identity`` sees them."""
        moment = self._moment
        return Walker(self.view, identity, moment.ancestors if moment else None)

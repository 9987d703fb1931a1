"""What the backend offers, asked before the first client wants to know.

Knows: when to ask, and when to ask again.  Knows not: what is made of it
(:attr:`proxy.backend.pool.Backend.auth_offered`).  Made by the service, in each
of its processes, and called about once a second.

Clients are told of AUTH in the answer to their EHLO, and strangers' sessions
must not touch qmail: so it has to be known before.  What is heard on
connections for mail counts as well.
"""

from __future__ import annotations

from collections.abc import Callable

from proxy.backend.pool import Backend
from proxy.backend.question import Question

AGAIN_SECONDS = 300.0
RETRY_SECONDS = 5.0
"""After a failure: as long as nothing is known, nothing is offered."""


Say = Callable[[str, str], None]
"""Takes a level and a text for the log."""


def _say_nothing(level: str, text: str) -> None:
    """A :data:`Say` of those processes that are not to repeat the first one."""


class Offers:
    """Asks if ``learn_auth`` is set in the backend's settings; ``say`` hears the
    answer, where it is another than before."""

    def __init__(self, backend: Backend, say: Say | None = None) -> None:
        self._backend = backend
        self._say = say or _say_nothing
        self._said: bytes | None = None
        self._question: Question | None = None
        self._due = 0.0

    def tick(self) -> None:
        """Ask if it is time."""
        backend = self._backend
        if (
            backend.settings.learn_auth
            and self._question is None
            and backend.now() >= self._due
        ):
            self._due = backend.now() + RETRY_SECONDS
            self._question = Question(backend, self._greeted, self._not_greeted)

    def close(self) -> None:
        """Ask no more."""
        self._due = float("inf")
        question, self._question = self._question, None
        if question is not None:
            question.cancel()

    # Inside.

    def _greeted(self) -> None:
        """What it offers, the backend itself has learnt from EHLO."""
        question, self._question = self._question, None
        assert question is not None
        if question.extended:
            self._due = self._backend.now() + AGAIN_SECONDS
            self._tell(self._backend.auth_offered)
        question.finish()

    def _not_greeted(self, why: str) -> None:
        """It is asked again soon."""
        self._question = None

    def _tell(self, offered: bytes) -> None:
        if offered == self._said:
            return
        self._said = offered
        where = f"the backend {self._backend.settings}"
        if offered:
            self._say("info", f"{where} offers {offered.decode('ascii')}")
        else:
            text = "offers no AUTH, and so no client is offered it (auth.offer)"
            self._say("warning", f"{where} {text}")

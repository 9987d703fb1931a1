"""Who hears what the backend answers.

Knows: names only.  Called by :mod:`proxy.backend.conversation`; implemented by
:mod:`proxy.front.session`.
"""

from __future__ import annotations

from typing import Protocol

from proxy.smtp.reply import Reply


class Listener(Protocol):
    """The session; see :class:`proxy.smtp.dialogue.Dialogue` for the answers."""

    def recipient_answered(self, reply: Reply) -> None:
        """The backend's answer to the oldest recipient it was told."""

    def auth_answered(self, reply: Reply) -> None:
        """The backend's answer to AUTH, or to a line of the exchange."""

    def data_answered(self, reply: Reply) -> None:
        """The backend's answer to DATA."""

    def message_answered(self, reply: Reply) -> None:
        """The backend's answer to the final dot."""

    def relay_failed(self, reply: Reply, step: str, why: str) -> None:
        """The backend is lost; ``reply`` is for the client, the rest for the log."""

    def backend_passed_over(self, step: str, why: str) -> None:
        """The backend failed, and another one is tried."""

    def relay_blocked(self) -> None:
        """The backend does not keep up: hand in nothing more."""

    def relay_writable(self) -> None:
        """It does again."""

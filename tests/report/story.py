"""Both logs of something that happened, line by line, and what the report finds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from proxy.observe.events import (
    BackendRefusedRecipient,
    Event,
    MessageEnded,
    RecipientDecided,
)
from proxy.observe.lines import Form, Formatter
from proxy.report.command import Asked, report

WHEN = 1_795_398_287
SENDER = b"a@there.test"
FAILURE = "failure: Sorry,_no_mailbox_here_by_that_name._(#5.1.1)/"
SUCCESS = "success: did_1+0+0/"


def decided(
    session: str,
    recipient: bytes,
    verdict: str = "accept",
    observed: str = "",
    sender: bytes = SENDER,
    helo: bytes = b"h",
) -> RecipientDecided:
    reply = "550 5.1.1 no such recipient here" if verdict == "reject" else "250 ok"
    return RecipientDecided(
        *(session, "192.0.2.9", helo, sender, recipient, verdict, observed, False),
        *("qmail", f"of {session}", reply),
    )


class Story:
    """``at`` is in seconds after the beginning."""

    def __init__(self, directory: Path, form: Form = "logfmt") -> None:
        self._directory = directory
        self._line = Formatter(form).line
        self._ours: list[str] = []
        self._theirs: list[str] = []
        self._delivery = 0

    def event(self, event: Event, at: int = 0) -> None:
        self._ours.append(self._line(event, WHEN + at))

    def let_in(
        self, session: str, *recipients: bytes, observed: str = "", at: int = 0
    ) -> None:
        for recipient in recipients:
            self.event(decided(session, recipient, observed=observed), at)

    def refused(self, session: str, recipient: bytes, at: int = 0) -> None:
        self.event(decided(session, recipient, "reject"), at)

    def refused_behind(self, session: str, recipient: bytes) -> None:
        client, reply = "192.0.2.9", "553 sorry (#5.7.1)"
        self.event(BackendRefusedRecipient(session, client, recipient, reply))

    def taken(
        self,
        session: str,
        count: int = 1,
        qp: int | None = 42,
        at: int = 0,
        sender: bytes = SENDER,
    ) -> None:
        reply = "250 ok" if qp is None else f"250 ok {WHEN + at} qp {qp}"
        ended = MessageEnded(
            *(session, "192.0.2.9", sender, count, 9, "accepted", reply, "", True),
            *(0.1, "127.0.0.1:2525"),
        )
        self.event(ended, at)

    def send(self, text: str, at: int = 0) -> None:
        """A line of qmail-send's."""
        self._theirs.append(f"@{(1 << 62) + 10 + WHEN + at:016x}00000000 {text}\n")

    def queued(
        self, number: int, qp: int = 42, at: int = 0, sender: str = SENDER.decode()
    ) -> None:
        self.send(f"new msg {number}", at)
        self.send(f"info msg {number}: bytes 99 from <{sender}> qp {qp} uid 5", at)

    def delivery(
        self,
        number: int,
        address: str,
        result: str,
        at: int = 0,
        channel: str = "local",
    ) -> None:
        self._delivery += 1
        n = self._delivery
        self.send(f"starting delivery {n}: msg {number} to {channel} {address}", at)
        self.send(f"delivery {n}: {result}", at)

    def told(self, **more: Any) -> dict[str, Any]:
        """The whole document."""
        ours, theirs = self._directory / "ours", self._directory / "theirs"
        ours.write_text("".join(self._ours))
        theirs.write_text("".join(self._theirs), "latin-1")
        return report(Asked([str(ours)], [str(theirs)], **more))

    def found(self, **more: Any) -> dict[str, Any]:
        """What qmail-send's log adds."""
        added: dict[str, Any] = self.told(**more)["qmail"]
        return added

"""F: whatever the backend does at whatever step.

The table has a row for each step and fault: what the client is told, whether
the backend has seen a final dot, whether its connection is used again, what
the log calls the message.  After each, the same session delivers a message.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field

import pytest

from proxy.backend.settings import BackendSettings
from proxy.front.door import DoorSettings
from proxy.observe.events import (
    BackendFailed,
    BackendRefusedRecipient,
    MessageEnded,
    RecipientDecided,
)
from proxy.smtp.driver import Limits
from tests.support.backend import (
    CLOSE,
    RESET,
    SILENT,
    STOP_READING,
    Behaviour,
    Bytewise,
    FakeQmail,
)
from tests.support.front import Front, running
from tests.support.ports import own_port
from tests.support.smtp_client import RawClient

MESSAGE = b"Subject: x\r\n\r\nhello\r\n..dot\r\n\xff\x00 odd\r\n"
PLAIN = MESSAGE.replace(b"\r\n..", b"\r\n.")

# The library's own clock cannot be handed in.  Who is to be reached has longer.
SOON = BackendSettings(connect_timeout=0.2)


def outcomes(front: Front) -> list[str]:
    return [e.outcome for e in front.of(MessageEnded)]  # type: ignore[union-attr]


@dataclass(frozen=True)
class Row:
    """``said`` is the reply to RCPT, DATA and the final dot; with ``one_by_one``
    the backend offers no pipelining."""

    step: str
    fault: str
    script: dict[str, Behaviour]
    said: list[int]
    outcome: str = ""  # of the message, if there was one
    dots: int = 0  # that the backend has seen
    used_again: bool = False  # its connection
    failed: bool = True  # the log has event=backend-failed
    one_by_one: bool = False
    refused: int = field(init=False)  # recipients that only the backend refused

    def __post_init__(self) -> None:
        passed_on = self.step in ("MAIL", "RCPT") and not self.failed
        refused = int(passed_on and self.said[0] != 250)
        object.__setattr__(self, "refused", refused)

    def __str__(self) -> str:
        return f"F-{self.step.lower()}-{self.fault}"


LOST: dict[str, Behaviour] = {
    "silent": SILENT,
    "fin": CLOSE,
    "rst": RESET,
    "421": b"421 4.3.2 going\r\n",
    "wrong-class": b"354 what\r\n",
    "999": b"999 what\r\n",
    "garbage": b"\xff\xfe\r\n",
    "no-code": b"hello\r\n",
    "endless": b"250-" + b"x" * (1 << 20),
    "endless-lines": b"250-x\r\n" * (1 << 17),
    "half": (b"250", CLOSE),
    "half-silent": (b"250-first\r\n25", SILENT),
}
WORKS = [250, 354, 250]


def usual(step: str) -> bytes:
    return {"greeting": b"220", "DATA": b"354"}.get(step, b"250")


def lost(step: str) -> Iterator[Row]:
    """The backend is not there any more, or not to be trusted."""
    for fault, behaviour in LOST.items():
        if fault == "wrong-class" and step in ("greeting", "DATA"):
            behaviour = b"251 what\r\n"
        script = {step: behaviour}
        if step == "DATA":
            yield Row(step, fault, script, [250, 451])
        elif step == "dot":
            yield Row(step, fault, script, [250, 354, 451], "unknown", dots=1)
        elif step == "HELO":
            yield Row(step, fault, {**script, "EHLO": b"502 no\r\n"}, [451, 503])
        else:
            yield Row(step, fault, script, [451, 503])


def refusals(step: str) -> Iterator[Row]:
    """The backend's own 4yz and 5yz are the client's, from MAIL on."""
    for code, outcome in ((450, "deferred"), (554, "refused")):
        script: dict[str, Behaviour] = {step: b"%d 4.0.0 no\r\n" % code}
        fault = f"{code // 100}xx"
        if step == "greeting":
            yield Row(step, fault, script, [451, 503])
        elif step == "EHLO":  # about the client
            yield Row(step, fault, script, [code, 503])
        elif step == "HELO":
            script["EHLO"] = b"502 no\r\n"
            yield Row(step, fault, script, [code, 503])
        elif step == "DATA":
            yield Row(step, fault, script, [250, code], outcome, 0, True, False)
        elif step == "dot":
            yield Row(step, fault, script, [250, 354, code], outcome, 1, True, False)
        else:
            yield Row(step, fault, script, [code, 503], "", 0, True, False)


def odd_but_right(step: str) -> Row:
    code = usual(step)
    reply = Bytewise(code + b"-first\r\n" + code + b" second\r\n")
    script: dict[str, Behaviour] = {step: reply}
    if step == "HELO":
        script["EHLO"] = b"502 no\r\n"
    return Row(step, "bytewise", script, WORKS, "accepted", 1, True, False)


def one_reply_too_many(step: str) -> Row:
    """It is never taken for the answer to something else."""
    code = usual(step)
    script: dict[str, Behaviour] = {step: code + b" extra\r\n" + code + b" ok\r\n"}
    said, outcome, dots = [451, 503], "", 0
    if step == "HELO":
        script["EHLO"] = b"502 no\r\n"
    elif step == "DATA":
        said = [250, 451]
    elif step == "dot":
        said, outcome, dots = [250, 354, 451], "unknown", 1
    one_by_one = step == "MAIL"  # else it is known one command later
    return Row(step, "extra", script, said, outcome, dots, one_by_one=one_by_one)


STEPS = ["greeting", "EHLO", "HELO", "MAIL", "RCPT", "DATA", "dot"]
TABLE = [
    *(Row("connect", f, {"connect": LOST[f]}, [451, 503]) for f in ("fin", "rst")),
    *(row for step in STEPS for row in (*lost(step), *refusals(step))),
    *(odd_but_right(step) for step in STEPS),
    *(one_reply_too_many(step) for step in STEPS if step != "greeting"),
]


@contextlib.asynccontextmanager
async def time_passes_when_it_stalls(front: Front) -> AsyncIterator[None]:
    """Each time that the backend falls silent, its time limits run out."""

    async def watch() -> None:
        seen = 0
        while True:
            await asyncio.sleep(0.001)
            if front.fake.stalled > seen:
                seen = front.fake.stalled
                front.pass_time(10_000)

    watching = asyncio.create_task(watch())
    try:
        yield
    finally:
        watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watching


async def works_again(front: Front, client: RawClient) -> None:
    """The same session delivers, and the backend has it once."""
    before = len(front.fake.received)
    front.fake.script.clear()
    assert (await client.command(b"RSET"))[:3] == b"250"
    got = await client.deliver(b"b@b.test", [b"b@example.test"], MESSAGE)
    assert got == [250, 250, 354, 250]
    (mail,) = front.fake.received[before:]
    assert mail.message == PLAIN
    assert mail.mail == b"FROM:<b@b.test>"
    assert mail.recipients == [b"TO:<b@example.test>"]


@pytest.mark.parametrize("row", TABLE, ids=str)
async def test_a_fault_at_a_step(row: Row) -> None:
    fake = FakeQmail(dict(row.script), pipelining=not row.one_by_one)
    no_greeting = row.step == "greeting" and "silent" in row.fault
    settings = SOON if no_greeting else BackendSettings()
    async with running(fake=fake, backend=settings) as front:
        async with (
            time_passes_when_it_stalls(front),
            await RawClient.connect(front.port) as client,
        ):
            await client.reply()
            got = await client.deliver(b"a@b.test", [b"a@example.test"], MESSAGE)
            assert got == [250, *row.said]
            assert fake.dots == row.dots
            assert outcomes(front) == ([row.outcome] if row.outcome else [])
            assert len(front.of(BackendFailed)) == row.failed
            assert len(front.of(BackendRefusedRecipient)) == row.refused
            if no_greeting:
                front.backend.use(BackendSettings(port=fake.port))
            await works_again(front, client)
        await front.settled()
        assert fake.connections == (1 if row.used_again else 2)


# In the middle of a message.

IN_THE_BODY: dict[str, tuple[Behaviour, int, str]] = {
    "fin": (CLOSE, 451, "deferred"),
    "rst": (RESET, 451, "deferred"),
    "421": (b"421 4.3.2 going\r\n", 451, "deferred"),
    # qmail-smtpd's straynewline() does this: it says why, and is gone.
    "4xx": ((b"450 4.0.0 no\r\n", CLOSE), 450, "deferred"),
    "5xx": (b"554 5.0.0 no\r\n", 554, "refused"),
    "2xx": (b"250 ok already\r\n", 451, "deferred"),
    "garbage": (b"\xff\xfe\r\n", 451, "deferred"),
    "endless": (b"250-" + b"x" * (1 << 20), 451, "deferred"),
}


@pytest.mark.parametrize("fault", IN_THE_BODY)
async def test_a_fault_in_the_body(fault: str) -> None:
    """F-body-...: the message is read to its end, nothing in it is obeyed, and
    the backend sees no final dot."""
    behaviour, code, outcome = IN_THE_BODY[fault]
    async with running(fake=FakeQmail({"body": behaviour})) as front:
        async with await RawClient.connect(front.port) as client:
            await client.reply()
            begun = await client.deliver(
                b"a@b.test", [b"a@example.test"], MESSAGE, dot=False
            )
            assert begun == [250, 250, 354]
            await front.until(lambda: bool(front.of(BackendFailed)))
            await client.send(b"MAIL FROM:<forged@b.test>\r\n.\r\n")
            assert await client.code() == code
            assert outcomes(front) == [outcome]
            assert front.fake.dots == 0
            await works_again(front, client)
        await front.settled()
        assert front.fake.connections == 2
        assert not any(b"forged" in command for command in front.fake.commands)


async def test_a_reply_that_begins_in_the_body_is_not_the_answer_to_the_dot() -> None:
    """F-body-half-reply: its second half comes when the dot was expected."""
    gate = asyncio.Event()
    script: dict[str, Behaviour] = {"body": (b"250 ok", gate, b" already\r\n")}
    async with running(fake=FakeQmail(script)) as front:
        async with await RawClient.connect(front.port) as client:
            await client.reply()
            begun = await client.deliver(
                b"a@b.test", [b"a@example.test"], MESSAGE, dot=False
            )
            assert begun == [250, 250, 354]
            (session,) = front.door.sessions
            assert session._conversation is not None
            channel = session._conversation._link.channel
            assert channel is not None
            await front.until(lambda: not channel._reader.empty)
            await client.send(b".\r\n")
            assert await client.code() == 451
            gate.set()
            assert front.fake.dots == 0
            await works_again(front, client)
        await front.settled()
        assert front.fake.connections == 2


async def test_a_backend_that_stops_reading() -> None:
    """F-body-silent, F-body-stops-reading: what is held meanwhile is bounded."""
    fake = FakeQmail({"body": STOP_READING}, receive_buffer=4096)
    line = b"x" * 998 + b"\r\n"
    async with running(fake=fake) as front:
        async with await RawClient.connect(front.port) as client:
            await client.reply()
            got = await client.deliver(b"a@b.test", [b"a@example.test"], b"", dot=False)
            assert got == [250, 250, 354]
            sending = asyncio.create_task(client.send(line * 20_000 + b".\r\n"))
            (session,) = front.door.sessions
            await front.until(lambda: session._blocked)
            assert session._conversation is not None
            channel = session._conversation._link.channel
            assert channel is not None
            assert channel._transport.get_write_buffer_size() < 1 << 20
            assert not sending.done()
            front.pass_time(front.backend.settings.data_timeout - 1)
            assert not front.of(BackendFailed)
            front.pass_time(2)
            await sending
            assert await client.code() == 451
            assert outcomes(front) == ["deferred"]
            assert fake.dots == 0
            await works_again(front, client)
        await front.settled()
        assert fake.connections == 2


# Where there is nothing to connect to.


async def unreachable(front: Front) -> None:
    """What the client is told, until there is a backend."""
    async with await RawClient.connect(front.port) as client:
        await client.reply()
        await client.command(b"MAIL FROM:<a@b.test>")
        said = await client.command(b"RCPT TO:<a@example.test>")
        assert said == b"451 4.4.1 cannot pass mail on now\r\n"
        assert (await client.command(b"DATA"))[:3] == b"503"
        front.backend.use(BackendSettings(port=front.fake.port))
        await works_again(front, client)


async def test_nobody_listens() -> None:
    """F-connect-refused."""
    settings = BackendSettings(port=own_port())
    async with running(backend=settings) as front:
        await unreachable(front)


async def test_nobody_accepts() -> None:
    """F-connect-silent: what a host that is gone is like."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        port = full.getsockname()[1]
        waiting = [socket.socket() for _ in range(4)]  # more than it lets wait
        for sock in waiting:
            sock.setblocking(False)
            sock.connect_ex(("127.0.0.1", port))
        settings = BackendSettings(port=port, connect_timeout=0.2)
        async with running(backend=settings) as front:
            await unreachable(front)
        for sock in waiting:
            sock.close()


# Where nobody is to notice.

UNSEEN = {
    **{fault: LOST[fault] for fault in LOST if fault != "wrong-class"},
    "4xx": b"450 no\r\n",
    "5xx": b"554 no\r\n",
    "wrong-class": b"354 what\r\n",
    "bytewise": Bytewise(b"250-first\r\n250 second\r\n"),
    "extra": b"250 extra\r\n250 ok\r\n",
}


# With pipelining, one too many is known one command later, as F-rcpt-extra.
AT_RSET = [(f, p) for f in UNSEEN for p in (True, False) if (f, p) != ("extra", True)]


@pytest.mark.parametrize(("fault", "pipelining"), AT_RSET)
async def test_a_fault_at_rset(fault: str, pipelining: bool) -> None:
    """F-rset-...: nothing was promised, so another connection takes over."""
    fake = FakeQmail(once={"RSET": UNSEEN[fault]}, pipelining=pipelining)
    async with running(fake=fake) as front:
        async with (
            time_passes_when_it_stalls(front),
            await RawClient.connect(front.port) as client,
        ):
            await client.reply()
            await client.command(b"MAIL FROM:<given-up@b.test>")
            assert (await client.command(b"RCPT TO:<x@example.test>"))[:3] == b"250"
            await works_again(front, client)
        await front.settled()
        assert fake.connections == (1 if fault == "bytewise" else 2)
        assert not front.of(BackendFailed)


@pytest.mark.parametrize("fault", UNSEEN)
async def test_a_fault_at_quit(fault: str) -> None:
    """F-quit-...: nobody waits for the answer, and nothing is left open."""
    fake = FakeQmail({"QUIT": UNSEEN[fault]})
    async with running(fake=fake, backend=BackendSettings(kept=0)) as front:
        for _ in range(2):
            async with await RawClient.connect(front.port) as client:
                await client.reply()
                got = await client.deliver(b"a@b.test", [b"a@example.test"], b"x\r\n")
                assert got == [250, 250, 354, 250]
                assert await client.command(b"QUIT") == b"221 mx.example.test\r\n"
            await front.settled()
            await front.until(lambda: fake.open_connections == 0)
        assert fake.commands.count(b"QUIT") == 2
        assert not front.of(BackendFailed)


@pytest.mark.parametrize("noticed", [True, False], ids=["noticed", "at-once"])
@pytest.mark.parametrize("reset", [False, True], ids=["fin", "rst"])
@pytest.mark.parametrize("complete", [True, False], ids=["complete", "given-up"])
async def test_it_dies_between_two_transactions(
    complete: bool, reset: bool, noticed: bool
) -> None:
    """F-between-...: the next MAIL opens another; the client sees nothing."""
    async with running() as front, await RawClient.connect(front.port) as client:
        await client.reply()
        if complete:
            await client.deliver(b"a@b.test", [b"a@example.test"], b"x\r\n")
        else:
            await client.command(b"MAIL FROM:<a@b.test>")
            await client.command(b"RCPT TO:<a@example.test>")
            await client.command(b"RSET")
        front.fake.hang_up(reset=reset)
        if noticed:
            await front.until(lambda: front.fake.open_connections == 0)
        await works_again(front, client)
        assert front.fake.connections == 2
        assert not front.of(BackendFailed)


@pytest.mark.parametrize(("helo", "step"), [(b"same", "RSET"), (b"other", "EHLO")])
@pytest.mark.parametrize("fault", ["fin", "rst", "421", "garbage", "silent"])
async def test_a_kept_connection_that_dies(helo: bytes, step: str, fault: str) -> None:
    """F-kept-...: it is replaced, once, and the client sees no difference."""
    async with running() as front, time_passes_when_it_stalls(front):
        for name in (b"same", helo):
            async with await RawClient.connect(front.port) as client:
                await client.reply()
                await client.command(b"HELO " + name)
                got = await client.deliver(b"a@b.test", [b"a@example.test"], b"x\r\n")
                assert got == [250, 250, 354, 250]
            await front.settled()
            # The next use of the kept connection is its end.
            front.fake.once[step] = LOST[fault]
        assert front.fake.connections == 2
        assert len(front.fake.received) == 2


# Recipients.


async def test_two_recipients_one_refused() -> None:
    """F-two-rcpt-one-refused: each has its own answer, in the backend's words."""
    script: dict[str, Behaviour] = {
        "RCPT TO:<full@example.test>": b"452 4.2.2 full\r\n",
        "RCPT TO:<gone@example.test>": b"550-5.1.1 gone\r\n550 really\r\n",
    }
    async with running(fake=FakeQmail(script)) as front:
        async with await RawClient.connect(front.port) as client:
            await client.reply()
            await client.command(b"MAIL FROM:<a@b.test>")
            assert await client.command(b"RCPT TO:<full@example.test>") == (
                b"452 4.2.2 full\r\n"
            )
            assert await client.command(b"RCPT TO:<gone@example.test>") == (
                b"550-5.1.1 gone\r\n550 really\r\n"
            )
            assert (await client.command(b"DATA"))[:3] == b"503"
            assert (await client.command(b"RCPT TO:<a@example.test>"))[:3] == b"250"
            assert (await client.command(b"DATA"))[:3] == b"354"
            await client.send(b"x\r\n.\r\n")
            assert await client.code() == 250
        assert len(front.of(BackendRefusedRecipient)) == 2
        assert front.fake.received[0].recipients == [b"TO:<a@example.test>"]


async def test_all_recipients_refused() -> None:
    """F-all-refused: no message, and the connection is sound: the next client's
    transaction begins with RSET."""
    fake = FakeQmail({"RCPT": b"550 5.1.1 gone\r\n"})
    async with running(fake=fake) as front:
        async with await RawClient.connect(front.port) as client:
            await client.reply()
            got = await client.deliver(
                b"a@b.test", [b"a@example.test", b"b@example.test"], MESSAGE
            )
            assert got == [250, 550, 550, 503]
            assert (await client.command(b"QUIT"))[:3] == b"221"
        await front.settled()
        assert outcomes(front) == []
        assert b"DATA" not in fake.commands
        async with await RawClient.connect(front.port) as client:
            await client.reply()
            await works_again(front, client)
        assert fake.connections == 1


async def test_verdicts_are_never_shifted() -> None:
    """F-rcpt-order: an answer that comes when its time is over answers nothing."""
    gate = asyncio.Event()
    late: Behaviour = (gate, b"550 5.1.1 late\r\n")
    fake = FakeQmail({"RCPT TO:<late@example.test>": late})
    async with running(fake=fake) as front:
        async with await RawClient.connect(front.port) as client:
            await client.reply()
            await client.send(
                b"MAIL FROM:<a@b.test>\r\nRCPT TO:<a@example.test>\r\n"
                b"RCPT TO:<late@example.test>\r\nRCPT TO:<b@example.test>\r\n"
            )
            assert [await client.code() for _ in range(2)] == [250, 250]
            front.pass_time(front.backend.settings.command_timeout + 1)
            assert [await client.code() for _ in range(2)] == [451, 451]
            gate.set()
            assert (await client.command(b"DATA"))[:3] == b"451"
            await works_again(front, client)
        assert fake.connections == 2


async def test_a_reply_that_comes_unasked() -> None:
    """F-rcpt-extra-later: it makes the connection worthless, and is no answer."""
    gate = asyncio.Event()
    extra: Behaviour = (b"250 ok\r\n", gate, b"550 extra\r\n")
    async with running(fake=FakeQmail({"RCPT": extra})) as front:
        async with await RawClient.connect(front.port) as client:
            await client.reply()
            await client.command(b"MAIL FROM:<a@b.test>")
            assert (await client.command(b"RCPT TO:<a@example.test>"))[:3] == b"250"
            gate.set()
            await front.until(lambda: bool(front.of(BackendFailed)))
            assert (await client.command(b"DATA"))[:3] == b"451"
            await works_again(front, client)
        assert front.fake.connections == 2


async def test_421_behind_the_final_reply_changes_nothing() -> None:
    """F-dot-250-then-421: the mail was taken, and the client is told so."""
    fake = FakeQmail({"dot": b"250 ok 1 qp 2\r\n421 4.3.2 enough for today\r\n"})
    async with running(fake=fake) as front:
        async with await RawClient.connect(front.port) as client:
            await client.reply()
            got = await client.deliver(b"a@b.test", [b"a@example.test"], MESSAGE)
            assert got == [250, 250, 354, 250]
            assert outcomes(front) == ["accepted"]
            await works_again(front, client)
        assert fake.connections == 2


async def test_unknown_recipients_never_touch_the_backend() -> None:
    """F-no-early-open; ten thousand of them in tests/live/test_streaming.py."""
    settings = DoorSettings(session=Limits(unknown_recipients=0))
    async with running(settings=settings) as front:
        async with await RawClient.connect(front.port) as client:
            await client.reply()
            await client.command(b"MAIL FROM:<a@b.test>")
            await client.send(b"RCPT TO:<nobody@example.test>\r\n" * 1000)
            assert {await client.code() for _ in range(1000)} == {550}
        await front.settled()
        assert front.fake.connections == 0
        assert len(front.of(RecipientDecided)) == 1000

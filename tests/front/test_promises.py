"""What the client was told is true, whatever the backend does at whatever step.

Sessions of several transactions at random, each before a backend with a fault
of its own.  Held are the promises of docs/architecture.md: 250 to a message or a
recipient is the backend's 250; what the client was refused, the backend has not
got from it; only who knows says 5yz.
"""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from hypothesis import example, given, settings
from hypothesis import strategies as st

from proxy.observe.events import MessageEnded
from tests.support.backend import CLOSE, RESET, Behaviour, FakeQmail
from tests.support.front import Front, running
from tests.support.fuzz import fuzz
from tests.support.smtp_client import RawClient

LAST = "the last RCPT"
STEPS = [
    "connect",
    "greeting",
    "EHLO",
    "RSET",
    "MAIL",
    "RCPT",
    LAST,
    "DATA",
    "body",
    "dot",
]
FAULTS: list[Behaviour] = [
    CLOSE,
    RESET,
    b"421 4.3.2 going\r\n",
    b"\xff\xfe\r\n",
    b"354 what\r\n",
    b"451 4.2.0 later\r\n",
    b"550 5.7.1 never\r\n",
    b"550-never\r\n550 ever\r\n",
]
NAMES = [b"a", b"b", b"nobody", b"c"]


class Transaction(NamedTuple):
    """One of the client's, and what the backend does wrong meanwhile."""

    step: str
    fault: Behaviour | None
    once: bool
    recipients: list[bytes]
    pipelined: bool
    reset_first: bool
    lines: int


TRANSACTIONS = st.builds(
    Transaction,
    st.sampled_from(STEPS),
    st.none() | st.sampled_from(FAULTS),
    st.booleans(),
    st.lists(st.sampled_from(NAMES), min_size=1, max_size=4),
    st.booleans(),
    st.booleans(),
    st.integers(0, 3),
)


class Told(NamedTuple):
    """What the client heard; ``final`` is 0 where it sent no message."""

    recipients: list[int]
    data: int
    final: int


@settings(fuzz, max_examples=200)
@given(st.lists(TRANSACTIONS, min_size=1, max_size=6), st.booleans())
@example(
    # A connection that was used before is lost when a recipient is promised.
    [
        Transaction("dot", None, False, [b"a"], False, False, 0),
        Transaction(LAST, CLOSE, True, [b"a", b"b"], False, False, 0),
    ],
    True,
)
def test_promises_are_kept(transactions: list[Transaction], pipelining: bool) -> None:
    asyncio.run(_scenario(transactions, FakeQmail(pipelining=pipelining)))


async def _scenario(transactions: list[Transaction], fake: FakeQmail) -> None:
    async with running(fake=fake) as front:
        client = await RawClient.connect(front.port)
        assert await client.code() == 220
        for number, transaction in enumerate(transactions):
            _prepare(fake, transaction)
            told = await _transact(client, fake, transaction, number)
            await _check(front, transaction, number, told)
        assert (await client.command(b"QUIT"))[:3] == b"221"
        await client.close()
        await front.settled()


def _prepare(fake: FakeQmail, transaction: Transaction) -> None:
    """Write the script; the last RCPT's turn comes later if it is for once."""
    fake.script.clear()
    fake.once.clear()
    step, fault = transaction.step, transaction.fault
    if fault is None or not _is_a_fault(transaction):
        return
    if step == LAST and not transaction.once:
        name = transaction.recipients[-1].decode()
        fake.script[f"RCPT TO:<{name}@example.test>"] = fault
    elif step != LAST and transaction.once and step not in ("connect", "body"):
        fake.once[step] = fault
    elif step != LAST:
        fake.script[step] = fault


def _is_a_fault(transaction: Transaction) -> bool:
    """354 is the right answer to DATA; and a server that refuses a message
    before its end and then takes it would be none at all."""
    step, fault = transaction.step, transaction.fault
    if step == "body":
        return fault in FAULTS[:4]
    return (step, fault) != ("DATA", b"354 what\r\n")


def _body(number: int, lines: int) -> bytes:
    return b"X-Number: %d\r\n" % number + b"text\r\n" * lines


async def _transact(
    client: RawClient, fake: FakeQmail, wanted: Transaction, number: int
) -> Told:
    if wanted.reset_first:
        assert (await client.command(b"RSET"))[:3] == b"250"
    commands = [b"MAIL FROM:<s%d@b.test>" % number]
    commands += [b"RCPT TO:<%s@example.test>" % name for name in wanted.recipients]
    if wanted.pipelined:
        await client.send(b"\r\n".join([*commands, b"DATA"]) + b"\r\n")
        codes = [await client.code() for _ in range(len(commands) + 1)]
    else:
        last = commands.pop()
        codes = [int((await client.command(command))[:3]) for command in commands]
        if wanted.step == LAST and wanted.once and wanted.fault is not None:
            fake.once["RCPT"] = wanted.fault
        codes += [int((await client.command(c))[:3]) for c in (last, b"DATA")]
    assert codes[0] == 250
    final = 0
    if codes[-1] == 354:
        await client.send(_body(number, wanted.lines) + b".\r\n")
        final = await client.code()
    return Told(codes[1:-1], codes[-1], final)


async def _check(
    front: Front, transaction: Transaction, number: int, told: Told
) -> None:
    names = transaction.recipients
    body = _body(number, transaction.lines)
    got = [mail for mail in front.fake.received if mail.message == body]
    assert len(got) <= 1
    if told.final == 250:
        assert got
    if got:
        if told.final != 250:  # its answer was lost: the client comes again
            assert told.final == 451
            (*_, ended) = front.of(MessageEnded)
            assert isinstance(ended, MessageEnded)
            assert ended.outcome == "unknown"
        promised = [n for n, c in zip(names, told.recipients, strict=True) if c == 250]
        assert got[0].recipients == [b"TO:<%s@example.test>" % n for n in promised]
        assert got[0].mail == b"FROM:<s%d@b.test>" % number
    # A stranger to the rules is refused for good, by them alone.
    fault = transaction.fault
    refusing = isinstance(fault, bytes) and fault[:3] == b"550"
    for name, code in zip(names, told.recipients, strict=True):
        if name == b"nobody":
            assert code == 550
        else:
            assert code in ((250, 451, 550) if refusing else (250, 451))
    assert (told.data == 354) == (told.final != 0)
    if told.data == 503:
        assert 250 not in told.recipients
    elif not refusing:
        assert told.data in (354, 451)
        assert told.final in (0, 250, 451)
    if transaction.fault is None and 250 in told.recipients:
        assert told.final == 250

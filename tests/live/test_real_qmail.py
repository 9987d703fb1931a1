"""The promise, with a real qmail behind: nothing bounces, nothing is lost.

A thousand messages, each for one recipient and with a body of its own, by each
way to the same qmail-smtpd: under tcpserver by its port; as a program of ours;
under tcpserver by the client's own address.  Then what was refused, given to
qmail without the front door.
"""

from __future__ import annotations

import asyncio
import itertools
import pwd
import random
import re
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pytest

import proxy
from tests.live import realqmail
from tests.live.netspaces import CLIENTS, HOST, Wire, wired
from tests.live.process import Settings, serving
from tests.live.realqmail import Host, RealQmail
from tests.live.surroundings import NOT_ALLOWED
from tests.support.smtp_client import RawClient

pytestmark = [
    pytest.mark.qmail,
    pytest.mark.skipif(bool(realqmail.missing()), reason=realqmail.missing()),
    pytest.mark.timeout(300),
]

ALICE, BOB, CAROL = "home/alice/Maildir", "home/bob/Maildir", "home/carol/Maildir"
DAVE, ERIN = "home/dave/Maildir", "home/erin/Maildir"
LISTS, ALIAS = "home/alice/lists/Maildir", "var/qmail/alias/Maildir"

_FIELDS = "{user}:{{{user}}}:{{{user}}}:/home/{user}:{dash}:{ext}:"


def host() -> Host:
    """Users of every kind, aliases, virtual domains, forwards good and bad."""
    return Host(
        control={
            "me": "mx.example.test\n",
            "locals": "example.test\nmx.example.test\n",
            "rcpthosts": "example.test\nmx.example.test\n"
            "virt.test\nclosed.test\ncatch.test\n.sub.test\n",
            "virtualdomains": "virt.test:bob-virt\nclosed.test:bob-closed\n"
            "catch.test:carol-catch\n.sub.test:bob-sub\nvip@virt.test:alice\n",
            # Should anything want to leave, it gets no further than this.
            "smtproutes": ":127.0.0.1:1\n",
        },
        # dave has no .qmail at all; erin is known to users/cdb only.
        users=("alice", "bob", "carol", "dave", "=erin"),
        dotqmail={
            "home/alice/.qmail": "./Maildir/\n",
            "home/alice/.qmail-vip": "./Maildir/\n",
            "home/alice/.qmail-list": "# a comment\n./lists/Maildir/\n",
            "home/alice/.qmail-news-default": "./lists/Maildir/\n",
            "home/alice/.qmail-dead": "&gone@example.test\n",
            "home/alice/.qmail-deader": "&alice-dead@example.test\n",
            "home/alice/.qmail-closed": "&x@closed.test\nnobody@example.test\n",
            "home/bob/.qmail": "./Maildir/\n",
            "home/bob/.qmail-to-alice": "&alice@example.test\n",
            "home/bob/.qmail-chain": "bob-to-alice@example.test\n",
            "home/bob/.qmail-virt-sales": "./Maildir/\n",
            "home/bob/.qmail-virt-a:b": "./Maildir/\n",
            "home/bob/.qmail-sub-default": "./Maildir/\n",
            "home/bob/.qmail-closed-default": "|bouncesaying 'no such address'\n",
            "home/bob/.qmail-exit": "|exit 100\n",
            "home/carol/.qmail": "",
            "home/carol/.qmail-catch-default": "./Maildir/\n",
            "home/carol/.qmail-catch-spam": "|bouncesaying 'not here'\n",
            "home/erin/.qmail-default": "./Maildir/\n",
            "var/qmail/alias/.qmail-postmaster": "&bob@example.test\n",
            "var/qmail/alias/.qmail-box": "./Maildir/\n",
            "var/qmail/alias/.qmail-team-default": "./Maildir/\n",
            "var/qmail/alias/.qmail-old": "&former@example.test\n",
            "var/qmail/alias/.qmail-loop": "&nobody@virt.test\n",
        },
        maildirs=(ALICE, BOB, CAROL, DAVE, ERIN, LISTS, ALIAS),
        assign=(
            ("=erin", _FIELDS.format(user="erin", dash="", ext="")),
            ("+erin-", _FIELDS.format(user="erin", dash="-", ext="")),
            ("=help", _FIELDS.format(user="alice", dash="", ext="")),
        ),
    )


# What the front door has to say, and where the mail has to arrive; {} is a word
# of its own in every address.
TAKEN = {
    "<alice@example.test>": ALICE,
    "<bob@example.test>": BOB,
    "<carol@example.test>": CAROL,
    "<dave@example.test>": DAVE,
    "<erin@example.test>": ERIN,
    "<erin-{}@example.test>": ERIN,
    "<help@example.test>": ALICE,
    "<ALICE@EXAMPLE.Test>": ALICE,
    "<alice@mx.example.test>": ALICE,
    "<alice>": ALICE,
    '<"alice"@example.test>': ALICE,
    "<@relay.test,@other.test:bob@example.test>": BOB,
    " bob@example.test": BOB,
    "<alice-list@example.test>": LISTS,
    "<alice-news-{}@example.test>": LISTS,
    "<Alice-News-{}@example.test>": LISTS,
    "<bob-to-alice@example.test>": ALICE,
    "<bob-chain@example.test>": ALICE,
    "<postmaster@example.test>": BOB,
    "<box@example.test>": ALIAS,
    "<team-{}@example.test>": ALIAS,
    "<sales@virt.test>": BOB,
    "<a.b@virt.test>": BOB,
    "<vip@virt.test>": ALICE,
    "<{}@deep.sub.test>": BOB,
    "<{}@catch.test>": CAROL,
}
BOUNCES = [
    "<nobody-{}@example.test>",
    "<{}@example.test>",
    "<{}>",
    "<alice-{}@example.test>",
    "<alice-newsx-{}@example.test>",
    "<dave-{}@example.test>",
    "<help-{}@example.test>",
    "<alice-dead@example.test>",
    "<alice-deader@example.test>",
    "<bob-exit@example.test>",
    "<{}@closed.test>",
    "<spam@catch.test>",
    "<{}@virt.test>",
    "<sales-{}@virt.test>",
    "<teamx-{}@example.test>",
    "<old@example.test>",
    "<loop@example.test>",
    '<"odd {}"@example.test>',
    "<alice%{}@example.test>",
]
FOREIGN = [
    "<{}@foreign.test>",
    "<alice@example.test.foreign.test>",
    "<{}@sub.test>",
    "<alice@[192.0.2.{}]>",
    "<alice%example.test@relay.test>",
]


@dataclass(frozen=True)
class Mail:
    """One message for one recipient (the argument of RCPT behind ``TO:``)."""

    number: int
    sender: bytes
    recipient: bytes
    code: int
    maildir: str
    body: bytes

    @property
    def mark(self) -> bytes:
        """The first line, which no other message has."""
        return b"X-Number: %d\r\n" % self.number

    @property
    def message(self) -> bytes:
        return self.mark + b"Subject: test\r\n\r\n" + self.body

    @property
    def wire(self) -> bytes:
        return self.message.replace(b"\r\n.", b"\r\n..")


_LINES = [
    b"",
    b".",
    b"..",
    b"...",
    b".leading",
    b". blank",
    b"\xff\xfe\x80\xe4 8-bit \xc3\xbc",
    b"a lone \r is text",
    b"tab\tand NUL \x00 and DEL \x7f",
    b"trailing blanks   ",
    b"From me to you",
    b"Delivered-To: somebody@else.test",
    b"x" * 2000,
]


def mails(count: int) -> Iterator[Mail]:
    """The same ones in every run; a half is to be refused."""
    chance = random.Random(4711)
    choices = (
        [(text, 250, maildir) for text, maildir in TAKEN.items()]
        + [(text, 550, "") for text in BOUNCES]
        + [(text, 553, "") for text in FOREIGN]
    )
    for number, (text, code, maildir) in zip(
        range(count), itertools.cycle(choices), strict=False
    ):
        word = str(number % 250) if "[192" in text else f"w{number}"
        lines = chance.choices(_LINES, k=chance.randrange(40))
        yield Mail(
            number,
            b"" if number % 7 == 0 else b"s%d@senders.test" % number,
            text.replace("{}", word).encode(),
            code,
            maildir,
            b"".join(line + b"\r\n" for line in lines),
        )


Connect = Callable[[], Awaitable[RawClient]]


async def sent(
    todo: Iterable[Mail], clients: Mapping[str, Connect]
) -> dict[int, tuple[int, str]]:
    """Send all, one client beside the other; what RCPT was answered and who the
    client was, by number."""
    queue = iter(todo)
    got: dict[int, tuple[int, str]] = {}

    async def one(name: str, connect: Connect) -> None:
        # Several sessions of each, of up to nine messages.
        while some := list(itertools.islice(queue, 9)):
            async with await connect() as client:
                assert await client.code() == 220
                await client.command(b"EHLO client.test")
                for mail in some:
                    got[mail.number] = await deliver(client, mail), name
                await client.command(b"QUIT")

    async with asyncio.TaskGroup() as group:
        for name, connect in clients.items():
            group.create_task(one(name, connect))
    return got


def over_the_wire(wire: Wire, port: int) -> dict[str, Connect]:
    """Clients with addresses of their own."""

    async def connect(source: str) -> RawClient:
        sock = await wire.connect(source, port)
        sock.setblocking(False)
        return RawClient(*await asyncio.open_connection(sock=sock))

    return {source: partial(connect, source) for source in CLIENTS}


async def deliver(client: RawClient, mail: Mail) -> int:
    """One transaction; the code of RCPT.  What is accepted has to stay so."""
    assert (await client.command(b"MAIL FROM:<%s>" % mail.sender))[:3] == b"250"
    code = int((await client.command(b"RCPT TO:%s" % mail.recipient))[:3])
    if code == 250:
        assert (await client.command(b"DATA"))[:3] == b"354"
        await client.send(mail.wire + b".\r\n")
        assert await client.code() == 250
    else:
        assert (await client.command(b"DATA"))[:3] == b"503"
    return code


def arrived(qmail: RealQmail) -> dict[int, tuple[str, bytes, bytes]]:
    """Maildir, headers added on the way, and the rest of all mail, by number."""
    found = {}
    for maildir, content in qmail.mails():
        match = re.search(rb"^X-Number: (\d+)\n", content, re.MULTILINE)
        assert match, content
        number = int(match[1])
        assert number not in found, f"{number} has arrived twice"
        head, rest = content[: match.start()], content[match.start() :]
        found[number] = (maildir, head, rest)
    return found


# What qmail and the front door put on top, with its continuation lines.
_ADDED = re.compile(rb"Return-Path: <.*>\n((Delivered-To: .*|Received: .*|[ \t].*)\n)+")
_OURS = re.compile(
    rb"Received: from client\.test \(\[([0-9.]+)\]\)\n"
    rb"\tby mx\.example\.test with ESMTP id [0-9a-f-]+;\n\t.* \+0000\n\Z"
)
# received.c: TCPREMOTEHOST, HELO and TCPREMOTEIP.
_THEIRS = re.compile(
    rb"^Received: from unknown \(HELO client\.test\) \(([0-9.]+)\)\n  by ", re.M
)


@pytest.fixture
def wire() -> Iterator[Wire]:
    with wired() as made:
        yield made


def way_to(way: str, qmail: RealQmail) -> tuple[Settings, Sequence[str]]:
    """Settings of the front door, and a command that runs it where it has to be:
    a program of ours needs qmail's own paths."""
    account = pwd.getpwnam("qmaild")
    settings: dict[str, object] = {
        "listen.addresses": [f"{HOST}:0"],
        "status.address": None,
        "limits.unknown_per_session": 0,
        "limits.harvest_defence": False,
        "process.user": str(account.pw_uid),
        "process.group": str(account.pw_gid),
    }
    if way == "command":
        settings["backend.command"] = ["/var/qmail/bin/qmail-smtpd"]
        return settings, qmail.inside
    settings["qmail.root"] = str(qmail.root)
    settings["backend.address"] = f"127.0.0.1:{qmail.port}"
    settings["backend.transparent"] = way == "transparent"
    return settings, ()


@pytest.mark.parametrize("way", ["tcp", "command", "transparent"])
async def test_a_thousand_messages(tmp_path: Path, wire: Wire, way: str) -> None:
    if way == "command" and hidden_inside():
        pytest.skip(f"{hidden_inside()}: qmail's namespace has another /home")
    todo = list(mails(1000))
    async with realqmail.running(tmp_path, host(), wire.host) as qmail:
        settings, inside = way_to(way, qmail)
        if way == "transparent":
            wire.route_back(qmail.port)
        where = inside or wire.host
        async with serving(tmp_path, settings, NOT_ALLOWED, within=where) as served:
            got = await sent(todo, over_the_wire(wire, served.port))
        codes = {number: code for number, (code, _) in got.items()}
        assert codes == {mail.number: mail.code for mail in todo}
        accepted = [mail for mail in todo if mail.code == 250]

        def over() -> bool:
            done = qmail.idle and sum(1 for _ in qmail.mails()) >= len(accepted)
            return done or bool(qmail.logged("bounce msg"))

        await qmail.until(over)
        found = arrived(qmail)
        log = qmail.log

    assert [x for x in log if x.startswith("bounce msg") or "failure:" in x] == []
    assert [x for x in log if "deferral:" in x] == []
    assert [x for x in log if x.startswith(("warning", "alert"))] == []
    assert found.keys() == {mail.number for mail in accepted}
    for mail in accepted:
        maildir, head, rest = found[mail.number]
        assert maildir == mail.maildir, mail.recipient
        assert rest == mail.message.replace(b"\r\n", b"\n"), mail.recipient
        assert _ADDED.fullmatch(head), head
        ours, theirs = _OURS.search(head), _THEIRS.search(head)
        assert ours, head
        assert theirs, head
        client = got[mail.number][1]
        assert ours[1].decode() == client
        assert theirs[1].decode() == ("127.0.0.1" if way == "tcp" else client)
        assert head.startswith(b"Return-Path: <%s>\n" % mail.sender)
    refused = Counter(mail.code for mail in todo if mail.code != 250)
    assert min(refused[550], refused[553]) > 50  # else this test shows nothing
    assert len(accepted) > 400
    assert {client for _, client in got.values()} == set(CLIENTS)


def hidden_inside() -> str:
    """What of us cannot be seen there; ``""`` if all can."""
    ours = (sys.executable, sys.base_prefix, str(Path(proxy.__file__).parent))
    return next((path for path in ours if path.startswith("/home/")), "")


async def test_without_the_front_door_each_refused_one_bounces(
    tmp_path: Path,
) -> None:
    """The other half of the promise: what is refused would have bounced, and
    what qmail-smtpd refuses itself is the same."""
    refused = [mail for mail in mails(400) if mail.code != 250]
    # Every bounce shall be known by its sender, and none goes to nobody.
    todo = [replace(m, sender=b"s%d@senders.test" % m.number) for m in refused][:130]
    would_bounce = {mail.number for mail in todo if mail.code == 550}
    async with realqmail.running(tmp_path, host()) as qmail:
        clients = {str(n): partial(RawClient.connect, qmail.port) for n in range(10)}
        got = await sent(todo, clients)
        codes = {number: code for number, (code, _) in got.items()}
        assert codes == {m.number: 250 if m.code == 550 else 553 for m in todo}

        def bounces() -> list[str]:
            return qmail.logged("bounce msg")

        await qmail.until(lambda: len(bounces()) >= len(would_bounce))
        # The bounces stay in the queue: the senders' host is not to be reached.
        await qmail.until(
            lambda: sum("deferral:" in line for line in qmail.log) >= len(would_bounce)
        )
        senders = bounced_senders(qmail.log)
        assert list(qmail.mails()) == []
    assert senders == Counter({b"s%d@senders.test" % n: 1 for n in would_bounce})
    assert len(would_bounce) > 90


def bounced_senders(log: list[str]) -> Counter[bytes]:
    """Whose mail bounced, and how often.  Queue numbers are used again, so the
    lines count in their order."""
    sender: dict[str, bytes] = {}
    bounced: Counter[bytes] = Counter()
    for line in log:
        words = line.split()
        if line.startswith("info msg"):
            sender[words[2].rstrip(":")] = words[6].strip("<>").encode("latin-1")
        elif line.startswith("bounce msg"):
            bounced[sender[words[2]]] += 1
    return bounced

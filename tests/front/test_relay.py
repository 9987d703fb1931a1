"""Relay control, through the front door: whatever the backend would allow, no
stranger's mail gets to another host.

The forms are those of the relay testers (nmap's smtp-open-relay, and the
field's folklore).  L is ours, R another host's, I our address.
"""

from __future__ import annotations

from ipaddress import ip_network
from typing import NamedTuple

import pytest

from proxy.front.door import DoorSettings
from proxy.front.trusted import Trusted
from proxy.observe.events import BackendRefusedRecipient, RecipientDecided
from proxy.qmail.host import HostSettings, QmailHost
from proxy.rules.qmail import QmailRule
from tests.support.backend import Behaviour, FakeQmail
from tests.support.files import ALIAS, CONTROL, Files, mail_host_files
from tests.support.front import Front, running
from tests.support.qmail_c import QmailC
from tests.support.smtp_client import RawClient

REFUSAL = b"553 sorry, that domain isn't in my list of allowed rcpthosts (#5.7.1)\r\n"
MESSAGE = b"Subject: x\r\n\r\nhello\r\n"


class Form(NamedTuple):
    """What is said, and the code where only known mailboxes are taken and
    where ~alias/.qmail-default takes all that is local."""

    sender: bytes
    recipient: bytes
    known: int
    catch_all: int


def _form(
    recipient: bytes, known: int, catch_all: int = 0, sender: bytes = b"s@sender.test"
) -> Form:
    return Form(sender, recipient, known, catch_all or known)


R, L, SRV = b"remote.test", b"example.test", b"mx.example.test"
FORMS = {
    "R-01-null-sender": _form(b"<u@remote.test>", 553, sender=b""),
    "R-02-sender-of-that-domain": _form(b"<u@remote.test>", 553, sender=b"u@" + R),
    "R-03-sender-of-ours": _form(b"<u@remote.test>", 553, sender=b"alice@" + L),
    "R-04-sender-at-our-address": _form(
        b"<u@remote.test>", 553, sender=b"alice@[192.0.2.1]"
    ),
    "R-05-sender-at-our-name": _form(
        b"<u@remote.test>", 553, sender=b"postmaster@" + SRV
    ),
    "R-06-u%R@L": _form(b"<u%remote.test@example.test>", 550, 250),
    "R-07-u%R@I": _form(b"<u%remote.test@[192.0.2.1]>", 550, 250),
    "R-08-u%R@our-name": _form(b"<u%remote.test@mx.example.test>", 553),
    "R-09-quoted-u@R": _form(b'<"u@remote.test">', 553),
    "R-10-quoted-u%R": _form(b'<"u%remote.test">', 550, 250),
    "R-11-u@R@L": _form(b"<u@remote.test@example.test>", 550, 250),
    "R-12-u@R@I": _form(b"<u@remote.test@[192.0.2.1]>", 550, 250),
    "R-13-quoted-u@R-at-L": _form(b'<"u@remote.test"@example.test>', 550, 250),
    "R-14-quoted-u@R-at-I": _form(b'<"u@remote.test"@[192.0.2.1]>', 550, 250),
    "R-15-u@R@our-name": _form(b"<u@remote.test@mx.example.test>", 553),
    "R-16-route-by-L": _form(b"<@example.test:u@remote.test>", 553),
    "R-17-route-by-I": _form(b"<@[192.0.2.1]:u@remote.test>", 553),
    "R-18-route-by-two": _form(b"<@example.test,@x.test:u@remote.test>", 553),
    "R-19-bang": _form(b"<remote.test!u>", 550, 250),
    "R-20-bang-at-L": _form(b"<remote.test!u@example.test>", 550, 250),
    "R-21-bang-at-I": _form(b"<remote.test!u@[192.0.2.1]>", 550, 250),
    "R-22-u@R%L": _form(b"<u@remote.test%example.test>", 553),
    "R-23-address-of-R": _form(b"<u@[198.51.100.7]>", 553),
    "R-24-trailing-dot": _form(b"<u@example.test.>", 553),
    "R-25-trailing-at": _form(b"<u@example.test@>", 553),
    "R-26-NUL": _form(b"<u@remote.test\0@example.test>", 501),
    "R-27-comment": _form(b"<u@remote.test (c)@example.test>", 550, 250),
    "R-28-encoded-word": _form(
        b"<=?utf-8?q?u=40remote.test=3e=00?=x@example.test>", 550, 250
    ),
    "R-29-sub-domain": _form(b"<u@sub.example.test>", 553),
    "R-30-look-alike": _form("<u@exampl\u0435.test>".encode(), 553),
    "R-31-percent-look-alike": _form(b"<u%40remote.test@example.test>", 550, 250),
    "R-32-backslash": _form(b"<u\\@remote.test@example.test>", 550, 250),
    "R-33-no-brackets": _form(b"u@remote.test (c)@example.test", 553),
    "R-34-no-end": _form(b"<u@remote.test", 553),
    "R-35-two-brackets": _form(b"<<u@remote.test>>", 553),
    "R-36-open-quote": _form(b'<"u@remote.test>@example.test', 550, 250),
    "R-37-route-alone": _form(b"<@remote.test>", 550),
    "R-38-parameter": _form(b"<alice@example.test> ORCPT=rfc822;u@remote.test", 250),
    "R-39-tab": _form(b"<u@remote.test\t@example.test>", 550, 250),
    "R-40-quoted-at-R": _form(b'<"alice@example.test"@remote.test>', 553),
}

MODEL = QmailC(
    rcpthosts=(b"example.test", b"virt.test", b".sub.test"),
    locals=(b"example.test",),
    localiphost=b"example.test",
    envnoathost=b"example.test",
    virtualdomains={b"virt.test": b"alice-virt"},
    ours=(b"192.0.2.1",),
)
SETTINGS = HostSettings(local_ips=frozenset({b"192.0.2.1"}))


def host_files(*, catch_all: bool = False) -> Files:
    """The host of :data:`MODEL`."""
    files = mail_host_files()
    files.control(b"rcpthosts", b"Example.test\nvirt.test\n.sub.test\n")
    files.control(b"localiphost", b"example.test\n")
    files.control(b"envnoathost", b"example.test\n")
    files.control(b"virtualdomains", b"virt.test:alice-virt\n.sub.test:alice\n")
    if catch_all:
        files.file(b"/var/qmail/alias/.qmail-default", b"./Mailbox\n", uid=ALIAS)
    return files


def backend(*, relays: bool, model: QmailC = MODEL) -> FakeQmail:
    """qmail-smtpd with RELAYCLIENT for us, or without."""

    def judge(argument: bytes) -> Behaviour | None:
        return None if model.addrallowed(model.addrparse(argument)) else REFUSAL

    return FakeQmail(judge=None if relays else judge)


def rule(files: Files, *, allow_percenthack: bool = True) -> QmailRule:
    host = QmailHost(files, SETTINGS)
    return QmailRule(host, guard_relay=True, allow_percenthack=allow_percenthack)


async def code_of(
    front: Front, recipient: bytes, sender: bytes = b"", source: str = "127.0.0.1"
) -> int:
    """The answer to RCPT in a session of its own; what is taken gets a message."""
    async with await RawClient.connect(front.port, source) as client:
        await client.reply()
        assert (await client.command(b"MAIL FROM:<%s>" % sender))[:3] == b"250"
        code = int((await client.command(b"RCPT TO:" + recipient))[:3])
        data = await client.command(b"DATA")
        assert data[:3] == (b"354" if code == 250 else b"503")
        if code == 250:
            await client.send(MESSAGE + b".\r\n")
            assert await client.code() == 250
        return code


def told(front: Front) -> list[bytes]:
    """The arguments of every RCPT that the backend was told."""
    return [c[5:] for c in front.fake.commands if c[:5] == b"RCPT "]


both = pytest.mark.parametrize("relays", [True, False], ids=["relays", "refuses"])


@both
@pytest.mark.parametrize("name", FORMS)
async def test_no_form_gets_out(name: str, relays: bool) -> None:
    form = FORMS[name]
    for catch_all, wanted in ((False, form.known), (True, form.catch_all)):
        files = host_files(catch_all=catch_all)
        async with running(rule(files).ask, fake=backend(relays=relays)) as front:
            assert await code_of(front, form.recipient, form.sender) == wanted
            assert len(front.fake.received) == (wanted == 250)
            assert not [each for each in told(front) if MODEL.leaves(each)]
            if wanted != 250:
                assert front.fake.connections == 0


@pytest.mark.parametrize("name", [n for n in FORMS if FORMS[n].known != 501])
def test_it_is_553_where_qmail_smtpd_says_so(name: str) -> None:
    form = FORMS[name]
    address = MODEL.addrparse(b"TO:" + form.recipient)
    assert (form.known == 553) is not MODEL.addrallowed(address)


def test_there_is_something_to_keep_in() -> None:
    """A backend that trusts us would let these out."""
    would = [n for n, form in FORMS.items() if MODEL.leaves(b"TO:" + form.recipient)]
    assert len(would) > 15


# By what the control files say.


def _no_rcpthosts(files: Files) -> None:
    files.remove(CONTROL + b"rcpthosts")


def _unreadable_rcpthosts(files: Files) -> None:
    files.file(CONTROL + b"rcpthosts", b"example.test\n", 0o600)


def _corrupt_morercpthosts(files: Files) -> None:
    files.control(b"morercpthosts.cdb", b"short")


SPOILT = {
    # It was there at the start; without, the service does not start
    # (tests/live/test_serve.py).
    "R-rcpthosts-missing": (_no_rcpthosts, 250),
    "R-rcpthosts-unreadable": (_unreadable_rcpthosts, 451),
    "R-morercpthosts.cdb-corrupt": (_corrupt_morercpthosts, 250),
}


@both
@pytest.mark.parametrize("name", SPOILT)
async def test_a_list_of_domains_that_cannot_be_used(name: str, relays: bool) -> None:
    spoil, ours = SPOILT[name]
    files = host_files()
    spoil(files)
    async with running(rule(files).ask, fake=backend(relays=relays)) as front:
        assert await code_of(front, b"<u@remote.test>") == 451
        assert front.fake.connections == 0
        assert await code_of(front, b"<alice@example.test>") == ours


def _plain(files: Files) -> None:
    """As it is."""


def _foreign_envnoathost(files: Files) -> None:
    files.control(b"envnoathost", b"remote.test\n")


def _with_postmaster(files: Files) -> None:
    for name in (b"postmaster", b"abuse"):
        path = b"/var/qmail/alias/.qmail-" + name
        files.file(path, b"&alice@example.test\n", uid=ALIAS)


def _percenthack(files: Files) -> None:
    files.control(b"percenthack", b"example.test\n")


CONFIGURED = {
    "R-noat": (
        _plain,
        {b"<alice>": 250, b"<nobody>": 550, b"<ALICE>": 250, b"": 550},
    ),
    # The one domain that the administrator wrote there; as in qmail.
    "R-noat-foreign": (_foreign_envnoathost, {b"<u>": 250, b"<u@remote.test>": 553}),
    "R-postmaster": (
        _with_postmaster,
        {
            b"<postmaster@example.test>": 250,
            b"<PostMaster@Example.Test>": 250,
            b"<postmaster>": 250,
            b"<postmaster@[192.0.2.1]>": 250,
            b"<postmaster@remote.test>": 553,
            b"<postmaster@mx.example.test>": 553,
        },
    ),
    "R-postmaster-nobody": (_plain, {b"<postmaster@example.test>": 550}),
    "R-abuse": (
        _with_postmaster,
        {b"<abuse@example.test>": 250, b"<abuse@remote.test>": 553},
    ),
    "R-case": (
        _plain,
        {
            b"<alice@EXAMPLE.TEST>": 250,
            b"<ALICE@eXample.tesT>": 250,
            b"<u@REMOTE.TEST>": 553,
        },
    ),
    "R-dot-domain": (
        _plain,
        {
            b"<u@sub.test>": 553,
            b"<u@.sub.test>": 550,
            b"<u@a.sub.test>": 550,
            b"<u@a.b.SUB.test>": 550,
            b"<u@xsub.test>": 553,
            b"<u@a.sub.test.remote.test>": 553,
        },
    ),
}


@both
@pytest.mark.parametrize("name", CONFIGURED)
async def test_as_configured(name: str, relays: bool) -> None:
    prepare, wanted = CONFIGURED[name]
    files = host_files()
    prepare(files)
    async with running(rule(files).ask, fake=backend(relays=relays)) as front:
        got = {each: await code_of(front, each) for each in wanted}
        assert got == wanted


PERCENT = {
    # argument: with control/percenthack as in qmail, with it refused
    b"<u%remote.test@example.test>": (250, 553),
    b"<u%x%remote.test@example.test>": (250, 553),
    b"<u%remote.test%example.test@example.test>": (250, 553),
    b"<u%remote.test>": (250, 553),
    b"<u%remote.test@[192.0.2.1]>": (250, 553),
    b'<"u%remote.test"@example.test>': (250, 553),
    b"<u%@example.test>": (250, 553),
    b"<alice%example.test@example.test>": (250, 250),
    b"<nobody%example.test@example.test>": (550, 550),
    b"<u%virt.test@example.test>": (550, 550),
    b"<u%remote.test@virt.test>": (550, 550),
    b"<u%remote.test@remote.test>": (553, 553),
    b"<u%second.test@example.test>": (250, 250),  # a secondary MX, in rcpthosts
    b"<alice@example.test>": (250, 250),
}


@both
@pytest.mark.parametrize("allow", [True, False], ids=["as-qmail", "refused"])
async def test_r_percenthack(allow: bool, relays: bool) -> None:
    """R-percenthack: only where control/percenthack says so, and then it is
    the administrator's, who may refuse it here."""
    files = host_files()
    _percenthack(files)
    files.control(b"rcpthosts", b"example.test\nvirt.test\nsecond.test\n")
    ask = rule(files, allow_percenthack=allow).ask
    model = QmailC(
        rcpthosts=(b"example.test", b"virt.test", b"second.test"),
        locals=MODEL.locals,
        localiphost=MODEL.localiphost,
        envnoathost=MODEL.envnoathost,
        virtualdomains=MODEL.virtualdomains,
        percenthack=(b"example.test",),
        ours=MODEL.ours,
    )
    async with running(ask, fake=backend(relays=relays, model=model)) as front:
        got = {each: await code_of(front, each) for each in PERCENT}
        assert got == {each: codes[not allow] for each, codes in PERCENT.items()}
        leaving = [each for each in told(front) if model.leaves(each)]
        assert len(leaving) == (7 if allow else 0)


async def test_r_percenthack_and_a_damaged_list() -> None:
    files = host_files()
    _percenthack(files)
    _corrupt_morercpthosts(files)
    async with running(rule(files, allow_percenthack=False).ask) as front:
        assert await code_of(front, b"<u%remote.test@example.test>") == 451


# Clients that may relay.

TRUSTING = DoorSettings(
    received=False, trusted=Trusted([ip_network("127.0.0.2"), ip_network("10.0.0.0/8")])
)


async def test_r_trusted_may_relay_where_the_backend_lets_us() -> None:
    fake = backend(relays=True)
    async with running(rule(host_files()).ask, fake=fake, settings=TRUSTING) as front:
        assert await code_of(front, b"<u@remote.test>", source="127.0.0.2") == 250
        (mail,) = fake.received
        assert mail.recipients == [b"TO:<u@remote.test>"]
        assert await code_of(front, b"<u@remote.test>", source="127.0.0.3") == 553
        assert len(fake.received) == 1
        first, second = front.of(RecipientDecided)
        assert isinstance(first, RecipientDecided)
        assert isinstance(second, RecipientDecided)
        assert (first.client, first.verdict) == ("127.0.0.2", "accept")
        assert (second.client, second.verdict) == ("127.0.0.3", "reject")


async def test_r_trusted_gets_the_backends_no_where_it_does_not() -> None:
    fake = backend(relays=False)
    async with running(rule(host_files()).ask, fake=fake, settings=TRUSTING) as front:
        assert await code_of(front, b"<u@remote.test>", source="127.0.0.2") == 553
        (refused,) = front.of(BackendRefusedRecipient)
        assert isinstance(refused, BackendRefusedRecipient)
        assert refused.reply == REFUSAL.decode().strip()


@both
async def test_r_trusted_is_judged_as_ever_where_it_is_ours(relays: bool) -> None:
    """qmail-smtpd would take all of it; qmail-send and the rest would not."""
    files = host_files()
    files.control(b"badmailfrom", b"bad@sender.test\n")
    wanted = {
        b"<nobody@example.test>": 550,
        b"<alice@example.test>": 250,
        b"<nobody@virt.test>": 550,
        b"<u%remote.test@example.test>": 550,
        b"<u@a.sub.test>": 550,
    }
    fake = backend(relays=relays)
    async with running(rule(files).ask, fake=fake, settings=TRUSTING) as front:
        for argument, code in wanted.items():
            assert await code_of(front, argument, source="127.0.0.2") == code
        bad = await code_of(
            front, b"<u@remote.test>", b"bad@sender.test", source="127.0.0.2"
        )
        assert bad == 553
        assert not [each for each in told(front) if MODEL.leaves(each)]


async def test_r_trusted_and_the_percent_hack() -> None:
    files = host_files()
    _percenthack(files)
    ask = rule(files, allow_percenthack=False).ask
    argument = b"<u%remote.test@example.test>"
    async with running(ask, settings=TRUSTING) as front:
        assert await code_of(front, argument, source="127.0.0.2") == 250
        assert await code_of(front, argument, source="127.0.0.3") == 553


async def test_r_trusted_needs_no_rcpthosts() -> None:
    files = host_files()
    _no_rcpthosts(files)
    async with running(rule(files).ask, settings=TRUSTING) as front:
        assert await code_of(front, b"<u@remote.test>", source="127.0.0.2") == 250
        assert await code_of(front, b"<u@remote.test>", source="127.0.0.3") == 451


async def test_trust_is_looked_up_once_a_session_and_stays() -> None:
    """What HUP changes counts for sessions that begin after it."""
    async with running(rule(host_files()).ask, settings=TRUSTING) as front:
        async with await RawClient.connect(front.port, "127.0.0.2") as client:
            await client.reply()
            door = front.door
            settings = DoorSettings(received=False)
            door.configure(door.engine, door.hostname, settings)
            await client.command(b"MAIL FROM:<>")
            assert (await client.command(b"RCPT TO:<u@remote.test>"))[:3] == b"250"
        assert await code_of(front, b"<u@remote.test>", source="127.0.0.2") == 553

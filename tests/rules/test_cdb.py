"""The rule ``cdb``: the keys of each dialect, and files that cannot be believed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from pydantic import ValidationError

from proxy.qmail.host import QmailHost
from proxy.qmail.view import DirectoryView
from proxy.rules import cdb as cdb_rule
from proxy.rules.slices import at_once
from proxy.rules.source import Context
from proxy.rules.trouble import RuleError
from proxy.rules.verdict import Question, Verdict
from tests.rules.filehost import FileHost, said, until_read, verdict
from tests.support.cdbmake import make_cdb

CDB, TEXT = "/etc/cdb", "/etc/text"
JMS1 = [
    (b"bob@x.test", b""),
    (b"al@x.test", b"yes"),
    (b"trap@x.test", b"-spam trap"),
    (b"list-default@x.test", b""),
    (b"a-b-default@x.test", b"-"),
    (b"a-default@x.test", b""),
    (b"@open.test", b""),
    (b"gone@open.test", b"-"),
    (b"@shut.test", b"-"),
]


@pytest.mark.parametrize(
    ("mailbox", "expected"),
    [
        (b"Bob@X.test", "accept"),
        (b"al@x.test", "accept"),
        (b"trap@x.test", "reject"),
        (b"list@x.test", "reject"),
        (b"list-a@x.test", "accept"),
        (b"list-a-b@x.test", "accept"),
        (b"a-b-c@x.test", "reject"),
        (b"a-c-b@x.test", "accept"),
        (b"any@open.test", "accept"),
        (b"gone@open.test", "reject"),
        (b"any@shut.test", "reject"),
        (b"nobody@x.test", "reject"),
    ],
)
def test_validrcptto(mailbox: bytes, expected: str) -> None:
    host = FileHost(cdb=make_cdb(JMS1))
    rule = host.rule("cdb", format="validrcptto", file=CDB)
    assert said(rule, mailbox) == expected


def test_a_refusal_holds_where_missing_passes() -> None:
    host = FileHost(cdb=make_cdb(JMS1))
    rule = host.rule("cdb", format="validrcptto", file=CDB, missing="pass")
    assert said(rule, b"trap@x.test") == "reject"
    assert said(rule, b"nobody@x.test") == "pass"


class TestSagredo:
    """Both files count as one: accept-user, reject-user, accept-domain,
    reject-domain."""

    @pytest.mark.parametrize(
        ("keys", "expected"),
        [
            ([], "pass"),
            ([b"-@x.test"], "reject"),
            ([b"-@x.test", b"@x.test"], "accept"),
            ([b"@x.test", b"-bob@x.test"], "reject"),
            ([b"-@x.test", b"-bob@x.test", b"Bob@x.test"], "accept"),
        ],
    )
    @pytest.mark.parametrize("in_text", [0, 1, 9])
    def test_precedence(self, keys: list[bytes], expected: str, in_text: int) -> None:
        text = b"# from vpopmail\n" + b"".join(key + b"  \n" for key in keys[:in_text])
        # tools that make the cdb write lower case
        more = make_cdb([(key.lower(), b"") for key in keys[in_text:]])
        host = FileHost(text=text, cdb=more)
        rule = host.rule("cdb", format="validrcptto-sagredo", file=CDB, text=TEXT)
        assert said(rule, b"bob@X.test") == expected

    def test_chkuser_stands_behind_it(self) -> None:
        host = FileHost(text=b"bob@x.test\n")
        keys = {"format": "validrcptto-sagredo", "text": TEXT}
        assert said(host.rule("cdb", **keys), b"al@x.test") == "pass"
        strict = host.rule("cdb", missing="reject", **keys)
        assert said(strict, b"al@x.test") == "reject"


@pytest.mark.parametrize(
    ("recipient", "expected"),
    [
        (b"bob@x.test", "accept"),
        (b"Bob@X.test", "accept"),
        (b"cy@x.test", "accept"),  # the cdb's
        (b"a@open.test", "accept"),
        (b"a@sub.open.test", "reject"),
        (b"al@x.test", "reject"),
        (b"postmaster", "accept"),  # as it is, and not completed
        (b"Postmaster", "accept"),
        (b"postmaster@y.test", "reject"),
        (b"abuse@y.test", "reject"),
        (b"dora", "accept"),  # completed, as qmail-send does it
        (b"al", "reject"),
    ],
)
def test_goodrcptto(recipient: bytes, expected: str) -> None:
    """grtcheck() of Eben Pratt's patch."""
    text = b"bob@x.test\n@open.test\npostmaster\nabuse@\ndora@x.test\n"
    host = FileHost(text=text, cdb=make_cdb([(b"cy@x.test", b"")]))
    rule = host.rule("cdb", format="goodrcptto", text=TEXT, file=CDB, cache_found=60)
    mailbox = recipient if b"@" in recipient else recipient + b"@x.test"
    for _ in range(2):
        answer = rule.ask(Question(recipient, mailbox=mailbox))
        assert isinstance(answer, Verdict)
        assert answer.kind.value == expected
    # What was found without a domain says nothing of the mailbox with one.
    if recipient == b"postmaster":
        assert said(rule, mailbox) == "reject"


def test_goodrcptto_of_qpsmtpd() -> None:
    text = b"bob@x.test\n@open.test\npostmaster\nabuse@\n"
    rule = FileHost(text=text).rule("cdb", format="goodrcptto-qpsmtpd", text=TEXT)
    for good in (b"bob@x.test", b"a@open.test", b"postmaster@y.test", b"abuse@y.test"):
        assert said(rule, good) == "accept"
    assert said(rule, b"al@x.test") == "reject"


@pytest.mark.parametrize(
    ("form", "keys", "expected"),
    [
        ("validrcptto", {}, ["accept", "accept"]),
        ("goodrcptto", {}, ["accept", "accept"]),
        ("goodrcptto", {"found": "pass"}, ["pass", "pass"]),
        ("validrcptto-sagredo", {"missing": "reject"}, ["pass", "pass"]),
        ("plain", {}, ["accept", "reject"]),
        ("goodrcptto-qpsmtpd", {}, ["accept", "reject"]),
        ("validrcptto", {"relayclients": True}, ["accept", "reject"]),
    ],
)
def test_clients_that_may_relay(
    form: str, keys: dict[str, object], expected: list[str]
) -> None:
    """These patches do not look for them; and what they hear is not remembered for
    others."""
    host = FileHost(cdb=make_cdb([(b"bob@x.test", b"")]))
    keys = {"cache_found": 60, "cache_missing": 60, **keys}
    rule = host.rule("cdb", format=form, file=CDB, **keys)
    words = []
    for mailbox in (b"bob@x.test", b"al@x.test"):
        answer = rule.ask(Question(mailbox, relayclient=b"", mailbox=mailbox))
        assert answer is None or isinstance(answer, Verdict)
        words.append(answer.kind.value if answer else "pass")
    assert words == expected
    assert said(rule, b"al@x.test") == "reject"


class TestRecipients:
    """s/qmail's control/recipients."""

    FILES = (
        ("/var/qmail/users/a.cdb", [b":bob@a.test", b":list-@a.test", b":v=@a.test"]),
        ("/etc/b.cdb", [b":al@b.test", b":al@deep.b.test"]),
        ("/etc/all.cdb", [b":root@a.test", b":root@z.test"]),
        ("/etc/alone.cdb", [b":lone@z.test", b":lone@a.test"]),
    )

    def host(self, lines: bytes) -> FileHost:
        host = FileHost(recipients=lines)
        for path, keys in self.FILES:
            host.write(path, make_cdb([(key, b"") for key in keys]))
        return host

    @pytest.mark.parametrize(
        ("lines", "mailbox", "expected"),
        [
            (b"@a.test:users/a.cdb", b"Bob@a.test", "accept"),
            (b"@a.test:users/a.cdb", b"al@a.test", "reject"),
            (b"@a.test:users/a.cdb", b"list-x-y@a.test", "accept"),
            (b"@a.test:users/a.cdb", b"v=x=y@a.test", "accept"),
            (b"@a.test:users/a.cdb", b"list@a.test", "reject"),
            (b"b.test:/etc/b.cdb", b"al@b.test", "accept"),
            (b"b.test:/etc/b.cdb", b"al@deep.b.test", "accept"),
            (b"@b.test:/etc/b.cdb", b"al@deep.b.test", "reject"),
            (b"*:/etc/all.cdb", b"root@z.test", "accept"),
            (b"/etc/alone.cdb", b"lone@z.test", "accept"),
            (b"!a.test", b"any@A.test", "accept"),
            (b"!a.test", b"any@a.test.uk", "reject"),
            (b"!*", b"any@z.test", "accept"),
            # Who is for the domain ends what is for all others.
            (b"@a.test:users/a.cdb\n!*", b"al@a.test", "reject"),
            (b"@a.test:users/a.cdb\n!*", b"al@z.test", "accept"),
            (b"@a.test:users/a.cdb\n/etc/alone.cdb", b"lone@a.test", "reject"),
            (b"@a.test:users/a.cdb\n*:/etc/all.cdb", b"root@a.test", "accept"),
            (b"# nothing\n", b"bob@a.test", "reject"),
            # Only one that knows counts where another cannot be read.
            (b"@a.test:/none\n*:/etc/all.cdb", b"root@a.test", "accept"),
            (b"@a.test:/none\n*:/etc/all.cdb", b"bob@a.test", "defer"),
            (b"@a.test:/none", b"bob@z.test", "reject"),
        ],
    )
    def test_lines(self, lines: bytes, mailbox: bytes, expected: str) -> None:
        rule = self.host(lines).rule("cdb", format="recipients", file="/etc/recipients")
        assert said(rule, mailbox) == expected

    def test_a_checker_is_not_run(self) -> None:
        host = self.host(b"@a.test:users/a.cdb\n@b.test|/bin/checker\n")
        with pytest.raises(RuleError, match="/etc/recipients:2: a checker behind"):
            host.rule("cdb", format="recipients", file="/etc/recipients")

    def test_other_lines_count_at_once(self) -> None:
        host = self.host(b"@a.test:users/a.cdb\n")
        rule = host.rule("cdb", format="recipients", file="/etc/recipients")
        assert said(rule, b"bob@a.test") == "accept"
        host.write("/etc/recipients", b"b.test:/etc/b.cdb\n")
        assert said(rule, b"bob@a.test") == "reject"
        assert said(rule, b"al@b.test") == "accept"

    async def test_nobody_is_refused_while_a_large_file_is_read(self) -> None:
        """The new one may have a line for the domain."""
        long = b"# nobody\n" * 20_000
        host = self.host(long + b"@a.test:users/a.cdb\n")
        rule = host.rule("cdb", format="recipients", file="/etc/recipients")
        host.write("/etc/recipients", long + b"b.test:/etc/b.cdb\n")
        assert said(rule, b"bob@a.test") == "accept"
        assert said(rule, b"al@b.test") == "defer"
        await until_read(rule, b"al@b.test", "accept")
        assert said(rule, b"bob@a.test") == "reject"


class TestTrouble:
    """What cannot be read is deferred: the patches take everybody then."""

    SOUND = make_cdb([(b"bob@x.test", b"")])

    @pytest.mark.parametrize(
        ("content", "why"),
        [
            (None, "No such file"),
            (b"", "too short"),
            (SOUND[:2000], "too short"),
            (SOUND[:-4], "cut off"),
            (b"\xff" * 4096, "cut off"),
        ],
    )
    def test_missing_or_damaged(self, content: bytes | None, why: str) -> None:
        host = FileHost()
        if content is not None:
            host.write(CDB, content)
        rule = host.rule("cdb", file=CDB)
        answer = verdict(rule, b"bob@x.test")
        assert answer is not None
        assert answer.kind.value == "defer"
        assert why in answer.reason
        assert why in host.errors[0]
        host.replace(CDB, self.SOUND)
        assert said(rule, b"bob@x.test") == "accept"

    def test_gone_while_serving(self) -> None:
        host = FileHost(cdb=self.SOUND)
        rule = host.rule("cdb", file=CDB)
        assert said(rule, b"bob@x.test") == "accept"
        host.files.remove(CDB.encode())
        assert said(rule, b"bob@x.test") == "defer"

    def test_replaced(self) -> None:
        host = FileHost(cdb=self.SOUND)
        rule = host.rule("cdb", file=CDB)
        host.replace(CDB, make_cdb([(b"eve@x.test", b"")]))
        assert said(rule, b"eve@x.test") == "accept"
        assert said(rule, b"bob@x.test") == "reject"

    @pytest.mark.parametrize(
        "mailbox",
        [
            b"bob\0@x.test",
            b"bob\n@x.test",
            b"b\xf6b@x.test",
            b"'bob'@x.test",
            b'"@x.test',
            b"-" * 900 + b"@x.test",
            b"b" * 5000 + b"@x.test",
            b"@",
        ],
    )
    @pytest.mark.parametrize("form", ["plain", "validrcptto", "goodrcptto"])
    def test_hostile_keys(self, mailbox: bytes, form: str) -> None:
        rule = FileHost(cdb=self.SOUND).rule("cdb", file=CDB, format=form)
        assert said(rule, mailbox) == "reject"

    @pytest.mark.parametrize(
        "keys",
        [
            {},
            {"file": CDB, "format": "odd"},
            {"file": CDB, "text": TEXT},
            {"text": TEXT, "format": "validrcptto"},
            {"text": TEXT, "format": "recipients"},
        ],
    )
    def test_bad_keys(self, keys: dict[str, object]) -> None:
        with pytest.raises(ValidationError):
            FileHost().rule("cdb", **keys)


def test_explain() -> None:
    rule = FileHost(cdb=make_cdb(JMS1)).rule("cdb", format="validrcptto", file=CDB)
    notes = []
    for mailbox in (b"list-a@x.test", b"trap@x.test", b"no-body@x.test"):
        answer = verdict(rule, mailbox)
        assert answer is not None
        notes.append(answer.trace[0].note())
    assert notes == [
        "list-a@x.test in /etc/cdb: key list-default@x.test",
        "trap@x.test in /etc/cdb: key trap@x.test is a refusal",
        "no-body@x.test in /etc/cdb: no key no-body@x.test and 2 more",
    ]


@pytest.mark.skipif(shutil.which("cdb") is None, reason="tinycdb is not installed")
def test_files_that_tinycdb_makes(tmp_path: Path) -> None:
    records = b"".join(
        b"+%d,%d:%s->%s\n" % (len(key), len(data), key, data) for key, data in JMS1
    )
    (tmp_path / "etc").mkdir()
    made = tmp_path / "etc/cdb"
    command = ["cdb", "-c", "-t", str(tmp_path / "new"), str(made)]
    subprocess.run(command, input=records + b"\n", check=True, timeout=60)
    view = DirectoryView(str(tmp_path).encode())
    context = Context("made", QmailHost(view))
    settings = cdb_rule.Settings.model_validate(
        {"type": "cdb", "file": "/etc/cdb", "format": "validrcptto"}
    )
    rule = at_once(cdb_rule.build(settings, context))
    assert said(rule, b"bob@x.test") == said(rule, b"list-a@x.test") == "accept"
    assert said(rule, b"trap@x.test") == said(rule, b"none@x.test") == "reject"
    (told,) = cdb_rule.check(settings, context)
    assert (told.level, told.what) == ("note", f"has {len(JMS1)} records")


@pytest.mark.fault("R1")
@pytest.mark.parametrize("cut", [0.5, 0.9])
async def test_a_sound_file_is_taken_after_a_damaged_one(
    tmp_path: Path, cut: float
) -> None:
    """As the log asks: cut off in its place, then mended by a rename."""
    whole = make_cdb([(b"u%d@x.test" % number, b"") for number in range(2000)])
    path = tmp_path / "etc/cdb"
    path.parent.mkdir()
    path.write_bytes(whole)
    host = QmailHost(DirectoryView(bytes(tmp_path)))
    keys = cdb_rule.Settings(type="cdb", format="validrcptto", file=CDB)
    context = Context("valid", host, bytes(tmp_path))
    rule = at_once(cdb_rule.build(keys, context))
    every = [b"u%d@x.test" % number for number in range(0, 2000, 97)]

    def answers() -> set[str]:
        return {said(rule, mailbox) for mailbox in every}

    assert answers() == {"accept"}
    with path.open("r+b") as file:
        file.truncate(int(len(whole) * cut))
    assert answers() == {"defer"}  # nobody is refused
    mended = tmp_path / "etc/mended"
    mended.write_bytes(make_cdb([(b"u%d@x.test" % n, b"") for n in range(2001)]))
    mended.rename(path)
    await until_read(rule, b"u2000@x.test", "accept")
    assert answers() == {"accept"}

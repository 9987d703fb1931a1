"""What an administrator or a user may have written into a host's files.

An input is the name of a file (by its first byte), a local part up to the
first LF, and the file's content.  No content may end in anything but a
decision, and none may lead the front door to a file outside of what it names.
"""

from __future__ import annotations

from proxy.qmail import dotqmail
from proxy.qmail.control import entries, first_line, parse_map, parse_names
from proxy.qmail.decide import Outcome, decide
from proxy.qmail.host import HostSettings, QmailHost
from proxy.qmail.passwd import Table, account, group_id
from proxy.qmail.shell import parse
from tests.support.cdbmake import make_users_cdb
from tests.support.files import ALICE, mail_host_files

ALLOWED: tuple[type[Exception], ...] = ()
TOKENS = (
    b"\n",
    b"\0",
    b"alice",
    b"alice@example.test",
    b"&alice@virt.test",
    b"./Mailbox",
    b"./Maildir/",
    b"|",
    b"bouncesaying 'no' [ ",
    b'"$SENDER"',
    b"forward ",
    b"exit 100",
    b"+list",
    b"#",
    b"virt.test:",
    b".test:alice-",
    b"*",
    b"%",
    b"alice:x:1001:1001::/home/alice:\n",
    b":",
    b"-default",
    b"../../etc/passwd",
)
PLACES = (
    b"/home/alice/.qmail",
    b"/home/alice/.qmail-default",
    b"/var/qmail/alias/.qmail-default",
    b"/var/qmail/control/locals",
    b"/var/qmail/control/rcpthosts",
    b"/var/qmail/control/virtualdomains",
    b"/var/qmail/control/percenthack",
    b"/var/qmail/control/me",
    b"/var/qmail/control/badmailfrom",
    b"/etc/passwd",
    b"/etc/group",
    b"/var/qmail/users/cdb",
    b"users",
)


def one_input(data: bytes) -> None:
    place = PLACES[data[0] % len(PLACES)] if data else PLACES[0]
    local, _, content = data[1:].partition(b"\n")
    _parsers(content, local)
    files = mail_host_files()
    if place == b"users":
        place, content = b"/var/qmail/users/cdb", _users(content)
    own = place.startswith(b"/home/")
    files.file(place, content, uid=ALICE if own else 0, gid=ALICE if own else 0)
    host = QmailHost(files, HostSettings())
    for recipient in (local, local + b"@example.test", b"alice-x@virt.test"):
        decision = decide(host, recipient.replace(b"\0", b""), b"s@elsewhere.test")
        assert decision.outcome in Outcome
        assert decision.reason
        for step in decision.trail:
            step.where()
            step.note()
    # Every name that was opened is one of the files that were made.
    assert set(files.opened) <= {*PLACES, *KNOWN}
    host.cache.close()


KNOWN = (
    *(b"/var/qmail/control/" + name for name in (b"me", b"locals", b"rcpthosts")),
    b"/etc/passwd",
    b"/etc/group",
    b"/home/alice/.qmail",
    b"/home/bob/.qmail",
)


def _users(content: bytes) -> bytes:
    """users/cdb made of lines of users/assign, however odd they are."""
    rows = [line.partition(b":") for line in content.split(b"\n")[:20]]
    names = [(name, rest) for name, _, rest in rows if name[:1] in (b"=", b"+")]
    return make_users_cdb([(n, r) for n, r in names if len(n) > 1 or n == b"="])


def _parsers(content: bytes, name: bytes) -> None:
    assert b"\n" not in first_line(content)
    lines = content.count(b"\n") + 1
    assert all(1 <= number <= lines for _, number in entries(content))
    assert all(key == key.lower() for key in parse_names(content))
    assert all(key == key.lower() for key in parse_map(content))
    instructions = dotqmail.parse(content)
    numbers = [each.line for each in instructions]
    assert numbers == sorted(set(numbers))
    for each in instructions:
        assert b"\0" not in each.argument
        parse(each.argument, {})
    table = Table(content)
    found = account(table, name)
    if found is not None:
        assert 0 <= found.uid < 1 << 32
    group_id(table, name)

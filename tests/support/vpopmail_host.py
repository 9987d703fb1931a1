"""A qmail host with vpopmail: one domain, an alias of it, mailboxes, all in memory.

What vpopmail keeps in files is written by helpers here, independent of the code
that reads them.
"""

from __future__ import annotations

from collections.abc import Iterable

from proxy.qmail.host import HostSettings, QmailHost
from proxy.qmail.vpopmail_settings import VpopmailSettings
from tests.support.cdbmake import make_cdb, make_users_cdb
from tests.support.files import Files, mail_host_files

HOME = b"/home/vpopmail"
DOMAIN = HOME + b"/domains/v.test"
PROGRAM = HOME + b"/bin/vdelivermail"
UID = 89


def account(name: bytes, gid: int = 0, quota: bytes = b"NOQUOTA") -> bytes:
    """A line of vpasswd, without its end."""
    home = DOMAIN + b"/" + name
    return b"%s:$1$x:1:%d:%s:%s:%s" % (name, gid, name, home, quota)


def vpopmail_files(default: bytes = b"bounce-no-mailbox") -> Files:
    """v.test and its alias a.test with the mailboxes ann, sales-dept and first.last,
    whose homes exist, and without any account file."""
    files = mail_host_files()
    files.control(b"rcpthosts", b"example.test\nv.test\na.test\nonly-virtual.test\n")
    files.control(
        b"virtualdomains",
        b"v.test:v.test\na.test:a.test\nonly-virtual.test:v.test\n",
    )
    entry = b"v.test:89:89:" + DOMAIN + b":-:"
    files.file(
        b"/var/qmail/users/cdb",
        make_users_cdb([(b"+v.test-", entry), (b"+a.test-", entry)]),
    )
    owned(files, HOME, 0o755)
    owned(files, HOME + b"/domains")
    owned(files, DOMAIN)
    dot(files, b"default", b"| " + PROGRAM + b" '' " + default + b"\n")
    for name in (b"ann", b"sales-dept", b"first.last"):
        maildir(files, name)
    return files


def owned(files: Files, path: bytes, mode: int = 0o700) -> None:
    """A directory of vpopmail's."""
    files.dir(path, mode, UID, UID)


def dot(files: Files, name: bytes, content: bytes) -> None:
    """``.qmail-NAME`` of the domain."""
    files.file(DOMAIN + b"/.qmail-" + name, content, 0o600, UID, UID)


def own(files: Files, path: bytes, content: bytes) -> None:
    """A file of vpopmail's."""
    files.file(path, content, 0o600, UID, UID)


def maildir(files: Files, name: bytes) -> None:
    """The home of a mailbox, with its Maildir."""
    for part in (b"", b"/Maildir", b"/Maildir/tmp", b"/Maildir/new", b"/Maildir/cur"):
        owned(files, DOMAIN + b"/" + name + part)


def cdb_accounts(files: Files, lines: Iterable[bytes]) -> None:
    """vpasswd.cdb as vmkpasswd makes it."""
    records = [line.partition(b":")[::2] for line in lines]
    own(files, DOMAIN + b"/vpasswd.cdb", make_cdb(records))


def text_accounts(files: Files, lines: Iterable[bytes]) -> None:
    """vpasswd alone."""
    own(files, DOMAIN + b"/vpasswd", b"".join(line + b"\n" for line in lines))


def built(files: Files, *defined: bytes) -> None:
    """include/vpopmail_config.h, of a build with these."""
    known = [b"USE_CDB", b"USE_MYSQL", b"USE_LDAP", b"QMAIL_EXT", b"MANY_DOMAINS"]
    known += [b"DOMAIN_QUOTAS", b"USERS_BIG_DIR", b"ENABLE_MYSQL_LIMITS"]
    lines = [
        b"#define %s 1" % name if name in defined else b"/* #undef %s */" % name
        for name in known
    ]
    files.file(HOME + b"/include/vpopmail_config.h", b"\n".join(lines) + b"\n")


def vpopmail_host(files: Files, **settings: object) -> QmailHost:
    """The host, with keys of the table ``[vpopmail]`` as the decision has them."""
    return QmailHost(files, HostSettings(vpopmail=vpopmail_keys(**settings)))


def vpopmail_keys(**settings: object) -> VpopmailSettings:
    """:class:`VpopmailSettings` of some of its fields."""
    return VpopmailSettings(**settings)  # type: ignore[arg-type]

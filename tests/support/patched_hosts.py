"""Made-up hosts whose qmail-smtpd looks recipients up in other places, for ``init``."""

from __future__ import annotations

from pathlib import Path

from tests.support.old_hosts import cdb, finish, write

_USUAL = {
    "var/qmail/rc": "#!/bin/sh\nexec env - PATH=/var/qmail/bin:$PATH \\\n"
    "qmail-start ./Maildir/\n",
    "var/qmail/control/me": "mx.example.test\n",
    "var/qmail/control/rcpthosts": "example.test\n",
    "var/qmail/control/locals": "example.test\n",
}
_LOG = (
    "@400000006744f6d51b8b8d3c new msg 4711\n"
    "@400000006744f6d51b9d0e24 info msg 4711: bytes 9 from <a@b.test> qp 1 uid 6\n"
    "@400000006744f6d51c2a6c5c status: local 0/10 remote 0/20\n"
)


def patched(root: Path) -> Path:
    """validrcptto.cdb and RCPTCHECK by the run script, badrcptto, plugins; multilog."""
    script = (
        "#!/bin/sh\nCDB=/var/qmail/control/validrcptto.cdb\n"
        "export VALIDRCPTTO_CDB=$CDB\n"
        "exec env RCPTCHECK=/var/qmail/bin/rcptcheck USE_FD4=1 \\\n"
        "  tcpserver -x /etc/tcp.smtp.cdb 0 smtp /var/qmail/bin/qmail-smtpd 2>&1\n"
    )
    write(
        root,
        {
            **_USUAL,
            "service/smtpd/run": script,
            "service/send/run": "#!/bin/sh\nexec /var/qmail/rc\n",
            "service/send/log/run": "#!/bin/sh\n"
            "exec setuidgid qmaill multilog t s1000000 n20 /var/log/qmail/send\n",
            "var/log/qmail/send/current": _LOG,
            "var/qmail/bin/qmail-smtpd": "\x7fELF validrcptto control/smtpplugins"
            " RCPTCHECK control/badrcptto\n",
            "var/qmail/control/badrcptto": "gone@example.test\n@old.test\n",
            "var/qmail/control/smtpplugins": "[rcpt]\n",
            "etc/tcp.smtp": '127.:allow,RELAYCLIENT=""\n',
        },
    )
    cdb(root / "etc/tcp.smtp.cdb", {b"127.": b"+RELAYCLIENT=\0"})
    cdb(
        root / "var/qmail/control/validrcptto.cdb",
        {b"alice@example.test": b"", b"bob@example.test": b""},
    )
    return finish(root)


def envdir(root: Path) -> Path:
    """The combined patch of sagredo.eu, goodrcptto that nobody may read, variables by
    envdir and tcprules; syslog."""
    script = (
        "#!/bin/sh\nexec envdir ./env tcpserver -x /etc/tcp.smtp.cdb 0 25 \\\n"
        "  /var/qmail/bin/qmail-smtpd 2>&1\n"
    )
    write(
        root,
        {
            **_USUAL,
            "service/smtpd/run": script,
            "service/smtpd/env/RCPTCHECK": "/var/qmail/bin/old-check\n",
            "var/qmail/bin/qmail-smtpd": "\x7fELF CHKUSER control/validrcptto"
            " control/morevalidrcptto.cdb\n",
            "var/qmail/control/validrcptto": "alice@example.test\n",
            "var/qmail/control/goodrcptto": "alice@example.test\n",
            "etc/tcp.smtp": '127.:allow,RELAYCLIENT=""\n'
            ':allow,RCPTCHECK="/var/qmail/bin/check",X=""\n',
            "var/log/mail.log": "Nov 26 20:00:00 mx qmail: 1795398287.1 new msg 4711\n",
        },
    )
    cdb(root / "etc/tcp.smtp.cdb", {b"127.": b"+RELAYCLIENT=\0", b"": b""})
    for name in ("morevalidrcptto.cdb", "moregoodrcptto.cdb"):
        cdb(root / "var/qmail/control" / name, {b"bob@example.test": b""})
    return finish(root)


def s_qmail(root: Path) -> Path:
    """control/recipients, and a cdb that the run script names but is damaged."""
    script = (
        "#!/bin/sh\nexport VALIDRCPTTO_CDB=/etc/damaged.cdb\n"
        "export CERTFILE=/etc/ssl/mx.pem KEYFILE=/etc/ssl/mx.key\n"
        "exec sslserver -e -x /etc/tcp.smtp.cdb 0 25 /var/qmail/bin/qmail-smtpd\n"
    )
    write(
        root,
        {
            **_USUAL,
            "service/smtpd/run": script,
            "var/qmail/bin/qmail-smtpd": "\x7fELF control/recipients\n",
            "var/qmail/control/recipients": "@example.test:users/recipients.cdb\n",
            "etc/damaged.cdb": "no cdb",
        },
    )
    cdb(root / "var/qmail/users/recipients.cdb", {b":alice@example.test": b""})
    return finish(root)


def qmail_ldap(root: Path) -> Path:
    """Accounts in a directory, by two servers."""
    script = "#!/bin/sh\nexec tcpserver 0 25 /var/qmail/bin/qmail-smtpd 2>&1\n"
    write(
        root,
        {
            **_USUAL,
            "service/smtpd/run": script,
            "var/qmail/bin/qmail-lspawn": "\x7fELF control/ldapserver\n",
            "var/qmail/control/ldapserver": "ldap1.example.test ldap2.test:390\n",
            "var/qmail/control/ldapbasedn": "ou=mail,dc=example,dc=test\n",
            "var/qmail/control/ldaplogin": "cn=qmail,dc=example,dc=test\n",
            "var/qmail/control/ldappassword": "secret\n",
        },
    )
    return finish(root)

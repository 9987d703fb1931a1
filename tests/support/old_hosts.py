"""Made-up qmail hosts as books, packages and panels lay them out, for ``init``.

Only what is looked at: scripts, control files, accounts, a few dot-qmail files.
Each function makes one below a directory.  As root, the files are somebody else's,
as qmail delivers nothing as root.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from tests.support.cdbmake import make_cdb

OWNER = os.getuid() or 20001

_USERS = ("alias", "qmaild", "qmaill", "qmailp", "qmailq", "qmailr", "qmails")

_LWQ_SMTPD = """\
#!/bin/sh

QMAILDUID=`id -u qmaild`
NOFILESGID=`id -g qmaild`
MAXSMTPD=`cat /var/qmail/control/concurrencyincoming`
LOCAL=`head -1 /var/qmail/control/me`

if [ -z "$QMAILDUID" -o -z "$NOFILESGID" -o -z "$MAXSMTPD" -o -z "$LOCAL" ]; then
    echo QMAILDUID, NOFILESGID, MAXSMTPD, or LOCAL is unset in
    echo /var/qmail/supervise/qmail-smtpd/run
    exit 1
fi

if [ ! -f /var/qmail/control/rcpthosts ]; then
    echo "No /var/qmail/control/rcpthosts!"
    echo "Refusing to start SMTP listener because it'll create an open relay"
    exit 1
fi

exec /usr/local/bin/softlimit -m 2000000 \\
    /usr/local/bin/tcpserver -v -R -l "$LOCAL" -x /etc/tcp.smtp.cdb -c "$MAXSMTPD" \\
        -u "$QMAILDUID" -g "$NOFILESGID" 0 smtp \\
        /usr/local/bin/rblsmtpd -r zen.example.org /var/qmail/bin/qmail-smtpd 2>&1
"""

_LWQ_RC = """\
#!/bin/sh

# Using stdout for logging
# Using control/defaultdelivery from qmail-local to deliver messages by default

exec env - PATH="/var/qmail/bin:$PATH" \\
qmail-start "`cat /var/qmail/control/defaultdelivery`"
"""


def life_with_qmail(root: Path) -> Path:
    """The layout of the book "Life with qmail", with a block list."""
    write(
        root,
        {
            "var/qmail/rc": _LWQ_RC,
            "var/qmail/supervise/qmail-smtpd/run": _LWQ_SMTPD,
            "var/qmail/supervise/qmail-send/run": "#!/bin/sh\nexec /var/qmail/rc\n",
            "var/qmail/control/me": "mx.example.test\n",
            "var/qmail/control/rcpthosts": "example.test\nlists.test\n",
            "var/qmail/control/locals": "example.test\n",
            "var/qmail/control/virtualdomains": "lists.test:alias-lists\n",
            "var/qmail/control/defaultdelivery": "./Maildir/\n",
            "var/qmail/control/concurrencyincoming": "20\n",
            "var/qmail/control/databytes": "10000000\n",
            "var/qmail/alias/.qmail-postmaster": "&admin\n",
            "var/qmail/alias/.qmail-default": "| fastforward -d /etc/aliases.cdb\n",
            "var/qmail/alias/.qmail-lists-news": "|/usr/bin/ezmlm-send /var/lists/n\n",
            "etc/tcp.smtp": '127.:allow,RELAYCLIENT=""\n10.1.:allow,RELAYCLIENT=""\n',
        },
    )
    cdb(root / "etc/tcp.smtp.cdb", {b"127.": b"+RELAYCLIENT=\0", b"10.1.": b""})
    cdb(root / "etc/aliases.cdb", {b":postmaster@": b""})
    (root / "service").mkdir()
    for name in ("qmail-smtpd", "qmail-send"):
        (root / "service" / name).symlink_to(f"/var/qmail/supervise/{name}")
    return finish(root)


_TOASTER_SMTPD = """\
#!/bin/sh
QMAILDUID=`id -u vpopmail`
NOFILESGID=`id -g vpopmail`
MAXSMTPD=`cat /var/qmail/control/concurrencyincoming`
SMTPD="/var/qmail/bin/qmail-smtpd"
TCP_CDB="/etc/tcprules.d/tcp.smtp.cdb"
HOSTNAME=`hostname`
VCHKPW="/home/vpopmail/bin/vchkpw"
REQUIRE_AUTH=0

exec /usr/bin/softlimit -m 128000000 \\
     /usr/bin/tcpserver -v -R -H -l $HOSTNAME -x $TCP_CDB -c "$MAXSMTPD" \\
     -u "$QMAILDUID" -g "$NOFILESGID" 0 smtp \\
     spamdyke --config-file /etc/spamdyke/spamdyke.conf \\
     $SMTPD $VCHKPW /bin/true 2>&1
"""

_VDELIVERMAIL = "| /home/vpopmail/bin/vdelivermail '' "


def toaster(root: Path) -> Path:
    """vpopmail with a database, spamdyke and chkuser, as QmailToaster has it."""
    domains = "home/vpopmail/domains"
    write(
        root,
        {
            "var/qmail/rc": "#!/bin/sh\nexec env - PATH=/var/qmail/bin:$PATH \\\n"
            "qmail-start ./Maildir/ splogger qmail\n",
            "var/qmail/supervise/smtp/run": _TOASTER_SMTPD,
            "var/qmail/control/me": "mail.example.test\n",
            "var/qmail/control/rcpthosts": "one.test\ntwo.test\nthree.test\n",
            "var/qmail/control/virtualdomains": "one.test:one.test\ntwo.test:two.test\n"
            "three.test:three.test\n",
            "var/qmail/control/concurrencyincoming": "100\n",
            "var/qmail/control/locals": "localhost\n",
            "var/qmail/users/assign": "+one.test-:one.test:89:89:"
            "/home/vpopmail/domains/one.test:-::\n"
            "+two.test-:two.test:89:89:/home/vpopmail/domains/two.test:-::\n"
            "+three.test-:three.test:89:89:/home/vpopmail/domains/three.test:-::\n.\n",
            f"{domains}/one.test/.qmail-default": _VDELIVERMAIL + "bounce-no-mailbox\n",
            f"{domains}/two.test/.qmail-default": _VDELIVERMAIL + "bounce-no-mailbox\n",
            f"{domains}/three.test/.qmail-default": _VDELIVERMAIL + "delete\n",
            "home/vpopmail/etc/vpopmail.mysql": "localhost|0|vpopmail|x|vpopmail\n",
            "var/qmail/bin/qmail-smtpd": "\x7fELF CHKUSER_EXTRA STARTTLS AUTH LOGIN\n",
            "etc/tcprules.d/tcp.smtp": '127.:allow,RELAYCLIENT=""\n:allow,CHKUSER=""\n',
            "etc/hostname": "mail.example.test\n",
        },
        {"vpopmail": "/home/vpopmail"},
    )
    cdb(root / "etc/tcprules.d/tcp.smtp.cdb", {b"127.": b"+RELAYCLIENT=\0", b"": b""})
    cdb(root / "var/qmail/users/cdb", {b"": b"-"})
    return finish(root)


_XINETD = """\
service smtp
{
        socket_type     = stream
        protocol        = tcp
        wait            = no
        disable         = no
        user            = root
        instances       = UNLIMITED
        env             = SMTPAUTH=1
        server          = /var/qmail/bin/tcp-env
        server_args     = -Rt0 /var/qmail/bin/relaylock /var/qmail/bin/qmail-smtpd \
/var/qmail/bin/smtp_auth /var/qmail/bin/true /var/qmail/bin/cmd5checkpw \
/var/qmail/bin/true
}
"""


def panel(root: Path) -> Path:
    """xinetd, mailboxes below qmail's home, bouncesaying: as Plesk has it."""
    names = "var/qmail/mailnames/shop.test"
    write(
        root,
        {
            "etc/init.d/qmail": "#!/bin/sh\nPATH=/var/qmail/bin:$PATH\n"
            "case $1 in\nstart)\n"
            "  /var/qmail/bin/qmail-start './Maildir/' splogger qmail &\n  ;;\nesac\n",
            "etc/xinetd.d/smtp_psa": _XINETD,
            "var/qmail/control/me": "vps.example.test\n",
            "var/qmail/control/rcpthosts": "shop.test\n",
            "var/qmail/control/virtualdomains": "shop.test:1\n",
            "var/qmail/control/locals": "localhost\n",
            "var/qmail/control/smtpplugins": "[rcpt]\n",
            "var/qmail/users/assign": "=1-info:popuser:110:31:/var/qmail/mailnames"
            "/shop.test/info:::\n+1-:popuser:110:31:/var/qmail/mailnames/shop.test:-::"
            "\n.\n",
            f"{names}/.qmail-default": "| bouncesaying 'no such address'\n",
        },
    )
    cdb(root / "var/qmail/users/cdb", {b"": b"-"})
    return finish(root)


def broken(root: Path) -> Path:
    """Little is as it should be: a shell script with an open quotation, no control/me,
    a tcp.smtp.cdb that is none, a default delivery that nobody can know, bytes that
    are no text."""
    write(
        root,
        {
            "var/qmail/rc": '#!/bin/sh\nqmail-start "$(decide --which)" splogger\n',
            "var/qmail/supervise/smtpd/run": "#!/bin/sh\nexec tcpserver -x"
            ' /etc/tcp.smtp.cdb "$SOMEWHERE" 25 \\\n'
            " $PROGRAMS qmail-smtpd\necho 'it never ends\n",
            "var/qmail/control/rcpthosts": "example.test\n",
            "var/qmail/control/databytes": "lots \xff \x1b[2J\n",
            "var/qmail/control/virtualdomains": ":\nnothing\nx.test:nobody-knows\n",
            "etc/tcp.smtp.cdb": "no cdb",
            "etc/inetd.conf": "smtp stream tcp\n",
            "etc/xinetd.conf": "service\n}\n",
        },
    )
    return finish(root)


def write(
    root: Path, files: Mapping[str, str], homes: Mapping[str, str] | None = None
) -> None:
    """Files, and accounts of qmail's and others."""
    homes = {"alias": "/var/qmail/alias"} | dict(homes or {})
    names = dict.fromkeys([*_USERS, *homes])
    rows = [f"{u}:x:{OWNER}:{OWNER}::{homes.get(u, '/var/qmail')}:" for u in names]
    more = {
        "etc/passwd": "\n".join(rows) + "\n",
        "etc/group": f"qmail:x:{OWNER}:\nnofiles:x:{OWNER}:\n",
    }
    for name, content in {**files, **more}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode("latin-1"))
    (root / "var/qmail/alias").mkdir(exist_ok=True)


def cdb(path: Path, records: Mapping[bytes, bytes]) -> None:
    """A cdb with these records."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(make_cdb(list(records.items())))


def finish(root: Path) -> Path:
    """Modes and owners as they usually are."""
    for path in root.rglob("*"):
        if os.getuid() == 0:
            os.chown(path, OWNER, OWNER, follow_symlinks=False)
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() else 0o644)
    return root

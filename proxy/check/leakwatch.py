"""``backstop check``, the leak watch's part: can its log be followed?

Knows: who has to read it, and what qmail-send's log looks like.  Knows not: how it
is followed (``leakwatch``).  Called by ``command``, as the user that serves.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator

from proxy.check.finding import WARNING, Finding, Settings
from proxy.config import Config
from proxy.leakwatch import OPEN_FLAGS

_PIECE = 1 << 16
# qmail-log(5), below whatever time.
_QMAIL_SEND = re.compile(
    rb"(?:^|[ \n])(?:status: local \d|(?:new|info|end|bounce) msg \d"
    rb"|(?:starting )?delivery \d)"
).search

_READ = "let that user read it and search the directories above (setfacl -m u:USER:rx)"
_REMEDIES = {
    errno.EACCES: _READ,
    errno.ENOENT: "name the file that multilog, svlogd or syslog writes to",
    errno.ENOTDIR: "name the file that multilog, svlogd or syslog writes to",
    errno.EISDIR: "name the file current in it",
}


def check_leakwatch(config: Config, settings: Settings) -> Iterator[Finding]:
    """Warnings: mail goes through without it.  Tried, not asked for: access(2)
    is about root's capabilities."""
    path = config.leakwatch.log
    if path is None:
        return
    try:
        size, end = _end_of(path)
    except OSError as error:
        what = f"cannot be read by the front door's user: {error.strerror}"
        remedy = _REMEDIES.get(error.errno or 0, "see what it is")
    else:
        if not size or _QMAIL_SEND(end):
            return
        what = "has no line of qmail-send's at its end"
        remedy = "name qmail-send's log, not qmail-smtpd's or another one"
    yield settings.finding(WARNING, ("leakwatch", "log"), what, remedy)


def _end_of(path: str) -> tuple[int, bytes]:
    """Its size and its last bytes; raises ``OSError``."""
    file = os.open(path, OPEN_FLAGS)
    try:
        status = os.fstat(file)
        if stat.S_ISDIR(status.st_mode):
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        end = os.pread(file, _PIECE, max(status.st_size - _PIECE, 0))
        return status.st_size, end
    finally:
        os.close(file)

"""What qmail-smtpd says and notes, as a program on descriptors 0 and 1.

``python standin.py DIRECTORY``: with UCSPI's environment, as tcpserver or the
front door starts it.  Each message becomes a file in DIRECTORY, with the
Received line of qmail's received.c on top; what is said of a client is taken
from the environment only.  Refuses what control/rcpthosts of this test does not
hold, unless RELAYCLIENT is set, whose value it appends.

Not a part of pytest's process; imports nothing of the project.
"""

import os
import sys
import tempfile

DOMAINS = (b"example.test", b"virt.test", b"more.test")


class Lines:
    """Lines from descriptor 0; nothing is read ahead of a reply that is owed."""

    def __init__(self) -> None:
        self.rest = b""

    def next(self) -> bytes:
        while b"\n" not in self.rest:
            data = os.read(0, 65536)
            if not data:
                sys.exit(1)
            self.rest += data
        line, _, self.rest = self.rest.partition(b"\n")
        return line.removesuffix(b"\r")


def say(text: bytes) -> None:
    try:
        os.write(1, text + b"\r\n")
    except OSError:  # die_write() of qmail-smtpd.c
        sys.exit(1)


def address(argument: bytes) -> bytes:
    return argument.partition(b"<")[2].partition(b">")[0]


def received(helo: bytes) -> bytes:
    host = os.environb.get(b"TCPREMOTEHOST", b"unknown")
    ip = os.environb.get(b"TCPREMOTEIP", b"unknown")
    name = b" (HELO " + helo + b")" if helo.lower() != host.lower() else b""
    local = os.environb.get(b"TCPLOCALHOST", b"unknown")
    return b"Received: from " + host + name + b" (" + ip + b")\n  by " + local + b"\n"


def serve(directory: str) -> None:
    lines, helo, sender = Lines(), b"", b""
    recipients: list[bytes] = []
    relay = os.environb.get(b"RELAYCLIENT")
    say(b"220 standin ESMTP")
    while True:
        verb, _, argument = lines.next().partition(b" ")
        verb = verb.upper()
        if verb in (b"EHLO", b"HELO"):
            helo, sender, recipients = argument, b"", []
            say(b"250-standin\r\n250-PIPELINING\r\n250 8BITMIME")
        elif verb == b"RSET":
            sender, recipients = b"", []
            say(b"250 flushed")
        elif verb == b"MAIL":
            sender, recipients = address(argument), []
            say(b"250 ok")
        elif verb == b"RCPT":
            to = address(argument)
            if relay is None and to.rpartition(b"@")[2].lower() not in DOMAINS:
                say(b"553 sorry, that domain isn't in my list of allowed rcpthosts")
            else:
                recipients.append(to + (relay or b""))
                say(b"250 ok")
        elif verb == b"DATA":
            say(b"354 go ahead")
            message = b""
            while (line := lines.next()) != b".":
                message += line.removeprefix(b".") + b"\n"
            envelope = b"F%s\n" % sender + b"".join(b"T%s\n" % r for r in recipients)
            keep(directory, envelope + received(helo) + message)
            sender, recipients = b"", []
            say(b"250 ok 1 qp 2")
        elif verb == b"QUIT":
            say(b"221 standin")
            return
        else:
            say(b"502 unimplemented")


def keep(directory: str, content: bytes) -> None:
    descriptor, name = tempfile.mkstemp(dir=directory, prefix="mail-", suffix=".part")
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    os.rename(name, name.removesuffix(".part"))


if __name__ == "__main__":
    serve(sys.argv[1])

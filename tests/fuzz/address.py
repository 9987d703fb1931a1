"""Commands and the addresses in them: two readers must see the same."""

from __future__ import annotations

import re

from proxy.smtp.command import for_backend, parameters, split_line
from proxy.smtp.path import address_literal, path_end, read_path
from tests.support.addrparse import cut_like_c

ALLOWED: tuple[type[Exception], ...] = ()
TOKENS = (
    b"MAIL FROM:<",
    b"RCPT TO:<",
    b"@example.test>",
    b"<",
    b">",
    b'"',
    b"\\",
    b":",
    b"@",
    b",",
    b"\0",
    b" ",
    b"\t",
    b"[127.0.0.1]",
    b" SIZE=10",
    b" BODY=8BITMIME",
    b" SIZE=<a@b>",
    b" ORCPT=rfc822;a",
)
# Everything below a blank but HT, and DEL.
CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
OFFERED = frozenset({b"SIZE", b"8BITMIME", b"DSN"})


def one_input(data: bytes) -> None:
    """``data`` is a command line without its end."""
    verb, argument = split_line(data)
    assert b" " not in verb
    assert not argument.startswith(b" ")
    address = read_path(argument)
    assert address == cut_like_c(argument)
    assert b"\0" not in address
    literal = address_literal(address)
    if literal is not None:
        assert address[literal[0] - 1 : literal[0] + 1] == b"@["
    assert 0 <= path_end(argument) <= len(argument)
    parameters(argument)
    if CONTROL.search(data):
        return  # refused: it never gets as far
    for command in (b"MAIL", b"RCPT"):
        sent = for_backend(command, argument, OFFERED)
        assert CONTROL.search(sent) is None
        # What the backend reads in it is what was decided about.
        assert cut_like_c(split_line(sent)[1]) == address, (sent, address)

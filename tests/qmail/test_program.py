"""Program lines that can be understood without running them; the others not."""

from __future__ import annotations

import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.qmail.effect import Effect, Run
from proxy.qmail.host import QmailHost
from proxy.qmail.program import effect, split_words
from proxy.qmail.trail import SILENT
from proxy.qmail.view import DirectoryView
from proxy.qmail.walk import SUPERUSER
from tests.support.fuzz import fuzz

ENVIRONMENT = {b"EXT": b"foo", b"HOST": b"h.test", b"SENDER": b"", b"DEFAULT": b"a b"}
HOST = QmailHost(DirectoryView(b"/"))
WALKER = HOST.walker(SUPERUSER)
RUN = Run(HOST, WALKER, WALKER.root(), ENVIRONMENT, SILENT)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (b"", []),
        (b" \t ", []),
        (b"a b\tc", [b"a", b"b", b"c"]),
        (b"a 'b c' \"d e\"", [b"a", b"b c", b"d e"]),
        (b"a ''", [b"a", b""]),
        (b"a'b'\"c\"d", [b"abcd"]),
        (b"a '$EXT'", [b"a", b"$EXT"]),
        (b'a "$EXT@${HOST}"', [b"a", b"foo@h.test"]),
        (b'a "$DEFAULT"', [b"a", b"a b"]),
        (b'a "$SENDER"', [b"a", b""]),
        (b"[ a = b ]", [b"[", b"a", b"=", b"b", b"]"]),
        (b"a x=y", [b"a", b"x=y"]),
        (b"a $EXT", None),
        (b'a "$UNKNOWN"', None),
        (b'a "`b`"', None),
        (b'a "\\x"', None),
        (b"a 'b", None),
        (b'a "b', None),
        (b"a ~", None),
        (b"a *", None),
        (b"a [x]", None),
        (b"a | b", None),
        (b"a; b", None),
        (b"a & b", None),
        (b"a > b", None),
        (b"(a)", None),
        (b"# a", None),
        (b"a \\b", None),
        (b"a {b,c}", None),
        (b"x=y a", None),
        (b"if a", None),
        (b"! a", None),
        (b"{ a", None),
        (b"a\r", None),
        (b"a \xe4", None),
    ],
)
def test_words(command: bytes, words: list[bytes] | None) -> None:
    assert split_words(command, ENVIRONMENT) == words


@pytest.mark.parametrize(
    ("command", "found"),
    [
        (b"exit 0", Effect(0)),
        (b"exit", Effect(0)),
        (b"exit 99", Effect(99)),
        (b"exit 100", Effect(100)),
        (b"exit 356", Effect(100)),
        (b"true", Effect(0)),
        (b"false", Effect(1)),
        (b": anything", Effect(0)),
        (b"[ a = a ]", Effect(0)),
        (b"[ a = b ]", Effect(1)),
        (b"test a != b", Effect(0)),
        (b'[ "$EXT" = foo ]', Effect(0)),
        (b"sh -c 'exit 99'", Effect(99)),
        (b"bouncesaying no", Effect(100)),
        (b"bouncesaying", Effect(100)),
        (b"bouncesaying no true", Effect(100)),
        (b"bouncesaying no false", Effect(0)),
        (b"bouncesaying no sh -c 'exit 111'", Effect(111)),
        (b'/var/qmail/bin/bouncesaying no [ "$EXT" != foo ]', Effect(0)),
        (b"except", Effect(100)),
        (b"except true", Effect(100)),
        (b"except false", Effect(0)),
        (b"except sh -c 'exit 111'", Effect(111)),
        (b"condredirect", Effect(100)),
        (b"condredirect joe@x", Effect(100)),
        (b"condredirect joe@x true", Effect(99, (b"joe@x",))),
        (b"condredirect joe@x false", Effect(0)),
        (b"condredirect joe@x sh -c 'exit 111'", Effect(111)),
        (b"forward joe@x ann@y", Effect(0, (b"joe@x", b"ann@y"))),
        (b'forward "$EXT"@x', Effect(0, (b"foo@x",))),
        (b"forward", Effect(0)),
        (b"bouncesaying no bouncesaying yes", Effect(0)),
    ],
)
def test_what_is_known(command: bytes, found: Effect) -> None:
    assert effect(command, RUN) == found


@pytest.mark.parametrize(
    "command",
    [
        b"",
        b"/usr/local/bin/thing",
        b"exit x",
        b"exit 1 2",
        b"exit 1000",
        b"bouncesaying no exit 0",  # not a program: only the shell knows it
        b"bouncesaying no grep x",
        b"bouncesaying no forward joe",
        b"condredirect joe@x forward ann",
        b"except forward joe",
        b"test -f x",
        b"[ a = b",
        b"[ ! = b ]",
        b"sh -c 'thing'",
        b"sh -c \"exit '$EXT'\" x",
        b"sh x",
        b"/var/qmail/bin/qmail-inject",
        b"/usr/bin/forward joe",
        b"forward joe; exit 100",
        b"bouncesaying no " * 5000,
    ],
)
def test_what_is_not_known(command: bytes) -> None:
    assert effect(command, RUN) is None


@pytest.mark.parametrize(
    ("code", "what"),
    [
        (0, "succeeds"),
        (99, "stops"),
        *[(code, "fails") for code in (64, 65, 70, 76, 77, 78, 100, 112)],
        *[(code, "waits") for code in (1, 2, 66, 71, 75, 98, 101, 111, 126, 127, 255)],
    ],
)
def test_exit_codes(code: int, what: str) -> None:
    found = Effect(code)
    assert found.succeeds == (what in ("succeeds", "stops"))
    assert found.stops == (what == "stops")
    assert found.fails == (what == "fails")


PIECES = st.sampled_from(
    [b"a", b"b=c", b" ", b"  ", b"\t", b"'", b'"', b"$EXT", b"${HOST}", b"@", b"%",
     b"[", b"]", b"!", b"-", b"x y", b"''", b'""', b"$", b"\\", b"*", b"~", b"#", b";"]
)  # fmt: skip


@pytest.mark.parametrize("shell", ["/bin/sh"])
def test_the_shell_agrees_about_words(shell: str) -> None:
    """What we take for simple, the shell splits the same way."""

    @fuzz
    @given(st.lists(PIECES, max_size=8).map(b"".join))
    def agrees(text: bytes) -> None:
        words = split_words(b"printf %s/ " + text, ENVIRONMENT)
        if words is None or len(words) < 3:
            return
        script = b"printf %s/ " + text
        done = subprocess.run(
            [shell, "-c", script], env=ENVIRONMENT, capture_output=True, check=False
        )
        assert done.stdout == b"".join(word + b"/" for word in words[2:])

    agrees()


@fuzz
@given(st.lists(PIECES | st.sampled_from([b"forward ", b"except "])).map(b"".join))
def test_any_command_has_an_answer(command: bytes) -> None:
    found = effect(command, RUN)
    assert found is None or 0 <= found.code <= 255

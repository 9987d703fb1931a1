"""Program lines that can be understood without running them; the others not."""

from __future__ import annotations

import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.qmail.effect import Effect, Run
from proxy.qmail.host import QmailHost
from proxy.qmail.program import effect, name_of
from proxy.qmail.shell import Simple, parse
from proxy.qmail.trail import SILENT
from proxy.qmail.view import DirectoryView
from proxy.qmail.walk import SUPERUSER
from tests.support.files import Files
from tests.support.fuzz import fuzz

ENVIRONMENT = {
    b"EXT": b"foo",
    b"HOST": b"h.test",
    b"SENDER": b"",
    b"DEFAULT": b"a b",
    b"STAR": b"*",
    b"SIGNS": b"';$EXT|&~#",
}
HOST = QmailHost(DirectoryView(b"/"))
WALKER = HOST.walker(SUPERUSER)
RUN = Run(HOST, WALKER, WALKER.root(), ENVIRONMENT, SILENT, effect)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (b"", None),
        (b" \t ", None),
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
        (b"a $EXT", [b"a", b"foo"]),
        (b"a $EXT@${HOST}x", [b"a", b"foo@h.testx"]),
        (b"a $DEFAULT", None),
        (b"a $SENDER", None),
        (b"a $SENDER@x", None),
        (b"a $UNKNOWN", None),
        (b"a $STAR", None),
        (b"a $SIGNS", [b"a", b"';$EXT|&~#"]),
        (b"$EXT a", [b"foo", b"a"]),
        (b'a "$UNKNOWN"', None),
        (b'a "`b`"', None),
        (b'a "\\x\\"\\$EXT\\\\"', [b"a", b'\\x"$EXT\\']),
        (b'a "b\\"', None),
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
        (b"a \\b\\ c\\'", [b"a", b"b c'"]),
        (b"a \\", None),
        (b"a \\\xe4", None),
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
    assert words_of(command) == words


def words_of(command: bytes) -> list[bytes] | None:
    """Those of a simple command, and nothing else."""
    found = parse(command, ENVIRONMENT)
    return list(found.words) if isinstance(found, Simple) else None


@pytest.mark.parametrize(
    ("command", "found"),
    [
        (b"", Effect(0, passes=True)),
        (b" \t", Effect(0, passes=True)),
        (b" # exit 100", Effect(0, passes=True)),
        (b"exit 0", Effect(0, passes=True)),
        (b"exit", Effect(0, passes=True)),
        (b"exit 99", Effect(99, passes=True)),
        (b"exit 100", Effect(100, passes=True)),
        (b"exit 356", Effect(100, passes=True)),
        (b"true", Effect(0, passes=True)),
        (b"false", Effect(1)),
        (b": anything", Effect(0, passes=True)),
        (b"[ a = a ]", Effect(0, passes=True)),
        (b"[ a = b ]", Effect(1, passes=True)),
        (b"test a != b", Effect(0, passes=True)),
        (b'[ "$EXT" = foo ]', Effect(0, passes=True)),
        (b"sh -c 'exit 99'", Effect(99, passes=True)),
        (b"bouncesaying no", Effect(100)),
        (b"bouncesaying", Effect(100)),
        (b"bouncesaying no true", Effect(100)),
        (b"bouncesaying no false", Effect(0, passes=True)),
        (b"bouncesaying no sh -c 'exit 111'", Effect(111)),
        (b'/var/qmail/bin/bouncesaying no [ "$EXT" != foo ]', Effect(0, passes=True)),
        (b"except", Effect(100)),
        (b"except true", Effect(100)),
        (b"except false", Effect(0, passes=True)),
        (b"except sh -c 'exit 111'", Effect(111)),
        (b"condredirect", Effect(100)),
        (b"condredirect joe@x", Effect(100)),
        (b"condredirect joe@x true", Effect(99, (b"joe@x",), b"")),
        (b"condredirect joe@x false", Effect(0, passes=True)),
        (b"condredirect joe@x sh -c 'exit 111'", Effect(111)),
        (b"forward joe@x ann@y", Effect(0, (b"joe@x", b"ann@y"))),
        (b'forward "$EXT"@x', Effect(0, (b"foo@x",))),
        (b"forward", Effect(0)),
        (b"bouncesaying no bouncesaying yes", Effect(0, passes=True)),
        (b"/bin/true", Effect(0, passes=True)),
        (b"/usr/bin/test a = b", Effect(1, passes=True)),
        (b"/bin/sh -c 'exit 100'", Effect(100, passes=True)),
        (b"/var/qmail/bin/preline bouncesaying no", Effect(100)),
        (b"preline bouncesaying no", Effect(100)),
        (b"bouncesaying no\\ such\\ user", Effect(100)),
        (b'bouncesaying "no \\"such\\" user"', Effect(100)),
        (b"bouncesaying gone # since 2010; thing", Effect(100)),
        (b"preline -fd forward joe@x", Effect(0, (b"joe@x",))),
        (b"preline", Effect(100)),
        (b"preline condredirect joe@x true", Effect(111)),  # it cannot rewind a pipe
        (b"preline condredirect joe@x false", Effect(0, passes=True)),
        (b"test -d /", Effect(0, passes=True)),
        (b"test -f /", Effect(1, passes=True)),
        (b"test ! -e /nonexistent -a -d /", Effect(0, passes=True)),
        (b"[ -f /nonexistent -o -n x ]", Effect(0, passes=True)),
    ],
)
def test_what_is_known(command: bytes, found: Effect) -> None:
    assert effect(command, RUN) == found


@pytest.mark.parametrize(
    ("command", "code", "forwards"),
    [
        (b"true && exit 100", 100, []),
        (b"false && exit 100", 1, []),
        (b"false || exit 99", 99, []),
        (b"thing || exit 0", 0, []),
        (b"(echo gone; exit 100)", 100, []),
        (b"/bin/echo gone && { thing; exit 100; }", 100, []),
        (b"(forward joe@x)", 0, [b"joe@x"]),
        (b"thing || { exit 0; }", 0, []),
        (b"thing; exit 100", 100, []),
        (b"forward joe@x; exit 100", 100, [b"joe@x"]),
        (b"forward joe@x && forward ann@x", 0, [b"joe@x", b"ann@x"]),
        (b"if test -f /nonexistent; then thing; fi", 0, []),
        (b"if test ! -f /nonexistent; then exit 100; fi", 100, []),
        (b"if thing; then exit 100; else exit 100; fi", 100, []),
        (b"if false; then thing; else forward joe@x; fi", 0, [b"joe@x"]),
        (b"if true && thing; then thing || exit 0; fi", 0, []),
        (b"if true; then if false; then thing; fi; fi; false", 1, []),
        (b"exit 0; thing", 0, []),
        (b"true;", 0, []),
        (b'case "$EXT" in *oo) exit 100;; esac', 100, []),
        (b'case "$EXT" in *x*) exit 100;; esac', 0, []),
        (b"case $EXT in fo) exit 99;; f??) exit 100;; *) exit 111;; esac", 100, []),
        (b"case $DEFAULT in a|'a b') forward joe@x;; esac", 0, [b"joe@x"]),
        (b"case x$SENDER in (y) thing;; ( x ) false ;; esac;", 1, []),
        (b"case ${HOST}'*' in h.test) thing;; h.test'*') exit 99; esac", 99, []),
        (b"case '' in '') true && exit 100;; esac", 100, []),
        (b"case a in b) echo ';;'; exit 0;; a) ;; esac", 0, []),
        (b"case a in b) ;; a) true; exit 99; esac", 99, []),
        (b"case $STAR in '*') exit 100;; *) exit 99;; esac", 100, []),
        (b"thing | exit 0", 0, []),
        (b"thing -x | bouncesaying no", 100, []),
        (b"thing | thing || exit 0", 0, []),
        (b"thing|bouncesaying no false", 0, []),
        (b"thing | forward joe@x && exit 100", 100, [b"joe@x"]),
        (b"forward ann@x | forward joe@x", 0, [b"ann@x", b"joe@x"]),
        (b"exit 100 | true; exit 99", 99, []),
        (b"true | exit 100; exit 99", 99, []),
        (b"exec bouncesaying no", 100, []),
        (b"exec bouncesaying no; exit 0", 100, []),
        (b"if true; then exec forward joe@x; fi; exit 100", 0, [b"joe@x"]),
        (b"nice bouncesaying no", 100, []),
        (b"/usr/bin/nice -n 10 forward joe@x", 0, [b"joe@x"]),
        (b"nice -5 bouncesaying no", 100, []),
        (b"nice -n high bouncesaying no", 125, []),
        (b"bouncesaying no >/dev/null", 100, []),
        (b"bouncesaying no > /dev/null 2>&1", 100, []),
        (b"thing 2>/dev/null || exit 0", 0, []),
        (b"if test -d / >&2; then exit 99; fi", 99, []),
        (b"qreceipt joe@x", 0, []),
        (b"qreceipt", 100, []),
        (b"qbiff; exit 100", 100, []),
    ],
)
def test_what_is_known_of_several(
    command: bytes, code: int, forwards: list[bytes]
) -> None:
    found = effect(command, RUN)
    assert found is not None
    assert found.code == code
    assert [address for address, _ in found.copies()] == forwards


@pytest.mark.parametrize(
    "command",
    [
        "true | false",
        "false | true",
        "exit 3 | exit 4",
        "exit 3 | exit 4; exit 5",
        "exit 3 | true && exit 6",
        "false | false || exit 7",
        "exec true; exit 8",
        "(exit 14); exit 15",
        "( exit 14; ) || (exit 16)",
        "{ exit 17; }; exit 18",
        "{ false; } && { exit 19; } || { exit 20; }",
        "{ echo x; exit 21; } >/dev/null 2>&1",
        "(echo x >&2) && exit 22",
        "(echo x >/dev/null)&&exit 23",
        "{ (exit 24); }",
        "true | { exit 25; }",
        "if (exit 1); then exit 26; else { exit 27; }; fi",
        "exit 28 # } )",
        "test a\\ b = 'a b' && exit 31",
        'test "a\\"\\x" = \'a"\\x\' && exit 32',
        "exec false && exit 9",
        "nice true | nice -n 3 false",
        "false >/dev/null",
        "false 2>&1 >/dev/null || exit 11",
        "if true | false; then exit 12; else exit 13; fi",
    ],
)
def test_the_shell_agrees(command: str) -> None:
    found = effect(command.encode(), RUN)
    assert found is not None
    assert found.code == subprocess.run(["/bin/sh", "-c", command]).returncode


def test_bouncesaying_wherever_it_is_installed() -> None:
    files = Files()
    files.file(b"/opt/qmail/bin/bouncesaying", b"")
    files.file(b"/usr/bin/except/file", b"")
    host = QmailHost(files)
    walker = host.walker(SUPERUSER)
    run = Run(host, walker, walker.root(), ENVIRONMENT, SILENT, effect)
    found = effect(b"/opt/qmail/bin/bouncesaying no", run)
    assert found is not None
    assert found.fails
    # Not there: sh(1) would exit 127; or not to be seen from here.
    assert effect(b"/usr/local/bin/bouncesaying no", run) is None
    assert effect(b"/usr/bin/except true", run) is None


def test_what_passes_by_leaves_the_mail_to_the_next_line() -> None:
    for command in (b"qreceipt joe@x", b"qbiff"):
        found = effect(command, RUN)
        assert found is not None
        assert found.passes
    found = effect(b"thing | qbiff", RUN)  # whatever the thing does with it
    assert found is not None
    assert not found.passes


@pytest.mark.parametrize(
    "command",
    [
        b"(except true) || test a = a",
        b"bouncesaying no || exit 0",
        b"if bouncesaying no; then thing; else true; fi",
        b"cat | exit 0",
        b"/bin/cat",
        b"exec except true; exit 0",
    ],
)
def test_a_program_that_fails_has_not_the_mail(command: bytes) -> None:
    """Nothing is kept where all forwards beside it bounce."""
    found = effect(command, RUN)
    assert found is not None
    assert found.passes


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (b"/usr/bin/maildrop -d joe", "maildrop"),
        (b"exit # thing", "exit # thing"),
        (b"preline procmail -a", "procmail"),
        (b"preline -f /usr/lib/dovecot/deliver", "deliver"),
        (b"/var/mailman/mail/mailman post list", "mailman"),
        (b"if test ! -f 'x'; then /usr/bin/ezmlm-reject 'y'; fi", "ezmlm-reject"),
        (b"/usr/bin/spamc | /usr/bin/maildrop", "maildrop"),
        (b"cat | thing", "thing"),
        (b"||", "||"),
        (b"bouncesaying 'has left' ./check it", "check"),
        (b"bouncesaying This user has left", "user"),
        (b"/opt/bin/bouncesaying gone", "bouncesaying"),
        (b"condredirect joe@x ./check", "check"),
        (b"IFS=' ' && exec /usr/bin/procmail -f- || exit 75 #joe", "procmail"),
        (b"test -f x && thing", "thing"),
        (b"sh -c '/b/thing x'", "thing"),
        (b"nice -n 10 thing", "thing"),
        (b"if ./check; then exit 100; fi", "check"),
    ],
)
def test_the_name_of_the_program(command: bytes, name: str) -> None:
    assert name_of(command) == name


@pytest.mark.parametrize(
    "command",
    [
        b"/usr/local/bin/thing",
        b"exit x",
        b"exit 1 2",
        b"exit 1000",
        b"exit x || exit 0",
        b"false || exit 1000 || true",
        b"exit x; exit 0",
        b"test -s /",  # what a directory measures is the file system's own affair
        b"bouncesaying no exit 0",  # not a program: only the shell knows it
        b"bouncesaying no grep x",
        b"bouncesaying no forward joe",
        b"condredirect joe@x forward ann",
        b"except forward joe",
        b"test -x x",
        b"[ ! ! -f x ]",  # dash and bash differ
        b"[ a = b",
        b"[ ! = b ]",
        b"sh -c 'thing'",
        b"sh -c \"exit '$EXT'\" x",
        b"sh x",
        b"/var/qmail/bin/qmail-inject",
        b"/usr/bin/forward joe",
        b"/bin/exit",
        b"forward joe; thing",
        b"thing && exit 0",
        b"exit 0 | thing",
        b"thing |& exit 0",
        b"| exit 0",
        b"thing |",
        b"true >/tmp/x",
        b"true </dev/null",
        b"true > /dev/nullx",
        b"exec",
        b"exec -a x true",
        b"exec >/dev/null",
        b"env -i true",
        b"env A=b true",
        b"setuidgid joe true",
        b"nice",
        b"nice --adjustment=3 true",
        b"exit 0 &",
        b"if thing; then exit 0; else exit 100; fi",
        b"if thing; then forward joe; fi",
        b"if true; then true",
        b"then true; fi",
        b"if true; then true; fi true",
        b"true; ; true",
        b"&& true",
        b"thing; exit",
        b"exec thing; exit 100",
        b"cd /x && exit 100",
        b"((exit 100))",
        b"( (exit 100)) x",
        b"(exit 100",
        b"exit 100)",
        b"{ exit 100 }",
        b"{exit 100; }",
        b"{ exit 100; } x",
        b"thing() { exit 100; }",
        b"exit 100(",
        b"()",
        b"{ }",
        b"(thing; exit 100) || thing",
        b"bouncesaying no " * 5000,
        b"case $EXT in [f]oo) exit 100;; esac",
        b"case $UNKNOWN in a) exit 100;; esac",
        b'case "$UNKNOWN" in a) exit 100;; esac',
        b"case $EXT in $EXT) exit 100;; esac",
        b"case $EXT in a) exit 0;; *) thing;; esac",
        b"case $EXT in a) exit 0 ;& foo) exit 100;; esac",
        b"case $EXT in a) exit 0; foo) exit 100;; esac",
        b"case $EXT in foo) exit 100 esac",
        b"case $EXT in foo) exit 100;; esac && true",
        b"case $EXT in foo) case x in x) exit 100;; esac;; esac",
        b"case $EXT in foo) (exit 100);; esac",
        b"case $EXT foo) exit 100;; esac",
        b"case $EXT in foo exit 100;; esac",
        b"case esac in esac) exit 0;; esac",
        b"case `x` in x) exit 0;; esac",
        b"case x in x) exit 0;;",
        b"case x in x) exit 0;; y) ; esac",
        b"case x in x) exit 0;; y) && true;; esac",
        b"case x in y) ; esac",
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
     b"$SIGNS", b"$STAR", b"[", b"]", b"!",
     b"-", b"x y", b"''", b'""', b"$", b"\\", b"*", b"~", b"#", b";"]
)  # fmt: skip


CASE_PIECES = st.sampled_from(
    [b"case ", b" in ", b"$EXT", b'"$EXT"', b"f", b"oo", b"*", b"?", b"'*'", b") ",
     b"|", b"(", b"exit 7", b"exit 8", b";; ", b"; ", b"true", b" && ", b"esac", b" ",
     b"f*) exit 9;; ", b"*) exit 10;; ", b"*o|x) exit 11;; ", b";&", b"''", b"\\"]
)  # fmt: skip


def test_the_shell_agrees_about_case() -> None:
    @fuzz
    @given(st.lists(CASE_PIECES, max_size=9).map(b"".join))
    def agrees(text: bytes) -> None:
        command = b"case $EXT in " + text + b" esac"
        found = effect(command, RUN)
        if found is None:
            return
        done = subprocess.run(
            ["/bin/sh", "-c", command],
            env=ENVIRONMENT,
            capture_output=True,
            check=False,
        )
        assert done.returncode == found.code, command

    agrees()


@pytest.mark.parametrize("shell", ["/bin/sh"])
def test_the_shell_agrees_about_words(shell: str) -> None:
    """What we take for simple, the shell splits the same way."""

    @fuzz
    @given(st.lists(PIECES, max_size=8).map(b"".join))
    def agrees(text: bytes) -> None:
        words = words_of(b"printf %s/ " + text)
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

"""``backstop explain``: what RCPT would be answered, and why.

Knows: how addresses come in and how verdicts are shown, to people and to
programs.  Knows not: any rule; it asks the engine that serves.  Called by
``cli``.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import stat as stat_bits
import sys
import textwrap
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import IO, TYPE_CHECKING, Any, Protocol

from proxy import assemble, obstacles
from proxy.config import Config
from proxy.process.loops import PlainLoop
from proxy.relaying import ClientStep, Relaying
from proxy.rules.engine import Closable, Engine
from proxy.rules.verdict import ANYBODY, Facts, Kind, Question, Verdict
from proxy.smtp import replies
from proxy.smtp.command import has_control
from proxy.smtp.path import read_path
from proxy.smtp.reply import Reply

if TYPE_CHECKING:
    from rich.console import Console

ALL_GOOD, REFUSED, ONLY_TEMPORARY = 0, 1, 75

_BLOCK = 1 << 16
_WIDTH = 80


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What is asked besides the recipient."""

    sender: bytes = ANYBODY
    client: str = ""
    relayclient: bytes | None = None


@dataclass(slots=True)
class Explanation:
    """One answer.  ``given`` is the input, ``address`` what was read in it;
    ``dialogue`` is the reply of a dialogue that would not ask the rules."""

    given: bytes
    address: bytes
    verdict: Verdict
    dialogue: Reply | None


def run(
    config: Config, addresses: Sequence[bytes], asked: Circumstances, *, as_json: bool
) -> int:
    """Explain each address to standard output; the exit status."""
    host = assemble.qmail_host(config)
    engine = assemble.engine(config, host, _unheard)
    if problem := obstacles.start_problem(config, host):
        print(f"warning: serve would not start: {problem}", file=sys.stderr)
    with Explainer(engine, config, asked) as explainer:
        return Session(explainer, _Json() if as_json else _people()).run(addresses)


def _unheard(rule: str, error: Exception) -> None:
    """A rule failed; the verdict's reason tells it."""


class Explainer:
    """Asks the engine, also where the answer has to be awaited."""

    def __init__(self, engine: Engine, config: Config, asked: Circumstances) -> None:
        self._engine = engine
        self._asked = asked
        self._line_max = config.limits.command_length
        self._relayclient = asked.relayclient
        self._client_steps: tuple[ClientStep, ...] = ()
        if asked.relayclient is None:
            standing = Relaying(config).standing(asked.client)
            self._relayclient, self._client_steps = standing
        self._runner: asyncio.Runner | None = None

    def __enter__(self) -> Explainer:
        return self

    def __exit__(self, *_: object) -> None:
        if self._runner is not None:
            for holder in self._engine.holders:
                self._runner.run(_closed(holder))
            self._runner.close()

    def block(self, given: Iterable[bytes]) -> list[Explanation]:
        """The answers for inputs that came together."""
        since = time.monotonic()
        return [self._explain(each, since) for each in given]

    def _explain(self, given: bytes, since: float) -> Explanation:
        """The answer for one input: an address, or an argument of RCPT."""
        raw = is_argument(given)
        address = read_path(given) if raw else given
        asked = self._asked
        facts = Facts(session={}, transaction=object())
        answer = self._engine.ask(
            Question(
                address,
                asked.sender,
                asked.client,
                self._relayclient,
                since,
                facts=lambda: facts,
            )
        )
        if not isinstance(answer, Verdict):
            answer = self._wait(answer)
        if self._client_steps:
            answer = replace(answer, trace=[*self._client_steps, *answer.trace])
        dialogue = self._refusal(given) if raw else None
        return Explanation(given, address, answer, dialogue)

    def _wait(self, answer: Awaitable[Verdict]) -> Verdict:
        if self._runner is None:
            self._runner = asyncio.Runner(loop_factory=PlainLoop)
        return self._runner.run(_awaited(answer))

    def _refusal(self, argument: bytes) -> Reply | None:
        """What the dialogue says of such a command, as it reads it."""
        length = len(b"RCPT \r\n") + len(argument)
        if self._line_max and length > self._line_max:
            return replies.LINE_TOO_LONG
        return replies.CONTROL_CHARACTER if has_control(argument) else None


async def _closed(holder: Closable) -> None:
    await holder.close()


async def _awaited(answer: Awaitable[Verdict]) -> Verdict:
    return await answer


def is_argument(given: bytes) -> bool:
    """Whether ``given`` is the raw argument of RCPT."""
    return given[:3].upper() == b"TO:"


def read_sender(given: bytes) -> bytes:
    """A reverse-path: the address alone, in brackets, or after ``FROM:``."""
    bracketed = given.startswith(b"<") and given.endswith(b">")
    return read_path(given) if bracketed or given[:5].upper() == b"FROM:" else given


class Show(Protocol):
    """A form in which answers are written."""

    def __call__(self, explanations: Iterable[Explanation]) -> None: ...


class Session:
    """All inputs in order, and the exit status that they add up to."""

    def __init__(self, explainer: Explainer, show: Show) -> None:
        self._explainer = explainer
        self._show = show
        self._kinds: set[Kind] = set()

    def run(self, addresses: Sequence[bytes]) -> int:
        """Explain; a reader that leaves early ends it quietly."""
        try:
            for address in addresses:
                if address == b"-":
                    self._standard_input()
                else:
                    self._explain([address])
        except BrokenPipeError:
            quiet_standard_output()
        return self._status()

    def _status(self) -> int:
        if Kind.REJECT in self._kinds:
            return REFUSED
        return ONLY_TEMPORARY if Kind.DEFER in self._kinds else ALL_GOOD

    def _standard_input(self) -> None:
        source = sys.stdin.buffer
        with _progress(source) as advance:
            for block in _blocks(source):
                self._explain(inputs(block))
                advance(sum(map(len, block)) + len(block))

    def _explain(self, given: Iterable[bytes]) -> None:
        answers = self._explainer.block(given)
        self._kinds.update(answer.verdict.kind for answer in answers)
        self._show(answers)


def _blocks(source: IO[bytes]) -> Iterator[list[bytes]]:
    """Lines, as many as have arrived: whoever writes a line and waits for its
    answer gets it, and a large file is worked through in large pieces."""
    read: Callable[[int], bytes] = getattr(source, "read1", source.read)
    rest = b""
    while block := read(_BLOCK):
        *lines, rest = (rest + block).split(b"\n")
        if lines:
            yield lines
    if rest:
        yield [rest]


def inputs(lines: Iterable[bytes]) -> Iterator[bytes]:
    """The inputs among lines: none from an empty line, and of an address
    (not of an argument, which is taken byte for byte) no CR at its end."""
    for line in lines:
        given = line if is_argument(line) else line.removesuffix(b"\r")
        if given:
            yield given


def quiet_standard_output() -> None:
    """Nobody reads any more: let what is still buffered go nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


# For programs.


class _Json:
    """One object a line, in ASCII."""

    def __call__(self, explanations: Iterable[Explanation]) -> None:
        encode = json.JSONEncoder(separators=(", ", ": "), check_circular=False).encode
        text = "".join([encode(as_dict(each)) + "\n" for each in explanations])
        output = sys.stdout
        output.write(text)
        output.flush()


def as_dict(explanation: Explanation) -> dict[str, Any]:
    """The keys of ``--json``."""
    verdict = explanation.verdict
    trace = [{"at": step.where(), "note": step.note()} for step in verdict.trace]
    found: dict[str, Any] = {
        "recipient": explanation.given.decode("latin-1"),
        "verdict": verdict.kind.value,
        "reply": verdict.reply.text,
        "rule": verdict.rule,
        "trace": trace,
        "address": explanation.address.decode("latin-1"),
        "reason": verdict.reason,
        "undecided": verdict.undecided,
    }
    if verdict.observed is not None:
        found["observed"] = verdict.observed.value
    if explanation.dialogue is not None:
        found["dialogue"] = explanation.dialogue.text
        at, note = _dialogue_step(explanation.dialogue)
        trace.insert(0, {"at": at, "note": note})
    return found


def _dialogue_step(reply: Reply) -> tuple[str, str]:
    return "smtp", f"over SMTP the rules are not asked: the answer is {reply.text}"


# For people.

_WORDS = {
    Kind.ACCEPT: ("accepted", "green"),
    Kind.REJECT: ("rejected", "red"),
    Kind.DEFER: ("deferred", "yellow"),
}

Pieces = list[tuple[str, str]]
"""Text with rich's name of a style."""


def _people() -> Show:
    if not sys.stdout.isatty():
        return _plain
    from rich.console import Console

    return _Coloured(Console(highlight=False, markup=False, emoji=False))


def _plain(explanations: Iterable[Explanation]) -> None:
    lines = [
        "".join(text for text, _ in pieces)
        for explanation in explanations
        for pieces in for_people(explanation)
    ]
    if lines:
        sys.stdout.write("\n".join(lines) + "\n")
        sys.stdout.flush()


class _Coloured:
    """On a terminal; rich honours NO_COLOR."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def __call__(self, explanations: Iterable[Explanation]) -> None:
        from rich.text import Text

        for explanation in explanations:
            for pieces in for_people(explanation):
                self._console.print(Text.assemble(*pieces), soft_wrap=True)


def for_people(explanation: Explanation) -> Iterator[Pieces]:
    """The lines of one answer: what, then why."""
    verdict = explanation.verdict
    word, style = _WORDS[verdict.kind]
    yield [
        (escaped(explanation.given.decode("latin-1")), "bold"),
        (": ", ""),
        (word, style),
        (f", {verdict.reply.text}", ""),
    ]
    if explanation.address != explanation.given:
        yield from _step("address", explanation.address.decode("latin-1"))
    if explanation.dialogue is not None:
        yield from _step(*_dialogue_step(explanation.dialogue))
    for step in verdict.trace:
        yield from _step(step.where(), step.note())
    if not verdict.trace:
        yield from _step("rule " + verdict.rule, verdict.reason)
    if verdict.undecided:
        what = "accepted in case of doubt" if verdict.kind is Kind.ACCEPT else word
        yield from _step("undecided", f"a program decides; {what}")
    if verdict.observed is not None:
        what = _WORDS[verdict.observed][0]
        yield from _step("mode observe", f"in mode enforce it would be {what}")


def _step(at: str, note: str) -> Iterator[Pieces]:
    where, text = f"  {escaped(at)}: ", escaped(note)
    if len(where) + len(text) <= _WIDTH:
        yield [(where, "dim"), (text, "")]
        return
    wrapped = textwrap.wrap(
        where + text,
        _WIDTH,
        subsequent_indent="      ",
        drop_whitespace=True,
        break_long_words=False,
        break_on_hyphens=False,
    )
    for line in wrapped:
        head = where.rstrip() if line.startswith(where.rstrip()) else ""
        yield [(head, "dim"), (line[len(head) :], "")]


_UNSAFE = re.compile(r"[^\x20-\x5b\x5d-\x7e]")


def escaped(text: str) -> str:
    """Latin-1 text for a terminal: what is not printable ASCII, and the
    backslash, as escapes."""
    return _UNSAFE.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    character = match[0]
    return "\\\\" if character == "\\" else f"\\x{ord(character):02x}"


# How far we are.


def _progress(
    source: IO[bytes],
) -> AbstractContextManager[Callable[[int], None]]:
    """A bar on standard error, where it is a terminal and the answers go
    elsewhere."""
    if not sys.stderr.isatty() or sys.stdout.isatty() or source.isatty():
        return nullcontext(lambda _: None)
    return _Bar(_size_left(source))


def _size_left(source: IO[bytes]) -> int | None:
    """How many bytes are to come, where that can be known."""
    try:
        status = os.fstat(source.fileno())
        if stat_bits.S_ISREG(status.st_mode):
            return max(status.st_size - source.tell(), 0)
    except OSError:
        pass
    return None


class _Bar:
    """rich's progress bar, over bytes of input."""

    def __init__(self, total: int | None) -> None:
        from rich.console import Console
        from rich.progress import Progress

        # Standard output is somebody's file: it must not be drawn to the terminal.
        self._progress = Progress(
            console=Console(stderr=True),
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._task = self._progress.add_task("explain", total=total)

    def __enter__(self) -> Callable[[int], None]:
        self._progress.start()
        return self._advance

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def _advance(self, size: int) -> None:
        self._progress.advance(self._task, size)

"""What all sources have in common, on a source that says what the test wants."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable

import pytest

from proxy.config.rules import RemoteKeys, SourceKeys
from proxy.qmail.host import QmailHost
from proxy.rules.engine import Engine
from proxy.rules.gate import Gate
from proxy.rules.source import (
    BaseSource,
    Context,
    Finding,
    Says,
    SourceDown,
    SourceRule,
)
from proxy.rules.verdict import Answer, Instead, Kind, Question, Verdict
from proxy.smtp import replies
from tests.support.files import Files

FOUND, MISSING = Finding(Says.FOUND, "a row"), Finding(Says.MISSING, "no row")
QUESTION = Question(b"Bob@Example.Test", mailbox=b"Bob@Example.Test")


class Scripted(BaseSource):
    """Gives its answers in turn; an exception is raised."""

    def __init__(self, *answers: Finding | Exception, later: bool = False) -> None:
        self.answers = list(answers)
        self.asked: list[bytes] = []
        self.later = later
        self.closed = False
        self.release = asyncio.Event()
        self.waiting = self.most = 0

    def query(self, question: Question) -> str:
        return "SELECT"

    def ask(self, question: Question) -> Finding | Awaitable[Finding]:
        self.asked.append(question.mailbox)
        return self._later() if self.later else self._next()

    def _next(self) -> Finding:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def _later(self) -> Finding:
        self.waiting += 1
        self.most = max(self.most, self.waiting)
        try:
            await self.release.wait()
        finally:
            self.waiting -= 1
        return self._next()

    async def close(self) -> None:
        self.closed = True


class Told:
    """What the rule told, and a clock that the test turns."""

    def __init__(self) -> None:
        self.now = 100.0
        self.answers: list[str] = []
        self.errors: list[str] = []

    def context(self) -> Context:
        return Context(
            "staff",
            QmailHost(Files()),
            on_answer=lambda name, answer, _: self.answers.append(answer),
            on_error=lambda name, error: self.errors.append(f"{name}: {error}"),
            clock=lambda: self.now,
        )


def local(source: Scripted, told: Told | None = None, **keys: object) -> SourceRule:
    settings = SourceKeys.model_validate({"type": "fake", **keys})
    return SourceRule(settings, source, (told or Told()).context())


def remote(source: Scripted, told: Told | None = None, **keys: object) -> SourceRule:
    settings = RemoteKeys.model_validate({"type": "fake", **keys})
    return SourceRule(settings, source, (told or Told()).context())


async def heard(rule: SourceRule, question: Question = QUESTION) -> Verdict | None:
    found = rule.ask(question)
    answer = await found if inspect.isawaitable(found) else found
    assert not isinstance(answer, Instead)
    return answer


def kind(verdict: Verdict | None) -> Kind | None:
    return verdict.kind if verdict else None


class TestMeaning:
    @pytest.mark.parametrize(
        ("finding", "keys", "expected"),
        [
            (FOUND, {}, Kind.ACCEPT),
            (MISSING, {}, Kind.REJECT),
            (FOUND, {"found": "reject"}, Kind.REJECT),
            (FOUND, {"found": "pass"}, None),
            (MISSING, {"missing": "pass"}, None),
            (MISSING, {"missing": "accept"}, Kind.ACCEPT),
            (Finding(Says.ACCEPT), {"found": "reject"}, Kind.ACCEPT),
            (Finding(Says.REJECT), {"missing": "accept"}, Kind.REJECT),
            (Finding(Says.DEFER), {}, Kind.DEFER),
            (Finding(Says.PASS), {}, None),
        ],
    )
    async def test_what_an_answer_means(
        self, finding: Finding, keys: dict[str, object], expected: Kind | None
    ) -> None:
        assert kind(await heard(local(Scripted(finding), None, **keys))) is expected

    async def test_replies(self) -> None:
        own = replies.NO_SUCH_RECIPIENT
        verdict = await heard(local(Scripted(MISSING)))
        assert verdict is not None
        assert verdict.reply is own
        assert verdict.rule == "staff"
        theirs = Finding(Says.REJECT, "its word", replies.NOT_RELAYED)
        verdict = await heard(local(Scripted(theirs)))
        assert verdict is not None
        assert verdict.reply is replies.NOT_RELAYED

    async def test_explain_names_the_query(self) -> None:
        verdict = await heard(local(Scripted(MISSING)))
        assert verdict is not None
        (step,) = verdict.trace
        assert (step.where(), step.note()) == ("rule staff", "SELECT: no row")
        quiet = await heard(local(Scripted(MISSING)), QUESTION._replace(traced=False))
        assert quiet is not None
        assert not quiet.trace

    @pytest.mark.parametrize(
        ("domain", "asked"),
        [
            ("example.test", True),
            (".test", True),
            (".example.test", False),
            ("other.test", False),
        ],
    )
    async def test_domains(self, domain: str, asked: bool) -> None:
        source = Scripted(FOUND)
        verdict = await heard(local(source, None, domains=[domain]))
        assert bool(source.asked) is asked
        assert (verdict is not None) is asked


class TestTrouble:
    @pytest.mark.parametrize("later", [False, True])
    @pytest.mark.parametrize("error", [SourceDown("no route"), ValueError("odd")])
    async def test_an_error_is_a_deferral(self, error: Exception, later: bool) -> None:
        told = Told()
        source = Scripted(error, later=later)
        source.release.set()
        verdict = await heard(remote(source, told))
        assert kind(verdict) is Kind.DEFER
        assert told.answers == ["error"]
        assert str(error) in told.errors[0]

    async def test_no_answer_in_time_is_a_deferral(self) -> None:
        told = Told()
        source = Scripted(FOUND, later=True)
        verdict = await heard(remote(source, told, timeout=0.01))
        assert kind(verdict) is Kind.DEFER
        assert told.answers == ["timeout"]
        assert told.errors == ["staff: no answer within 0.01 s"]

    async def test_no_more_than_so_many_at_once(self) -> None:
        source = Scripted(FOUND, later=True)
        rule = remote(source, concurrency=3)
        asked = [asyncio.ensure_future(heard(rule)) for _ in range(10)]
        while source.waiting < 3:
            await asyncio.sleep(0)
        source.release.set()
        assert {kind(v) for v in await asyncio.gather(*asked)} == {Kind.ACCEPT}
        assert source.most == 3

    async def test_the_wait_for_a_turn_counts(self) -> None:
        source = Scripted(FOUND, later=True)
        rule = remote(source, concurrency=1, timeout=0.01)
        both = await asyncio.gather(heard(rule), heard(rule))
        assert [kind(v) for v in both] == [Kind.DEFER, Kind.DEFER]
        source.release.set()
        assert kind(await heard(rule)) is Kind.ACCEPT

    async def test_last_known_good(self) -> None:
        told = Told()
        source = Scripted(FOUND, SourceDown("gone"))
        rule = local_with_good = remote(source, told, last_known_good=60)
        assert kind(await heard(rule)) is Kind.ACCEPT
        told.now += 59
        verdict = await heard(local_with_good)
        assert kind(verdict) is Kind.ACCEPT
        assert verdict is not None
        assert "last known good" in verdict.reason
        told.now += 2
        assert kind(await heard(rule)) is Kind.DEFER
        assert told.answers == ["found", "last known good", "error"]

    async def test_who_was_not_found_before_waits(self) -> None:
        source = Scripted(MISSING, SourceDown("gone"))
        rule = remote(source, last_known_good=60)
        assert kind(await heard(rule)) is Kind.REJECT
        assert kind(await heard(rule)) is Kind.DEFER

    async def test_good_no_more_once_it_was_missing(self) -> None:
        source = Scripted(FOUND, MISSING, SourceDown("gone"))
        rule = remote(source, last_known_good=60)
        kinds = [kind(await heard(rule)) for _ in range(3)]
        assert kinds == [Kind.ACCEPT, Kind.REJECT, Kind.DEFER]


class TestMemory:
    async def test_nothing_is_remembered_by_default(self) -> None:
        source = Scripted(FOUND)
        rule = local(source)
        await heard(rule)
        await heard(rule)
        assert len(source.asked) == 2

    @pytest.mark.parametrize(
        ("finding", "key"), [(FOUND, "cache_found"), (MISSING, "cache_missing")]
    )
    async def test_for_so_many_seconds(self, finding: Finding, key: str) -> None:
        told = Told()
        source = Scripted(finding)
        rule = local(source, told, **{key: 10})
        first = await heard(rule)
        told.now += 9
        other_case = QUESTION._replace(mailbox=b"bob@example.test")
        assert kind(await heard(rule, other_case)) is kind(first)
        assert len(source.asked) == 1
        told.now += 1
        await heard(rule)
        assert len(source.asked) == 2
        assert told.answers == [finding.says.value, "remembered", finding.says.value]

    async def test_guesses_do_not_push_out_mailboxes(self) -> None:
        class Dictionary(Scripted):
            def ask(self, question: Question) -> Finding:
                self.asked.append(question.mailbox)
                return FOUND if question.mailbox.startswith(b"bob") else MISSING

        source = Dictionary(FOUND)
        rule = local(source, None, cache_found=10, cache_missing=10)
        bob = Question(b"", mailbox=b"bob@example.test")
        await heard(rule, bob)
        for number in range(20_000):
            await heard(rule, Question(b"", mailbox=b"u%d@example.test" % number))
        await heard(rule, bob)
        assert source.asked.count(bob.mailbox) == 1

    async def test_close(self) -> None:
        source = Scripted(FOUND)
        await local(source).close()
        assert source.closed


HOST = {
    "me": "mx.example.test\n",
    "rcpthosts": "example.test\nmx.example.test\nsecond.test\n",
    "locals": "example.test\n",
}


def host_of(control: dict[str, str]) -> QmailHost:
    files = Files()
    for name, content in control.items():
        files.control(name.encode(), content.encode())
    return QmailHost(files)


Ask = Callable[..., Verdict]


@pytest.fixture
def ask() -> Ask:
    def asked(
        recipient: bytes,
        *,
        files: dict[str, str] | None = None,
        sender: bytes = b"",
        relayclient: bytes | None = None,
        percenthack: bool = True,
        source: Scripted | None = None,
    ) -> Verdict:
        host = host_of(HOST | (files or {}))
        gate = Gate(host, guard_relay=True, allow_percenthack=percenthack)
        rule = local(source or Scripted(FOUND))
        engine = Engine([rule], gate=gate)
        verdict = engine.ask(
            Question(recipient, sender=sender, relayclient=relayclient)
        )
        assert isinstance(verdict, Verdict)
        return verdict

    return asked


class TestGate:
    """A source that has everybody opens no relay."""

    def test_own_domains(self, ask: Ask) -> None:
        source = Scripted(FOUND)
        assert ask(b"Bob@second.test", source=source).kind is Kind.ACCEPT
        assert ask(b"bob", source=source).kind is Kind.ACCEPT
        assert source.asked == [b"Bob@second.test", b"bob@mx.example.test"]

    def test_foreign_domains(self, ask: Ask) -> None:
        source = Scripted(FOUND)
        verdict = ask(b"bob@foreign.test", source=source)
        assert (verdict.kind, verdict.reply) == (Kind.REJECT, replies.NOT_RELAYED)
        assert not source.asked

    def test_those_who_may_relay(self, ask: Ask) -> None:
        source = Scripted(MISSING)
        far = ask(b"a@foreign.test", relayclient=b"", source=source)
        assert (far.kind, source.asked) == (Kind.ACCEPT, [])
        near = ask(b"a@example.test", relayclient=b"", source=source)
        assert near.kind is Kind.REJECT

    def test_badmailfrom(self, ask: Ask) -> None:
        verdict = ask(
            b"bob@example.test",
            sender=b"bad@spam.test",
            files={"badmailfrom": "@spam.test\n"},
        )
        assert verdict.reply is replies.BAD_SENDER

    def test_percenthack(self, ask: Ask) -> None:
        files = {"percenthack": "example.test\n"}
        through = b"a%foreign.test@example.test"
        assert ask(through, files=files).kind is Kind.ACCEPT  # as qmail has it
        refused = ask(through, files=files, percenthack=False)
        assert refused.reply is replies.NOT_RELAYED

    def test_rcpthosts_is_gone(self, ask: Ask) -> None:
        host = {k: v for k, v in HOST.items() if "rcpthosts" not in k}
        gate = Gate(host_of(host), guard_relay=True, allow_percenthack=True)
        engine = Engine([local(Scripted(FOUND))], gate=gate)
        for recipient in (b"bob@foreign.test", b"bob@example.test"):
            verdict = engine.ask(Question(recipient))
            assert isinstance(verdict, Verdict)
            assert verdict.kind is Kind.DEFER

    def test_the_way_is_explained(self, ask: Ask) -> None:
        trace = ask(b"bob@second.test").trace
        assert [step.where() for step in trace] == ["control/rcpthosts:3", "rule staff"]


async def test_what_rules_said_is_explained_where_none_has_an_opinion() -> None:
    gate = Gate(host_of(HOST), guard_relay=True, allow_percenthack=True)
    waiting = Scripted(MISSING, later=True)
    waiting.release.set()
    for rule in (
        local(Scripted(MISSING), missing="pass"),
        remote(waiting, missing="pass"),
    ):
        answer = Engine([rule], gate=gate).ask(Question(b"bob@example.test"))
        verdict = answer if isinstance(answer, Verdict) else await answer
        assert (verdict.kind, verdict.rule) == (Kind.DEFER, "none")
        assert [step.where() for step in verdict.trace][-1] == f"rule {rule.name}"


async def test_rules_in_turn_and_their_reasons() -> None:
    first = local(Scripted(MISSING), missing="pass")
    last = remote(waiting := Scripted(MISSING, later=True))
    waiting.release.set()
    gate = Gate(host_of(HOST), guard_relay=True, allow_percenthack=True)
    engine = Engine([first, last], gate=gate)
    answer = engine.ask(Question(b"bob@example.test"))
    assert not isinstance(answer, Verdict)
    verdict = await answer
    assert verdict.kind is Kind.REJECT
    assert [step.where() for step in verdict.trace] == [
        "control/rcpthosts:1",
        "rule staff",
        "rule staff",
    ]
    assert len(engine.holders) == 2


@pytest.mark.fault("R9")
async def test_past_the_time_of_all_rules_the_reason_says_so() -> None:
    told: list[str] = []

    class Slow:
        name = "slow"

        def ask(self, question: Question) -> Awaitable[Answer]:
            return asyncio.get_running_loop().create_future()

    engine = Engine([Slow()], limit=0.01, on_error=lambda _, e: told.append(str(e)))
    answer = engine.ask(Question(b"bob@example.test"))
    assert not isinstance(answer, Verdict)
    verdict = await answer
    assert verdict.kind is Kind.DEFER
    says = "no answer within 0.01 s, which all rules together have"
    assert verdict.reason == f"the rule failed: TimeoutError: {says}"
    assert told == [says]

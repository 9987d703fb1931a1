"""socketmap, tcp_table and policy, against scripted servers and Postfix's postmap."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

from proxy.rules.policy import Policy
from proxy.rules.socketmap import netstring
from proxy.rules.tcp_table import decoded, encoded
from proxy.rules.verdict import Facts
from tests.support.asked import HOSTILE, Asked
from tests.support.services import (
    MAKE,
    Server,
    always,
    served,
    tcp,
)


def asked(server: Server, **keys: object) -> Asked:
    more = {"map": "users"} if server.kind == "socketmap" else {}
    address = f"127.0.0.1:{server.port}"
    return Asked(server.kind, {"address": address, **more, **keys})


ODD = {
    "socketmap": [b"OK\n", b"2:OKx", b"9999999:", b"5:WHAT ,", b"2:OK,2:OK,"],
    "tcp_table": [b"hello\n", b"200 a\n200 b\n", b"x" * 5000, b"600 x\n"],
    "policy": [b"\n", b"nothing=1\n\n", b"action=\n\n", b"action=OK\n\naction=OK\n\n"],
}
SOME = [b"bob@example.test", *HOSTILE[:4]]


@pytest.mark.parametrize("kind", sorted(MAKE))
class TestAll:
    async def test_found_and_not_found(self, kind: str) -> None:
        async with served(kind, MAKE[kind]([b"bob@example.test"])) as server:
            it = asked(server)
            assert await it.word() == "accept"
            assert (await it.reply(b"no@example.test")).startswith("55")
            assert server.connections == 1
            await it.rule.close()

    async def test_down(self, kind: str) -> None:
        async with served(kind, MAKE[kind]([])) as server:
            it = asked(server)
        assert await it.word() == "defer"
        assert "cannot connect" in it.errors[0]

    async def test_slow(self, kind: str) -> None:
        good = MAKE[kind]([b"bob@example.test"])

        def slow(text: bytes) -> bytes | None:
            return None if b"slow" in text else good(text)

        async with served(kind, slow) as server:
            it = asked(server, timeout=2)
            waiting = asyncio.ensure_future(it.word(b"slow@example.test"))
            while not server.questions:
                await asyncio.sleep(0)
            assert await it.word() == "accept"
            assert not waiting.done()
            assert await waiting == "defer"
            assert it.answers[-1] == "timeout"
            # The late one's connection is nobody else's.
            assert await it.word() == "accept"
            await it.rule.close()

    async def test_hostile_keys(self, kind: str) -> None:
        async with served(kind, MAKE[kind](HOSTILE[:4])) as server:
            it = asked(server)
            assert set(await it.words(HOSTILE[:4])) == {"accept"}
            # Nothing of an address is another question or another attribute.
            assert set(await it.words(HOSTILE[4:])) <= {"reject", "defer"}
            assert await it.word(b"x@example.test") == "reject"
            await it.rule.close()

    async def test_reconnects_after_a_restart(self, kind: str) -> None:
        async with served(kind, MAKE[kind]([b"bob@example.test"])) as server:
            it = asked(server)
            assert await it.word() == "accept"
            await server.stop()
            assert await it.word() == "defer"
            await server.start()
            assert await it.word() == "accept"
            for writer in server.writers:
                writer.transport.abort()  # a kept connection has become stale
            assert await it.word() == "accept"
            await it.rule.close()

    async def test_a_flood_is_bounded(self, kind: str) -> None:
        async with served(kind, MAKE[kind]([b"bob@example.test"])) as server:
            it = asked(server, concurrency=3)
            words = await asyncio.gather(*(it.word() for _ in range(50)))
            assert set(words) == {"accept"}
            assert server.most <= 3
            await it.rule.close()

    async def test_odd_answers(self, kind: str) -> None:
        for odd in ODD[kind]:
            async with served(kind, always(odd)) as server:
                it = asked(server, timeout=5)
                assert await it.word() == "defer", odd
                assert it.answers == ["error"], odd
                assert await it.word() == "defer"
                assert server.connections == 2


@pytest.mark.parametrize("status", [b"TEMP x", b"TIMEOUT x", b"PERM x"])
async def test_socketmap_troubles(status: bytes) -> None:
    async with served("socketmap", lambda _: netstring(status)) as server:
        assert await asked(server).word() == "defer"


async def test_tcp_table_trouble() -> None:
    async with served("tcp_table", lambda _: b"400 come again\n") as server:
        assert await asked(server).word() == "defer"


async def test_keys_in_their_order() -> None:
    async with served("tcp_table", tcp([b"@example.test"])) as server:
        it = asked(server, keys=["address", "@domain"])
        assert await it.word(b"Any@Example.Test") == "accept"
        first = b"get any@example.test\n"
        assert server.questions == [first, b"get @example.test\n"]
        await it.rule.close()


@pytest.mark.parametrize(
    ("action", "word", "reply"),
    [
        (b"ok", "accept", ""),
        (b"DUNNO", "pass", ""),
        (b"1234", "accept", ""),
        (b"REJECT", "reject", "554 5.7.1 access denied"),
        (b"REJECT go away", "reject", "554 5.7.1 go away"),
        (b"REJECT 5.1.1 nobody", "reject", "554 5.1.1 nobody"),
        (b"550 5.1.1 nobody", "reject", "550 5.1.1 nobody"),
        (b"450 5.1.1 odd\x07", "defer", "450 odd?"),
        (b"421 4.7.0 bye", "defer", "421 4.7.0 bye"),
        (b"DEFER", "defer", "450 4.7.1 try again later"),
        (b"DEFER_IF_PERMIT grey", "defer", "450 4.7.1 grey"),
        (b"DEFER_IF_REJECT", "defer", "450 4.7.1 try again later"),
        (b"HOLD", "pass", ""),
        (b"DISCARD", "pass", ""),
        (b"REDIRECT a@b.test", "pass", ""),
        (b"PREPEND X-A: b", "pass", ""),
        (b"greylisting_class", "defer", "451 4.3.0 cannot check this recipient now"),
    ],
)
async def test_policy_actions(action: bytes, word: str, reply: str) -> None:
    async with served("policy", lambda _: b"action=" + action + b"\n\n") as server:
        it = asked(server)
        verdict = await it.verdict()
        assert (verdict.kind.value if verdict else "pass") == word
        if reply:
            assert verdict is not None
            assert verdict.reply.text == reply
        await it.rule.close()


async def test_policy_attributes() -> None:
    async with served("policy", lambda _: b"action=OK\n\n") as server:
        it = asked(server)
        kept: dict[object, object] = {}
        for transaction in (first := object(), first, object()):
            facts = Facts(helo=b"h", port=7, session=kept, transaction=transaction)
            await it.verdict(sender=b"a@b.test", client="192.0.2.1", facts=facts)
        sent = [
            dict(line.split(b"=", 1) for line in text.strip().split(b"\n"))
            for text in server.questions
        ]
        assert sent[0][b"sender"] == b"a@b.test"
        assert sent[0][b"client_address"] == b"192.0.2.1"
        assert sent[0][b"protocol_state"] == b"RCPT"
        assert sent[0][b"instance"] == sent[1][b"instance"] != sent[2][b"instance"]
        await it.rule.close()


async def test_policy_is_told_of_once() -> None:
    async with served("policy", lambda _: b"action=HOLD\n\n") as server:
        it = asked(server)
        assert [await it.word() for _ in range(3)] == ["pass"] * 3
        assert it.said == ["rule it: HOLD is not carried out"]
        assert isinstance(it.rule._source, Policy)
        await it.rule.close()


def test_encoding_of_tcp_table() -> None:
    every = bytes(range(256))
    assert decoded(encoded(every)) == every
    assert not set(encoded(every)) & set(b" \n\0\x7f\xff")


@pytest.mark.skipif(not shutil.which("postmap"), reason="Postfix's postmap")
@pytest.mark.parametrize("kind", ["socketmap", "tcp_table"])
async def test_postfix_asks_our_servers_the_same(kind: str, tmp_path: Path) -> None:
    """What Postfix's own client understands is what the scripted servers say, and
    both ask the same bytes."""
    (tmp_path / "main.cf").write_text("compatibility_level = 3.6\n")
    async with served(kind, MAKE[kind](SOME)) as server:
        where = f"127.0.0.1:{server.port}"
        table = f"socketmap:inet:{where}:users" if kind == "socketmap" else None
        for key in SOME:
            command = ["postmap", "-c", str(tmp_path), "-q", "-"]
            run = await asyncio.create_subprocess_exec(
                *command,
                table or f"tcp:{where}",
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
            out, err = await run.communicate(key + b"\n")
            if run.returncode and b"smtputf8" in err.lower():
                continue
            theirs = server.questions.pop() if server.questions else b""
            it = asked(server)
            assert await it.word(key) == "accept"
            assert not key.isascii() or (out, theirs) == (
                key + b"\tx y\n",
                server.questions.pop(),
            )
            server.questions.clear()
            await it.rule.close()

"""qmail-spp, rcptcheck and command: programs, well-behaved and not."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from signal import SIGKILL
from typing import Any

import pytest

from proxy.qmail.host import QmailHost
from proxy.rules.spp_output import header_of, read_output
from proxy.rules.verdict import Change, Facts, Instead, Question
from tests.support.asked import HOSTILE, Asked
from tests.support.files import Files


def script(path: Path, text: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n" + text + "\n")
    path.chmod(0o755)
    return str(path)


def once(tmp_path: Path, text: str, *arguments: str, **keys: Any) -> Asked:
    program = script(tmp_path / "program", text)
    return Asked("command", {"command": [program, *arguments], **keys})


def alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


async def gone(pid: int) -> None:
    async with asyncio.timeout(60):
        while alive(pid):
            await asyncio.sleep(0.01)


class TestOnce:
    @pytest.mark.parametrize(
        ("status", "word"),
        [
            ("0", "accept"),
            ("100", "reject"),
            ("112", "pass"),
            *((each, "defer") for each in ("1", "2", "75", "111", "120", "127")),
        ],
    )
    async def test_statuses(self, tmp_path: Path, status: str, word: str) -> None:
        assert await once(tmp_path, f"exit {status}").word() == word

    async def test_a_reply_of_the_right_class(self, tmp_path: Path) -> None:
        no = once(tmp_path, 'echo "550 5.1.1 gone away"; exit 100')
        assert await no.reply() == "550 5.1.1 gone away"
        odd = once(tmp_path, 'echo "250 fine"; exit 100')
        assert await odd.reply() == "550 5.1.1 no such recipient here"

    async def test_down(self, tmp_path: Path) -> None:
        it = Asked("command", {"command": [str(tmp_path / "nothing")]})
        assert await it.word() == "defer"
        assert "cannot start" in it.errors[0]

    async def test_slow_and_deaf_to_term(self, tmp_path: Path) -> None:
        pid = tmp_path / "pid"
        text = f'trap "" TERM; echo $$ > {pid}; while :; do sleep 60; done'
        it = once(tmp_path, text, timeout=3)
        other = Asked("command", {"command": ["/bin/true"]})
        waiting = asyncio.ensure_future(it.word())
        assert await other.word() == "accept"
        assert await waiting == "defer"
        assert it.answers == ["timeout"]
        await gone(int(pid.read_text()))
        await it.rule.close()

    @pytest.mark.parametrize("address", HOSTILE)
    async def test_i_command_shell(self, tmp_path: Path, address: bytes) -> None:
        """I-command-shell: an address is data, in arguments and the environment."""
        out = tmp_path / "out"
        text = f'[ "$2" = "$RECIPIENT" ] || exit 1; printf %s "$2" > {out}'
        it = once(tmp_path, text, "--", "{recipient}")
        word = await it.word(address)
        if b"\n" in address or b"\0" in address:
            assert word == "defer"
            assert not out.exists()
        else:
            assert word == "accept"
            assert out.read_bytes() == address

    async def test_a_dash_is_no_option(self, tmp_path: Path) -> None:
        it = once(tmp_path, "exit 0", "{recipient}")
        assert await it.word(b"-x@example.test") == "defer"
        assert await it.word() == "accept"

    @pytest.mark.fault("R6")
    async def test_only_what_leaves_the_group_stays(self, tmp_path: Path) -> None:
        """As docs/rules.md says."""
        both = "sleep 3600 & echo $! >stays\n"
        both += "setsid -f sh -c 'echo $$ >left; exec sleep 3600'"
        wait = "while ! [ -s left ]; do sleep 0.01; done"
        it = once(tmp_path, f"cd {tmp_path}\n{both}\n{wait}")
        assert await it.word() == "accept"
        await gone(int((tmp_path / "stays").read_text()))
        left = int((tmp_path / "left").read_text())
        assert alive(left)
        os.kill(left, SIGKILL)

    async def test_children_do_not_stay(self, tmp_path: Path) -> None:
        pid = tmp_path / "pid"
        it = once(tmp_path, f"sleep 600 & echo $! > {pid}; exit 0")
        assert await it.word() == "accept"
        await gone(int(pid.read_text()))

    @pytest.mark.parametrize(
        "text", ["head -c 5000000 /dev/zero", "exec >&-", "exec >&- 2>&-; sleep 0.01"]
    )
    async def test_odd_output(self, tmp_path: Path, text: str) -> None:
        assert await once(tmp_path, f"{text}; exit 100").word() == "reject"

    async def test_a_flood_is_bounded(self, tmp_path: Path) -> None:
        it = once(tmp_path, "sleep 0.01", concurrency=2)
        programs = it.rule._source._programs  # type: ignore[attr-defined]
        asked = [asyncio.ensure_future(it.word()) for _ in range(20)]
        most = 0
        while not all(each.done() for each in asked):
            most = max(most, programs.count)
            await asyncio.sleep(0)
        assert {each.result() for each in asked} == {"accept"}
        assert most == 2

    async def test_what_it_says_is_logged(self, tmp_path: Path) -> None:
        it = once(tmp_path, "echo hello >&2")
        assert await it.word() == "accept"
        await it.rule.close()
        assert it.said == ["rule it: hello"]


class TestLines:
    TEXT = """while read -r line; do case $line in
bob@*) echo accept;; no@*) echo "missing 550 5.1.1 gone";; odd@*) echo what;;
two@*) printf 'accept\\naccept\\n';; end@*) exit;; slow@*) sleep 600;;
*) echo "defer $line";; esac; done"""

    async def test_all(self, tmp_path: Path) -> None:
        it = once(tmp_path, self.TEXT, mode="lines", timeout=5, concurrency=2)
        assert await it.word() == "accept"
        assert await it.reply(b"no@example.test") == "550 5.1.1 gone"
        for name in (b"odd", b"end", b"two"):
            await it.word(name + b"@example.test")
            assert await it.word() == "accept"
        assert set(await it.words(HOSTILE)) == {"defer"}
        assert await asyncio.gather(*(it.word() for _ in range(9))) == ["accept"] * 9
        programs = it.rule._source._programs  # type: ignore[attr-defined]
        assert programs.count <= 2
        await it.rule.close()
        assert programs.count == 0

    async def test_slow(self, tmp_path: Path) -> None:
        it = once(tmp_path, self.TEXT, mode="lines", timeout=0.5)
        assert await it.word(b"slow@example.test") == "defer"
        assert it.answers == ["timeout"]
        await it.rule.close()


class TestRcptCheck:
    def it(self, tmp_path: Path, text: str, **keys: Any) -> Asked:
        program = script(tmp_path / "rcptcheck", text)
        return Asked("rcptcheck", {"program": program, **keys})

    @pytest.mark.parametrize(
        ("status", "reply"),
        [
            ("100", "550 5.1.1 no such recipient here"),
            ("111", "451 4.3.0 cannot check this recipient now"),
            ("113", "421 4.7.0 too much mail, try again later"),
            ("120", "451 4.3.0 cannot check this recipient now"),
        ],
    )
    async def test_refusals(self, tmp_path: Path, status: str, reply: str) -> None:
        assert await self.it(tmp_path, f"exit {status}").reply() == reply

    async def test_others(self, tmp_path: Path) -> None:
        assert await self.it(tmp_path, "exit 112").word() == "pass"
        assert await self.it(tmp_path, "exit 7").word() == "accept"
        assert await self.it(tmp_path, "kill -9 $$").word() == "defer"
        relay = self.it(tmp_path, "exit 100")
        assert await relay.word(relayclient=b"") == "pass"

    async def test_environment_and_fd4(self, tmp_path: Path) -> None:
        text = 'echo "550 $SENDER $RECIPIENT $HELO $TCPREMOTEIP" >&4; exit 100'
        it = self.it(tmp_path, text, use_fd4=True)
        got = await it.reply(
            facts=Facts(helo=b"h"), sender=b"a@b.test", client="192.0.2.1"
        )
        assert got == "550 a@b.test bob@example.test h 192.0.2.1"


class TestSpp:
    """The protocol of qmail-spp.c."""

    def it(self, tmp_path: Path, **sections: str) -> Asked:
        lines = ["# plugins"]
        for name, text in sections.items():
            script(tmp_path / f"var/qmail/plugins/{name}", text)
            lines += [f"[{name}]", f"plugins/{name}  "]
        files = Files()
        files.control(b"smtpplugins", "\n".join([*lines, ""]).encode())
        root, host = os.fsencode(tmp_path), QmailHost(files)
        return Asked("qmail-spp", {"found": "accept"}, root, host)

    @pytest.mark.parametrize(
        ("says", "word"),
        [
            ("true", "accept"),
            ("echo N", "accept"),
            ("echo O", "accept"),
            ("echo A", "accept"),
            ("echo Z", "accept"),
            ("printf E", "accept"),  # its only byte is lost
            ("echo 'E550 no'", "reject"),
            ("echo 'E450 no'", "defer"),
            ("echo 'E250 odd'", "defer"),
            ("echo 'R554 no'", "reject"),
            ("echo D", "defer"),
            ("echo 'LD550 no'", "accept"),  # it is for DATA
            ("exit 120", "defer"),
            ("kill -9 $$", "defer"),
            ("echo 'E550 no'; kill -9 $$", "defer"),
            ("echo 'E550 no'; head -c 900000 /dev/zero; exit 1", "reject"),
            ("head -c 900000 /dev/zero", "defer"),
        ],
    )
    async def test_at_rcpt(self, tmp_path: Path, says: str, word: str) -> None:
        assert await self.it(tmp_path, rcpt=says).word() == word

    async def test_environment(self, tmp_path: Path) -> None:
        it = self.it(
            tmp_path,
            connection="echo SWHO=me; echo SNOT=there",
            helo="echo UNOT; echo SSAID=$SMTPHELOHOST",
            mail='[ "$SMTPMAILFROM" = a@b.test ] || exit 120',
            rcpt='echo "E550 $WHO $NOT $SAID $SMTPRCPTTO $SMTPRCPTCOUNT'
            ' $SMTPRCPTCOUNTALL $SMTPRCPTHOSTSOK $TCPREMOTEIP"',
        )
        facts = Facts(helo=b"h.test", accepted=2, asked=3)
        got = await it.reply(facts=facts, sender=b"a@b.test", client="192.0.2.1")
        assert got == "550 me  h.test bob@example.test 2 3 1 192.0.2.1"

    async def test_a_session(self, tmp_path: Path) -> None:
        count = f"echo $0 >> {tmp_path}/ran"
        stored = 'case $SMTPRCPTTO in s*) echo "LR450 later";; esac'
        it = self.it(tmp_path, connection=count, helo=count, mail=count, rcpt=stored)
        kept: dict[object, object] = {}
        one = Facts(helo=b"h", session=kept, transaction=object())
        two = one._replace(transaction=object())
        words = [await it.word(facts=one), await it.word(b"s@e.test", facts=one)]
        words += [await it.word(facts=one), await it.word(facts=two)]
        assert words == ["accept", "accept", "defer", "defer"]
        ran = (tmp_path / "ran").read_text().split()
        names = [line.rsplit("/")[-1] for line in ran]
        assert names == ["connection", "helo", "mail", "mail"]

    async def test_what_was_in_the_clear_is_forgotten(self, tmp_path: Path) -> None:
        """RFC 3207 section 4.2: after STARTTLS the client is nobody again; but what
        plugins have set stays."""
        it = self.it(
            tmp_path,
            connection="echo SOWN=1",
            rcpt='echo "E550 <${RELAYCLIENT-none}> ${SMTPAUTHUSER-none} $OWN"',
        )
        kept: dict[object, object] = {}
        known = Facts(session=kept, user=b"alice")
        assert await it.reply(facts=known, relayclient=b"") == "550 <> alice 1"
        assert await it.reply(facts=Facts(session=kept)) == "550 <none> none 1"

    async def test_what_is_stored_lasts_until_rset(self, tmp_path: Path) -> None:
        """MAIL and HELO clear nothing (qmail-spp.c, spp_rset())."""
        stored = 'case $SMTPRCPTTO in s*) printf "LR450-one\\nLR450 two\\n";; esac'
        it = self.it(tmp_path, rcpt=stored)
        kept: dict[object, object] = {}
        facts = Facts(helo=b"h", session=kept, transaction=object())
        assert await it.word(b"s@e.test", facts=facts) == "accept"
        again = facts._replace(helo=b"i", transaction=object())
        verdict = await it.verdict(facts=again)
        assert verdict is not None
        assert verdict.reply.wire == b"450-one\r\n450 two\r\n"
        after = again._replace(transaction=object(), flushed=1)
        assert await it.word(facts=after) == "accept"

    async def test_refusals_before_rcpt(self, tmp_path: Path) -> None:
        refuse = '[ "$SMTPMAILFROM" = bad@b.test ] && echo "E553 bad"; exit 0'
        it = self.it(tmp_path, mail=refuse)
        kept: dict[object, object] = {}
        bad = Facts(session=kept, transaction=object())
        good = bad._replace(transaction=object())
        for _ in range(2):
            assert await it.reply(sender=b"bad@b.test", facts=bad) == "553 bad"
        assert await it.word(sender=b"good@b.test", facts=good) == "accept"

    async def test_off_for_the_session(self, tmp_path: Path) -> None:
        it = self.it(tmp_path, connection="echo A", rcpt="echo 'E550 no'")
        assert await it.word(facts=Facts(session={})) == "accept"  # as found has it
        off = Facts(variables=[(b"NOSPP", b"")])
        it = self.it(tmp_path, rcpt="echo 'E550 no'")
        assert await it.word(facts=off) == "accept"
        it.keys["found"] = "pass"
        it.__post_init__()
        assert await it.word(facts=off) == "pass"

    async def test_a_changed_address_is_the_one_that_follows(
        self, tmp_path: Path
    ) -> None:
        """Later plugins see it, and so do later rules."""
        rcpt = '[ "$SMTPRCPTTO" = x@y.test ] && echo Cz@y.test || echo Cx@y.test'
        it = self.it(tmp_path, rcpt=rcpt)
        verdict = await it.verdict()
        assert verdict is not None
        assert verdict.change == Change(b"x@y.test")
        passing = self.it(tmp_path, rcpt=rcpt)
        passing.keys["found"] = "pass"
        passing.__post_init__()
        bob = b"bob@example.test"
        answer = await passing.answer(Question(bob, mailbox=bob))
        assert answer == Instead(Change(b"x@y.test"))

    @pytest.mark.parametrize(
        ("says", "wire"),
        [
            (["P550-one", "E550 two"], b"550-one\r\n550 two\r\n"),
            (["P550-one", "P550 odd", "P450-odd", "E550 two"], None),
            (["P250 ok", "E550 two"], b"550 two\r\n"),
        ],
    )
    async def test_a_reply_of_several_lines(
        self, tmp_path: Path, says: list[str], wire: bytes | None
    ) -> None:
        """P is for the lines before E's; what is none is not said."""
        text = "; ".join(f"echo '{each}'" for each in says)
        verdict = await self.it(tmp_path, rcpt=text).verdict()
        assert verdict is not None
        assert verdict.reply.wire == (wire or b"550-one\r\n550 two\r\n")

    async def test_p_before_an_acceptance_is_told(self, tmp_path: Path) -> None:
        it = self.it(tmp_path, rcpt="echo 'P250-hello'")
        assert await it.word() == "accept"
        assert "P250-hello is no line of a refusal" in it.said[0]

    async def test_r_ends_the_connection(self, tmp_path: Path) -> None:
        verdict = await self.it(tmp_path, rcpt="echo 'R554 no'").verdict()
        assert verdict is not None
        assert verdict.reply.last
        verdict = await self.it(tmp_path, rcpt="echo 'E554 no'").verdict()
        assert verdict is not None
        assert not verdict.reply.last

    @pytest.mark.parametrize(
        ("line", "good"),
        [
            (b"X-A: b", True),
            (b"X-A:", True),
            (b"X-A : b\xe9", True),
            (b" folded", False),  # there is nothing above it
            (b"no field", False),
            (b"", False),
            (b".: x", False),  # it would have to be stuffed
            (b"X-A: b\rX-B: c", False),
        ],
    )
    def test_header_lines(self, line: bytes, good: bool) -> None:
        assert header_of([line]) == ((line + b"\r\n", []) if good else (b"", [line]))

    def test_a_folded_header(self) -> None:
        assert header_of([b"A: b", b"\tc", b" "]) == (b"A: b\r\n\tc\r\n", [b" "])

    async def test_no_file(self) -> None:
        assert await Asked("qmail-spp", {}).word() == "defer"

    @pytest.mark.parametrize("address", HOSTILE[:4])
    async def test_hostile(self, tmp_path: Path, address: bytes) -> None:
        it = self.it(tmp_path, rcpt=f'printf %s "$SMTPRCPTTO" > {tmp_path}/out')
        assert await it.word(address) == "accept"
        assert (tmp_path / "out").read_bytes() == address

    def test_the_last_byte_is_lost(self) -> None:
        assert read_output(b"E550 no").text == b"550 n"
        assert read_output(b"E").end == b""

"""``serve`` with a list and a cdb: a change counts while it serves, and what looks like
an accident does not."""

from __future__ import annotations

from pathlib import Path
from signal import SIGHUP

from tests.live.process import Served, Settings, serving
from tests.support.backend import FakeQmail
from tests.support.cdbmake import make_cdb
from tests.support.smtp_client import RawClient

LIST = '{"type": "list", "file": "/etc/who", "found": "%s"}'
CDB = '{"type": "cdb", "file": "/etc/who.cdb"}'
QMAIL = '{"type": "qmail"}'


def rules(*tables: str) -> dict[str, str]:
    """The environment with these rules instead of the file's."""
    return {"BACKSTOP_RULES": f"[{', '.join(tables)}]"}


def put(path: Path, content: bytes) -> None:
    """Write beside it and rename, as docs/lists.md says."""
    new = path.with_suffix(".new")
    new.write_bytes(content)
    new.rename(path)


async def code(served: Served, recipient: bytes) -> int:
    async with await RawClient.connect(served.port) as client:
        await client.reply()
        await client.command(b"MAIL FROM:<a@b.test>")
        return int((await client.command(b"RCPT TO:<%s>" % recipient))[:3])


async def test_a_reject_list_before_qmail(
    tmp_path: Path, host: Path, settings: Settings, fake: FakeQmail
) -> None:
    who = host / "etc/who"
    put(who, b"bob@example.test\n")
    async with serving(tmp_path, settings, rules(LIST % "reject", QMAIL)) as served:
        assert await code(served, b"alice@example.test") == 250
        assert await code(served, b"bob@example.test") == 550
        assert await code(served, b"nobody@example.test") == 550
        put(who, b"alice@example.test\n")
        assert await code(served, b"alice@example.test") == 550
        assert await code(served, b"bob@example.test") == 250
        put(who, b"not an entry\n")
        assert await code(served, b"alice@example.test") == 550
        assert "etc/who:1: not an entry is more than one word" in await served.said(
            "level=error"
        )
        async with await RawClient.connect(served.port) as client:
            await client.reply()
            got = await client.deliver(b"a@b.test", [b"bob@example.test"], b"x\r\n")
            assert got == [250, 250, 354, 250]
        assert 'answer="old data"' in (await served.get("/metrics"))[1]
    assert len(fake.received) == 1


async def test_the_guard_until_hup(
    tmp_path: Path, host: Path, settings: Settings
) -> None:
    who = host / "etc/who"
    users = [b"u%d@example.test\n" % number for number in range(20)]
    put(who, b"".join(users))
    env = rules(LIST % "accept", QMAIL)
    async with serving(tmp_path, settings, env) as served:
        assert await code(served, b"u19@example.test") == 250
        put(who, users[0])
        assert await code(served, b"u19@example.test") == 250
        assert "it has lost 19 of the 20 addresses" in await served.said("level=error")
        served.signal(SIGHUP)
        await served.said("configuration reloaded")
        assert await code(served, b"u19@example.test") == 550
        # A HUP does not take what cannot be read.
        put(who, b"?\n")
        served.signal(SIGHUP)
        assert "etc/who:1: ?" in await served.said("reload failed, the old stays")
        assert await code(served, b"u0@example.test") == 250


async def test_a_cdb_is_replaced_removed_and_made_again(
    tmp_path: Path, host: Path, settings: Settings
) -> None:
    who = host / "etc/who.cdb"
    put(who, make_cdb([(b"eve@example.test", b"")]))
    async with serving(tmp_path, settings, rules(CDB)) as served:
        assert await code(served, b"eve@example.test") == 250
        assert await code(served, b"alice@example.test") == 550
        assert await code(served, b"eve@foreign.test") == 553
        put(who, make_cdb([(b"alice@example.test", b"")]))
        assert await code(served, b"alice@example.test") == 250
        assert await code(served, b"eve@example.test") == 550
        who.unlink()
        assert await code(served, b"alice@example.test") == 451
        assert "etc/who.cdb: cannot be read" in await served.said("level=error")
        put(who, make_cdb([(b"eve@example.test", b"")]))
        assert await code(served, b"eve@example.test") == 250

"""What a supervisor hands over, and what it is told: systemd, s6, and their kin."""

from __future__ import annotations

import os
import select
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from signal import SIGCONT, SIGSTOP, SIGTERM

import pytest

from tests.live.process import PATIENCE, Settings, run, serving
from tests.live.process import write_config as write
from tests.live.test_serve import codes_for
from tests.live.test_workers import children
from tests.support.certificates import NAME, client_context, issued
from tests.support.certificates import write as write_pair
from tests.support.smtp_client import RawClient


class Supervisor:
    """Hears what is sent to $NOTIFY_SOCKET."""

    def __init__(self, address: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address.replace("@", "\0"))
        self.env = {"NOTIFY_SOCKET": address}

    def hear(self) -> dict[str, str]:
        """The next message."""
        ready, _, _ = select.select([self._socket], [], [], PATIENCE)
        assert ready, "nothing was said"
        lines = self._socket.recv(4096).decode().splitlines()
        return dict(line.split("=", 1) for line in lines)

    def heard_within(self, seconds: float) -> bool:
        """Whether something was said in that time; it is thrown away."""
        if not select.select([self._socket], [], [], seconds)[0]:
            return False
        return bool(self.hear())

    def hear_all(self) -> list[dict[str, str]]:
        """What has come so far."""
        found = []
        while select.select([self._socket], [], [], 0)[0]:
            found.append(self.hear())
        return found

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["path", "abstract"])
def supervisor(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Supervisor]:
    where = str(tmp_path / "notify")
    if request.param == "abstract":
        where = f"@backstop-{os.getpid()}"
    made = Supervisor(where)
    yield made
    made.close()


@pytest.mark.parametrize("workers", [1, 2])
async def test_d_sd_notify(
    tmp_path: Path, settings: Settings, supervisor: Supervisor, workers: int
) -> None:
    several = {**settings, "listen.workers": workers}
    async with serving(tmp_path, several, supervisor.env) as served:
        told = supervisor.hear()
        assert told == {"READY": "1", "STATUS": f"serves 127.0.0.1:{served.port}"}
        assert await codes_for(served, b"alice@example.test") == [250]
        await served.reload({**several, "mode": "observe"})
        told = supervisor.hear()
        assert told["RELOADING"] == "1"
        assert int(told["MONOTONIC_USEC"]) > 0
        assert supervisor.hear()["READY"] == "1"
        # It was said once, for all of them.
        await served.said("configuration reloaded", times=workers)
        await served.reload({**several, "mode": "obsrve"})
        assert supervisor.hear()["RELOADING"] == "1"
        told = supervisor.hear()
        assert told["READY"] == "1"
        assert told["STATUS"].startswith("reload failed, the old stays: ")
        served.signal(SIGTERM)
        assert supervisor.hear() == {"STOPPING": "1", "STATUS": "draining"}
        await served.finished()
    assert supervisor.hear_all() == []


@pytest.mark.parametrize("workers", [1, 2])
async def test_d_sd_notify_watchdog(
    tmp_path: Path, settings: Settings, workers: int
) -> None:
    supervisor = Supervisor(str(tmp_path / "notify"))
    several = {**settings, "listen.workers": workers}
    env = {**supervisor.env, "WATCHDOG_USEC": "4000000"}
    async with serving(tmp_path, several, env) as served:
        while "WATCHDOG" not in supervisor.hear():
            pass
        if workers > 1:
            # One that stands still is noticed: the others do not speak for it.
            still = children(served)[0]
            os.kill(still, SIGSTOP)
            while supervisor.heard_within(2.0):
                pass
            os.kill(still, SIGCONT)
            assert "WATCHDOG" in supervisor.hear()
    supervisor.close()


async def test_d_sd_notify_without_a_listener(
    tmp_path: Path, settings: Settings
) -> None:
    env = {"NOTIFY_SOCKET": str(tmp_path / "nobody-there")}
    async with serving(tmp_path, settings, env) as served:
        assert await codes_for(served, b"alice@example.test") == [250]


@pytest.mark.parametrize("workers", [1, 2])
async def test_d_readiness_fd(tmp_path: Path, settings: Settings, workers: int) -> None:
    reading, writing = os.pipe()
    told = {**settings, "process.readiness_fd": writing, "listen.workers": workers}
    async with serving(tmp_path, told, pass_fds=[writing]):
        os.close(writing)
        assert select.select([reading], [], [], PATIENCE)[0]
        assert os.read(reading, 10) == b"\n"
    assert os.read(reading, 10) == b"", "told once"
    os.close(reading)


async def test_d_readiness_fd_that_is_not_open(
    tmp_path: Path, settings: Settings
) -> None:
    config = write(tmp_path / "c.toml", {**settings, "process.readiness_fd": 99})
    status, out, err = await run("serve", "-c", str(config))
    assert (status, out) == (2, "")
    assert err == (
        "backstop: process.readiness_fd = 99: Bad file descriptor (the supervisor"
        " must open it, as s6 does for its notification-fd)\n"
    )


# Socket activation.

_HAND_OVER = """
import os, sys
given = [os.dup(int(word)) for word in sys.argv[1].split(",")]
high = [os.dup2(fd, 100 + n) for n, fd in enumerate(given)]
for number, fd in enumerate(high):
    os.dup2(fd, 3 + number)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(given)))
os.execv(sys.argv[2], sys.argv[2:])
"""


def handing_over(*sockets: socket.socket) -> list[str]:
    """As sd_listen_fds(3) wants it: from descriptor 3 on, for that process."""
    numbers = ",".join(str(sock.fileno()) for sock in sockets)
    return [sys.executable, "-c", _HAND_OVER, numbers]


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


@pytest.mark.parametrize("workers", [1, 2])
async def test_d_socket_activation(
    tmp_path: Path, settings: Settings, listening: socket.socket, workers: int
) -> None:
    port = listening.getsockname()[1]
    # The configured address is not used: it could not be.
    several = {**settings, "listen.addresses": ["192.0.2.1:25"]}
    several["listen.workers"] = workers
    with socket.create_server(("127.0.0.1", 0)) as status:
        env = {"LISTEN_FDNAMES": "smtp:status"}
        served_by = serving(
            tmp_path,
            {**several, "status.address": None},
            env,
            within=handing_over(listening, status),
            pass_fds=[listening.fileno(), status.fileno()],
        )
        async with served_by as served:
            assert served.ports == [port]
            await served.said("status page", times=1)
            served.status = f"http://127.0.0.1:{status.getsockname()[1]}/"
            assert await codes_for(served, b"alice@example.test") == [250]
            assert await served.get("/readyz") == (200, "ready\n")
            served.signal(SIGTERM)
            await served.finished()
        # Both are still the supervisor's: who calls now waits for the next start.
        for sock in (listening, status):
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        waiting = await RawClient.connect(port)
    again = serving(
        tmp_path,
        several,
        within=handing_over(listening),
        pass_fds=[listening.fileno()],
    )
    async with again:
        assert await waiting.code() == 220
        await waiting.close()


async def test_a_socket_for_tls_from_the_start(
    tmp_path: Path, settings: Settings, listening: socket.socket
) -> None:
    certificate, key = write_pair(tmp_path, "mx", issued(NAME))
    pair = {"tls.certificates": [certificate], "tls.keys": [key]}
    with socket.create_server(("127.0.0.1", 0)) as encrypted:
        served_by = serving(
            tmp_path,
            {**settings, **pair},
            {"LISTEN_FDNAMES": "smtps:smtp"},
            within=handing_over(encrypted, listening),
            pass_fds=[encrypted.fileno(), listening.fileno()],
        )
        async with served_by as served:
            assert await codes_for(served, b"alice@example.test") == [250]
            async with await RawClient.connect(encrypted.getsockname()[1]) as client:
                await client.start_tls(client_context())
                assert await client.code() == 220


async def test_d_socket_activation_meant_for_another_process(
    tmp_path: Path, settings: Settings
) -> None:
    env = {"LISTEN_FDS": "1", "LISTEN_PID": "1"}
    async with serving(tmp_path, settings, env) as served:
        assert await codes_for(served, b"alice@example.test") == [250]


def _bound() -> socket.socket:
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    return sock


UNFIT: dict[str, tuple[Callable[[], socket.socket], str]] = {
    "not listening": (_bound, "does not listen: set Accept=no"),
    "datagrams": (
        lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
        "is no TCP socket: set ListenStream=host:port",
    ),
    "local": (
        lambda: socket.socket(socket.AF_UNIX, socket.SOCK_STREAM),
        "is no TCP socket: set ListenStream=host:port",
    ),
}


@pytest.mark.parametrize("kind", UNFIT)
async def test_d_socket_activation_with_an_unfit_socket(
    tmp_path: Path, settings: Settings, kind: str
) -> None:
    make, told = UNFIT[kind]
    config = write(tmp_path / "c.toml", settings)
    with make() as sock:
        status, out, err = await run(
            "serve",
            *("-c", str(config)),
            within=handing_over(sock),
            pass_fds=[sock.fileno()],
        )
    assert (status, out) == (2, "")
    assert err == f"backstop: LISTEN_FDS: descriptor 3 {told}\n"

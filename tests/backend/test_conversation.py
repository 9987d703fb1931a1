"""A conversation over a connection whose bytes go out as slowly as the test wants."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from proxy.backend.channel import Channel
from proxy.backend.choice import Group
from proxy.backend.conversation import Conversation
from proxy.backend.settings import BackendSettings
from proxy.smtp.reply import Reply

SETTINGS = BackendSettings(data_timeout=120.0, final_timeout=540.0)
LARGE = b"x" * 100_000


class SlowTransport:
    """Sends nothing until told."""

    def __init__(self) -> None:
        self.unsent = b""
        self.closed = False
        self.protocol: Any = None

    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol

    def write(self, data: bytes) -> None:
        self.unsent += data
        if len(self.unsent) > 65536:
            self.protocol.pause_writing()

    def get_write_buffer_size(self) -> int:
        return len(self.unsent)

    def drain(self) -> None:
        blocked = len(self.unsent) > 65536
        self.unsent = b""
        if blocked:
            self.protocol.resume_writing()

    def is_closing(self) -> bool:
        return self.closed

    def abort(self) -> None:
        self.closed = True


class NoClient:
    """In aiosmtplib's place."""

    def close(self) -> None:
        pass


@dataclass
class OneConnection:
    """In the place of the backend: it has one connection, for one time."""

    channel: Channel | None
    settings: BackendSettings = SETTINGS
    hostname: bytes = b"me.test"
    full: bool = False
    released: list[Channel] = field(default_factory=list)
    discarded: list[Channel] = field(default_factory=list)

    def now(self) -> float:
        return 0.0

    def reuse(self, client: object) -> Channel | None:
        channel, self.channel = self.channel, None
        return channel

    def release(self, channel: Channel, client: object = None) -> None:
        channel.owner = None
        self.released.append(channel)

    def discard(self, channel: Channel) -> None:
        channel.discard()
        self.discarded.append(channel)

    @property
    def backends(self) -> list[OneConnection]:
        return [self]

    def candidates(self, before: object = None) -> list[OneConnection]:
        return [self]

    def others(self, backend: OneConnection) -> list[OneConnection]:
        return []


@dataclass
class Heard:
    """What the client's side is told."""

    data: list[int] = field(default_factory=list)
    message: list[int] = field(default_factory=list)
    failed: list[tuple[int, str]] = field(default_factory=list)
    blocked: bool = False

    def recipient_answered(self, reply: Reply) -> None:
        pass

    def auth_answered(self, reply: Reply) -> None:
        raise AssertionError

    def data_answered(self, reply: Reply) -> None:
        self.data.append(reply.code)

    def message_answered(self, reply: Reply) -> None:
        self.message.append(reply.code)

    def relay_failed(self, reply: Reply, step: str, why: str) -> None:
        self.failed.append((reply.code, step))

    def backend_passed_over(self, step: str, why: str) -> None:
        raise AssertionError

    def relay_blocked(self) -> None:
        self.blocked = True

    def relay_writable(self) -> None:
        self.blocked = False


@dataclass
class Talk:
    conversation: Conversation
    channel: Channel
    transport: SlowTransport
    heard: Heard
    backend: OneConnection

    def say(self, data: bytes) -> None:
        self.channel.data_received(data)


def in_a_message() -> Talk:
    """354 was given."""
    transport = SlowTransport()
    channel = Channel(cast(Any, NoClient()), cast(Any, transport), 0.0)
    channel.helo = b"c.test"
    backend, heard = OneConnection(channel), Heard()
    conversation = Conversation(cast(Group, backend), heard, None)
    talk = Talk(conversation, channel, transport, heard, backend)
    conversation.recipient(b"c.test", b"FROM:<>", b"TO:<a@example.test>")
    for reply in (b"250 flushed\r\n", b"250 ok\r\n", b"250 ok\r\n"):
        transport.drain()
        talk.say(reply)
    conversation.data(b"")
    transport.drain()
    talk.say(b"354 go\r\n")
    assert heard.data == [354]
    return talk


@pytest.mark.fault("N4")
def test_the_final_dot_has_its_own_time_however_slowly_it_goes_out() -> None:
    talk = in_a_message()
    talk.conversation.end(LARGE)
    assert talk.heard.blocked
    assert talk.channel.deadline == SETTINGS.final_timeout
    talk.transport.drain()
    assert talk.channel.deadline == SETTINGS.final_timeout
    talk.say(b"250 ok\r\n")
    assert talk.heard.message == [250]


@pytest.mark.fault("N4")
def test_a_message_that_is_not_read_has_the_time_for_data() -> None:
    talk = in_a_message()
    talk.conversation.body(LARGE)
    assert talk.channel.deadline == SETTINGS.data_timeout
    talk.transport.drain()
    assert talk.channel.deadline == float("inf")


@pytest.mark.fault("N5")
@pytest.mark.parametrize("code", [452, 554])
def test_a_refusal_before_the_message_was_read_frees_the_client(code: int) -> None:
    talk = in_a_message()
    talk.conversation.end(LARGE)
    talk.say(b"%d no\r\n" % code)
    talk.channel.eof_received()
    assert talk.heard.message == [code]
    assert talk.heard.failed == []
    assert not talk.heard.blocked
    assert talk.backend.discarded == [talk.channel]
    assert talk.backend.released == []


@pytest.mark.fault("N5")
def test_a_yes_before_the_dot_was_sent_is_not_believed() -> None:
    talk = in_a_message()
    talk.conversation.end(b"x")
    assert talk.transport.unsent
    talk.say(b"250 ok\r\n")
    assert talk.heard.message == []
    assert talk.heard.failed == [(451, "message")]  # nobody has it
    assert talk.backend.discarded == [talk.channel]


@pytest.mark.fault("N5")
def test_a_refusal_in_the_middle_of_a_message_frees_the_client() -> None:
    talk = in_a_message()
    talk.conversation.body(LARGE)
    assert talk.heard.blocked
    talk.say(b"452 no room\r\n")
    assert talk.heard.failed == [(452, "message")]
    assert not talk.heard.blocked


@pytest.mark.fault("N5")
def test_a_connection_with_unsent_bytes_is_no_use_to_others() -> None:
    talk = in_a_message()
    assert talk.channel.usable
    talk.transport.write(b"x")
    assert not talk.channel.usable


@pytest.mark.fault("N12")
def test_every_2yz_at_the_dot_is_a_yes() -> None:
    talk = in_a_message()
    talk.conversation.end(b"x\r\n")
    talk.transport.drain()
    talk.say(b"251 taken\r\n")
    assert talk.heard.message == [251]
    assert talk.heard.failed == []


@pytest.mark.fault("N13")
def test_where_no_dot_was_sent_the_log_says_message() -> None:
    talk = in_a_message()
    talk.say(b"250-half a rep")
    talk.conversation.end(b"x\r\n")
    assert not talk.transport.unsent
    assert talk.heard.failed == [(451, "message")]


@pytest.mark.fault("N13")
@pytest.mark.parametrize("sent", [True, False])
def test_a_connection_lost_at_the_dot(sent: bool) -> None:
    """Only if the dot was sent may somebody have the message."""
    talk = in_a_message()
    talk.conversation.end(LARGE)
    if sent:
        talk.transport.drain()
    talk.channel.drop("no answer in time")
    assert talk.heard.failed == [(451, "final dot" if sent else "message")]
    assert not talk.heard.blocked


@pytest.mark.fault("N13")
def test_a_reset_while_the_dot_waits_behind_a_full_buffer() -> None:
    talk = in_a_message()
    talk.conversation.end(LARGE)
    talk.transport.unsent = b""  # as the event loops do it, before they tell
    talk.channel.connection_lost(ConnectionResetError())
    assert talk.heard.failed == [(451, "message")]


@pytest.mark.fault("N5", "N13")
@pytest.mark.parametrize("said", [b"250 ok\r\n", b"421 going\r\n", b"354 what\r\n"])
def test_what_is_said_before_the_dot_was_sent(said: bytes) -> None:
    talk = in_a_message()
    talk.conversation.end(LARGE)
    talk.say(said)
    assert talk.heard.message == []
    assert talk.heard.failed == [(451, "message")]
    assert not talk.heard.blocked

"""qmail-send's rewriting: local, virtual or remote, and under which name."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.qmail.control import ControlError, parse_map, parse_names
from proxy.qmail.host import QmailHost
from proxy.qmail.moment import Names
from proxy.qmail.send import SendSettings, read_settings, route, sender_for
from proxy.qmail.trail import Trail
from tests.support.files import CONTROL, mail_host_files
from tests.support.fuzz import fuzz


def settings(
    locals_: bytes = b"example.test\n",
    virtualdomains: bytes = b"",
    percenthack: bytes = b"",
    envnoathost: bytes = b"env.test",
) -> SendSettings:
    return SendSettings(
        envnoathost,
        parse_names(locals_),
        parse_names(percenthack),
        parse_map(virtualdomains),
    )


def routed(found: SendSettings, recipient: bytes) -> tuple[str, bytes]:
    answer = route(found, recipient, Trail())
    return "local" if answer.is_local else "remote", answer.address


@pytest.mark.parametrize(
    ("recipient", "channel", "address"),
    [
        (b"joe@example.test", "local", b"joe@example.test"),
        (b"Joe@EXAMPLE.test", "local", b"Joe@EXAMPLE.test"),
        (b"a@b@example.test", "local", b"a@b@example.test"),
        (b"@example.test", "local", b"@example.test"),
        (b"joe@sub.example.test", "remote", b"joe@sub.example.test"),
        (b"joe@example.test.", "remote", b"joe@example.test."),
        (b"joe@", "remote", b"joe@"),
        (b"joe", "remote", b"joe@env.test"),
        (b"", "remote", b"@env.test"),
    ],
)
def test_locals(recipient: bytes, channel: str, address: bytes) -> None:
    assert routed(settings(), recipient) == (channel, address)


VIRTUAL = b"""\
virt.test:joe-virt
.virt.test:joe-sub
ann@virt.test:ann
info@example.test:unused
exception.all.test:
.all.test:all
@odd.test:odd
"""


@pytest.mark.parametrize(
    ("recipient", "channel", "address"),
    [
        (b"X@Virt.test", "local", b"joe-virt-X@Virt.test"),
        (b"ANN@virt.test", "local", b"ann-ANN@virt.test"),
        (b"x@a.b.virt.test", "local", b"joe-sub-x@a.b.virt.test"),
        (b"x@.virt.test", "local", b"joe-sub-x@.virt.test"),
        (b"x@avirt.test", "remote", b"x@avirt.test"),
        (b"info@example.test", "local", b"info@example.test"),
        (b"x@exception.all.test", "remote", b"x@exception.all.test"),
        (b"x@sub.exception.all.test", "local", b"all-x@sub.exception.all.test"),
        (b"@odd.test", "local", b"odd-@odd.test"),
        (b"x@odd.test", "remote", b"x@odd.test"),
        (b"a.virt.test@x", "remote", b"a.virt.test@x"),
    ],
)
def test_virtual_domains(recipient: bytes, channel: str, address: bytes) -> None:
    assert routed(settings(virtualdomains=VIRTUAL), recipient) == (channel, address)


def test_the_catch_all_and_its_exceptions() -> None:
    found = settings(virtualdomains=b":all\nremote.test:\n")
    assert routed(found, b"x@any.test") == ("local", b"all-x@any.test")
    assert routed(found, b"x@") == ("local", b"all-x@")
    assert routed(found, b"x@remote.test") == ("remote", b"x@remote.test")
    assert routed(found, b"x@example.test") == ("local", b"x@example.test")


@pytest.mark.parametrize(
    ("recipient", "address"),
    [
        (b"joe%b.test@hack.test", b"joe@b.test"),
        (b"joe%b%hack.test@HACK.test", b"joe@b"),
        (b"joe%b.test@other.test", b"joe%b.test@other.test"),
        (b"joe@hack.test", b"joe@hack.test"),
        (b"joe%@hack.test", b"joe@"),
        (b"%b.test@hack.test", b"@b.test"),
        (b"a@b%c@hack.test", b"a@b@c"),
        (b"joe%b.test", b"joe@b.test"),
    ],
)
def test_the_percent_hack(recipient: bytes, address: bytes) -> None:
    found = settings(percenthack=b"hack.test\n", envnoathost=b"hack.test")
    assert routed(found, recipient) == ("remote", address)


@pytest.mark.parametrize("percenthack", [b"", b"hack.test\n"])
def test_an_at_sign_in_envnoathost_is_an_at_sign(percenthack: bytes) -> None:
    found = settings(percenthack=percenthack, envnoathost=b"x@example.test")
    assert routed(found, b"joe") == ("local", b"joe@x@example.test")


def test_the_parts_after_and_before_the_last_at_sign() -> None:
    answer = route(settings(), b"a@b@example.test", Trail())
    assert answer.local_and_host() == (b"a@b", b"example.test")


@pytest.mark.parametrize(
    ("sender", "found"),
    [
        (b"list-owner-@h.test-@[]", b"list-owner-joe=x.test@h.test"),
        (b"a@b@h.test-@[]", b"a@bjoe=x.test@h.test"),
        (b"@-@[]", b"joe=x.test@"),
        (b"#@[]", b"#@[]"),
        (b"-@[]", b"-@[]"),
        (b"x-@[]", b"x-@[]"),
        (b"ann@h.test", b"ann@h.test"),
        (b"", b""),
    ],
)
def test_a_sender_of_its_own_for_every_recipient(sender: bytes, found: bytes) -> None:
    assert sender_for(sender, b"joe@x.test") == found


def test_which_files_are_read() -> None:
    files = mail_host_files()
    host = QmailHost(files)
    found = read_settings(host.moment().control(Names.SEND))
    assert found.envnoathost == b"mx.example.test"
    files.remove(CONTROL + b"locals")
    assert read_settings(host.moment().control(Names.SEND)).locals == {
        b"mx.example.test": 0
    }
    files.control(b"locals", b"")
    assert read_settings(host.moment().control(Names.SEND)).locals == {}
    files.control(b"envnoathost", b"e.test \n")
    assert read_settings(host.moment().control(Names.SEND)).envnoathost == b"e.test"


def test_without_me_and_locals_qmail_does_not_start() -> None:
    files = mail_host_files()
    host = QmailHost(files)
    files.remove(CONTROL + b"me")
    assert (
        read_settings(host.moment().control(Names.SEND)).envnoathost == b"envnoathost"
    )
    files.remove(CONTROL + b"locals")
    with pytest.raises(ControlError, match="locals"):
        read_settings(host.moment().control(Names.SEND))


@pytest.mark.parametrize("name", [b"me", b"locals", b"percenthack", b"virtualdomains"])
def test_a_file_that_cannot_be_read(name: bytes) -> None:
    files = mail_host_files()
    files.file(CONTROL + name, b"x", 0o600)
    with pytest.raises(ControlError):
        read_settings(QmailHost(files).moment().control(Names.SEND))


@fuzz
@given(
    st.binary(max_size=40) | st.text(alphabet="a@%.b", max_size=20).map(str.encode),
    st.text(alphabet="ab.:@\n", max_size=60).map(str.encode),
    st.text(alphabet="ab.\n", max_size=20).map(str.encode),
    st.text(alphabet="ab.%@", max_size=5).map(str.encode),
)
def test_every_recipient_has_a_route(
    recipient: bytes, virtual: bytes, names: bytes, env: bytes
) -> None:
    found = settings(names, virtual, names, env)
    answer = route(found, recipient, Trail())
    local, host = answer.local_and_host()
    assert local + b"@" + host == answer.address
    assert b"@" not in host

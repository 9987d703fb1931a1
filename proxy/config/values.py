"""Values that are more than a word or a number: read, and refused with a reason.

Knows: addresses, networks, bounds, how a list stands in one environment
variable.  Knows not: any key.  Used by ``model``; each type here is the type
of a key there.
"""

from __future__ import annotations

import ipaddress
import json
import re
import shlex
from collections.abc import Callable
from typing import Annotated, NamedTuple

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_core import PydanticCustomError

UNIX = "unix:"

# More would not fit where the kernel or the event loop takes numbers.
_WHOLE_MAX = (1 << 63) - 1
_SECONDS_MAX = 1e9


class Address(NamedTuple):
    """A TCP address."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


_HOST = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?\.?")
_PORT = re.compile(r"[0-9]{1,5}")


def wrong(what: str, remedy: str) -> PydanticCustomError:
    """An error of one of our own checks; ``explain`` takes it apart."""
    return PydanticCustomError("backstop", "wrong", {"what": what, "remedy": remedy})


def read_address(text: str) -> Address:
    """``host:port`` or ``[v6]:port``; any other text is an error."""
    host, colon, digits = text.rpartition(":")
    if "//" in text:
        raise wrong("is a URL", 'write "host:port" alone')
    if not colon:
        if text.isdigit():
            raise wrong("is a port without a host", f'write "0.0.0.0:{text}"')
        raise wrong("has no port", 'write "host:port"')
    if not _PORT.fullmatch(digits) or int(digits) > 65535:
        raise wrong("has no port between 0 and 65535", 'write "host:port"')
    if host.startswith("[") and host.endswith("]"):
        return Address(_ipv6(host[1:-1]), int(digits))
    if host.startswith("inet:"):
        raise wrong("is written as for Postfix", 'write "host:port" without "inet:"')
    if ":" in host:
        raise wrong("is an IPv6 address without brackets", 'write "[address]:port"')
    if host in ("", "*"):
        raise wrong("has no host", f'write "0.0.0.0:{digits}" or "[::]:{digits}"')
    if not _HOST.fullmatch(host):
        raise wrong("is not a host name or IP address", 'write "host:port"')
    return Address(host, int(digits))


def _ipv6(text: str) -> str:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        raise wrong(
            "has no IPv6 address in its brackets", 'write "[2001:db8::1]:25"'
        ) from None
    return text


def is_loopback(host: str) -> bool:
    """Whether nothing leaves this machine on the way there."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.rstrip(".").lower() == "localhost"


def _checked_address(text: str) -> str:
    read_address(text)
    return text


def _checked_backend(text: str) -> str:
    if text.startswith(UNIX):
        if not text[len(UNIX) :].startswith("/"):
            raise wrong(
                "names a socket by a relative path",
                'write "unix:/run/qmail-smtpd.socket"',
            )
        return text
    if read_address(text).port == 0:
        raise wrong("has port 0", "name the port that qmail-smtpd listens on")
    return text


def _checked_path(text: str) -> str:
    if not text.startswith("/"):
        raise wrong("is a relative path", "write the whole path, from /")
    return _without_nul(text)


def _without_nul(text: str) -> str:
    if "\0" in text:
        raise wrong("has a NUL in it", "take it out")
    return text


def _checked_hostname(text: str) -> str:
    if len(text) > 255 or not _HOST.fullmatch(text):
        raise wrong("is not a host name", 'write it like "mx.example.org"')
    return text


def _checked_break(text: str) -> str:
    if len(text) != 1 or not "\x20" < text < "\x7f":
        raise wrong("is not one character", 'write the character of conf-break: "-"')
    return text


def _enough_recipients(number: int) -> int:
    if 0 < number < 100:
        raise wrong(
            "is less than the 100 that RFC 5321 asks for (4.5.3.1.10)",
            "write 100 or more, or 0 for no limit",
        )
    return number


def _checked_ipv4(text: str) -> str:
    try:
        return str(ipaddress.IPv4Address(text))
    except ValueError:
        raise wrong(
            "is not an IPv4 address", 'write it like "192.0.2.1" (qmail knows no IPv6)'
        ) from None


_DOMAIN = re.compile(r"[!-?A-~]+")


def _checked_domain(text: str) -> str:
    if "@" in text:
        raise wrong("is an address", "write what stands behind the @")
    if text.startswith("*."):
        raise wrong("has a star", f'write "{text[1:]}", as in rcpthosts')
    if not _DOMAIN.fullmatch(text) or text == ".":
        raise wrong("is not a domain", 'write it like "example.org" or ".example.org"')
    return text.lower()


_ACCOUNT = re.compile(r"[A-Za-z0-9_.][A-Za-z0-9_.-]*\$?")


def _checked_account(value: object) -> object:
    text = str(value) if type(value) is int else value
    if isinstance(text, str) and not _ACCOUNT.fullmatch(text):
        raise wrong("is not the name or number of an account", 'write it like "joe"')
    return text


Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def _network(value: object) -> Network:
    if isinstance(value, Network):
        return value
    if not isinstance(value, str):
        raise wrong("is not text", 'write it like "192.0.2.0/24"')
    try:
        network = ipaddress.ip_network(value, strict=False)
    except ValueError:
        raise wrong(
            "is not an IP address or network", 'write it like "192.0.2.0/24"'
        ) from None
    address = value.partition("/")[0]
    if "/" in value and ipaddress.ip_address(address) != network.network_address:
        # 192.0.2.1/8 may well be a slip of the pen for /32: who may relay
        # is not a matter for guessing.
        raise wrong(
            "is an address within a network, not a network",
            f'write "{network}" or "{address}"',
        )
    return network


def _unmapped(value: object) -> Network:
    """A network; of IPv4 also where it is written as IPv6."""
    network = _network(value)
    if isinstance(network, ipaddress.IPv6Network) and network.prefixlen >= 96:
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:  # ::ffff:192.0.2.0/120 is 192.0.2.0/24
            network = ipaddress.IPv4Network((mapped, network.prefixlen - 96))
    return network


def _not_everybody(danger: str, remedy: str) -> Callable[[object], Network]:
    def checked(value: object) -> Network:
        network = _unmapped(value)
        if not network.prefixlen:
            raise wrong(f"is everybody: {danger}", remedy)
        return network

    return checked


_proxy_network = _not_everybody(
    "anybody could claim any address", 'name the proxies alone, like "192.0.2.7"'
)
_relay_network = _not_everybody(
    "that would be an open relay", 'name your own clients, like "192.0.2.0/24"'
)


def _number_only(value: object) -> object:
    if isinstance(value, bool):
        raise wrong("must be a number", "write digits")
    return value


def split_list(value: object) -> object:
    """A list from an environment variable: JSON, or words between commas."""
    if not isinstance(value, str):
        return value
    try:
        found = json.loads(value)
    except (ValueError, RecursionError):
        found = None
    if isinstance(found, list):
        return found
    return [word.strip() for word in value.split(",") if word.strip()]


_TOKEN = re.compile(r"[!-~]{12,200}")


def _checked_token(text: str) -> str:
    if not _TOKEN.fullmatch(text):
        raise wrong(
            "is not 12 to 200 letters, digits and signs",
            "make one: openssl rand -hex 16",
        )
    return text


_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,31}")


def _checked_name(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise wrong("is not a name", "write up to 32 letters, digits, and any of _.-")
    return text


def one_or_more(value: object) -> object:
    """One table is a list of one."""
    return value if isinstance(value, list | tuple) else [value]


def tables(value: object) -> object:
    """A list of tables from an environment variable: JSON."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        raise wrong("is not JSON", """write '[{"type": "qmail"}]'""") from None


def split_words(value: object) -> object:
    """A command from one text: JSON, or words as a shell splits them; no shell
    is asked, so there are no variables, pipes or wildcards."""
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        return split_list(value)
    try:
        return shlex.split(value)
    except ValueError:
        raise wrong(
            "has a quote that is not closed", 'write a list: ["program", "argument"]'
        ) from None


Whole = Annotated[int, BeforeValidator(_number_only), Field(ge=0, le=_WHOLE_MAX)]
Recipients = Annotated[Whole, AfterValidator(_enough_recipients)]
Processes = Annotated[int, BeforeValidator(_number_only), Field(ge=1, le=1024)]
Seconds = Annotated[float, BeforeValidator(_number_only), Field(ge=0, le=_SECONDS_MAX)]
ListenAddress = Annotated[str, AfterValidator(_checked_address)]
BackendAddress = Annotated[str, AfterValidator(_checked_backend)]
AbsolutePath = Annotated[str, AfterValidator(_checked_path)]
HostName = Annotated[str, AfterValidator(_checked_hostname)]
IPv4 = Annotated[str, AfterValidator(_checked_ipv4)]
Character = Annotated[str, AfterValidator(_checked_break)]
Text = Annotated[str, AfterValidator(_without_nul)]
Domain = Annotated[str, AfterValidator(_checked_domain)]
Token = Annotated[str, AfterValidator(_checked_token)]
RuleName = Annotated[str, AfterValidator(_checked_name)]
Weight = Annotated[int, BeforeValidator(_number_only), Field(ge=1, le=1000)]
AccountName = Annotated[str, BeforeValidator(_checked_account)]
Descriptor = Annotated[int, BeforeValidator(_number_only), Field(ge=3, le=1 << 20)]
RelayNetwork = Annotated[Network, BeforeValidator(_relay_network)]
ProxyNetwork = Annotated[Network, BeforeValidator(_proxy_network)]

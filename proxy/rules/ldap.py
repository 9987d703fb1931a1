"""The rule ``ldap``: one filter to a directory says whether a mailbox exists.

Knows: its keys, what entries mean, qmail-ldap's attributes and catch-alls.  Knows
not: how a directory is reached (``directory``), what any answer means for the
client (``source``).
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import re
from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from proxy.config.rules import RemoteKeys
from proxy.config.values import AbsolutePath, Text, Whole, split_list, wrong
from proxy.rules.engine import LIMIT_SECONDS
from proxy.rules.probe import probed
from proxy.rules.secret import read_secret
from proxy.rules.source import Context, Finding, Says, SourceDown, SourceRule
from proxy.rules.trouble import Trouble
from proxy.rules.values import NAMES, values
from proxy.rules.verdict import Question
from proxy.smtp import replies

if TYPE_CHECKING:
    from proxy.rules.directory import Directory, Entry

KINDS = ("ldap://", "ldaps://", "ldapi://")

_NAME = re.compile(r"\{(\w*)\}")


def _checked_url(text: str) -> str:
    for url in text.split() or [""]:
        if not url.startswith(KINDS):
            known = ", ".join(KINDS)
            raise wrong("is not the URL of a directory", f"write one of {known}")
    return text


def _checked_filter(text: str) -> str:
    names = _NAME.findall(text)
    if not names:
        raise wrong("asks for nothing about the recipient", "write {address} in it")
    for name in names:
        if name not in NAMES:
            known = ", ".join(f"{{{each}}}" for each in NAMES)
            raise wrong(f"has {{{name}}}, which is not known", f"known: {known}")
    if not (text.startswith("(") and text.endswith(")")):
        raise wrong("is not a filter", 'write it like "(mail={address})"')
    if text.count("(") != text.count(")"):
        raise wrong("has an odd parenthesis", r"write one that is text as \28 or \29")
    return text


Words = Annotated[tuple[Text, ...], BeforeValidator(split_list)]


class Settings(RemoteKeys):
    """An LDAP directory. The mailbox exists if the filter finds an entry. Wants the
    extra ldap: pip install '.[ldap]' in the checkout, for which Debian needs gcc,
    libldap2-dev, libsasl2-dev and python3-dev."""

    EXAMPLE: ClassVar[dict[str, object]] = {
        "url": "ldap://127.0.0.1",
        "base": "ou=people,dc=example,dc=org",
        "filter": "(&(objectClass=inetOrgPerson)(mail={address}))",
    }

    type: Literal["ldap"] = Field(description="The kind of source.")
    url: Annotated[Text, AfterValidator(_checked_url)] = Field(
        examples=["ldap://127.0.0.1"],
        description="Where the directory is: ldap://, ldaps:// or ldapi://; of several"
        " with spaces between them the first that can be reached is asked.",
    )
    starttls: bool = Field(
        default=False, description="Encrypt ldap:// by StartTLS, or do not ask at all."
    )
    ca: AbsolutePath | None = Field(
        default=None,
        examples=["/etc/ssl/certs/ca-certificates.crt"],
        description="The authorities (PEM) that may have signed the directory's"
        " certificate, which must be good for the host in url. Default: libldap's own,"
        " see ldap.conf(5).",
    )
    bind_dn: Text | None = Field(
        default=None,
        examples=["cn=backstop,dc=example,dc=org"],
        description="As whom it is asked. Default: as nobody.",
    )
    password_file: AbsolutePath | None = Field(
        default=None,
        examples=["/etc/backstop/ldap.password"],
        description="A file whose first line is the password of bind_dn.",
    )
    base: Text = Field(
        examples=["ou=people,dc=example,dc=org"],
        description="Where the search begins. Without such an entry all is deferred.",
    )
    scope: Literal["subtree", "one", "base"] = Field(
        default="subtree",
        description="How far below the base it goes: all of it, the entries just below"
        " it, or that entry alone.",
    )
    filter: Annotated[Text, AfterValidator(_checked_filter)] | None = Field(
        default=None,
        examples=["(&(objectClass=inetOrgPerson)(mail={address}))"],
        description="The question. {address}, {local}, {domain}, {at_domain}, {sender}"
        " and {client} stand for values, which are escaped.",
    )
    ready: Literal["qmail-ldap"] | None = Field(
        default=None,
        examples=["qmail-ldap"],
        description="In place of filter: mail, mailAlternateAddress, the catch-alls and"
        " accountStatus as qmail-ldap has them.",
    )
    attribute: Text | None = Field(
        default=None,
        examples=["accountStatus"],
        description="An attribute of the entry that decides, by the three lists below,"
        " whatever the case of letters. Another value, or none: found.",
    )
    disabled: Words = Field(
        default=(),
        description="Values that refuse the mailbox (550 5.2.1).",
    )
    deleted: Words = Field(
        default=(),
        description="Values that mean that there is no such mailbox.",
    )
    deferred: Words = Field(
        default=(), description="Values that defer the mailbox (451)."
    )
    several: Literal["defer", "accept"] = Field(
        default="defer",
        description="What several entries for one address mean. defer: a mistake, 451."
        " accept: found, if one of them alone would be.",
    )
    keep_case: bool = Field(
        default=False,
        description="Ask for local parts as the client wrote them. Otherwise A to Z"
        " become small letters, which those of domains do always.",
    )
    concurrency: Annotated[Whole, Field(ge=1)] = Field(
        default=10,
        description="Questions at a time, and connections to the directory; others wait"
        " their turn.",
    )

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.filter is None) == (self.ready is None):
            has = "neither" if self.filter is None else "both"
            raise wrong(f"has {has} of filter and ready", "write one of them")
        if (self.bind_dn is None) != (self.password_file is None):
            lacks = "bind_dn" if self.bind_dn is None else "password_file"
            raise wrong(f"has no {lacks}", "write both bind_dn and password_file")
        if self.starttls and not self.url.startswith("ldap://"):
            raise wrong("starttls is for ldap:// alone", "leave it out")
        lists = self.disabled or self.deleted or self.deferred
        if self.ready and (self.attribute or lists):
            raise wrong("ready decides by accountStatus", "leave attribute out")
        if lists and not self.attribute:
            raise wrong("has lists of values without attribute", "name the attribute")
        if importlib.util.find_spec("ldap") is None:
            raise wrong(
                "type ldap wants python-ldap, which is not installed",
                "pip install '.[ldap]' in the checkout",
            )
        return self


# qmail-ldap, qmail-ldap.h and qldap.c: what accountStatus may say.  "active",
# "noaccess" and all else take mail.
_STATUS = "accountStatus"
_DISABLED, _DELETED = ("disabled",), ("deleted",)

_QMAIL_LDAP = "(|(mail={0})(mailAlternateAddress={0}))"
_LEVELS = 4  # qmail-ldap.h, DASH_EXT_LEVELS


def qmail_ldap_addresses(local: bytes, domain: bytes) -> Iterator[bytes]:
    """What qmail-ldap looks up, in this order (filter.c, filter_mail): the address,
    a catch-all for each of its first dashes from the right, that of the domain."""
    yield local + b"@" + domain
    dashes = [at for at, byte in enumerate(local) if byte == ord("-")][:_LEVELS]
    for at in reversed(dashes):
        yield local[:at] + b"-catchall@" + domain
    yield b"catchall@" + domain


class LdapSource:
    """One directory and what it is asked.

    ``connect`` makes the pool; it is called at the first question, and again after
    :meth:`close` if there is another one.
    """

    def __init__(self, keys: Settings, connect: Callable[[], Directory]) -> None:
        self._keys = keys
        self._connect = connect
        self._directory: Directory | None = None
        qmail_ldap = keys.ready is not None
        self._attribute = _STATUS if qmail_ldap else keys.attribute
        self._disabled = _words(_DISABLED if qmail_ldap else keys.disabled)
        self._deleted = _words(_DELETED if qmail_ldap else keys.deleted)
        self._deferred = _words(keys.deferred)
        self._names = sorted(set(_NAME.findall(keys.filter or "{address}")))

    def query(self, question: Question) -> str:
        """The filter, or the filters that are tried in turn."""
        return f"{self._keys.base}: {', else '.join(self._filters(question))}"

    def key(self, question: Question) -> bytes | None:
        """All that the filter is told."""
        known = values(question, keep_case=self._keys.keep_case)
        return b"\0".join(known[name] for name in self._names)

    def ask(self, question: Question) -> Finding | Awaitable[Finding]:
        """What the entries mean."""
        return self._answer(question)

    async def probe(self) -> None:
        """Try the filter with an address that nobody has; raises
        :class:`SourceDown` where the directory has no answer."""
        nobody = b"backstop-check@example.invalid"
        await self._answer(Question(nobody, mailbox=nobody))

    async def close(self) -> None:
        """Close the connections."""
        directory, self._directory = self._directory, None
        if directory is not None:
            await directory.close()

    def _filters(self, question: Question) -> list[str]:
        from proxy.rules.directory import filter_value

        known = values(question, keep_case=self._keys.keep_case)
        if self._keys.filter is not None:
            # At one go: what a value looks like is not looked at.
            return [_NAME.sub(lambda m: filter_value(known[m[1]]), self._keys.filter)]
        addresses = qmail_ldap_addresses(known["local"], known["domain"])
        return [_QMAIL_LDAP.format(filter_value(each)) for each in addresses]

    async def _answer(self, question: Question) -> Finding:
        for text in self._filters(question):
            entries = await self._search(text)
            if entries:
                return self._meaning(entries)
        return Finding(Says.MISSING, "no entry")

    async def _search(self, text: str) -> list[Entry]:
        from proxy.rules.directory import Scope

        if self._directory is None:
            self._directory = self._connect()
        scopes = {"subtree": Scope.SUBTREE, "one": Scope.ONE, "base": Scope.BASE}
        base, scope = self._keys.base, scopes[self._keys.scope]
        # "1.1" is no attribute at all (RFC 4511 §4.5.1.8).
        wanted = [self._attribute or "1.1"]
        entries = await self._directory.search(base, scope, text, wanted)
        if entries is None:
            # Nor is there where the directory is being filled, or shows us nothing.
            raise SourceDown(f"{self._directory.shown}: no entry {base} is to be seen")
        return entries

    def _meaning(self, entries: list[Entry]) -> Finding:
        if len(entries) == 1:
            return self._one(entries[0])
        if self._keys.several == "defer":
            names = ", ".join(entry.dn for entry in entries[:3])
            raise SourceDown(f"{len(entries)} entries for one address: {names}")
        found = [self._one(entry) for entry in entries]
        order = (Says.FOUND, Says.DEFER, Says.REJECT, Says.MISSING)
        return min(found, key=lambda finding: order.index(finding.says))

    def _one(self, entry: Entry) -> Finding:
        if self._attribute is None:
            return Finding(Says.FOUND, entry.dn)
        given = entry.attributes.get(self._attribute.lower(), ())
        words = {value.decode(errors="replace").casefold() for value in given}
        said = f"{self._attribute}={', '.join(sorted(words))}" if words else "no value"
        note = f"{entry.dn}, {said}"
        if words & self._deferred:
            return Finding(Says.DEFER, note)
        if words & self._deleted:
            return Finding(Says.MISSING, note)
        if words & self._disabled:
            return Finding(Says.REJECT, note, replies.MAILBOX_DISABLED)
        return Finding(Says.FOUND, note)


def _words(given: tuple[str, ...]) -> frozenset[str]:
    return frozenset(word.casefold() for word in given)


def connect(keys: Settings) -> Directory:
    """The pool, of which nothing is connected yet; raises :class:`SourceDown`
    where the password cannot be read."""
    from proxy.rules.directory import Directory, DirectorySettings

    password = "" if keys.password_file is None else read_secret(keys.password_file)
    seconds = keys.timeout or LIMIT_SECONDS
    settings = DirectorySettings(
        keys.url,
        user=keys.bind_dn or "",
        password=password,
        starttls=keys.starttls,
        ca=keys.ca,
        connections=keys.concurrency,
        connect_timeout=seconds,
        query_timeout=seconds,
    )
    return Directory(settings)


def build(settings: Settings, context: Context) -> SourceRule:
    """The rule."""
    # Now: at the first question all sessions would wait for it.
    with contextlib.suppress(ImportError):
        importlib.import_module("proxy.rules.directory")
    source = LdapSource(settings, lambda: connect(settings))
    return SourceRule(settings, source, context)


def check(settings: Settings, context: Context) -> list[Trouble]:
    """Whether the directory answers now, for ``backstop check``."""
    source = LdapSource(settings, lambda: connect(settings))
    return probed(source, settings.timeout or LIMIT_SECONDS)

"""The rule ``sql``: one query to a database says whether a mailbox exists.

Knows: its keys, the ready-made queries, what rows mean.  Knows not: how a database
is reached (``database``), what any answer means for the client (``source``).
"""

from __future__ import annotations

import contextlib
import importlib.util
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, NamedTuple, Self
from urllib.parse import parse_qs, urlsplit

from pydantic import AfterValidator, Field, model_validator

from proxy.config.rules import RemoteKeys
from proxy.config.values import AbsolutePath, Text, Whole, wrong
from proxy.rules.encryption import client_context
from proxy.rules.engine import LIMIT_SECONDS
from proxy.rules.probe import probed
from proxy.rules.secret import read_secret
from proxy.rules.source import Context, Finding, Says, SourceDown, SourceRule
from proxy.rules.trouble import Trouble
from proxy.rules.values import NAMES, values
from proxy.rules.verdict import Question

if TYPE_CHECKING:
    from proxy.rules.database import Database

KINDS = ("postgresql", "mysql", "mariadb", "sqlite")

# As SQLAlchemy tells a password in a URL; and as drivers take one behind it.
_PASSWORD = re.compile(r"://[^:/@]*:[^@]*@|[?&]pass(?:word|wd)?=")

# As SQLAlchemy's text() finds names of parameters.
_NAME = re.compile(r"(?<![:\w\\]):(\w+)(?![:\w])")
_QUOTED = re.compile(r"'[^']*'")


def _checked_url(url: str) -> str:
    kind, colon, rest = url.partition("://")
    if not colon or kind.partition("+")[0] not in KINDS:
        known = ", ".join(f"{name}://" for name in KINDS)
        raise wrong("is not the URL of a database that is known", f"known: {known}")
    if kind.startswith("sqlite") and not re.match("//[^?]", rest):
        raise wrong(
            "does not name a file by its whole path",
            'write "sqlite:////var/lib/mail.db", with four slashes',
        )
    return url


def _checked_query(query: str) -> str:
    names = _NAME.findall(query)
    if not names:
        raise wrong("asks for nothing about the recipient", "write :address in it")
    for name in names:
        if name not in NAMES:
            known = ", ".join(f":{each}" for each in NAMES)
            raise wrong(
                f"has a parameter :{name} that is not known",
                f"known: {known}; write a colon that is text as \\\\:",
            )
    for quoted in _QUOTED.findall(query):
        for name in _NAME.findall(quoted):
            raise wrong(
                f"has :{name} in quotes, where it would be text, or worse",
                f"write :{name} without quotes: it is bound",
            )
    return query


Ready = Literal["vpopmail", "vpopmail-domain-tables", "vpopmail-valias", "postfixadmin"]


class Settings(RemoteKeys):
    """A database: PostgreSQL, MySQL, MariaDB or SQLite. The mailbox exists if the
    query has a row. Wants the extra sql: pip install '.[sql]' in the checkout."""

    EXAMPLE: ClassVar[dict[str, object]] = {
        "url": "postgresql://backstop@127.0.0.1/mail",
        "password_file": "/etc/backstop/sql.password",
        "query": "SELECT 1 FROM mailbox WHERE address = :address",
    }

    type: Literal["sql"] = Field(description="The kind of source.")
    url: Annotated[Text, AfterValidator(_checked_url)] | None = Field(
        default=None,
        examples=[
            "postgresql://backstop@127.0.0.1/mail",
            "mysql://backstop@localhost/vpopmail?unix_socket=/run/mysqld/mysqld.sock",
            "sqlite:////var/lib/mail.db",
        ],
        description="Which database: kind://user@host:port/name, without a password.",
    )
    password_file: AbsolutePath | None = Field(
        default=None,
        examples=["/etc/backstop/sql.password"],
        description="A file whose first line is the password.",
    )
    url_file: AbsolutePath | None = Field(
        default=None,
        examples=["/etc/backstop/sql.url"],
        description="In place of url: a file whose first line is the whole URL, which"
        " may have the password in it.",
    )
    tls: Literal["none", "require", "verify"] | None = Field(
        default=None,
        examples=["verify"],
        description="How a server is asked over TCP. none: in the clear. require:"
        " encrypted, or not at all. verify: and its certificate must be good for the"
        " host in url. Default: the driver's own, which is encrypted for PostgreSQL"
        " where the server can, and in the clear for MySQL and MariaDB.",
    )
    tls_ca: AbsolutePath | None = Field(
        default=None,
        examples=["/etc/backstop/ca.pem"],
        description="A PEM file with the authorities that may have signed it. Default:"
        " those that the system trusts.",
    )
    tls_certificate: AbsolutePath | None = Field(
        default=None,
        examples=["/etc/backstop/sql.pem"],
        description="A PEM file with the certificate that we show to the server.",
    )
    tls_key: AbsolutePath | None = Field(
        default=None,
        examples=["/etc/backstop/sql.key"],
        description="The file with its key, without a passphrase. Default: the key is"
        " in the certificate's file.",
    )
    query: Annotated[Text, AfterValidator(_checked_query)] | None = Field(
        default=None,
        examples=["SELECT 1 FROM mailbox WHERE address = :address"],
        description="The question. :address, :local, :domain, :at_domain, :sender and"
        " :client are bound as parameters, never put into the text. A row means"
        " found; its column action, if it has one, may say accept, reject, defer, pass"
        " or missing.",
    )
    ready: Ready | None = Field(
        default=None,
        examples=["vpopmail"],
        description="In place of query: one that comes with us, for vpopmail's table of"
        " many domains, for its tables of one domain each, for its table valias, or for"
        " Postfixadmin.",
    )
    keep_case: bool = Field(
        default=False,
        description="Bind local parts as the client wrote them. Otherwise A to Z become"
        " small letters, which those of domains do always.",
    )
    concurrency: Annotated[Whole, Field(ge=1)] = Field(
        default=10,
        description="Questions at a time, and connections to the database; others wait"
        " their turn.",
    )

    @model_validator(mode="after")
    def _whole(self) -> Self:
        _one_of("url", self.url, "url_file", self.url_file)
        _one_of("query", self.query, "ready", self.ready)
        if self.url and _PASSWORD.search(self.url):
            raise wrong(
                "url has a password in it, and others may read this file",
                "write it to a file, and name that in password_file",
            )
        _checked_tls(self)
        if importlib.util.find_spec("sqlalchemy") is None:
            raise wrong(
                "type sql wants SQLAlchemy, which is not installed",
                "pip install '.[sql]' in the checkout",
            )
        return self


def _checked_tls(keys: Settings) -> None:
    if keys.tls_ca and keys.tls != "verify":
        raise wrong("tls_ca is for verifying", 'write tls = "verify"')
    if keys.tls_certificate and keys.tls not in ("require", "verify"):
        raise wrong("tls_certificate is for TLS", 'write tls = "verify"')
    if keys.tls_key and not keys.tls_certificate:
        raise wrong("tls_key has no certificate", "name it in tls_certificate")
    if keys.url and keys.tls in ("require", "verify") and not _over_network(keys.url):
        raise wrong(
            "there is no TLS to a file or a Unix socket",
            "leave tls out, or write the server's name in url",
        )


def _over_network(url: str) -> bool:
    """Whether it names a host.  (Without one, drivers look for a socket.)"""
    try:
        parts = urlsplit(url)
        query = parse_qs(parts.query)
        hosts = [parts.hostname or "", *query.get("host", ())]
    except ValueError:  # no URL; it is told when it is used
        return False
    sockets = "unix_socket" in query or any(host.startswith("/") for host in hosts)
    return any(hosts) and not sockets and not url.startswith("sqlite")


def _one_of(name: str, value: str | None, other: str, value2: str | None) -> None:
    if (value is None) == (value2 is None):
        has = "neither" if value is None else "both"
        raise wrong(f"has {has} of {name} and {other}", "write one of them")


class Asked(NamedTuple):
    """A query, and the names of the parameters in it."""

    text: str
    names: tuple[str, ...]


def _asked(text: str) -> Asked:
    return Asked(text, tuple(dict.fromkeys(_NAME.findall(text))))


# pw_gid 0x10: mail is bounced (vpopmail.h, BOUNCE_MAIL).
_VPOPMAIL = (
    "SELECT CASE WHEN (pw_gid & 16) <> 0 THEN 'reject' END AS action"
    " FROM {table} WHERE pw_name = :local"
)

_READY: dict[str, str] = {
    "vpopmail": _VPOPMAIL.format(table="vpopmail") + " AND pw_domain = :domain",
    "vpopmail-domain-tables": _VPOPMAIL,
    # An alias a-default is for a-anything (vdelivermail.c, process_valias()).
    "vpopmail-valias": (
        "SELECT 1 FROM valias WHERE domain = :domain AND (alias = LOWER(:local)"
        " OR (SUBSTR(alias, LENGTH(alias) - 7) = '-default'"
        " AND SUBSTR(LOWER(:local), 1, LENGTH(alias) - 7)"
        " = SUBSTR(alias, 1, LENGTH(alias) - 7)))"
    ),
    # Every mailbox has an alias to itself; an alias @domain takes everybody.
    "postfixadmin": (
        "SELECT 1 FROM alias WHERE active = TRUE AND address IN (:address, :at_domain)"
        " UNION ALL SELECT 1 FROM alias_domain JOIN alias ON alias.address IN"
        " (CONCAT(LOWER(:local), '@', target_domain), CONCAT('@', target_domain))"
        " WHERE alias_domain = :domain AND alias_domain.active = TRUE"
        " AND alias.active = TRUE"
    ),
}

# What vdelivermail takes for the name of a user; all others it bounces.
_VPOPMAIL_NAME = re.compile(rb"[!#$&'*+\-./0-9=?A-Z^_`a-z{|}~]+")
_TABLE = re.compile(r"[a-z0-9_]{1,64}")

_OTHERS = re.compile(r"[^ -~]")

_ACTIONS = {says.value: says for says in Says}


class SqlSource:
    """One database and the one question that it is asked.

    ``connect`` makes the pool; it is called at the first question, and again after
    :meth:`close` if there is another one.
    """

    def __init__(self, keys: Settings, connect: Callable[[], Database]) -> None:
        self._keys = keys
        self._connect = connect
        self._database: Database | None = None
        self._query = _asked(keys.query or _READY[str(keys.ready)])
        self._vpopmail = (keys.ready or "").startswith("vpopmail")

    def query(self, question: Question) -> str:
        """The query, and what its parameters are."""
        known = self._values(question)
        asked = self._for(known["domain"]) or self._query
        bound = _bound(asked, known).items()
        return f"{asked.text} ({', '.join(f'{name}={v}' for name, v in bound)})"

    def key(self, question: Question) -> bytes | None:
        """All that the query is told."""
        known = self._values(question)
        names = self._query.names
        return b"\0".join(known[name] for name in (*names, "domain"))

    def ask(self, question: Question) -> Finding | Awaitable[Finding]:
        """What the rows mean."""
        known = self._values(question)
        if self._vpopmail and not _VPOPMAIL_NAME.fullmatch(known["local"]):
            return Finding(Says.MISSING, "not a name that vpopmail takes")
        asked = self._for(known["domain"])
        if asked is None:
            raise SourceDown("no table can be named after this domain")
        return self._answer(asked, known)

    async def probe(self) -> None:
        """Try the query with an address that nobody has; raises
        :class:`SourceDown` where the database has no answer."""
        domains = [name for name in self._keys.domains if not name.startswith(".")]
        domain = (domains or ["example.invalid"])[0].encode("latin-1")
        asked = self._for(domain)
        if asked is None or (asked is not self._query and not domains):
            asked = _asked("SELECT 1")  # which tables there are is not known
        nobody = b"backstop-check@" + domain
        known = self._values(Question(nobody, mailbox=nobody))
        await self._answer(asked, known)

    async def close(self) -> None:
        """Close the connections."""
        database, self._database = self._database, None
        if database is not None:
            await database.close()

    def _values(self, question: Question) -> dict[str, bytes]:
        return values(question, keep_case=self._keys.keep_case)

    def _for(self, domain: bytes) -> Asked | None:
        """The query; it may name a table after the domain, where that can be."""
        if self._keys.ready != "vpopmail-domain-tables":
            return self._query
        # vpopmail's vauth_munge_domain(): dots and dashes.
        table = domain.decode("latin-1").replace(".", "_").replace("-", "_")
        if not _TABLE.fullmatch(table):
            return None
        return _asked(self._query.text.format(table=table))

    async def _answer(self, asked: Asked, known: dict[str, bytes]) -> Finding:
        if self._database is None:
            self._database = self._connect()
        names, rows = await _rows(self._database, asked, known)
        if not rows:
            return Finding(Says.MISSING, "no row")
        for name, value in zip(names, rows[0], strict=True):
            if value is not None and name.lower() == "action":
                return _acted(value)
        return Finding(Says.FOUND, "a row")


async def _rows(
    database: Database, asked: Asked, known: dict[str, bytes]
) -> tuple[Sequence[str], Sequence[Sequence[object]]]:
    """The answer.  What the database's character set has not, nobody's address there
    has: that is asked for as ``<``, which no address has either."""
    bound = _bound(asked, known)
    try:
        return await database.first(asked.text, bound)
    except SourceDown as error:
        from proxy.rules.database import NotHeld

        plain = {name: _OTHERS.sub("<", value) for name, value in bound.items()}
        if plain == bound or not isinstance(error, NotHeld):
            raise
    return await database.first(asked.text, plain)


def _bound(asked: Asked, known: dict[str, bytes]) -> dict[str, str]:
    """What is bound.  Databases hold text: what is no UTF-8 becomes U+FFFD, which
    no address has; so that it is asked for, and not found."""
    return {name: known[name].decode(errors="replace") for name in asked.names}


def _acted(action: object) -> Finding:
    says = _ACTIONS.get(action.lower()) if isinstance(action, str) else None
    if says is None:
        known = ", ".join(_ACTIONS)
        raise SourceDown(f"the column action is {action!r:.40}, not one of {known}")
    return Finding(says, f"a row, action {says.value}")


def connect(keys: Settings) -> Database:
    """The pool, of which nothing is connected yet; raises :class:`SourceDown`
    where URL or password cannot be read."""
    from proxy.rules.database import Database, DatabaseLimits

    url = read_secret(keys.url_file) if keys.url_file else str(keys.url)
    password = "" if keys.password_file is None else read_secret(keys.password_file)
    seconds = keys.timeout or LIMIT_SECONDS
    # The rule keeps the time of its questions.
    limits = DatabaseLimits(keys.concurrency, seconds, None)
    more = _encryption(keys, url)
    try:
        return Database(url, limits, more, password=password)
    except (ValueError, ImportError) as error:
        raise SourceDown(f"{keys.url_file or 'url'}: {error}") from None


def _encryption(keys: Settings, url: str) -> dict[str, object]:
    """What the drivers are told of TLS."""
    if keys.tls is None or (keys.tls == "none" and url.startswith("sqlite")):
        return {}
    if keys.tls == "none":
        return {"ssl": False}
    if not _over_network(url):
        raise SourceDown(f"{keys.url_file}: there is no TLS to a file or a Unix socket")
    context = client_context(
        verify=keys.tls == "verify",
        authorities=keys.tls_ca,
        certificate=keys.tls_certificate,
        key=keys.tls_key,
    )
    return {"ssl": context}


def build(settings: Settings, context: Context) -> SourceRule:
    """The rule."""
    # Loads the libraries now; at the first question all sessions would wait for it.
    with contextlib.suppress(SourceDown, ImportError):
        connect(settings)
    source = SqlSource(settings, lambda: connect(settings))
    return SourceRule(settings, source, context)


def check(settings: Settings, context: Context) -> list[Trouble]:
    """Whether the database answers now, for ``backstop check``."""
    source = SqlSource(settings, lambda: connect(settings))
    return probed(source, settings.timeout or LIMIT_SECONDS)

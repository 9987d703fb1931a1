"""vdelivermail: what vpopmail would do with the mail for a user of its domains.

Knows: the order of aliases, mailbox, extension and default; the user's own .qmail.
Knows not: where accounts are kept (:mod:`proxy.qmail.vpopmail_data`), what a line
leads to (:mod:`proxy.qmail.vpopmail_lines`), any network: what only a database can
tell becomes a :class:`~proxy.qmail.questions.Need`.  Called through
:mod:`proxy.qmail.known`.  Source: vdelivermail.c, vpopmail.c of
vpopmail 5.4 to 5.6.
"""

from __future__ import annotations

from proxy.qmail.effect import Effect, Run
from proxy.qmail.errors import CannotTell, KernelError
from proxy.qmail.questions import AskAccounts, Found, Mailbox, Need, NoAnswer
from proxy.qmail.vpopmail_data import (
    CDB,
    DATABASES,
    Build,
    Domain,
    Installed,
    assigned,
    backend,
    build,
    existing,
    in_files,
    settings_file,
    valid_domain,
    valid_user,
)
from proxy.qmail.vpopmail_lines import BOUNCED, DEFERRED, DELIVERED, Deliveries, Exit
from proxy.qmail.vpopmail_quota import Rooms
from proxy.qmail.walk import Missing, Place

_BOUNCE_MAIL = 0x10  # vpopmail.h

_AUTH_SIZE = 300  # vdelivermail.c: what of EXT and HOST is looked at
_LOWER_MAX = 156  # lowerit(): the rest is cut off
_QMAIL_LINE = 500  # fgets(3): a byte less is read at a time

SOURCE_NOT_KNOWN = "where its users are is not known: {} found (vpopmail.source)"
NOT_USABLE = "the users are in {}, which cannot be asked here"
EXTENSION_NOT_KNOWN = "with qmail-ext, {} takes this: not known (vpopmail.qmail_ext)"
"""Steps of the trail that ask the administrator for something."""


def vdelivermail(arguments: list[bytes], run: Run) -> Effect | None:
    """What ``vdelivermail '' default`` would do.

    ``None`` where it cannot be known which backend holds the users.  Raises
    :class:`CannotTell`, :class:`~proxy.qmail.questions.Need`.
    """
    if not run.program.startswith(b"/"):
        return None  # whichever of that name PATH leads to
    if len(arguments) != 2:
        return Effect(DEFERRED, reason="vdelivermail wants two arguments")
    once = _Vdelivermail(run, arguments[1])
    try:
        once.main()
    except Exit as end:
        return once.to.effect(end)
    return once.to.effect(Exit(DELIVERED))


class _Vdelivermail:
    """The globals of vdelivermail.c, one run."""

    def __init__(self, run: Run, default: bytes) -> None:
        self.run = run
        self.walker = run.walker
        self.settings = run.host.settings.vpopmail
        self.default = default
        self.to = Deliveries(run)
        self.user = _lower(run.environment[b"EXT"])
        self.address = _lower(run.environment[b"HOST"])
        self.base, dash, rest = self.user.partition(b"-")
        self.rest = rest.replace(b".", b":")
        self.has_extension = bool(dash)
        self.domain: Domain | None = None
        self.home = self.settings.home or _above_bin(run.program)
        self.found: Found | None = None

    def main(self) -> None:
        """``main()``; ends with :class:`Exit`, or as a delivery."""
        if not valid_user(self.user):
            self.to.note("{} has characters that vpopmail does not allow", self.user)
            raise Exit(BOUNCED, "invalid user name")
        if not valid_domain(self.address):
            self.to.note("{} is no domain to vpopmail", self.address)
            raise Exit(BOUNCED, "invalid domain name")
        self.domain = self._assigned()
        kind, built = self._kind()
        if not kind:
            self.to.leave_undecided()
            return
        if self.settings.over_quota != "accept":
            installed = Installed(self.home, kind, built)
            self.to.rooms = Rooms(self.run, installed, self.to.note)
        extensions = self._extensions(built)
        if self.to.loops(self.user + b"@" + self._name):
            raise Exit(BOUNCED, "mail is looping")
        if kind != CDB:
            if kind not in self.settings.usable:
                self.to.note(NOT_USABLE, kind)
                self.to.leave_undecided()
                return
            self._ask(kind, built, extensions)
        if self._aliases(extensions):
            return
        account = self._account(self.user)
        if account is None and extensions and self.has_extension:
            account = self._account(self.base)
        if account is not None:
            self._check_user(account, extensions)
            return
        if extensions is None and self._only_an_extension_would():
            return
        self._no_user(extensions)

    @property
    def _name(self) -> bytes:
        return self.domain.name if self.domain else self.address

    # Which domain, and where its users are.

    def _assigned(self) -> Domain | None:
        """users/cdb: an alias domain leads to the real one."""
        found = assigned(self.run.users_cdb(), self.address)
        if found is None:
            text = "has no entry {}: vpopmail knows no user of that domain"
            self.to.note(text, self.address + b"-", at=b"users/cdb")
        elif found.name != self.address:
            text = "{} is an alias domain of {}"
            self.to.note(text, self.address, found.name, at=b"users/cdb")
        return found

    def _kind(self) -> tuple[str, Build]:
        """The backend, and what is known of the build; ``""`` if that is not."""
        built = build(self.run.host, self.walker, self.run.program, self.home)
        if self.settings.source != "auto":
            return self.settings.source, built
        if built.kind:
            return built.kind, built
        kinds = self._kinds_by_files()
        if len(kinds) == 1:
            return kinds[0], built
        shown = " and ".join(kinds) or "nothing"
        self.to.note(SOURCE_NOT_KNOWN, shown)
        return "", built

    def _kinds_by_files(self) -> list[str]:
        kinds = []
        if self.domain is None:
            kinds.append(CDB)  # which knows no user then
        else:
            directory = self._enter(self.domain.directory)
            names = b"vpasswd.cdb", b"vpasswd"
            if any(existing(self.walker, directory, name) for name in names):
                kinds.append(CDB)
        for kind in DATABASES:
            try:
                self.walker.stat(settings_file(self.home, kind))
            except KernelError:
                continue
            kinds.append(kind)
        return kinds

    def _extensions(self, built: Build) -> bool | None:
        """Whether user-anything is user's; ``None`` if that is not known."""
        told = self.settings.qmail_ext
        return built.extensions if told is None else told

    def _enter(self, path: bytes) -> Place:
        try:
            return self.walker.enter(path)
        except KernelError as error:
            raise CannotTell(path, f"vpopmail cannot enter it: {error}") from error

    def _ask(self, kind: str, built: Build, extensions: bool | None) -> None:
        """The database's answer, or a :class:`Need` for it."""
        layout = self.settings.layout
        if layout != "auto":
            built = built._replace(many=layout == "many-domains")
        place = backend(self.run.host, self.walker, self.home, kind, built)
        users: tuple[bytes, ...] = (self.user,)
        aliases = (self.user, *self._defaults())
        if self.has_extension and extensions is not False:
            users, aliases = (*users, self.base), (*aliases, self.base)
        question = AskAccounts(place, self._name, tuple(dict.fromkeys(aliases)), users)
        answer = self.run.answers.get(question)
        if not isinstance(answer, Found):
            if isinstance(answer, NoAnswer):
                # vdelivermail defers, too; but what it will do then is not known now.
                raise CannotTell(place.path, f"its database: {answer.why}")
            self.to.note("names the database that has to be asked", at=place.path)
            raise Need(question)
        for asked in answer.asked:
            self.to.note("{}", asked, at=place.path)
        self.found = answer

    def _defaults(self) -> list[bytes]:
        """``prefix-default`` at each dash, from the right (process_valias())."""
        ends = [at for at in range(len(self.user), 0, -1) if self.user[at - 1] == 0x2D]
        return [self.user[:end] + b"default" for end in ends]

    # Aliases.

    def _aliases(self, extensions: bool | None) -> bool:
        """``process_valias()``: whether there are any; then they are obeyed.

        Only what is built for a database has it (VALIAS).  Where users are in files,
        aliases are the ``.qmail-`` files that qmail-local finds before.
        """
        names = [self.user, *self._defaults()]
        if extensions and self.has_extension:
            names.append(self.base)
        for name in names:
            lines = self._alias_lines(name)
            if lines is None:
                continue
            self.to.note("{} is an alias", name)
            for line in lines:
                self.to.deliver(line)
            return True
        return False

    def _alias_lines(self, name: bytes) -> list[bytes] | None:
        lines = self.found.aliases.get(name) if self.found is not None else None
        return list(lines) if lines else None

    # Mailboxes.

    def _account(self, name: bytes) -> Mailbox | None:
        """``vauth_getpw()``."""
        if self.found is not None:
            return self.found.mailboxes.get(name)
        if self.domain is None:
            return None
        directory = self._enter(self.domain.directory)
        path, account = in_files(self.run.host, self.walker, directory, name)
        if account is None:
            self.to.note("no mailbox {}", name, at=path)
        else:
            self.to.note("mailbox {}, home {}", name, account.directory, at=path)
        return account

    def _check_user(self, account: Mailbox, extensions: bool | None) -> None:
        """``checkuser()``: locked, its own .qmail, its Maildir."""
        if account.flags & _BOUNCE_MAIL:
            self.to.note("the mailbox is locked (bounce_mail)")
            raise Exit(BOUNCED, "the mailbox is locked")
        home = account.directory
        try:
            there = self.walker.walk(home, self.to.here) if home else None
        except KernelError:
            there = None
        except CannotTell as error:
            # That the mailbox is there is certain; only its .qmail is not.
            self.to.note("undecided: {}", str(error), at=home)
            self.to.kept = self.to.undecided = True
            return
        if there is None or isinstance(there, Missing):
            self.to.note("vpopmail makes the home of the mailbox (anew)", at=home)
            self.to.kept = True
            return
        self.to.chdir(home)
        if self._own_file(extensions):
            return
        self.to.deliver(account.directory + b"/Maildir/", account.quota)

    def _own_file(self, extensions: bool | None) -> bool:
        """``check_forward_deliver()``: a .qmail of the mailbox, and not an empty
        one, is all that counts."""
        lines = None if extensions is False else self._extension_lines()
        if lines is not None and extensions is None:
            self.to.note("which counts only with qmail-ext (vpopmail.qmail_ext)")
            self.to.leave_undecided()
            return True
        if lines is None:
            lines = self.to.lines(self.to.here, b".qmail", _QMAIL_LINE)
        if not lines:
            return False
        for line in lines:
            if line.startswith(b"#"):
                self.to.kept = True
            else:
                self.to.deliver(line)
        return True

    def _extension_lines(self) -> list[bytes] | None:
        """``.qmail-ext``, and ``-default`` at each of its dashes and before."""
        if not self.rest or b"/" in self.rest:
            return None
        names = [self.rest]
        ends = (at for at in range(len(self.rest), -1, -1) if self._is_end(at))
        names += [self.rest[:end] + b"default" for end in ends]
        for name in names:
            lines = self.to.lines(self.to.here, b".qmail-" + name, _QMAIL_LINE)
            if lines is not None:
                return lines
        return None

    def _is_end(self, at: int) -> bool:
        return not at or self.rest[at - 1] == 0x2D

    def _only_an_extension_would(self) -> bool:
        """Where it is not known whether vpopmail was built with qmail-ext."""
        if not self.has_extension:
            return False
        if self._alias_lines(self.base) is None and self._account(self.base) is None:
            return False
        self.to.note(EXTENSION_NOT_KNOWN, self.base)
        self.to.leave_undecided()
        return True

    def _no_user(self, extensions: bool | None) -> None:
        """``usernotfound()``: the second argument decides."""
        default = self.default
        self.to.note("no such user: {} counts", default or b"the empty argument")
        if default == b"delete":
            if self.settings.refuse_deleted:
                raise Exit(BOUNCED, "vpopmail would delete mail for unknown users")
            self.to.kept = True
            return
        if default == b"bounce-no-mailbox":
            raise Exit(BOUNCED, "no mailbox here by that name")
        if default.startswith(b"/"):
            default = default.removesuffix(b"/") + b"/"
            self.to.chdir(default)
            if self._own_file(extensions):
                return
            default += b"Maildir/"
        self.to.deliver(default)


def _above_bin(program: bytes) -> bytes:
    """vpopmail's home: ``make install`` puts the program into its ``bin``."""
    return program.rpartition(b"/")[0].rpartition(b"/")[0]


def _lower(text: bytes) -> bytes:
    """A C string in a buffer, in lower case (``lowerit()``)."""
    return text.partition(b"\0")[0][: _AUTH_SIZE - 1].lower()[:_LOWER_MAX]

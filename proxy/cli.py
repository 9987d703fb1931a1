"""The command ``backstop``: reads the command line and hands over.

Knows: options, exit statuses, how errors reach the terminal.  Knows not: what
a command does; each is imported when it is asked for, so that ``explain``
starts quickly.
"""

from __future__ import annotations

import ipaddress
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from proxy import __version__

if TYPE_CHECKING:
    from proxy.config import Config

USAGE_OR_CONFIG = 2

app = typer.Typer(
    name="backstop",
    help="An SMTP front door that refuses unknown recipients before qmail.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        metavar="FILE",
        # The loader opens it; access(2) knows nothing of capabilities.
        readable=False,
        help="The configuration; else $BACKSTOP_CONFIG, else"
        " /etc/backstop/config.toml, else ./config.toml.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="For programs.")]


def main() -> None:
    """The entry point of ``backstop`` and ``python -m proxy``."""
    app(prog_name="backstop")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"backstop {__version__}")
        raise typer.Exit


@app.callback()
def backstop(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_version, is_eager=True, help="Show the version."
        ),
    ] = False,
) -> None:
    """An SMTP front door that refuses unknown recipients before qmail."""


@app.command()
def serve(config: ConfigOption = None) -> None:
    """Run the front door in the foreground; logs go to standard error."""
    from proxy.config import ConfigError, load

    def read() -> Config:
        return load(config, os.environ)

    try:
        settings = read()
    except ConfigError as error:
        raise _config_error(error) from error
    from proxy.process import serve as process

    raise typer.Exit(process.run(settings, read))


@app.command()
def explain(
    addresses: Annotated[
        list[str],
        typer.Argument(
            metavar="ADDRESS",
            show_default=False,
            help="Recipients; one that begins with TO: is the raw argument of RCPT;"
            " - reads one a line from standard input.",
        ),
    ],
    sender: Annotated[
        str | None,
        typer.Option(
            metavar="REVERSE-PATH",
            help="The sender; <> for a bounce. Default: anybody@sender.invalid.",
        ),
    ] = None,
    client: Annotated[
        str, typer.Option(metavar="IP", help="The client's address.")
    ] = "",
    relayclient: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help="As if qmail-smtpd had this in $RELAYCLIENT; default: $RELAYCLIENT.",
        ),
    ] = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Tell what RCPT would be answered, and why.

    Exit status: 0 all accepted, 1 some refused, 75 some deferred and none
    refused, 2 usage or configuration error.
    """
    from proxy.config import ConfigError, load

    if client:
        _check_ip(client)
    try:
        settings = load(config, os.environ)
    except ConfigError as error:
        raise _config_error(error) from error
    from proxy import explain as explanation
    from proxy.rules.verdict import ANYBODY

    if relayclient is None:
        # Set but empty counts (qmail-smtpd.8), which a shell can only say so.
        relayclient = os.environ.get("RELAYCLIENT")
    asked = explanation.Circumstances(
        ANYBODY if sender is None else explanation.read_sender(os.fsencode(sender)),
        client,
        None if relayclient is None else os.fsencode(relayclient),
    )
    if settings.process.keep_read_capability is False:
        _as_the_service(settings)
    given = [os.fsencode(address) for address in addresses]
    try:
        status = explanation.run(settings, given, asked, as_json=as_json)
    except ConfigError as error:  # a rule's file
        raise _config_error(error) from error
    raise typer.Exit(status)


@app.command()
def check(as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """Check the configuration and everything it points to; start nothing.

    Exit status: 0 good, 1 something is wrong, 2 the configuration itself is.
    """
    from proxy.check import command as checks

    raise typer.Exit(checks.run(config, os.environ, as_json=as_json))


@app.command()
def ready(config: ConfigOption = None) -> None:
    """Tell whether the service that runs here takes mail; for health checks.

    It asks the status page, or without one for the greeting. Exit status: 0 it
    does, 1 it does not, 2 configuration error.
    """
    from proxy.config import ConfigError, load

    try:
        settings = load(config, os.environ)
    except ConfigError as error:
        raise _config_error(error) from error
    from proxy import ready as readiness

    raise typer.Exit(readiness.run(settings))


@app.command()
def report(
    logs: Annotated[
        list[str],
        typer.Argument(
            metavar="LOG...",
            show_default=False,
            help="Our logs, in any of the three formats: files, rotated ones too (.gz,"
            " .bz2, .xz), directories of multilog or svlogd; - is standard input.",
        ),
    ],
    qmail_log: Annotated[
        list[str] | None,
        typer.Option(
            "--qmail-log",
            metavar="PATH",
            help="qmail-send's log, likewise; may be given again. Tells what was"
            " refused although qmail delivers, and what was let in and bounced.",
        ),
    ] = None,
    top: Annotated[
        int,
        typer.Option(metavar="N", min=1, max=10_000, help="Rows of each table."),
    ] = 10,
    since: Annotated[
        str,
        typer.Option(
            metavar="TIME", help="From then on: 2026-11-24T14:00 (UTC), 24h, 7d."
        ),
    ] = "",
    until: Annotated[str, typer.Option(metavar="TIME", help="Before then.")] = "",
    domain: Annotated[
        str, typer.Option(metavar="DOMAIN", help="Recipients of this domain only.")
    ] = "",
    as_json: JsonOption = False,
) -> None:
    """Tell from the logs what was refused, passed on and deferred, and why.

    Exit status: 0 good, 1 a log cannot be read or has no line of ours, 2 usage
    error.
    """
    from proxy.report import command

    asked = command.Asked(logs, qmail_log or (), top, since, until, domain)
    raise typer.Exit(command.run(asked, as_json=as_json))


@app.command()
def init(
    root: Annotated[
        str,
        typer.Option(
            metavar="DIRECTORY",
            help="Where the host's files are: a mounted disk, a container's volume.",
        ),
    ] = "/",
    output: Annotated[
        str,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="A new file for the configuration; - is standard output.",
        ),
    ] = "-",
    as_json: JsonOption = False,
) -> None:
    """Look at a qmail host, and write a configuration that fits it.

    The configuration goes to standard output or to a new file, the list of what
    was found to standard error. Nothing else is written. Exit status: 0 good, 1 no
    qmail was found, 2 the file could not be written.
    """
    from proxy import init as first_look

    raise typer.Exit(first_look.run(root, output, as_json=as_json))


@app.command()
def doctor(
    as_json: JsonOption = False,
    nameserver: Annotated[
        str,
        typer.Option(metavar="IP[:PORT]", help="Ask this one instead of the system's."),
    ] = "",
    config: ConfigOption = None,
) -> None:
    """Examine a deployment, end to end, and say what to do.

    No mail is sent, nothing is changed. Exit status: 0 nothing is red, 1 something
    is, 2 the configuration cannot be read.
    """
    from proxy.doctor import command

    raise typer.Exit(command.run(config, os.environ, nameserver, as_json=as_json))


@app.command()
def demo() -> None:
    """Try everything out on this machine, without a qmail."""
    from proxy import demo as demonstration

    raise typer.Exit(demonstration.run())


def _check_ip(text: str) -> None:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        raise typer.BadParameter(
            f"{text!a} is not an IP address", param_hint="--client"
        ) from None


def _as_the_service(settings: Config) -> None:
    """Be its user, if it may not read everything: the answers are the same."""
    from proxy.process import privileges

    try:
        privileges.settle(settings.process)
    except privileges.PrivilegeError as error:
        raise _config_error(error) from error


def _config_error(error: Exception) -> typer.Exit:
    try:
        print(error, file=sys.stderr, flush=True)
    except OSError:  # nobody reads it; the exit status is still to tell
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    return typer.Exit(USAGE_OR_CONFIG)

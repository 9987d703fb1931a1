"""Several backends: which sets of tables make sense.

Knows: that every recipient needs a backend, and every domain one set of them.
Knows not: the other keys of a table.  Called by ``model``, as a check of all
the tables together.
"""

from __future__ import annotations

from typing import Protocol, TypeVar

from proxy.config.values import wrong


class Grouped(Protocol):
    """What of a table matters here."""

    @property
    def shown(self) -> str:
        """Where it is, or the program that it is."""

    @property
    def domains(self) -> tuple[str, ...]:
        """What it serves; nothing: what nobody else does."""

    @property
    def backup(self) -> bool:
        """Whether it stands by."""


B = TypeVar("B", bound=Grouped)


def check_groups(backends: tuple[B, ...]) -> tuple[B, ...]:
    """Every recipient must have its backends, and every domain one set of them."""
    groups: dict[frozenset[str], list[B]] = {}
    owner: dict[str, frozenset[str]] = {}
    for backend in backends:
        domains = frozenset(backend.domains)
        groups.setdefault(domains, []).append(backend)
        for domain in backend.domains:
            if owner.setdefault(domain, domains) != domains:
                raise wrong(
                    f"{domain} stands in two tables whose other domains differ",
                    "write the same domains in both, or make a table of its own of"
                    f" {domain}",
                )
    for group in groups.values():
        addresses = [backend.shown for backend in group]
        for address in addresses:
            if addresses.count(address) > 1:
                what = f"{address} stands twice, for the same domains"
                raise wrong(what, "take one of them out, or use weight")
        if all(backend.backup for backend in group):
            what = f"{addresses[0]} is a backup, and there is none that it stands by"
            raise wrong(what, "take backup = true out of one of the same domains")
    if groups and frozenset() not in groups:
        what = "every backend has domains: recipients elsewhere have none"
        raise wrong(what, "leave domains out in one of the tables")
    return backends

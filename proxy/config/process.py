"""The table ``[process]``: whose rights the front door has.

Knows: names, types, defaults, texts.  Part of ``model``.
"""

from __future__ import annotations

from pydantic import Field

from proxy.config.section import Section
from proxy.config.values import AccountName, Descriptor


class Process(Section):
    """Whose rights the front door has, and who is told of it. Started as root, it
    binds its addresses and then becomes another user. Read at the start only."""

    user: AccountName | None = Field(
        default=None,
        examples=["backstop"],
        description="The user to become, by name or number, when started as root."
        " Best one that nothing else runs as. Default: the first of backstop, qmaild,"
        " nobody that this machine has.",
    )
    group: AccountName | None = Field(
        default=None,
        examples=["backstop"],
        description="The group to go with it; there are no supplementary ones."
        " Default: the user's own.",
    )
    keep_read_capability: bool | None = Field(
        default=None,
        examples=[True],
        description="Keep CAP_DAC_READ_SEARCH, and no other right: dot-qmail files in"
        " closed homes can be read, as qmail-local reads them; nothing can be written."
        " true: do not start without it. false: recipients whose home is closed to the"
        " user are deferred. Default: it is kept where the process has it.",
    )
    allow_root: bool = Field(
        default=False,
        description="Stay root, with all of root's rights, when started as root. Set"
        " it to true only where no other user can be had.",
    )
    readiness_fd: Descriptor | None = Field(
        default=None,
        examples=[3],
        description="A descriptor that gets a newline when mail is taken, and is closed"
        " then: the number in s6's notification-fd. systemd needs no key.",
    )

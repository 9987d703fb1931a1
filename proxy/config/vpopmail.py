"""vpopmail: the table ``[vpopmail]``.

Knows: names, defaults, texts.  Knows not: what vdelivermail does; docs/vpopmail.md
does.  Used by ``model``.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from proxy.config.section import Section
from proxy.config.values import AbsolutePath, Seconds, Weight


class Vpopmail(Section):
    """Domains of vpopmail, whose .qmail-default runs vdelivermail. What its files do
    not say, or not for sure; docs/vpopmail.md tells how they are read."""

    source: Literal["auto", "cdb", "mysql", "pgsql", "ldap"] = Field(
        default="auto",
        description="Where vpopmail was built to keep its users. auto: as its"
        " include/vpopmail_config.h or vdelivermail itself show; else as the files"
        " that are there do. Set it if explain says that it is not known. cdb:"
        " vpasswd.cdb of each domain. The others: the database that vpopmail's"
        " etc/vpopmail.mysql, .pgsql or .ldap names.",
    )
    home: AbsolutePath | None = Field(
        default=None,
        examples=["/home/vpopmail"],
        description="vpopmail's home, below qmail.root. Default: the directory above"
        " the bin of the vdelivermail that is called.",
    )
    qmail_ext: bool | None = Field(
        default=None,
        examples=[True],
        description="Whether vpopmail was built with --enable-qmail-ext: then mail to"
        " user-anything is user's. Default: as include/vpopmail_config.h says; without"
        " it such recipients are accepted, undecided.",
    )
    layout: Literal["auto", "many-domains", "table-per-domain"] = Field(
        default="auto",
        description="Whether all domains share the table vpopmail, or each has its own"
        " (--disable-many-domains). auto: as the build shows; else the table vpopmail,"
        " and the domain's own where that does not exist.",
    )
    delete: Literal["accept", "reject"] = Field(
        default="accept",
        description="Mail to unknown users of a domain whose .qmail-default says"
        " delete. accept: taken, and vpopmail throws it away in silence. reject:"
        " refused (550), so that its sender hears of it.",
    )
    over_quota: Literal["accept", "defer", "reject"] = Field(
        default="accept",
        description="Mail to a mailbox or a domain that is over its quota, which"
        " vpopmail bounces. accept: taken, and nothing is counted. defer: 452, it comes"
        " again. reject: 552.",
    )
    connections: Weight = Field(
        default=4,
        description="Connections to each of vpopmail's databases, for each of"
        " listen.workers.",
    )
    timeout: Seconds = Field(
        default=5.0,
        description="Seconds for an answer of its database. After it the recipient is"
        " deferred (451). So long a count of a domain is waited for, too, without"
        " which mail is taken.",
    )

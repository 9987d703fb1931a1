"""What every source beyond files has in common: how it fails.

Knows: the two ways in which a database, a directory or a program gives no
answer.  Knows not: any of them.  Raised by ``database`` and ``directory``;
caught by the rules that ask them, which make a deferral of it.
"""

from __future__ import annotations


class SourceError(Exception):
    """The source gave no answer: down, slow, broken, or not as expected.

    The text is for the administrator, without passwords.  Never a refusal.
    """


class NoSuchTable(SourceError):
    """The server answers, but does not have the table (or the column)."""

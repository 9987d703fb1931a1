"""What a qmail host is made of, found out by looking.

Knows: where administrators, packages and books put things.  Knows not: the
configuration; it starts nothing, changes nothing, asks nobody over the network.
``tree`` sees files below a root, ``script`` reads what starts programs, ``home``,
``smtpd``, ``domains`` and ``patches`` each look for one kind of thing, ``sockets``
is about a live machine, ``host`` puts them together.  Called by ``init`` and
``doctor``.
"""

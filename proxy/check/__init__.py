"""``backstop check``: is the configuration good, and what it points to?

``command`` runs it; every other module is one part of what is looked at, and
says what it found as a :class:`~proxy.check.finding.Finding`.  Starts nothing.
"""

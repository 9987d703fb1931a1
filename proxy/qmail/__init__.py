"""All knowledge of qmail: its files, and what an unmodified qmail does with them.

Reads files through a :class:`~proxy.qmail.view.FileView` and nothing else: no
network, no clock, no configuration of ours.  Used by :mod:`proxy.rules`.
"""

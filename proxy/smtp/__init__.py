"""SMTP's vocabulary: bytes to values and back, without any I/O.

Used by :mod:`proxy.front` and :mod:`proxy.backend`; knows only the standard
library.
"""

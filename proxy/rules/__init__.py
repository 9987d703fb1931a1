"""Who may receive: the rules, asked in order, and the verdict they come to.

Used by :mod:`proxy.front` and by ``explain``, which therefore cannot disagree.
"""

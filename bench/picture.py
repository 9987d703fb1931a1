"""Bars as SVG, by hand.

Knows: text and rectangles.  Knows not: what is compared.  Called by
``side_by_side``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple
from xml.sax.saxutils import escape

_COLOURS = ("#1f6f54", "#b9c2c9", "#98a4ae", "#76848f", "#57646e")
_WIDTH, _LEFT, _RIGHT = 760, 90, 64
_BAR, _GAP, _HEAD = 16, 4, 24


class Group(NamedTuple):
    """One comparison; the bars of a group share a scale."""

    title: str
    bars: Sequence[tuple[str, float]]


def bars(title: str, groups: Sequence[Group]) -> str:
    """A picture of all groups, one below the other."""
    parts = [_text(12, 24, title, size=16, weight="bold")]
    top = 40
    for group in groups:
        shown = [bar for bar in group.bars if not math.isnan(bar[1])]
        if not shown:
            continue
        parts.append(_text(12, top + 15, group.title, weight="bold"))
        top += _HEAD
        most = max(value for _, value in shown) or 1.0
        for name, value in shown:
            colour = _COLOURS[[n for n, _ in group.bars].index(name) % len(_COLOURS)]
            parts.append(_bar(top, name, value, value / most, colour))
            top += _BAR + _GAP
        top += 10
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{top}"'
        f' viewBox="0 0 {_WIDTH} {top}" role="img"'
        ' font-family="sans-serif">\n'
        f"<title>{escape(title)}</title>\n"
        f'<rect width="{_WIDTH}" height="{top}" fill="#ffffff"/>\n{body}\n</svg>\n'
    )


def _bar(top: int, name: str, value: float, share: float, colour: str) -> str:
    width = max(1.0, share * (_WIDTH - _LEFT - _RIGHT))
    return "\n".join(
        [
            _text(_LEFT - 8, top + 12, name, anchor="end"),
            f'<rect x="{_LEFT}" y="{top}" width="{width:.1f}" height="{_BAR}"'
            f' fill="{colour}"/>',
            _text(_LEFT + width + 6, top + 12, f"{value:.0f}"),
        ]
    )


def _text(
    x: float,
    y: float,
    text: str,
    *,
    size: int = 12,
    weight: str = "normal",
    anchor: str = "start",
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y}" font-size="{size}" font-weight="{weight}"'
        f' text-anchor="{anchor}" fill="#222222">{escape(text)}</text>'
    )

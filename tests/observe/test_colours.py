"""The status page's colours can be read: WCAG 2.1, 1.4.3 and 1.4.11."""

from __future__ import annotations

import itertools
import re

import pytest

from proxy.observe.style import STYLE

TEXT, PICTURE = 4.5, 3.0
_VARIABLES = re.findall(r":root \{([^}]*)\}", STYLE)
LIGHT = dict(re.findall(r"--(\w+): (#\w+)", _VARIABLES[0]))
DARK = LIGHT | dict(re.findall(r"--(\w+): (#\w+)", _VARIABLES[1]))
THEMES = {"light": LIGHT, "dark": DARK}

_RULES = re.sub(r":root \{[^}]*\}", "", STYLE)
BARS = set(re.findall(r"\.\w+ \{ fill: var\(--(\w+)\) \}", _RULES))
# Whatever is text may stand on whatever is a background.
COLOURS = set(re.findall(r"(?<![-\w])color: var\(--(\w+)\)", _RULES))
COLOURS |= set(re.findall(r"svg text \{ fill: var\(--(\w+)\)", _RULES))
BACKGROUNDS = set(re.findall(r"background: var\(--(\w+)\)", _RULES)) - BARS


def luminance(colour: str) -> float:
    """WCAG's relative luminance."""
    digits = colour.removeprefix("#")
    if len(digits) == 3:
        digits = "".join(digit * 2 for digit in digits)
    parts = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4
        for part in parts
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    """WCAG's contrast ratio, of 21."""
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def test_the_measure_is_right() -> None:
    assert contrast("#fff", "#000000") == pytest.approx(21)
    assert contrast("#777", "#fff") == pytest.approx(4.48, abs=0.005)


def test_all_colours_are_found() -> None:
    assert {"text", "soft", "good", "bad", "warn"} == COLOURS
    assert {"back", "card"} == BACKGROUNDS
    assert {"bar", "bar2"} == BARS
    assert set(DARK) == set(LIGHT) == COLOURS | BACKGROUNDS | BARS | {"line"}
    # Nothing is coloured past the variables, or made paler.
    assert not re.search(r"#[0-9a-f]{3}", _RULES)
    assert set(re.findall(r"opacity: ([\d.]+)", _RULES)) <= {"1"}


@pytest.mark.parametrize("theme", THEMES)
def test_text_can_be_read(theme: str) -> None:
    colours = THEMES[theme]
    found = {
        (text, back): round(contrast(colours[text], colours[back]), 2)
        for text, back in itertools.product(COLOURS, BACKGROUNDS)
    }
    assert {pair: ratio for pair, ratio in found.items() if ratio < TEXT} == {}


@pytest.mark.parametrize("theme", THEMES)
def test_bars_can_be_seen(theme: str) -> None:
    colours = THEMES[theme]
    found = {bar: round(contrast(colours[bar], colours["card"]), 2) for bar in BARS}
    assert {bar: ratio for bar, ratio in found.items() if ratio < PICTURE} == {}

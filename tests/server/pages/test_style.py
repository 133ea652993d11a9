"""The style sheet and the script: contrast in light and dark, and nothing from other servers."""

from __future__ import annotations

import re

import pytest

from everycall.server.pages.rendering import static_file

CSS = static_file("everycall.css")[0].decode()
LIGHT, DARK, _, CHOSEN_DARK = re.findall(r":root[^{]*\{(.*?)\}", CSS, re.DOTALL)
TEXTS = ("text", "muted", "faint", "link", "bad", "warn", "good", "j-key", "j-string", "j-number", "j-literal")
GROUNDS = {
    "surface": TEXTS,
    "ground": TEXTS,
    "raised": ("text", "muted"),
    "hover": ("text", "muted", "link"),
    "picked": ("text", "muted", "bad", "warn", "good"),
    "bad-ground": ("bad", "text"),
    "warn-ground": ("warn", "text"),
    "good-ground": ("good",),
    "accent": ("on-accent",),
}
"""Background -> the text colours used on it."""


def luminance(colour: str) -> float:
    """WCAG 2.2, relative luminance."""
    digits = colour.lstrip("#")
    digits = "".join(digit * 2 for digit in digits) if len(digits) == 3 else digits
    channels = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("sheet", [LIGHT, DARK], ids=["light", "dark"])
@pytest.mark.parametrize("ground", GROUNDS)
def test_every_text_has_enough_contrast(sheet: str, ground: str) -> None:
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]+);", sheet))
    for text in GROUNDS[ground]:
        pair = sorted((luminance(colours[ground]), luminance(colours[text])))
        contrast = (pair[1] + 0.05) / (pair[0] + 0.05)
        assert contrast >= 4.5, f"{text} on {ground}: {contrast:.2f}"


def test_dark_is_the_same_chosen_or_preferred() -> None:
    values = re.compile(r"(--[\w-]+): ([^;]+);")
    assert values.findall(CHOSEN_DARK) == values.findall(DARK)


def test_every_colour_has_a_light_and_a_dark_value() -> None:
    names = [set(re.findall(r"--([\w-]+): #", sheet)) for sheet in (LIGHT, DARK)]
    assert names[0] == names[1]


def test_static_files_load_nothing_and_insert_no_markup() -> None:
    script = static_file("everycall.js")[0].decode()
    assert re.findall(r"url\(|@import|https?:", CSS) == []
    assert re.findall(r"https?:|innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|Function\(", script) == []

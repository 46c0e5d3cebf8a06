"""Charts as inline SVG: heat maps and histograms of margins. No colour without a sign beside it.

Sizes are pixels; a wide chart scrolls within its frame rather than shrink until nobody can read it.
"""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlencode

from markupsafe import Markup, escape

from conformance.matrix.shown import SIGNS
from conformance.report.heat import HeatMap, Spot
from conformance.report.margins import BINS, NEAR, Margin

CELL, LINE, LETTER, DIGIT = 54, 26, 7, 8
HEAD = 44
"""Above the cells: the side's name, and its levels."""

BAR, TALL = 10, 64


def heat_map(found: HeatMap, version: int, failures: dict[int, int]) -> Markup:
    """A cell for each pair of levels, with a line as long as the share of its checks that fail.

    It is a link to its checks, or, without a script, to the text of its worst failure: `failures` has the number of
    that by the number of a check. `version` is the number on the page.
    """
    down, across = found.down, found.across
    left = LETTER * max(len(down.name), *map(len, down.levels)) + 16
    most = max(len(f"{SIGNS[spot.state]} {spot.said}") for spot in found.spots.values())
    cell = max(CELL, LETTER * max(map(len, across.levels)) + 8, DIGIT * most + 6)
    width, height = left + cell * len(across.levels) + 2, HEAD + LINE * len(down.levels) + 2
    parts = [_frame("heat", "group", f"{down.name} by {across.name}", width, height)]
    parts.append(_words(left - 8, HEAD - 8, down.name, "end name"))
    parts.append(_words(left, 14, across.name, "name"))
    for at, level in enumerate(across.levels):
        parts.append(_words(left + cell * at + cell // 2, HEAD - 8, level, "mid"))
    for at, level in enumerate(down.levels):
        parts.append(_words(left - 8, HEAD + LINE * at + 18, level, "end"))
    for (row, column), spot in sorted(found.spots.items()):
        where = f"{down.name} {down.levels[row]}, {across.name} {across.levels[column]}"
        sides = [("side", f"{side.name}={side.levels[at]}") for side, at in ((down, row), (across, column))]
        chosen = urlencode([("version", version), *sides])
        parts.append(_spot(spot, left + cell * column, HEAD + LINE * row, cell, where, chosen, failures))
    return Markup("").join([*parts, Markup("</svg>")])


def _spot(spot: Spot, x: int, y: int, cell: int, where: str, chosen: str, failures: dict[int, int]) -> Markup:
    said = f"{where}: {spot.in_words}"
    target = f"#f{failures[spot.first]}" if spot.failing else "#checks"
    parts = [
        Markup('<a href="{}" data-checks="{}" aria-label="{}"><title>{}</title>').format(target, chosen, said, said),
        Markup('<rect class="s-{}" x="{}" y="{}" width="{}" height="{}" rx="3"/>').format(
            spot.state.name.lower(), x + 1, y + 1, cell - 2, LINE - 2),
        _words(x + cell // 2, y + 17, f"{SIGNS[spot.state]} {spot.said}", "mid on"),
    ]  # fmt: skip
    if spot.failing:
        share = round((cell - 8) * spot.failing / spot.counts.total())
        parts.append(
            Markup('<rect class="share" x="{}" y="{}" width="{}" height="3"/>').format(x + 4, y + LINE - 6, share)
        )
    return Markup("").join([*parts, Markup("</a>")])


def histogram(margin: Margin, name: str) -> Markup:
    """Passing cases by how much of the limit they take; the limit is the right edge. Heights are square roots."""
    width, most = BAR * BINS, max(margin.bins) ** 0.5
    said = (f"{name}, {margin.title}: median {margin.median:.2g}, 95% below {margin.high:.2g}, "
            f"largest {margin.largest:.2g} of {margin.limit:g}")  # fmt: skip
    parts = [_frame("bars", "img", said, width + 2, TALL + 16)]
    parts.append(Markup('<rect class="near" x="{:.0f}" y="0" width="{:.0f}" height="{}"/>').format(
        width * NEAR, width * (1 - NEAR), TALL))  # fmt: skip
    parts += _bars(margin, most)
    parts.append(Markup('<path class="limit" d="M{} 0V{}"/>').format(width, TALL))
    parts.append(Markup('<path class="base" d="M0 {}H{}"/>').format(TALL, width))
    parts.append(_words(0, TALL + 13, "0", ""))
    parts.append(_words(width, TALL + 13, f"limit {margin.limit:g}", "end"))
    return Markup("").join([*parts, Markup("</svg>")])


def _bars(margin: Margin, most: float) -> Iterator[Markup]:
    for at, count in enumerate(margin.bins):
        if count:
            tall = max(3.0, (TALL - 4) * count**0.5 / most)
            low, high = (edge * margin.limit / BINS for edge in (at, at + 1))
            said = f"{low:.2g} to {high:.2g}: {count} cases"
            bar = Markup('<rect class="bar" x="{}" y="{:.1f}" width="{}" height="{:.1f}"><title>{}</title></rect>')
            yield bar.format(at * BAR + 1, TALL - tall, BAR - 2, tall, said)


def _frame(css: str, role: str, label: str, width: int, height: int) -> Markup:
    return Markup('<svg class="{}" role="{}" aria-label="{}" width="{}" height="{}" viewBox="0 0 {} {}">').format(
        css, role, label, width, height, width, height)  # fmt: skip


def _words(x: float, y: float, words: str, kind: str) -> Markup:
    return Markup('<text x="{}" y="{}" class="{}">{}</text>').format(x, y, kind, escape(words))

"""What a row claims: in which versions its feature works, but for what is another feature's concern.

A check has many features, and one that fails says nothing about most of them: NaN in recycled pages breaks it whatever
its head dimension is. Where docs/findings.md says which features a failure is about, the others do not count as broken.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from conformance.matrix.cells import Came, Cell, State
from conformance.qualify.spans import Way, claim, seen

MOST_NAMED = 3
"""Concerns of other features that a claim names, those of most checks of the last versions; the others are counted."""


def claimed(feature: str, versions: Sequence[str], cells: Sequence[Cell]) -> str:
    """`since 0.1.16, but for short contexts; sinks with ALiBi (0.1.15)`; "" where fewer than two versions are known.

    `versions` are in their order, with a cell of the row of that feature each.
    """
    ways = [_way(feature, cell) for cell in cells]
    said = claim(versions, ways)
    if not said or Way.WORKS not in ways:
        return said
    working = [at for at, way in enumerate(ways) if way is Way.WORKS]
    elsewhere: dict[str, list[int]] = defaultdict(lambda: [0] * len(cells))
    for at in working:
        for one in cells[at].came:
            if concern := _of_others(feature, one):
                elsewhere[" with ".join(concern)][at] += 1
    named = sorted(elsewhere, key=lambda concern: [-count for count in reversed(elsewhere[concern])])
    parts = [_spanned(concern, versions, working, elsewhere[concern]) for concern in named[:MOST_NAMED]]
    parts += [f"{len(named) - MOST_NAMED} more"] if len(named) > MOST_NAMED else []
    return f"{said}, but for {'; '.join(parts)}" if parts else said


def _way(feature: str, cell: Cell) -> Way:
    """How a version serves a row. One that refuses some of it in words, and gets the rest right, serves it."""
    counts = cell.counts
    failing = [one for one in cell.came if one.state in (State.UNEXPLAINED, State.FINDING, State.GAP)]
    if any(not _of_others(feature, one) for one in failing):
        return Way.BROKEN
    if counts[State.NOT_RUN] or not cell.total:
        return Way.UNKNOWN
    if counts[State.PASS]:
        return Way.WORKS
    return Way.BROKEN if failing else Way.REFUSED


def _of_others(feature: str, one: Came) -> list[str]:
    """The other features without which a failing check would not fail; none where nothing says so."""
    return [name for name in one.about if name != feature]


def _spanned(concern: str, versions: Sequence[str], working: Sequence[int], counts: Sequence[int]) -> str:
    """With the versions that have it, where these are not all in which the feature works."""
    if all(counts[at] for at in working):
        return concern
    ways = [Way.UNKNOWN if at not in working else Way.BROKEN if count else Way.WORKS for at, count in enumerate(counts)]
    return f"{concern} ({seen(versions, ways)})"

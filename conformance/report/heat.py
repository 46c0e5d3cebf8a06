"""Heat maps: checks over two of their sides, so that a failure of one corner of the case space is seen as a corner."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from conformance.matrix import State
from conformance.report.sides import PATH, Side, path_side
from conformance.report.versions import FAILING, Tested

MAIN = (("page size", "GQA ratio"), ("queries", "keys"), ("page size", "head dim"), ("regime", "step"),
        ("window", "layout"), ("dtype", "cache"), (PATH, "page size"))  # fmt: skip
"""Down and across: the maps that a page shows without being asked."""


@dataclass(frozen=True)
class Spot:
    """The checks of one level down and one across."""

    counts: Counter[State]
    first: int  # the number of its worst check
    error: float | None  # the largest error / bound of those that gave an answer

    @property
    def state(self) -> State:
        return min(self.counts, key=list(State).index)

    @property
    def failing(self) -> int:
        return sum(self.counts[state] for state in FAILING)

    @property
    def said(self) -> str:
        """`2 of 7` where some fail; else how many there are that decide the sign."""
        return f"{self.failing}/{self.counts.total()}" if self.failing else str(self.counts[self.state])

    @property
    def in_words(self) -> str:
        return ", ".join(f"{self.counts[state]} {state}" for state in State if self.counts[state])


@dataclass(frozen=True)
class HeatMap:
    """Spots by numbers of levels, (down, across)."""

    down: Side
    across: Side
    spots: dict[tuple[int, int], Spot]


def heat_map(version: Tested, checks: Sequence[str], down: Side, across: Side) -> HeatMap:
    """All checks of a version over two sides; `checks` are the ids that the sides have levels of."""
    places: dict[tuple[int, int], list[int]] = defaultdict(list)
    for at in range(len(checks)):
        places[down.of[at], across.of[at]].append(at)
    return HeatMap(down, across, {place: _spot(version, checks, some) for place, some in places.items()})


def main_maps(version: Tested, checks: Sequence[str], sides: Sequence[Side]) -> Iterator[HeatMap]:
    """Those of `MAIN` whose sides the checks differ in."""
    every = [*sides, path_side(version, checks)]
    by_name = {side.name: side for side in every if len(side.levels) > 1}
    for down, across in MAIN:
        if down in by_name and across in by_name:
            yield heat_map(version, checks, by_name[down], by_name[across])


def _spot(version: Tested, checks: Sequence[str], some: Sequence[int]) -> Spot:
    states = [version.came[checks[at]].state for at in some]
    first = some[min(range(len(some)), key=lambda n: list(State).index(states[n]))]
    errors = [result["bound"] for at in some if "bound" in (result := version.column.results.get(checks[at], {}))]
    return Spot(Counter(states), first, max(errors, default=None))

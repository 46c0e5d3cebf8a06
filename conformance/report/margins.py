"""Margins: how far the passes of a version keep from what would fail them, so that a drift is seen before it fails."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from conformance.judge import CASE_NOISE_LIMIT
from conformance.matrix import State
from conformance.report.versions import Tested
from conformance.summary import FIGURES

LIMITS = {"bound": 1.0, "noise": CASE_NOISE_LIMIT}
"""What a figure of a pass stays below; the noise of a case of few rows may come above."""

BINS = 25
NEAR = 0.8
"""So much of a limit is near it."""


@dataclass(frozen=True)
class Margin:
    """One figure of all passing cases of a version. A relation's is of a difference, and is not among them."""

    figure: str
    title: str
    limit: float
    bins: tuple[int, ...]  # equal parts of 0 to the limit; the last has all above too
    median: float
    high: float  # that 95% do not exceed
    largest: float
    check: str  # that has the largest
    near: int  # above NEAR of the limit

    @property
    def cases(self) -> int:
        return sum(self.bins)


def margins(version: Tested) -> Iterator[Margin]:
    """Those of the figures in `LIMITS` that any pass of it has."""
    passes = [
        (check, result)
        for check, result in version.column.results.items()
        if version.came[check].state is State.PASS and "relation" not in result
    ]
    for figure, limit in LIMITS.items():
        some = sorted((result[figure], check) for check, result in passes if figure in result)
        if some:
            yield _margin(figure, limit, some)


def _margin(figure: str, limit: float, some: Sequence[tuple[float, str]]) -> Margin:
    bins = [0] * BINS
    for value, _ in some:
        bins[min(int(value / limit * BINS), BINS - 1)] += 1
    at = [value for value, _ in some]
    near = sum(value > NEAR * limit for value in at)
    return Margin(figure, FIGURES[figure], limit, tuple(bins), at[(len(at) - 1) // 2], at[int(0.95 * (len(at) - 1))],
                  at[-1], some[-1][1], near)  # fmt: skip
